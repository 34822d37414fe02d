"""The tab *Scores*: how well do an attack's scores tell members from non-members?"""

from __future__ import annotations

import gradio as gr

from hf_mia.app.limits import Jobs, Limits
from hf_mia.app.shown import DRAWING, drawn, table
from hf_mia.app.uploads import scores_of
from hf_mia.progress import Check
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.figures import roc_figure, scores_figure
from hf_mia.reports.membership import flat
from hf_mia.reports.report import Report

EXAMPLE = "score,member\n0.9,1\n0.8,1\n0.4,1\n0.7,0\n0.3,0\n0.2,0\n0.1,0"
LIMITS = (
    "A weak result bounds this attack, not all attacks. Members and non-members that were collected apart may be told "
    "apart without any model. Intervals cover the sampling of units, not the retraining of the model."
)
NAMES = {"auc": "AUC", "accuracy": "accuracy", "precision": "precision", "recall": "recall", "advantage": "advantage"}


def score_tab(jobs: Jobs, limits: Limits) -> None:
    """The components and what they do."""
    gr.Markdown(
        "Upload the scores of an attack on units whose membership you know: a CSV or Parquet file with a column "
        "`score` (larger: more likely a member) and a column `member` (1 or 0), "
        f"at most {limits.upload >> 20} MB and {limits.rows:,} rows."
    )
    with gr.Row():
        upload = gr.File(label="Scores, CSV or Parquet", file_types=[".csv", ".parquet"], type="filepath")
        with gr.Column():
            fprs = gr.Textbox("0.01, 0.001", label="False-positive rates", info="Where the TPR is told")
            threshold = gr.Textbox(label="Threshold (optional)", info="Chosen without these units, or left empty")
    judge = gr.Button("Judge", variant="primary")
    page = gr.HTML(label="Figures", elem_classes="mia-answer")
    card = gr.Code(
        label="For a model card (Markdown)",
        language="markdown",
        lines=4,
        wrap_lines=True,
        interactive=False,
        show_line_numbers=False,
    )
    with gr.Accordion("The figures as JSON", open=False):
        numbers = gr.JSON(label="Figures as JSON")

    def judged(upload: str | None, fprs: str, threshold: str | None) -> tuple[dict[str, float], str, str]:
        """Judges scores: the figures with their intervals as JSON, as a page of HTML, and as text for a model card."""
        return jobs.do(lambda check: _judged(limits, upload, fprs, threshold, check))

    judge.click(judged, [upload, fprs, threshold], [numbers, page, card], api_name="judge_scores", concurrency_id="ask",
                show_progress_on=page)  # fmt: skip


def _judged(
    limits: Limits, upload: str | None, fprs: str, threshold: str | None, check: Check
) -> tuple[dict[str, float], str, str]:
    scores, member = scores_of(upload, limits)
    units = tuple(map(str, range(len(scores))))
    report = Report("uploaded scores", scores, member, units, threshold_of(threshold), rates_of(fprs))
    found = flat(report)
    check()
    shown = page(report)
    check()
    return found, shown, card(report)


def rates_of(text: str) -> tuple[float, ...]:
    """False-positive rates with commas between them; a ValueError that names the first that is no number."""
    found = []
    for one in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(float(one))
        except ValueError:
            raise ValueError(f"false-positive rates must be numbers such as 0.01, but one is {one!r}.") from None
    if not found or len(found) > 8:
        raise ValueError(f"there must be 1 to 8 false-positive rates, such as 0.01, but there are {len(found)}.")
    return tuple(found)


def threshold_of(text: str | None) -> float | None:
    """A threshold, or None where the field is empty; a ValueError for what is no number."""
    try:
        return float(text) if text and text.strip() else None
    except ValueError:
        raise ValueError(f"the threshold must be a number, or empty, but is {text!r}.") from None


def page(report: Report) -> str:
    """The figures with their intervals, the ROC on logarithmic axes and both sides' scores."""
    rows = [(name, *_ends(estimate)) for name, estimate in _figures(report).items()]
    members = int(report.member.sum())
    told = f"{members:,} members, {len(report.member) - members:,} non-members, {100 * report.confidence:g} % intervals"
    with DRAWING:
        roc = drawn(roc_figure([report]), f"ROC curve on logarithmic axes; AUC {report.auc}.")
        spread = drawn(scores_figure(report), "Histograms of the scores of members and non-members.")
    note = (
        "<p class='mia-note'>n/a: the data cannot tell, such as a rate below 1 / non-members, or a figure that needs a "
        "threshold where none was given.</p>"
    )
    return table(("figure", "value", "low", "high"), rows, told) + note + f"<div class='mia-pair'>{roc}{spread}</div>"


def card(report: Report) -> str:
    """A section of Markdown with the same figures and what they do not say."""
    members = int(report.member.sum())
    rows = [f"| {name} | {estimate} |" for name, estimate in _figures(report).items() if estimate.value is not None]
    return "\n".join(
        [
            "## Membership inference",
            "",
            f"An attack's scores on {members:,} training members and {len(report.member) - members:,} non-members, "
            f"with {100 * report.confidence:g} % intervals.",
            "",
            "| figure | value |",
            "| --- | --- |",
            *rows,
            "",
            LIMITS,
        ]
    )


def _figures(report: Report) -> dict[str, Estimate]:
    rates = {f"TPR at {100 * fpr:g} % FPR": report.tpr_at(fpr) for fpr in report.fprs}
    found = report.summary() | {"advantage": report.advantage}
    return {shown: found[name] for name, shown in NAMES.items()} | rates


def _ends(estimate: Estimate) -> tuple[str, str, str]:
    value, low, high = ("n/a" if one is None else f"{one:.3f}" for one in (estimate.value, estimate.low, estimate.high))
    return value, low, high
