"""Many records: peak memory above the loaded model, and whether time stays linear, from 10,000 to 1,000,000 records.

    python tests/scale.py                                    # all parts, all sizes: tens of minutes
    python tests/scale.py --parts logits --sizes 1000 4000

Every module here is trivially cheap, so what is measured is the library around it: a runner that asks and keeps the
answers, a signal that reads them, an attack, a report with its intervals. Each record is a unit of its own, the most
that a report can hold.

Parts: `logits`, an audit by `Posteriors` of 10 classes; `views`, an audit by answers as `Views` gives them, three
similarities of the 45 pairs of 10 views, and what EncoderMI-V reads besides; `texts`, an audit of texts of 10 words by
`Tokens`; `folder`, the evidence of EncoderMI-V (45 numbers a unit) and a report, written to a folder and read again.

Each part and size runs in a process of its own, on records that another process wrote to the disk. Memory is the peak
that the system tells of the process, mapped pages included, less what it held once the model was loaded. Seconds are of
processor time, because other programs may hold the cores; the ratio is that of the time a record takes over that of the
smallest size. `read` is how many bytes went through read calls while answers were read, over the bytes of the files: 0
where they are mapped. Exits with 1 above 2 GB, or where time grows by more than a quarter faster than the records.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict

import numpy as np

from hf_mia.attacks.threshold import Threshold
from hf_mia.audits.folder import read_evidence, write_evidence
from hf_mia.collate import Batch, Collate, Item
from hf_mia.core import Attack, Evidence, Game, Model, Pool, Signal, audit, read
from hf_mia.probes.views import Views, similarities
from hf_mia.reports.report import Report
from hf_mia.signals.classifier import Loss
from hf_mia.signals.encoder import MeanSimilarity, ViewSimilarity
from hf_mia.signals.language import MeanLoss

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from hf_mia.runner import Runner

SIZES, PIECE, WARM = (10_000, 100_000, 1_000_000), 10_000, 64
GIGABYTES, LINEAR, MAPPED = 2.0, 1.25, 0.05
CLASSES, VIEWS, WIDTH, PAIRS, WORDS, VOCABULARY = 10, 10, 4, 45, 10, 300


class Measured(TypedDict):
    """What one part took for so many records: bytes, seconds of processor time, and a share."""

    peak: int
    seconds: float
    read: float


@dataclass(frozen=True)
class Rows(Collate):
    """Rows of numbers, of like size, and the class of each."""

    columns: ClassVar[tuple[str, ...]] = ("x", "label")

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        pairs = zip(records["x"], records["label"], strict=True)
        return [Item(i, 1, {"x": x, "label": label}) for i, (x, label) in enumerate(pairs)]  # type: ignore[dict-item]

    def pad(self, items: Sequence[Item]) -> Batch:
        import torch

        return {name: torch.tensor([item.values[name] for item in items]) for name in ("x", "label")}


@dataclass(frozen=True)
class Shaped(Views):
    """The answers of `Views` about views that are given and need not be drawn: records of n x d numbers."""

    def observe(self, module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode():
            return similarities(module(batch).reshape(-1, self.n, WIDTH))


def given() -> torch.nn.Module:
    """The cheapest module that there is: it answers with the numbers of the records themselves."""
    import torch

    class Given(torch.nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return batch["x"]

    return Given().eval()


def numbers(width: int) -> Model:
    """A model whose answers are its records' own `width` numbers."""
    return Model("given", f"given {width}", Rows(), partial(_loaded, given()))


def language() -> Model:
    """A recurrent language model of 8 units, over words w0 to w297."""
    import torch

    from hf_mia.architectures.recurrent import RecurrentConfig, RecurrentForCausalLM
    from hf_mia.models.language import TextCollate
    from hf_mia.recipes.vocabulary import word_tokenizer

    torch.manual_seed(0)
    collate = TextCollate(word_tokenizer([" ".join(f"w{i}" for i in range(VOCABULARY - 2))], VOCABULARY))
    module = RecurrentForCausalLM(RecurrentConfig(VOCABULARY, embedding_size=8, hidden_size=8)).eval()
    return Model("tiny", "tiny", collate, partial(_loaded, module))


def _loaded(module: torch.nn.Module) -> torch.nn.Module:
    return module


def rows_of(width: int, rng: np.random.Generator, count: int) -> dict[str, object]:
    """Normal numbers, and classes of which each row's number is a little larger."""
    import pyarrow as pa

    x, label = rng.normal(size=(count, width)).astype(np.float32), rng.integers(CLASSES, size=count)
    x[np.arange(count), label] += 1
    return {"x": pa.FixedSizeListArray.from_arrays(x.ravel(), width), "label": label}


def texts(rng: np.random.Generator, count: int) -> dict[str, object]:
    """Texts of words, the first of them the most frequent."""
    words = rng.zipf(1.5, (count, WORDS)) % (VOCABULARY - 2)
    return {"text": [" ".join(f"w{word}" for word in text) for text in words]}


@dataclass(frozen=True)
class Audit:
    """An audit of many records: their columns, the model that is asked, the attack, and what is read `beside`."""

    columns: Callable[[np.random.Generator, int], dict[str, object]]
    model: Callable[[], Model]
    attack: Attack
    beside: tuple[Signal, ...] = ()

    def write(self, count: int, folder: Path) -> None:
        """The records as an Arrow file that `load_from_disk` maps, a piece in memory at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets import load_dataset

        rng, path = np.random.default_rng(0), folder / "records.parquet"
        pieces = [min(PIECE, count - at) for at in range(0, count, PIECE)]
        tables = (pa.table(self.columns(rng, piece)) for piece in pieces)
        first = next(tables)
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        cache = str(folder / "datasets")
        load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache).save_to_disk(folder / "records")

    def measured(self, folder: Path) -> Measured:
        """Ask, read, decide and report, once a few records have warmed the libraries up."""
        from datasets import load_from_disk

        from hf_mia.runner import Runner

        model, held = self.model(), resident()
        records = load_from_disk(folder / "records")
        self.audited(model, records.select(range(WARM)), Runner(folder / "warm"))
        start, runner = time.process_time(), Runner(folder / "cache")
        self.audited(model, records, runner)
        seconds, peak = time.process_time() - start, most() - held
        shards, before = runner(model, self.attack.signal.probe, records), bytes_read()
        assert sum(1 for _ in shards) == len(shards.paths)
        size = sum(path.stat().st_size for path in shards.paths)
        return {"peak": peak, "seconds": seconds, "read": (bytes_read() - before) / size}

    def audited(self, model: Model, records: Dataset, runner: Runner) -> None:
        """Every number that a report of this audit shows."""
        count = len(records)
        pool = Pool(records, np.arange(count), tuple(f"{i:07d}" for i in range(count)))
        game = Game(model, pool, (np.arange(count) % 2).astype(np.float64))
        report = audit(self.attack, game, [], runner)
        assert len(report.scores) == count
        for signal in self.beside:
            assert len(read(signal, game, runner).features) == count
        assert 0.4 < (report.summary()["auc"].value or 0) < 0.6 or count <= WARM


@dataclass(frozen=True)
class Folder:
    """What a run folder holds of as many units: evidence as EncoderMI-V's, and a report."""

    def write(self, count: int, folder: Path) -> None:
        """Nothing: evidence is made in memory, where an attack leaves it."""

    def measured(self, folder: Path) -> Measured:
        """Write and read evidence and report, once a few units have warmed the libraries up."""
        import torch  # noqa: F401  what any run has in memory

        held = resident()
        self.kept(WARM, folder)
        start = time.process_time()
        read = self.kept(int(folder.name), folder)
        return {"peak": most() - held, "seconds": time.process_time() - start, "read": read}

    def kept(self, count: int, folder: Path) -> float:
        """The share of the evidence's bytes that went through read calls; the evidence and its report come back."""
        rng, path = np.random.default_rng(0), folder / "target.parquet"
        features, member = rng.normal(size=(count, PAIRS)), (np.arange(count) % 2).astype(np.float64)
        evidence = Evidence(features, member, tuple(f"{i:07d}" for i in range(count)))
        write_evidence(evidence, path)
        before = bytes_read()
        found = read_evidence(path)
        share = (bytes_read() - before) / path.stat().st_size
        assert np.array_equal(found.features, features)
        assert found.names == evidence.names
        report = Report("folder", features[:, 0], member == 1, evidence.names)
        told = folder / "report.json"
        with told.open("w", encoding="utf-8") as file:
            json.dump(report.to_dict(), file, allow_nan=False)
        again = Report.from_dict(json.loads(told.read_text("utf-8")))
        assert again.summary() == report.summary()
        return share


PARTS: Mapping[str, Audit | Folder] = {
    "logits": Audit(partial(rows_of, CLASSES), partial(numbers, CLASSES), Threshold(Loss())),
    "views": Audit(
        partial(rows_of, VIEWS * WIDTH),
        partial(numbers, VIEWS * WIDTH),
        Threshold(MeanSimilarity(probe=Shaped())),
        (ViewSimilarity(probe=Shaped()),),
    ),
    "texts": Audit(texts, language, Threshold(MeanLoss())),
    "folder": Folder(),
}


def resident() -> int:
    """Bytes of memory that this process holds."""
    return _status("VmRSS")


def most() -> int:
    """The most bytes of memory that this process ever held; getrusage would count its parent's, from before `exec`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def bytes_read() -> int:
    """Bytes that this process has had through read calls; what is read from mapped files is not among them."""
    return int(Path("/proc/self/io").read_text().splitlines()[0].split()[1])


def step(part: str, what: str, folder: Path) -> str:
    """One step of a part in a process of its own: `write` its records, or `measured`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, __file__, "--step", what, "--parts", part, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{part}, {what} in {folder}:\n{done.stderr}")
    return done.stdout


def measure(part: str, count: int) -> Measured:
    """What one part takes for so many records."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / str(count)
        folder.mkdir()
        step(part, "write", folder)
        found: Measured = json.loads(step(part, "measured", folder).splitlines()[-1])
        return found


def run(parts: Sequence[str], sizes: Sequence[int]) -> int:
    """Measure, and print the table; 1, the exit status, where a bar is not met."""
    lines, failed = [f"{'part':8} {'records':>9} {'seconds':>9} {'ratio':>6} {'peak MB':>8} {'read':>6}"], False
    for part in parts:
        first: float | None = None
        for count in sizes:
            found = measure(part, count)
            first = found["seconds"] / count if first is None else first
            ratio = found["seconds"] / count / first
            failed |= found["peak"] > GIGABYTES * 1e9 or ratio > LINEAR or found["read"] > MAPPED
            shown = f"{part:8} {count:>9,} {found['seconds']:>9.1f} {ratio:>6.2f} {found['peak'] / 1e6:>8.0f}"
            lines.append(f"{shown} {found['read']:>6.3f}")
            print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--step", choices=("write", "measured"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given_ = parser.parse_args()
    if given_.step is None:
        return run(given_.parts, given_.sizes)
    part = PARTS[given_.parts[0]]
    if given_.step == "write":
        part.write(int(given_.folder.name), given_.folder)
    else:
        print(json.dumps(part.measured(given_.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
