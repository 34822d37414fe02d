"""The table of PAPERS at full width: {one, two processes} x {batches of 1, 64} x {resumed, not} x {float32, float64}.

Each cell is an audit of the attack's own world through a runner with an empty cache. Two processes are two forks of
this one that meet as the ranks of a launch do. Resumed: half of the shards are gone, as after a kill, and asked again.
Float32 or float64 are the inputs of the signals: the models' answers, cast; models compute in float32 in all cells.

However many processes, resumed or not: the same scores bit for bit. In another batch a model rounds otherwise, so
then, and by answers cast, the scores are alike but for that, and in the same order. A few attacks, one for each kind of
data, are in the quick part; `-m slow` selects the others.
"""

from __future__ import annotations

import os
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from scipy.stats import rankdata
from test_invariants import of
from trials import free_port
from worlds import World

from hf_mia.core import Answers, Ask, Model, Probe, Ragged, audit
from hf_mia.launch.processes import part
from hf_mia.papers import PAPERS
from hf_mia.runner import Runner

QUICK = ("mean-loss", "encodermi-t", "relative-loss")
PRECISIONS = (np.float32, np.float64)


@dataclass(frozen=True)
class Cast:
    """Answers whose fractions have another precision."""

    ask: Ask
    precision: type

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> list[Answers]:
        asked = self.ask(model, probe, records)
        return [{name: self._cast(column) for name, column in chunk.items()} for chunk in asked]

    def _cast(self, column: Ragged) -> Ragged:
        real = np.issubdtype(column.values.dtype, np.floating)
        return replace(column, values=column.values.astype(self.precision)) if real else column


@dataclass(frozen=True)
class Cells:
    """The ways to play one audit, each with a cache of its own."""

    name: str
    world: World
    folder: Path

    def scores(self, processes: int, batch: int, resumed: bool) -> np.ndarray:
        """What an audit found, a row for each precision (2, units)."""
        place = self.folder / f"{processes}-{batch}-{resumed}"
        if resumed:  # from half of what one process left
            shutil.copytree(self.folder / f"1-{batch}-False", place)
            for shard in sorted(place.glob("answers/*/*.parquet"))[::2]:
                shard.unlink()
        return self._played(place, batch) if processes == 1 else self._forked(place, batch)

    def _played(self, place: Path, batch: int) -> np.ndarray:
        # a batch is cut at so many positions, of which an item has 16 at most in these worlds, and at the chunk's end
        ask = Runner(place, chunk=64, tokens=1 if batch == 1 else batch * 16)
        asks = [Cast(ask, precision) for precision in PRECISIONS]
        attack, world = PAPERS[self.name], self.world
        return np.stack([audit(attack, world.target, world.shadows, ask, self.name).scores for ask in asks])

    def _forked(self, place: Path, batch: int) -> np.ndarray:
        """What two ranks of a launch found, both the same."""
        place.mkdir(parents=True, exist_ok=True)
        port = str(free_port())
        children = [self._rank(rank, port, place, batch) for rank in range(2)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        both = [np.load(place / f"{rank}.npy", allow_pickle=False) for rank in range(2)]
        assert both[0].tobytes() == both[1].tobytes()
        return both[0]

    def _rank(self, rank: int, port: str, place: Path, batch: int) -> int:
        """The process number of a child that plays the audit as one of two."""
        if child := os.fork():
            return child
        status = 1
        try:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
            os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            AcceleratorState._reset_state(reset_partial_state=True)
            np.save(place / f"{rank}.npy", self._played(place, batch))
            assert PartialState().num_processes == 2
            part()
            status = 0
        except BaseException:  # the parent's tests must not go on in a child
            traceback.print_exc()
        finally:
            os._exit(status)


@pytest.mark.parametrize("name", QUICK)
def test_the_farthest_cell_says_the_same(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """Two processes, batches of one, resumed, against one process, batches of 64, not; both precisions."""
    cells = Cells(name, of(name, request), tmp_path)
    alone = cells.scores(1, 1, False)
    assert cells.scores(2, 1, True).tobytes() == alone.tobytes()
    alike(alone, cells.scores(1, 64, False))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_every_cell_says_the_same(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    cells = Cells(name, of(name, request), tmp_path)
    alone = {batch: cells.scores(1, batch, False) for batch in (1, 64)}
    alike(alone[1], alone[64])
    for batch, expected in alone.items():
        for processes, resumed in ((1, True), (2, False), (2, True)):
            assert cells.scores(processes, batch, resumed).tobytes() == expected.tobytes(), (processes, batch, resumed)


def alike(scores: np.ndarray, plain: np.ndarray) -> None:
    """Scores (2, units) are those of the plain audit in float64 but for rounding, and in that order but for ties."""
    for row in (*scores, *plain):
        np.testing.assert_allclose(row, plain[-1], rtol=1e-3, atol=1e-3 * np.ptp(plain[-1]))
        assert np.corrcoef(rankdata(row.round(9)), rankdata(plain[-1].round(9)))[0, 1] > 0.999
