"""`hf-mia attack FILE`: attacks on saved logits, and what is written and printed of them. No model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.audits.exposure import exposures, flips
from hf_mia.audits.folder import file_name
from hf_mia.audits.played import EXPOSED, LIMITS, PROVENANCE, bare, write_json
from hf_mia.audits.table import print_epsilons, print_exposed, print_table
from hf_mia.config import check_name
from hf_mia.controls.blind import shuffled
from hf_mia.core import Attack
from hf_mia.progress import bar
from hf_mia.reports.estimates import checked
from hf_mia.reports.figures import roc_figure, scores_figure
from hf_mia.reports.privacy import Epsilon, bounds, check_levels, check_randomised
from hf_mia.reports.report import Report
from hf_mia.saved.arrays import Heard, named
from hf_mia.saved.attacking import Saved
from hf_mia.saved.outputs import Outputs, outputs

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

FPRS = (0.01, 0.001)
FIRST = ("lira", "lira-offline", "loss")  # of the attacks that run where none is named
BLIND = "No record was at hand, so no blind control was run: what tells the sides apart may be the data alone."


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks: the file, other models' files, names of attacks (none: all that fit), FPRs, and, for
    a bound on epsilon, its delta and how membership came about."""

    file: Path
    references: tuple[Path, ...] = ()
    attacks: tuple[str, ...] = ()
    fprs: tuple[float, ...] = FPRS
    delta: float | None = None
    provenance: str = "unknown"

    def __post_init__(self) -> None:
        check_name(self.provenance, PROVENANCE, "provenance of membership")
        if self.delta is not None:
            check_randomised(self.provenance, "threshold")
            check_levels(self.delta, 0.95)
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError(f"attacks must differ, but are {list(self.attacks)}: leave out those that repeat.")


@dataclass(frozen=True, eq=False)
class Attacked:
    """What the attacks found, by their names: the attacks, reports, tables of exposures, and bounds on epsilon; and why
    attacks that nobody named were `left_out`."""

    request: Request
    attacks: Mapping[str, Attack]
    reports: Mapping[str, Report]
    exposed: Mapping[str, pa.Table] = field(repr=False)
    epsilons: Mapping[str, Sequence[Epsilon]]
    left_out: Mapping[str, str]

    @property
    def headline(self) -> str:
        """The first attack that was named, or one chosen before anything was measured."""
        return next(name for name in (*self.request.attacks, *FIRST, *self.reports) if name in self.reports)


def attacked(request: Request) -> Attacked:
    """Run the attacks. ValueError as `Saved.read` and `hf_mia.attack`, and for references about other units."""
    wanted = {name: named(name)[0] for name in request.attacks}  # an unknown one shows before a file is read
    saved = Saved.read(request.file)
    target = outputs(saved.labels, None, saved.logits, None, f"{request.file}: ", saved.units)
    references = tuple(_reference(path, request.file, target, saved.units) for path in request.references)
    given = Heard(target, references)
    truth = checked(np.zeros(len(target.names)), saved.member, target.names, least=2)[1]  # type: ignore[arg-type]
    reports, exposed, left_out = {}, {}, {}
    attacks = wanted or given.by_default()
    given.hear(attacks.values())
    with bar("attacks") as move:
        for done, (name, attack) in enumerate(attacks.items()):
            move(done, len(attacks), name)
            try:
                report = given.report(attack, truth, name)
            except ValueError as error:  # such as references none of which saw a unit
                if wanted:
                    raise
                left_out[name] = str(error)
                continue
            reports[name] = replace(report, fprs=request.fprs)
            exposed[name] = exposures(report, target.labels, flips(attack, *given.evidence(attack)))
    return Attacked(request, attacks, reports, exposed, _epsilons(request, reports), left_out)


def _epsilons(request: Request, reports: Mapping[str, Report]) -> dict[str, list[Epsilon]]:
    if request.delta is None:
        return {}
    levels = {name: (request.delta, one.confidence, request.provenance) for name, one in reports.items()}
    return {name: bounds(one.scores, one.member, *levels[name], one.threshold) for name, one in reports.items()}


def _reference(path: Path, file: Path, target: Outputs, units: tuple[str, ...] | None) -> Outputs:
    """What another model says of the target's units; ValueError where it is about others."""
    saved = Saved.read(path)
    found = outputs(saved.labels, saved.member, saved.logits, None, f"{path}: ", saved.units)
    if found.logits.shape != target.logits.shape:
        sizes = "{0} units, {1} queries of each and {2} classes".format
        raise ValueError(
            f"{path} must be about the units of {file}, {sizes(*target.logits.shape)}, but holds "
            f"{sizes(*found.logits.shape)}: ask every reference about these units, in this order."
        )
    named_both = units is not None and saved.units is not None
    for what, apart in (
        ("units", named_both and found.names != target.names),
        ("labels", (found.labels != target.labels).any()),
    ):
        if apart:
            raise ValueError(
                f"{path} must be about the units of {file}, but its {what} are others, or in another order: ask every "
                "reference about these units, in this order."
            )
    return replace(found, names=target.names)


def report_json(found: Attacked) -> dict[str, object]:
    """Everything that was found, as JSON holds it."""
    request = found.request

    def one(name: str, report: Report) -> dict[str, object]:
        attack = found.attacks[name]
        return {"attack": repr(attack), "access": attack.signal.probe.shows, **bare(report)} | {
            "shuffled": asdict(shuffled(report.scores, report.member)),
            "epsilon": [asdict(bound) for bound in found.epsilons.get(name, ())],
            "most_exposed": found.exposed[name].slice(0, EXPOSED).to_pylist(),
        }

    return {
        "headline": found.headline,
        "file": str(request.file),
        "references": [str(path) for path in request.references],
        "membership_provenance": request.provenance,
        "attacks": {name: one(name, report) for name, report in found.reports.items()},
        "left_out": dict(found.left_out),
        "limits": [*LIMITS, PROVENANCE[request.provenance], BLIND],
    }


def write(found: Attacked, folder: Path) -> None:
    """report.json, each attack's exposures as Parquet, the ROC and the headline's scores; each file whole."""
    import pyarrow.parquet as pq

    for name in ("exposed", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, table in found.exposed.items():
        pq.write_table(table, folder / "exposed" / f"{file_name(name)}.parquet", compression="zstd")
    roc_figure([*found.reports.values()]).savefig(folder / "figures" / "roc.png", dpi=150)
    scores_figure(found.reports[found.headline]).savefig(folder / "figures" / "scores.png", dpi=150)
    write_json(report_json(found), folder / "report.json")


def print_attacked(found: Attacked, console: Console) -> None:
    """The attacks with their intervals, the bounds on epsilon, the most exposed units, and what cannot be told."""
    first = found.reports[found.headline]
    members = int(np.count_nonzero(first.member))
    title = (
        f"{found.request.file.name}: {members} members, {len(first.member) - members} non-members, "
        f"{len(found.request.references)} references, {100 * first.confidence:g} % intervals"
    )
    print_table(title, [*found.reports.values()], console)
    for name, why in found.left_out.items():
        console.print(f"Left out: {name}. {why}")
    if found.epsilons:
        print_epsilons(found.epsilons, console)
    print_exposed(found.headline, found.exposed[found.headline], console)
    console.print(f"{PROVENANCE[found.request.provenance]} {BLIND}")
