"""What a signal learnt leaves it as arrays and comes back, wherever the signal stands in others."""

from __future__ import annotations

import numpy as np
import pytest
import worlds

from hf_mia.core import Signal
from hf_mia.papers import PAPERS
from hf_mia.queries.learnt import learnt, taught, unlearnt
from hf_mia.signals.language import FrequencyRankHistogram, MeanLoss
from hf_mia.signals.texts import Beside, RarestTexts

NESTED = Beside((MeanLoss(), RarestTexts(FrequencyRankHistogram(bins=7), 2)))
ANSWERS = worlds.ragged(worlds.fake_answers(30, 50, seed=1))


@pytest.mark.parametrize(
    ("signal", "paths"),
    [
        (FrequencyRankHistogram(), ["common"]),
        (RarestTexts(MeanLoss(), 2), ["rarity"]),
        (NESTED, ["signals.1.rarity", "signals.1.signal.common"]),
        (MeanLoss(), []),
    ],
)
def test_what_is_learnt_comes_back(signal: Signal, paths: list[str]) -> None:
    assert unlearnt(signal) == paths
    assert learnt(signal) == {}
    wise = signal.learn([[ANSWERS]])
    arrays = learnt(wise)
    assert sorted(arrays) == sorted(paths)
    again = taught(signal, arrays)
    assert unlearnt(again) == []
    assert again == signal == wise
    for path, array in learnt(again).items():
        np.testing.assert_array_equal(array, arrays[path])


def test_it_measures_as_it_did() -> None:
    other = worlds.ragged(worlds.fake_answers(12, 50, seed=2))
    pool = worlds.pool(4, 3, seed=5)
    wise = NESTED.learn([[ANSWERS]])
    expected = wise.read([other], pool)
    np.testing.assert_array_equal(taught(NESTED, learnt(wise)).read([other], pool), expected)
    assert (NESTED.learn([[other]]).read([other], pool) != expected).any()


def test_part_of_it_is_not_enough() -> None:
    arrays = learnt(NESTED.learn([[ANSWERS]]))
    del arrays["signals.1.signal.common"]
    assert unlearnt(taught(NESTED, arrays)) == ["signals.1.signal.common"]


def test_every_named_signal_can_say_what_it_has_yet_to_learn() -> None:
    lacking = {name for name, attack in PAPERS.items() if unlearnt(attack.signal)}
    assert {"auditmi-frequency", "auditmi-rarest-texts", "auditmi-relative-rarest-texts"} <= lacking
    assert not {"auditmi", "auditmi-relative", "encodermi-v"} & lacking
