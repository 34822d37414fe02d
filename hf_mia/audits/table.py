"""A played audit as tables on a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from hf_mia.audits.plan import Experiment
from hf_mia.audits.played import SPREAD, Played, Scene, checks, epsilons, spread
from hf_mia.audits.remarks import remarks
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.privacy import Epsilon
from hf_mia.reports.report import Report

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table

HEADS = {"auc": "AUC", "accuracy": "accur.", "precision": "precis.", "tpr@0.01": "TPR@1%", "tpr@0.001": "TPR@.1%"}
SHOWN = 5  # exposed units
WIDE, NARROW = 100, 13  # characters of a console that takes long names in one line, and of a line where it does not
VARIANTS = {"controls": "target", "background knowledge": "attacker knows", "early stopping": "epochs"}
MEANT = {
    "controls": "Untrained: an AUC of .5 is expected. Swapped, trained on the non-members: below, as far as it leaks."
}
MEANING = {
    "leak": "Members can be told from non-members by what the model answers, better than chance and better than by "
    "their data alone. This is evidence about the model, not proof about one unit.",
    "inconclusive": "Nothing is shown, neither a leak nor its absence.",
}


def print_played(experiment: Experiment, played: Played, console: Console) -> None:
    """The attacks with their intervals, each sweep's table, the verdict and what it cannot tell."""
    members = int(played.control.member.sum())
    title = (
        f"{played.target}: {members} members, {len(played.control.member) - members} non-members, "
        f"{100 * played.control.confidence:g} % intervals"
    )
    above = {report.name: played.above_control(report) for report in played.reports.values()}
    print_table(title, [*played.reports.values(), *played.blind], console, above)
    for name, rows in played.sweeps.items():
        print_table(name, [report for row in rows.values() for report in row], console)
    if played.trials:
        _print_trials(played.trials, console)
    for name, scene in played.scenes.items():
        _print_scene(name, scene, console)
    if experiment.delta is not None:
        print_epsilons({report.name: epsilons(experiment, report) for report in played.reports.values()}, console)
    print_exposed(played.headline.name, played.exposures(played.headline.name), console)
    _print_queries(played.facts.get("queries"), console)
    found = played.facts.get("dataset_inference")
    for remark in remarks(played.twins, found if isinstance(found, Mapping) else None, played.overlap):
        console.print(remark)
    verdict = played.verdict(played.headline)
    why = unbeaten(checks(played.headline, played.control, played.dates))
    console.print(f"Verdict by {played.headline.name}: [bold]{verdict}[/bold]. {MEANING[verdict]}{why}")


def unbeaten(passed: Mapping[str, bool]) -> str:
    """A sentence on the checks that an attack did not pass, after a blank; nothing where it passed all."""
    failed = [name.removeprefix("beats ") for name, beaten in passed.items() if not beaten]
    return f" It does not beat {' or '.join(failed)}." if failed else ""


def _print_queries(asked: object, console: Console) -> None:
    """What was asked of a service in this run, if the target is one."""
    if isinstance(asked, Mapping):
        read, written, cost = (asked[name] for name in ("prompt_tokens", "written_tokens", "cost"))
        tokens = "" if None in (read, written) else f" {read} tokens were read and {written} written."
        paid = "" if cost is None else f" By the prices given this cost {cost:g}."
        console.print(
            f"{asked['sent']} queries were sent in this run, {asked['refused']} of them refused or unreadable; "
            f"{asked['from_cache']} more were answered by kept replies.{tokens}{paid}"
        )


def print_epsilons(bounds: Mapping[str, Sequence[Epsilon]], console: Console) -> None:
    """One row an attack and method: the lower bound on epsilon, and under which condition it holds."""
    first = next(iter(bounds.values()))[0]
    table = _table(f"epsilon is at least, at delta = {first.delta:g}, {100 * first.confidence:g} % sure")
    for column in ("attack", "method", "epsilon", "note"):
        table.add_column(column, overflow="fold", justify="right" if column == "epsilon" else "left")
    for name, found in bounds.items():
        for bound in found:
            table.add_row(name, bound.method, f"{bound.value:.3f}", bound.note)
    console.print(table)


def print_exposed(name: str, exposures: pa.Table, console: Console) -> None:
    """The units that an attack exposes most, of its table of exposures."""
    table = _table(f"the most exposed by {name}; all in exposed/")
    shown = ("unit", "score", "p_value", "group", "member", "flip_rate")
    rows = exposures.slice(0, SHOWN).select(shown).to_pylist()
    columns = [column for column in shown if any(row[column] is not None for row in rows)]
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold", justify="left" if column == "unit" else "right")
    for row in rows:
        table.add_row(*(f"{row[one]:.3g}" if isinstance(row[one], float) else str(row[one]) for one in columns))
    console.print(table)


def print_table(
    title: str, reports: Sequence[Report], console: Console, above: Mapping[str, Estimate] | None = None
) -> None:
    """One row a report: the numbers, and under them their intervals."""
    table = _table(title)
    for column in ("attack", *(HEADS.get(name, name) for name in reports[0].summary()), *(["−blind"] if above else [])):
        _add(table, column)
    for report in reports:
        estimates = [*report.summary().values(), *([above[report.name]] if above and report.name in above else [])]
        name = report.name if console.width >= WIDE else "\n".join(wrap(report.name, NARROW))
        table.add_row(name, *map(_cell, estimates))
    if above:
        table.caption = "−blind: how far the AUC is above that of the blind control, which never asks the model."
    console.print(table)


def _print_trials(trials: Mapping[str, Sequence[Report]], console: Console) -> None:
    """One row an attack whose classifier was fitted several times: mean and deviation over the fits."""
    count = len(next(iter(trials.values())))
    table = _table(f"{count} fits from different seeds, mean ± deviation")
    for column in ("attack", *(HEADS.get(name, name) for name in SPREAD)):
        _add(table, column)
    for name, reports in trials.items():
        found = spread(reports).values()
        table.add_row(name, *("n/a" if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}" for pair in found))
    console.print(table)


def _print_scene(title: str, scene: Scene, console: Console) -> None:
    """One line an attack and variant of the setting: AUC, its interval, and accuracy; the variant's utility."""
    table = _table(title)
    table.add_column(VARIANTS.get(title, "variant"), overflow="fold")
    for column in ("attack", "AUC", "interval", "accur.", *(["kNN probe"] if scene.utility else [])):
        _add(table, column)
    for variant, reports in scene.reports.items():
        for place, report in enumerate(reports.values()):
            value, limits = _cell(report.auc).splitlines()
            useful = f"{scene.utility[variant]:.3f}" if variant in scene.utility and not place else ""
            row = [variant if not place else "", report.name, value, limits, _cell(report.accuracy).splitlines()[0]]
            table.add_row(*row, *([useful] if scene.utility else []), end_section=place + 1 == len(reports))
    table.caption = MEANT.get(title)
    console.print(table)


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", padding=(0, 1, 0, 0))


def _add(table: Table, column: str) -> None:
    """A column of numbers, which are never cut, or of attacks' names, which break where they must."""
    if column == "attack":
        table.add_column(column, overflow="fold", min_width=10)
    else:
        table.add_column(column, justify="right", no_wrap=True)


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "n/a"
    ends = [f"{end:.2f}" for end in (estimate.low, estimate.high) if end is not None]
    limits = [end.replace("0.", ".", 1).replace("1.00", "1") for end in ends]
    return f"{estimate.value:.3f}\n[dim]{'–'.join(limits)}[/dim]"
