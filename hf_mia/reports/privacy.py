"""Audits of differential privacy: how large epsilon must at least be, judged by an attack on randomised membership.

A bound is not an estimate: a weak attack or few units give a low bound, however much the model leaks; 0 says that
nothing was shown. Natural logarithms; a larger score means more likely a member.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_mia.reports.estimates import Bools, Floats, Ints, binomial_limits, checked

Method = Literal["threshold", "one-run"]
RANDOM: dict[Method, tuple[str, ...]] = {"threshold": ("random_split", "canary", "coin"), "one-run": ("coin",)}
TRIES = 10  # thresholds tried where none is given
SHARES = (1 / 4, 1 / 16, 1 / 64)  # of the candidates: guesses tried where none are given, beside all of them
_HALVINGS = 60


@dataclass(frozen=True)
class Epsilon:
    """A lower confidence bound on epsilon at `delta`, never negative; 0 where nothing is shown.

    `threshold` is the one that gave it, or `guesses` how many units were called members and how many non-members, and
    `correct` how many of these calls were right. `note` says under which condition the bound holds.
    """

    value: float
    delta: float
    confidence: float
    method: Method
    note: str
    threshold: float | None = None
    guesses: tuple[int, int] | None = None
    correct: int | None = None


def check_randomised(provenance: str, method: Method) -> None:
    """Raise ValueError unless membership was drawn the way a method needs: by chance, and for one run by coins."""
    if provenance in RANDOM[method]:
        return
    if provenance in RANDOM["threshold"]:
        raise ValueError(
            f"provenance: a bound on epsilon from one run needs an independent fair coin for each unit, but membership "
            f"is {provenance!r}, where one unit's being in makes another's less likely: set split.coin to true, or "
            "take epsilon_from_threshold."
        )
    raise ValueError(
        f"provenance: a bound on epsilon needs membership drawn at random, but it is {provenance!r}: members and "
        "non-members may then differ by themselves, and what tells them apart is no leak. Draw it ('random_split', "
        "'coin') or insert canaries ('canary')."
    )


def epsilon_from_threshold(
    scores: Floats,
    member: Bools,
    delta: float,
    confidence: float = 0.95,
    *,
    provenance: str,
    threshold: float | None = None,
    tries: int = TRIES,
) -> Epsilon:
    """The bound from the error rates of a threshold: units with score >= threshold are called members.

    Where a mechanism is (epsilon, delta)-private, TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta. So
    epsilon >= log((TPR - delta) / FPR) and log((TNR - delta) / FNR), with the lower end of TPR and the upper end of FPR
    by Clopper and Pearson, half of 1 - confidence for each. A `threshold` from elsewhere, such as the shadows', costs
    nothing. Without one, up to `tries` are tried here, at ranks among the non-members' scores that hang on nothing but
    their number, and each gets its share of 1 - confidence (Bonferroni).

    scores (units,), member (units,) bool. It holds for independent units: many models, or one in which units hardly
    sway each other. ValueError for membership not drawn at random, as `checked`, for delta not in [0, 1), confidence
    not in (0, 1), a threshold that is not finite, tries < 1. Source: Kairouz, Oh and Viswanath 2015 for the two rates;
    Jagielski, Ullman and Oprea 2020 and Nasr et al. 2021 for the audit.
    """
    check_randomised(provenance, "threshold")
    scores, member = checked(scores, member)
    check_levels(delta, confidence)
    if tries < 1 or not (threshold is None or math.isfinite(threshold)):
        raise ValueError(
            f"threshold, tries: must be a finite number and at least 1, not {threshold}, {tries}. None has 10 tried."
        )
    ours, others = scores[member], scores[~member]
    bars = _ranked(others, tries) if threshold is None else np.array([threshold], dtype=np.float64)
    sure = 1 - (1 - confidence) / bars.size
    found = []
    for bar in bars:
        tpr = binomial_limits(int((ours >= bar).sum()), ours.size, sure)[0]
        fpr = binomial_limits(int((others >= bar).sum()), others.size, sure)[1]
        found.append(max(_log_ratio(tpr - delta, fpr), _log_ratio(1 - fpr - delta, 1 - tpr), 0.0))
    best = int(np.argmax(found))
    chosen = "given" if threshold is not None else f"best of {bars.size} tried on these scores, corrected for that"
    note = f"threshold {chosen}; holds as far as units' scores are independent of each other"
    return Epsilon(found[best], delta, confidence, "threshold", note, threshold=float(bars[best]))


def epsilon_one_run(
    scores: Floats,
    member: Bools,
    delta: float,
    confidence: float = 0.95,
    guesses: tuple[int, int] | None = None,
    *,
    provenance: str,
    seed: int = 0,
) -> Epsilon:
    """The bound from one training run in which every unit was in or out by a fair coin of its own.

    The auditor calls the first number of `guesses` members, from the highest score down, and the second number
    non-members, from the lowest up, and leaves the rest open. The bound is the largest epsilon under which so many
    right calls are too unlikely (`one_run_p_value`). Guesses must not be chosen by the outcome: without any, a short
    list that hangs on the number of units alone is tried, each with its share of 1 - confidence (Bonferroni). Ties at a
    cut are broken by a draw from `seed`.

    scores (units,), member (units,) bool: all units that a coin was thrown for. ValueError for other membership than by
    coins, as `checked`, for delta not in [0, 1), confidence not in (0, 1), guesses that are not between 1 and all.
    Source: Steinke, Nasr and Jagielski 2023, Privacy auditing with one (1) training run, section 5, appendix D.
    """
    check_randomised(provenance, "one-run")
    scores, member = checked(scores, member)
    check_levels(delta, confidence)
    listed = [guesses] if guesses is not None else _listed(member.size)
    if any(min(pair) < 0 or not 1 <= sum(pair) <= member.size for pair in listed):
        raise ValueError(
            f"guesses: must be two numbers from 0 up, together 1 to {member.size} units, not {guesses}. Write (50, 50) "
            "for the 50 highest and the 50 lowest."
        )
    draw = np.random.default_rng(seed).random(member.size)
    ranked = member[np.lexsort((draw, scores))]  # from the lowest score up
    sure = 1 - (1 - confidence) / len(listed)
    found = []
    for high, low in listed:
        correct = int(ranked[member.size - high :].sum() + (~ranked[:low]).sum())
        found.append((epsilon_from_guesses(member.size, high + low, correct, delta, sure), correct, (high, low)))
    value, correct, best = max(found, key=lambda one: one[0])
    chosen = "given" if guesses is not None else f"best of {len(listed)} tried, corrected for that"
    note = f"number of guesses {chosen}; holds for one model, whatever units do to each other"
    return Epsilon(value, delta, confidence, "one-run", note, guesses=best, correct=correct)


def bounds(
    scores: Floats, member: Bools, delta: float, confidence: float, provenance: str, threshold: float | None
) -> list[Epsilon]:
    """The bound from a threshold, or from the best of some where there is none, and, where membership was by coins, the
    one from one run. Each holds with `confidence` by itself."""
    found = [epsilon_from_threshold(scores, member, delta, confidence, provenance=provenance, threshold=threshold)]
    coin = provenance in RANDOM["one-run"]
    return [*found, epsilon_one_run(scores, member, delta, confidence, provenance=provenance)] if coin else found


def epsilon_from_guesses(candidates: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest epsilon that `one_run_p_value` rejects at 1 - confidence, by bisection from below; 0 if none."""
    level, low, high = 1 - confidence, 0.0, 1.0
    if one_run_p_value(candidates, guesses, correct, 0.0, delta) >= level:
        return 0.0
    while one_run_p_value(candidates, guesses, correct, high, delta) < level:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = one_run_p_value(candidates, guesses, correct, middle, delta) < level
        low, high = (middle, high) if rejected else (low, middle)
    return low


def one_run_p_value(candidates: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely at least so many `correct` of the `guesses` are, at most, under (epsilon, delta)-privacy.

    With f(v) the chance of v or more successes in `guesses` trials of chance e^epsilon / (1 + e^epsilon), it is
    f(correct) + 2 candidates delta max over i = 1 ... correct of (f(correct - i) - f(correct)) / i, and 1 at most.
    Every unit that a coin was thrown for is one of the `candidates`. Source: Steinke et al. 2023.
    """
    from scipy.special import betainc, expit  # type: ignore[import-untyped, unused-ignore]

    least = np.arange(correct, -1 if delta else correct - 1, -1)
    tail = np.ones(least.size)  # at least 0 successes are sure
    some = least[least > 0]
    tail[: some.size] = betainc(some, guesses - some + 1, expit(epsilon))
    gained = ((tail[1:] - tail[0]) / np.arange(1, least.size)).max(initial=0.0)
    return float(min(tail[0] + 2 * candidates * delta * gained, 1.0))


def _ranked(others: Floats, tries: int) -> Floats:
    """Thresholds at fixed ranks of the non-members' scores: just above the highest, then by even steps of the logit.

    Members' scores do not move them, so their count above is binomial. The k-th highest non-member's rate exceeds the
    upper limit for the non-members that are not below it no more often than that of a fixed threshold would.
    """
    descending = np.sort(others)[::-1]
    reach = math.log(others.size)
    shares = 1 / (1 + np.exp(-np.linspace(-reach, reach, tries)))
    ranks: Ints = np.unique(np.floor(others.size * shares).astype(np.int64))
    return np.array([descending[k - 1] if k else np.nextafter(descending[0], np.inf) for k in ranks])


def _listed(units: int) -> list[tuple[int, int]]:
    """Numbers of guesses to try: all units, and some shares of them, half from each end or from the top alone."""
    parts = [math.ceil(share * units) for share in SHARES]
    pairs = [(part - part // 2, part // 2) for part in (units, *parts)]
    return list(dict.fromkeys([*pairs, *((part, 0) for part in parts)]))


def _log_ratio(above: float, below: float) -> float:
    return math.log(above / below) if above > 0 else -math.inf


def check_levels(delta: float, confidence: float) -> None:
    """Raise ValueError unless 0 <= delta < 1 and 0 < confidence < 1."""
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError(
            f"delta, confidence: 0 <= delta < 1 and 0 < confidence < 1 must hold, not {delta}, {confidence}. Take "
            "delta well below 1 / records, and write 95 percent as 0.95."
        )
