"""The figures of an audit as matplotlib Figure objects; no pyplot and no global state, so any thread may draw and save.

Every function returns a Figure: `figure.savefig("roc.png", dpi=200)`, or .pdf. Colours are Okabe and Ito's, which
colour-blind readers tell apart; lines differ in dashes too, for grey prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hf_mia.reports.estimates import Estimate, roc
from hf_mia.reports.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1, 1.5, 1)), (0, (9, 1.5)), (0, (3, 1)), (0, (1, 2)))
_GREY = "#767676"
LINE = 60  # letters of a legend's line, which the figure is wide enough for


def _dashes(i: int) -> str | tuple[int, tuple[float, ...]]:
    """The dashes of the i-th line: where colours begin anew, they go with other dashes."""
    return _DASHES[(i + i // len(_COLOURS)) % len(_DASHES)]


def _canvas(xlabel: str, ylabel: str, width: float = 4.8, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure, in inches, with one pair of axes in the house style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, columns: int) -> None:
    """The legend below the axes."""
    figure.legend(fontsize=8, frameon=False, loc="outside lower left", handlelength=3.2, ncols=columns)


def _stepped(report: Report) -> tuple[Floats, Floats, float]:
    """The corners of an ROC staircase from the smallest resolved FPR, 1 / non-members, on; and the smallest step."""
    fpr, tpr, _ = roc(report.scores, report.member)
    members = int(report.member.sum())
    start = 1 / (report.member.size - members)
    first = int(np.searchsorted(fpr, start, side="right")) - 1  # the point that holds at FPR = start
    kept = np.append(np.flatnonzero(np.diff(tpr[first:], prepend=-1.0) > 0), tpr.size - 1 - first) + first
    return np.maximum(fpr[kept], start), tpr[kept], min(start, 1 / members)


def roc_figure(reports: Sequence[Report]) -> Figure:
    """The empirical ROC of each report on logarithmic axes, with the chance diagonal and the AUCs in the legend.

    A staircase (at each FPR the largest TPR whose FPR is no more): no convex hull, no interpolation. A curve begins at
    1 / its non-members, below which its data resolve nothing; the axes at half of the smallest step. ValueError for no
    report. Source: Carlini et al. 2022 for the axes.
    """
    if not reports:
        raise ValueError("reports: must hold at least one Report, not none. Audit an attack first.")
    labels = [fill(f"{report.name}: AUC {report.auc}", LINE) for report in reports]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, axes = _canvas("False-positive rate", "True-positive rate", 4.6, 4.7 + 0.17 * lines)
    curves = [_stepped(report) for report in reports]
    floor = min(step for _, _, step in curves) / 2
    axes.plot([floor, 1], [floor, 1], color=_GREY, linewidth=0.9, linestyle=":", label="chance")
    for i, (label, (fpr, tpr, _)) in enumerate(zip(labels, curves, strict=True)):
        axes.plot(
            fpr,
            np.maximum(tpr, floor),
            drawstyle="steps-post",
            color=_COLOURS[i % len(_COLOURS)],
            linestyle=_dashes(i),
            linewidth=1.6,
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.1), aspect="equal")
    _legend(figure, 1)
    return figure


def histogram_figure(
    members: Floats,
    nonmembers: Floats,
    edges: Floats,
    xlabel: str,
    spread: tuple[Floats, Floats] | None = None,
    logy: bool = True,
) -> Figure:
    """The mean share of each bin for members against non-members, as steps, over a logarithmic share unless told.

    members, nonmembers (bins,): mean shares; edges (bins + 1,) ascending, logarithmic where they span over 100-fold;
    spread: half-widths (bins,) of a band around each, members' first. An empty bin is a gap. ValueError for other
    shapes, edges that do not ascend. Source: Song and Shmatikov 2019 (ranks of members' words).
    """
    shares = {"members": members, "non-members": nonmembers}
    for name, share in shares.items():
        if share.ndim != 1 or edges.shape != (share.size + 1,):
            raise ValueError(f"{name}: must have shape (bins,), edges (bins + 1,), not {share.shape}, {edges.shape}.")
    if not (np.diff(edges) > 0).all():
        raise ValueError("edges: must ascend strictly. Sort them and drop those that repeat.")
    figure, axes = _canvas(xlabel, "Mean share per bin")
    bottom = min(share[share > 0].min(initial=1.0) for share in shares.values()) / 2
    for i, (name, share) in enumerate(shares.items()):
        heights = np.where(share > 0, share, np.nan)  # a gap, as a logarithm has no zero
        axes.stairs(heights, edges, baseline=None, color=_COLOURS[i], linestyle=_DASHES[i], linewidth=1.4, label=name)
        if spread is not None:
            low, high = (np.maximum(np.append(end, end[-1]), bottom) for end in (share - spread[i], share + spread[i]))
            axes.fill_between(edges, low, high, step="post", color=_COLOURS[i], alpha=0.2, linewidth=0, zorder=1)
    axes.set(yscale="log" if logy else "linear", xlim=(edges[0], edges[-1]))
    axes.set_ylim(bottom=bottom if logy else 0)
    if edges[0] > 0 and edges[-1] > 100 * edges[0]:
        axes.set_xscale("log")
    axes.legend(fontsize=9, frameon=False)
    return figure


def scores_figure(report: Report) -> Figure:
    """How the scores of members and non-members are spread: the share of each in 50 common bins, and the threshold.

    The outermost hundredth of all scores on each side stands in the end bins, so that a few far out hide no others.
    """
    figure, axes = _canvas("Membership score (larger: more likely a member)", "Share of units per bin")
    scores = np.clip(report.scores, *np.quantile(report.scores, (0.01, 0.99)))
    edges = np.histogram_bin_edges(scores, bins=50)
    sides = {"members": report.member, "non-members": ~report.member}
    for i, (name, side) in enumerate(sides.items()):
        count = int(side.sum())
        share = np.histogram(scores[side], bins=edges)[0] / count
        axes.stairs(share, edges, fill=True, color=_COLOURS[i], alpha=0.25)
        axes.stairs(
            share, edges, color=_COLOURS[i], linestyle=_DASHES[i], linewidth=1.4, label=f"{name} (n = {count:,})"
        )
    if report.threshold is not None:
        label = f"threshold {report.threshold:.3g}"
        axes.axvline(report.threshold, color="black", linewidth=1.3, linestyle=(0, (1, 1)), label=label)
    axes.set_ylim(bottom=0)
    axes.set_title(report.name, fontsize=10)
    _legend(figure, 2)
    return figure


def placed_figure(score: float, nonmembers: Floats, members: Floats | None = None) -> Figure:
    """Where one unit's score lies among those of known non-members (n,), and of members (m,) where they are given."""
    figure, axes = _canvas("Membership score (larger: more likely a member)", "Share of units per bin", 5.6, 3.0)
    sides = {"non-members": nonmembers} if members is None else {"members": members, "non-members": nonmembers}
    edges = np.histogram_bin_edges(np.concatenate([[score], *sides.values()]), bins=40)
    for name, scores in sides.items():
        i = 0 if name == "members" else 1
        share = np.histogram(scores, bins=edges)[0] / len(scores)
        axes.stairs(share, edges, fill=True, color=_COLOURS[i], alpha=0.25)
        axes.stairs(share, edges, color=_COLOURS[i], linestyle=_DASHES[i], linewidth=1.4,
                    label=f"{name} (n = {len(scores):,})")  # fmt: skip
    axes.axvline(score, color="black", linewidth=1.6, linestyle=(0, (4, 1)), label=f"asked about: {score:.4g}")
    axes.set_ylim(bottom=0)
    _legend(figure, 2)
    return figure


def curve_figure(
    x: Sequence[float] | Floats,
    series: Mapping[str, Sequence[Estimate]],
    xlabel: str,
    ylabel: str,
    logx: bool = False,
) -> Figure:
    """A line with its interval band for each named series of estimates over x; an n/a is a gap.

    x (points,); every series as many Estimates; logx: a logarithmic x axis. ValueError for no series, or one of another
    length.
    """
    if not series:
        raise ValueError("series: must hold at least one named series, not none. Give what to draw.")
    figure, axes = _canvas(xlabel, ylabel)
    for i, (name, estimates) in enumerate(series.items()):
        if len(estimates) != len(x):
            raise ValueError(f"series: {name!r} must hold one Estimate for each x; got {len(estimates)} for {len(x)}.")
        rows = [(estimate.value, estimate.low, estimate.high) for estimate in estimates]
        value, low, high = np.array(rows, dtype=np.float64).reshape(-1, 3).T  # None is a gap here
        colour = _COLOURS[i % len(_COLOURS)]
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        dashes = _dashes(i)
        axes.plot(x, value, color=colour, linestyle=dashes, marker="o", markersize=3.5, linewidth=1.5, label=name)
    if logx:
        axes.set_xscale("log")
        if len(x) <= 12:  # few points: name these, not the powers of ten
            axes.set_xticks(x, [f"{point:g}" for point in x])
            axes.minorticks_off()
    if len(series) > 3:  # so many would hide the curves
        figure.set_figheight(figure.get_figheight() + 0.17 * len(series))
        figure.legend(fontsize=8, frameon=False, loc="outside lower left", handlelength=3.2, ncols=1)
    else:
        axes.legend(fontsize=8, frameon=False)
    return figure


def matrix_figure(matrices: Mapping[str, Floats], label: str) -> Figure:
    """Square matrices of similarities side by side, on one scale of colours.

    matrices: name to (n, n); label: what the colours tell. ValueError for none, or one that is not square.
    """
    from matplotlib.figure import Figure

    if not matrices or any(m.ndim != 2 or m.shape[0] != m.shape[1] for m in matrices.values()):
        raise ValueError(f"matrices: must hold square matrices, not {[m.shape for m in matrices.values()]}.")
    figure = Figure(figsize=(2.9 * len(matrices) + 0.9, 3.2), dpi=150, layout="constrained")
    low, high = min(m.min() for m in matrices.values()), max(m.max() for m in matrices.values())
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        shown = axes.imshow(matrix, vmin=low, vmax=high, cmap="viridis")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("view")
    panels[0].set_ylabel("view")
    figure.colorbar(shown, ax=list(panels), label=label, shrink=0.85)
    return figure
