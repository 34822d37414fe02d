"""An audit on a model card: a section between two marks, and a result in the front matter's model-index."""

from __future__ import annotations

import html
import math
import os
import re
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template

import yaml

from hf_mia.audits.played import PROVENANCE, checks
from hf_mia.audits.table import MEANING, MEANT, unbeaten
from hf_mia.publish.frontmatter import spliced
from hf_mia.publish.outcome import Outcome
from hf_mia.publish.published import reduced
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.report import Report

BEGIN, END = "<!-- hf-mia:begin -->", "<!-- hf-mia:end -->"
TASK = {"type": "membership-inference", "name": "Membership inference audit (hf_mia)"}
FIGURE = "hf_mia/roc.png"  # where the ROC figure stands beside a card
HEADER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)(\r\n|\r|\n)(---[ \t]*(?:\r\n|\n|$))")  # as the Hub reads it
BOM = "\ufeff"


def section(outcome: Outcome, figure: str = "figures/roc.png") -> str:
    """The section as Markdown, marks included; `figure` is the path of the ROC figure from where the card stands."""
    headline, members = outcome.headline, int(outcome.headline.member.sum())
    words = {
        "verdict": outcome.verdict.capitalize(),
        "headline": _plain(headline.name),
        "meaning": MEANING[outcome.verdict] + unbeaten(checks(headline, outcome.control, outcome.dates)),
        "members": f"{members:,}",
        "nonmembers": f"{len(headline.member) - members:,}",
        "unit": _plain(outcome.unit),
        "target": _plain(reduced(outcome.target)),
        "access": _plain(outcome.access),
        "attacks": _attacks(outcome),
        "confidence": f"{100 * headline.confidence:g}",
        "figure": figure,
        "controls": _controls(outcome),
        "provenance": PROVENANCE[outcome.provenance],
        "limits": "\n".join(f"- {_plain(one)}" for one in outcome.limits if one != PROVENANCE[outcome.provenance]),
        "config": _fenced(yaml.safe_dump(public(outcome.config), sort_keys=False, allow_unicode=True)),
        "versions": _plain(", ".join(f"{name} {number}" for name, number in outcome.versions.items())),
    }
    made = Template(files("hf_mia.publish").joinpath("card.md").read_text(encoding="utf-8")).substitute(words)
    if made.count(BEGIN) != 1 or made.count(END) != 1:
        raise ValueError(f"the run's own texts hold {BEGIN} or {END}, which mark a section: rename what holds them.")
    return made.rstrip("\n")


def _attacks(outcome: Outcome) -> str:
    """A row an attack, the headline first as it is in the config, the blind control's and, where known, the dates'."""
    rates = [f"TPR at {100 * fpr:g} % FPR" for fpr in outcome.headline.fprs]
    rows = [["attack", "AUC", *rates, "above blind"], ["---"] * (3 + len(rates))]
    for report in (*outcome.reports.values(), outcome.control, *([] if outcome.dates is None else [outcome.dates])):
        above = str(outcome.above[report.name]) if report.name in outcome.above else ""
        rows.append([_plain(report.name), str(report.auc), *map(str, _rates(report)), above])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rates(report: Report) -> list[Estimate]:
    return [report.tpr_at(fpr) for fpr in report.fprs]


def _controls(outcome: Outcome) -> str:
    """A row an attack and control, then the remarks, with empty lines after them; nothing where there are none."""
    beside = "".join(f"{_plain(remark)}\n\n" for remark in outcome.remarks)
    if not outcome.controls:
        return beside
    rows = ["| control | attack | AUC |", "| --- | --- | --- |"]
    for name, reports in outcome.controls.items():
        rows += [f"| {_plain(name)} | {_plain(one)} | {report.auc} |" for one, report in reports.items()]
    return f"**Controls.** The same attacks on models in the target's place. {MEANT['controls']}\n\n" + "\n".join(
        [*rows, "", beside]
    )


def _plain(text: str) -> str:
    """Text of one line in which Markdown and HTML find nothing to do."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """A block of YAML whose fence is longer than any row of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def public(value: object, key: str = "") -> object:
    """A config as all may read it: without the members' names, and every text `reduced`."""
    if isinstance(value, Mapping):
        return {name: public(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [f"{len(value)} names"] if key == "members" and value else [public(inner) for inner in value]
    return reduced(value) if isinstance(value, str) else value


def result(outcome: Outcome) -> dict[str, object]:
    """The headline attack's figures as a result of the model-index, in plain floats; what is n/a is left out."""
    report, path = outcome.headline, outcome.data
    hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None
    dataset = path if hub_id else re.sub(r"[^\w.-]+", "-", PurePath(path).name) or "data"
    metrics = [metric("auc", f"AUC of {report.name}", report.auc, report.confidence)]
    for fpr in report.fprs:
        title = f"TPR at {100 * fpr:g} % FPR of {report.name}"
        metrics.append(metric("tpr_at_fpr", title, report.tpr_at(fpr), report.confidence, {"fpr": float(fpr)}))
    told = [one for one in metrics if one is not None]
    members = int(report.member.sum())
    named = f"{dataset}: {members} members, {len(report.member) - members} non-members"
    return {"task": dict(TASK), "dataset": {"type": dataset, "name": named}, "metrics": told}


def metric(
    kind: str, title: str, estimate: Estimate, confidence: float, args: Mapping[str, object] | None = None
) -> dict[str, object] | None:
    """One metric of a result, its interval in its name; None for n/a, ValueError for a number that is not finite."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    if not math.isfinite(estimate.value):
        raise ValueError(f"{title}: must be a finite number, not {estimate.value}.")
    interval = f"{100 * confidence:g} % interval {estimate.low:.3f} to {estimate.high:.3f}"
    named: dict[str, object] = {"type": kind, "name": f"{title} ({interval})", "value": float(estimate.value)}
    return {**named, "args": dict(args)} if args else named


def updated(card: str, outcome: Outcome, name: str, figure: str = FIGURE) -> str:
    """A model card's text with the section and the model-index entry of an audit; all else as it was, to the byte.

    `name` is the model's, for a model-index that is not there yet. ValueError for malformed front matter or marks.
    """
    return with_result(with_section(card, section(outcome, figure)), result(outcome), name)


def with_section(card: str, made: str) -> str:
    """A card's text with the section in its place between the marks, or at the end. ValueError for damaged marks."""
    newline = _newline(card)
    made = made.replace("\n", newline)
    starts, ends = card.count(BEGIN), card.count(END)
    if starts == ends == 0:
        gap = "" if not card.strip(BOM) else newline if card.endswith(("\n", "\r")) else 2 * newline
        return f"{card}{gap}{made}{newline}"
    if starts != 1 or ends != 1 or card.index(END) < card.index(BEGIN):
        raise ValueError(
            f"the card holds {BEGIN} {starts} times and {END} {ends} times, and must hold each once and in this order: "
            "mend the marks, or remove both with what stands between."
        )
    return card[: card.index(BEGIN)] + made + card[card.index(END) + len(END) :]


def with_result(card: str, entry: Mapping[str, object], name: str) -> str:
    """A card's text with a result in its model-index; ValueError as in `spliced`, or where front matter has no end."""
    mark, text = (BOM, card[1:]) if card.startswith(BOM) else ("", card)
    newline = _newline(card)
    if (match := HEADER.match(text)) is not None:
        opening, block, gap, closing = match.groups()
        return mark + opening + spliced(block + gap, entry, name, newline) + closing + text[match.end() :]
    if re.match(r"\s*---[ \t]*(\r|\n|$)", text):
        raise ValueError("the card begins with `---`, but its front matter is empty or has no end: mend it first.")
    return f"{mark}---{newline}{spliced('', entry, name, newline)}---{newline}{text}"


def _newline(text: str) -> str:
    """How most lines of a text end."""
    pairs = text.count("\r\n")
    singles = {"\r\n": pairs, "\n": text.count("\n") - pairs, "\r": text.count("\r") - pairs}
    return max(singles, key=lambda one: singles[one]) if any(singles.values()) else "\n"


def decoded(content: bytes) -> str:
    """A card's text; ValueError where it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the card is not UTF-8 ({error}): save it as UTF-8 first.") from error


def write_card(place: Path, outcome: Outcome) -> Path:
    """Write an audit to the card of a model's folder, or to a README file, and the ROC figure beside it.

    Each file is put in place whole; where nothing changes, nothing is written. ValueError as in `updated`, OSError
    where the place is neither a folder nor a Markdown file in one.
    """
    path = place / "README.md" if place.is_dir() else place
    if path.suffix.lower() != ".md" or not path.parent.is_dir():
        raise FileNotFoundError(
            f"{place} is neither a folder nor a Markdown file in one: name a model's folder, or add --push or --commit "
            "for a model on the Hub."
        )
    path = path.resolve()
    before = path.read_bytes() if path.exists() else b""
    try:
        text = updated(decoded(before), outcome, path.parent.name)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Nothing was written.") from error
    figure = outcome.folder / "figures" / "roc.png"
    if figure.is_file():
        (path.parent / FIGURE).parent.mkdir(exist_ok=True)
        _put(path.parent / FIGURE, figure.read_bytes())
    _put(path, text.encode("utf-8"))
    return path


def _put(path: Path, content: bytes) -> None:
    """Write under another name, flush to the disk, rename; a file that holds this already is left alone."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
