"""What the page shows, as HTML: all that comes from outside is escaped, and nothing is told by colour alone."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from hf_mia.core import Floats
from hf_mia.queries.query import Answer, Query
from hf_mia.queries.words import Word
from hf_mia.reports.figures import placed_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = ((1, "first guess"), (10, "among its first 10"), (100, "among its first 100"))  # ranks below, and their meaning
REST, UNKNOWN = "further down", "unknown to the model?"
MARKS = {"consistent with membership": "▲", "not distinguishable": "●", "n/a": "–"}
DRAWING = Lock()  # matplotlib parses the text of axes in one place for all threads
SHOWN, OPEN = 50, 5  # texts of one question whose words are shown, and shown at once


def answer_page(query: Query, answer: Answer, fpr: float) -> str:
    """The verdict, what it rests on, the figure and the words."""
    return "".join([verdict(answer, fpr), facts(query, answer), figure_of(query, answer), spoken(answer), foot(query)])


def verdict(answer: Answer, fpr: float) -> str:
    """The verdict in a line, with a mark beside its colour, and why."""
    at = "" if answer.verdict == "n/a" else f" at a false-positive rate of {fpr:g}"
    kind = answer.verdict.replace("/", "").replace(" ", "-")
    head = f"<p class='mia-verdict mia-{kind}'><span aria-hidden='true'>{MARKS[answer.verdict]}</span> "
    told = answer.verdict if answer.verdict == "n/a" else answer.verdict.capitalize()
    return f"{head}<strong>{_(told)}</strong>{_(at)}</p><p>{_(answer.why)}</p>"


def facts(query: Query, answer: Answer) -> str:
    """The numbers of an answer in a small table."""
    if answer.score is None or answer.p_value is None:
        return ""
    unit, record = query.run.experiment.data.unit, query.run.experiment.data.record
    rows = [("score", f"{answer.score:.4g}"), ("p-value", f"{answer.p_value:.3g}")]
    rows += [("compared with", f"{len(answer.calibration)} {unit}s that are known to be no members")]
    if unit != record:
        rows += [("read", f"{answer.read} of the {answer.given} {record}s given, as many as of each of these {unit}s")]
    return table(("figure", "value"), rows, "What the verdict rests on")


def figure_of(query: Query, answer: Answer) -> str:
    """The score among the non-members', and the members' where these were read from as many records."""
    if answer.score is None:
        return ""
    report = query.run.reports[query.name]
    most = answer.read == max(query.calibration.evidence)
    members: Floats | None = report.scores[report.member] if most else None
    above = int((answer.calibration >= answer.score).sum())
    told = f"Histogram: {above} of {len(answer.calibration)} non-members score as high as {answer.score:.4g} or higher."
    note = "" if most else (
        "<p class='mia-note'>The members' scores are kept only as read from all their records, "
        f"so they are drawn once {max(query.calibration.evidence)} records are read.</p>"
    )  # fmt: skip
    with DRAWING:
        return drawn(placed_figure(answer.score, answer.calibration, members), told) + note


def drawn(figure: Figure, told: str) -> str:
    """A figure inside the page, sharp at any width, with what it shows in words for those who cannot see it."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f"<figure class='mia-figure'><img src='data:image/svg+xml;base64,{content}' alt='{_(told)}'></figure>"


def spoken(answer: Answer) -> str:
    """The words of each text, each above the number of words that the model found likelier, with a legend."""
    said = [one for one in (answer.records or (answer,)) if one.words]
    if not said:
        return ""
    names = [*(name for _, name in BANDS), REST, UNKNOWN]
    legend = "".join(f"<li><span class='mia-word mia-r{i}'>{_(name)}</span></li>" for i, name in enumerate(names))
    head = (
        "<h3>The rank of each word</h3><p class='mia-note'>Under each word stands how many words the model found "
        "likelier in its place: 0 is its first guess. Of a word that it does not know, the rank is that of all "
        "unknown words together.</p>"
        f"<ul class='mia-legend' aria-label='Legend'>{legend}</ul>"
    )
    lines = [f"<li>{_p(one)}<div class='mia-words'>{''.join(map(_word, one.words))}</div></li>" for one in said[:SHOWN]]
    first = f"<ol class='mia-texts'>{''.join(lines[:OPEN])}</ol>"
    more = f"<p class='mia-note'>The first {SHOWN} of {len(said)} texts.</p>" if len(said) > SHOWN else ""
    if not lines[OPEN:]:
        return head + first
    rest = f"<ol class='mia-texts' start='{OPEN + 1}'>{''.join(lines[OPEN:])}</ol>{more}"
    return f"{head}{first}<details><summary>{len(lines) - OPEN} more texts</summary>{rest}</details>"


def foot(query: Query) -> str:
    """Whom and what the answer is about."""
    return (
        f"<p class='mia-note'>Asked of {_(query.run.name)} by {_(query.name)}: evidence, not proof, about this model "
        "and this attack.</p>"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> str:
    """A table with a caption; the first cell of a row is its head."""
    top = "".join(f"<th scope='col'>{_(one)}</th>" for one in heads)
    body = "".join(
        f"<tr><th scope='row'>{_(first)}</th>{''.join(f'<td>{_(one)}</td>' for one in rest)}</tr>"
        for first, *rest in rows
    )
    head = f"<caption>{_(caption)}</caption><thead><tr>{top}</tr></thead>"
    return f"<table class='mia-table'>{head}<tbody>{body}</tbody></table>"


def _p(answer: Answer) -> str:
    told = answer.verdict if answer.p_value is None else f"{answer.verdict}, p = {answer.p_value:.3g}"
    return f"<span class='mia-note'>By itself: {_(told)}</span>"


def _word(word: Word) -> str:
    ranked = next((i for i, (most, _name) in enumerate(BANDS) if word.rank < most), len(BANDS))
    band = ranked if word.known else len(BANDS) + 1
    told = f"{word.rank:,} words were likelier; log-probability {word.logprob:.2f} nats"
    told += "" if word.known else "; the model does not know this word"
    shown = _(word.text) + ("" if word.known else "?")
    return f"<span class='mia-word mia-r{band}' title='{told}'>{shown}<small>{word.rank}</small></span>"


def _(text: object) -> str:
    """Text that HTML and the page's templates find nothing in."""
    return html.escape(str(text)).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")
