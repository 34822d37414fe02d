"""The figures draw the numbers they are given, without pyplot."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve  # type: ignore[import-untyped, unused-ignore]

from hf_mia.reports.estimates import Estimate, tpr_at
from hf_mia.reports.figures import (
    curve_figure,
    histogram_figure,
    matrix_figure,
    placed_figure,
    roc_figure,
    scores_figure,
)
from hf_mia.reports.report import Report


def made(name: str, members: int, others: int, shift: float, digits: int = 6, threshold: float | None = None) -> Report:
    rng = np.random.default_rng(len(name))
    member = np.arange(members + others) < members
    scores = np.asarray(np.round(rng.normal(size=member.size) + shift * member, digits), dtype=np.float64)
    return Report(name, scores, member, tuple(f"unit {i}" for i in range(member.size)), threshold, resamples=50)


def shares(bins: int, seed: int) -> npt.NDArray[np.float64]:
    drawn = np.random.default_rng(seed).gamma(1.0, np.exp(-np.arange(bins) / 10))
    return np.asarray(drawn / drawn.sum())


POINTS = [Estimate(0.5, 0.4, 0.6), Estimate(), Estimate(0.7), Estimate(0.8, 0.7, 0.9)]
constant = Report("constant", np.zeros(4), np.arange(4) < 2, ("a", "b", "c", "d"), resamples=5)
FIGURES: dict[str, Callable[[], Figure]] = {
    "roc": lambda: roc_figure([made(f"attack {i}", 300, 200 + i, i / 4, digits=i % 3) for i in range(9)]),
    "roc of one": lambda: roc_figure([made("perfect", 5, 5, 100.0)]),
    "roc of a constant": lambda: roc_figure([constant]),
    "histogram": lambda: histogram_figure(shares(100, 0), shares(100, 1), np.linspace(0, 5000, 101), "Rank"),
    "histogram of wide bins": lambda: histogram_figure(
        shares(20, 0), shares(20, 1), np.logspace(0, 4, 21), "Rank", (shares(20, 2), shares(20, 3))
    ),
    "histogram with empty bins": lambda: histogram_figure(
        np.array([1.0, 0, 0]), np.array([0.5, 0, 0.5]), np.arange(4.0), "Rank"
    ),
    "scores": lambda: scores_figure(made("attack", 300, 200, 1.0, threshold=0.5)),
    "scores that are constant": lambda: scores_figure(constant),
    "a score among others": lambda: placed_figure(0.3, shares(50, 4), shares(30, 5)),
    "a score among equal ones": lambda: placed_figure(1.0, np.ones(3)),
    "curve": lambda: curve_figure([1, 4, 16, 32], {"ours": POINTS, "theirs": POINTS[::-1]}, "Texts", "AUC", logx=True),
    "curve of nothing known": lambda: curve_figure(np.array([1.0]), {"ours": [Estimate()]}, "Texts", "AUC"),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.filterwarnings("error")
def test_every_figure_renders(draw: Callable[[], Figure]) -> None:
    figure = draw()
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        assert buffer.getvalue().startswith(magic)
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert axes.get_ylabel()


@pytest.mark.parametrize("digits", [6, 1, 0])
def test_the_roc_is_the_empirical_staircase(digits: int) -> None:
    report = made("attack", 300, 200, 1.0, digits)
    (axes,) = roc_figure([report]).axes
    line = next(line for line in axes.lines if line.get_label() != "chance")
    assert line.get_drawstyle() == "steps-post"
    x, y = (np.asarray(data, dtype=float) for data in line.get_data())
    assert (x[-1], y[-1]) == (1, 1)
    assert (x[0], y[0]) == (1 / 200, tpr_at(report.scores, report.member, 1 / 200))
    floor = axes.get_ylim()[0]
    assert floor == axes.get_xlim()[0] == pytest.approx(1 / 600)
    fpr, tpr, _ = roc_curve(report.member, report.scores, drop_intermediate=False)
    for rate in np.arange(1, 201) / 200:
        drawn = y[np.searchsorted(x, rate, side="right") - 1]
        assert drawn == pytest.approx(max(floor, tpr[fpr <= rate].max()))
        assert drawn == pytest.approx(max(floor, tpr_at(report.scores, report.member, rate) or 0))


def test_the_legend_names_attack_and_auc() -> None:
    reports = [made("loss", 300, 200, 0.5), made("LiRA", 300, 200, 1.5)]
    (legend,) = roc_figure(reports).legends
    assert [text.get_text() for text in legend.get_texts()] == ["chance", *(f"{r.name}: AUC {r.auc}" for r in reports)]


def test_curves_differ_in_colour_and_dashes() -> None:
    (axes,) = roc_figure([made(f"attack {i}", 30, 30, 1.0) for i in range(7)]).axes
    assert len({line.get_color() for line in axes.lines}) == 8
    assert len({str(line._dash_pattern) for line in axes.lines}) == 8  # type: ignore[attr-defined]


def test_the_histogram_draws_the_shares_and_leaves_gaps() -> None:
    members, others = np.array([0.75, 0.25, 0.0]), np.array([0.5, 0.25, 0.25])
    edges = np.array([1.0, 10.0, 100.0, 1000.0])
    (axes,) = histogram_figure(members, others, edges, "Rank").axes
    first, second = (patch.get_data() for patch in axes.patches)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.values, [0.75, 0.25, np.nan])
    np.testing.assert_array_equal(second.values, others)
    np.testing.assert_array_equal(first.edges, edges)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (axes,) = histogram_figure(members, others, np.arange(4.0), "Rank").axes
    assert axes.get_xscale() == "linear"


def test_the_scores_sum_to_one_in_each_class() -> None:
    (axes,) = scores_figure(made("attack", 300, 200, 1.0, threshold=0.5)).axes
    assert [patch.get_data().values.sum() for patch in axes.patches] == pytest.approx([1.0] * 4)  # type: ignore[attr-defined]
    (threshold,) = axes.lines
    assert list(threshold.get_xdata()) == [0.5, 0.5]  # type: ignore[arg-type]
    (axes,) = scores_figure(made("attack", 300, 200, 1.0)).axes
    assert not axes.lines


LONG = "encodermi-s (signal.first=10, signal.probe.n=30)"
LEGENDS: dict[str, Callable[[], Figure]] = {
    "roc": lambda: roc_figure([made(LONG, 64, 64, 0.5), made(LONG, 64, 64, 1.0)]),
    "scores": lambda: scores_figure(made("attack", 100_000, 100_000, 1.0, threshold=0.0213)),
    "a score among others": lambda: placed_figure(-1.234e-5, np.arange(100_000.0), np.arange(100_000.0)),
}


@pytest.mark.parametrize("draw", LEGENDS.values(), ids=LEGENDS.keys())
def test_a_legend_is_whole(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.savefig(io.BytesIO())
    (legend,) = figure.legends
    drawn = legend.get_window_extent()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= figure.bbox.width


def test_a_few_scores_far_out_do_not_hide_the_others() -> None:
    """A hundredth of the scores on each side stands in the end bins, so that the bins tell the rest apart."""
    report = made("attack", 300, 300, 1.0)
    far = Report("far", np.append(report.scores, 1e6), np.append(report.member, True), (*report.units, "far"))
    (axes,) = scores_figure(far).axes
    for patch in axes.patches:
        assert (patch.get_data().values > 0).sum() > 20  # type: ignore[attr-defined]
        assert patch.get_data().values.sum() == pytest.approx(1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("score", [0.4, -7.0, 12.0])
def test_a_score_stands_among_the_others(score: float) -> None:
    """Each side's share of each bin, counted one by one; the score itself is a line, inside the axes, and in no bin."""
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 60), rng.normal(0, 1, 80)
    (axes,) = placed_figure(score, others, members).axes
    drawn = [patch.get_data() for patch in axes.patches]  # type: ignore[attr-defined]
    for (values, edges, _), scores in zip(drawn, (members, members, others, others), strict=True):
        assert edges[0] == min(score, *members, *others)
        assert edges[-1] == max(score, *members, *others)
        for i, value in enumerate(values):
            last = i == len(values) - 1
            inside = [edges[i] <= one and (one < edges[i + 1] or (last and one == edges[-1])) for one in scores]
            assert value == pytest.approx(sum(inside) / len(scores))
    (line,) = axes.lines
    assert list(line.get_xdata()) == [score, score]  # type: ignore[arg-type]
    (legend,) = axes.figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["members (n = 60)", "non-members (n = 80)", f"asked about: {score:.4g}"]


def test_without_the_members_scores_only_non_members_are_drawn() -> None:
    figure = placed_figure(0.5, np.arange(10.0))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["non-members (n = 10)", "asked about: 0.5"]


def test_the_curve_leaves_gaps() -> None:
    (axes,) = curve_figure([1, 2, 3, 4], {"ours": POINTS}, "Texts", "AUC").axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.5, np.nan, 0.7, 0.8])


@pytest.mark.filterwarnings("error")
def test_matrices_stand_side_by_side_on_one_scale() -> None:
    rng = np.random.default_rng(0)
    given = {
        "member": rng.uniform(0.5, 0.9, (10, 10)),
        "non-member": rng.uniform(-0.2, 0.6, (3, 3)),
        "flat": np.ones((2, 2)),
    }
    figure = matrix_figure(given, "cosine")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == list(given)
    for axes, matrix in zip(panels, given.values(), strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(np.asarray(image.get_array()), matrix)
        assert image.get_clim() == (given["non-member"].min(), 1.0)
    assert bar.get_ylabel() == "cosine"


def test_bad_input_is_refused() -> None:
    three, edges = np.full(3, 1 / 3), np.arange(4.0)
    cases: tuple[tuple[Callable[[], Figure], str], ...] = (
        (lambda: roc_figure([]), "reports: "),
        (lambda: histogram_figure(three[:2], three, edges, "Rank"), r"members: .*\(2,\), \(4,\)"),
        (lambda: histogram_figure(three, three[:2], edges, "Rank"), "non-members: "),
        (lambda: histogram_figure(three, three, edges[::-1], "Rank"), "edges: "),
        (lambda: curve_figure([1, 2], {"ours": POINTS}, "Texts", "AUC"), "series: 'ours' .* got 4 for 2"),
        (lambda: curve_figure([1, 2], {}, "Texts", "AUC"), "series: "),
        (lambda: matrix_figure({}, "cosine"), r"matrices: must hold square matrices, not \[\]"),
        (lambda: matrix_figure({"a": np.eye(2), "b": np.ones((2, 3))}, "cosine"), r"matrices: .*\(2, 3\)"),
        (lambda: matrix_figure({"a": np.ones(4)}, "cosine"), r"matrices: .*\(4,\)"),
    )
    for draw, message in cases:
        with pytest.raises(ValueError, match=message):
            draw()


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys, numpy as np; from hf_mia.reports.figures import histogram_figure as draw;"
        "draw(np.ones(2), np.ones(2), np.arange(3.0), 'Rank').savefig('/dev/null', format='png');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
