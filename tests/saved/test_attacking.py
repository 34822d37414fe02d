"""Saved logits: what is written is read back to the last bit, and files that do not fit say what to do."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mia.saved.attacking import Saved

N, C = 6, 4
LOGITS = np.random.default_rng(0).normal(size=(N, C)).astype(np.float32)
LABELS = np.array([0, 3, 1, 2, 0, 1])
MEMBER = np.array([1.0, 0.0, 1.0, 0.0, np.nan, 1.0])
UNITS = ("a", "b", "c", "d", "é", "f")


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
@pytest.mark.parametrize("units", [None, UNITS], ids=["unnamed", "named"])
@pytest.mark.parametrize("shape", [(N, C), (N, 3, C)], ids=["plain", "queries"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_what_is_saved_is_read(
    tmp_path: Path, suffix: str, units: tuple[str, ...] | None, shape: tuple[int, ...], kind: type
) -> None:
    logits = np.random.default_rng(1).normal(size=shape).astype(kind)
    path = tmp_path / f"logits.{suffix}"
    Saved(logits, LABELS, MEMBER, units).save(path)
    found = Saved.read(path)
    assert (found.logits.dtype, found.logits.tobytes()) == (logits.dtype, logits.tobytes())
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.member, MEMBER)
    assert found.units == units
    assert [one.name for one in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def table(**columns: object) -> pa.Table:
    plain = {"logits": LOGITS.tolist(), "label": LABELS, "member": (MEMBER == 1).tolist(), **columns}
    return pa.table({name: value for name, value in plain.items() if value is not None})


def test_a_table_of_plain_lists_is_read(tmp_path: Path) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(LOGITS.ravel()), C)
    for number, logits in enumerate((LOGITS.tolist(), fixed)):
        pq.write_table(table(logits=logits, more=[1] * N), tmp_path / f"{number}.parquet", row_group_size=4)
        found = Saved.read(tmp_path / f"{number}.parquet")
        np.testing.assert_array_equal(found.logits, LOGITS)
        np.testing.assert_array_equal(found.member, MEMBER == 1)


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "no logits": ({"logits": None}, r"must have the columns logits, label, member, but lacks logits and has \['label'"),
    "no member": ({"member": None}, "lacks member"),
    "ragged": ({"logits": [*LOGITS.tolist()[:4], [1.0], [1.0]]}, "as many numbers in each row.*row 4 has others"),
    "flat": ({"logits": [1.0] * N}, r"column `logits` must be list<float>.*but is double"),
    "words": ({"logits": [["a"] * C] * N}, "column `logits` must be list<float>.*list of string"),
    "null row": ({"logits": [*LOGITS.tolist()[:5], None]}, r"column `logits` .* null in 1, such as \[5\]"),
    "null number": ({"logits": [*LOGITS.tolist()[:5], [None] * C]}, "column `logits` must be numbers, but 4"),
    "null label": ({"label": [0, 1, 2, 3, 0, None]}, r"column `label` must have a value.*such as \[5\]"),
    "label of floats": ({"label": [0.0] * N}, "column `label` must be int, the place of the class, but is double"),
    "member of words": ({"member": ["yes"] * N}, "column `member` must be bool, null where unknown, but is string"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_table_says_what_to_do(tmp_path: Path, what: str) -> None:
    columns, message = BROKEN[what]
    path = tmp_path / "broken.parquet"
    pq.write_table(table(**columns), path)
    with pytest.raises(ValueError, match=message) as caught:
        Saved.read(path)
    assert str(caught.value).startswith(str(path))


def zipped(**arrays: object) -> bytes:
    held = io.BytesIO()
    plain = {"logits": LOGITS, "labels": LABELS, "member": MEMBER, **arrays}
    np.savez(held, **{name: np.asarray(value) for name, value in plain.items() if value is not None})
    return held.getvalue()


def single() -> bytes:
    held = io.BytesIO()
    np.save(held, LOGITS)
    return held.getvalue()


def foreign() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("readme.txt", "no array")
    return held.getvalue()


class Trap:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("trapped"),)  # type: ignore[return-value]


PACKED: dict[str, tuple[Callable[[], bytes], str]] = {
    "pickled array": (
        lambda: zipped(logits=np.array([Trap()] * N, dtype=object)),
        "array `logits` is pickled, and a pickle may run any code.*save numbers",
    ),
    "pickled names": (lambda: zipped(units=np.array(UNITS, dtype=object)), "array `units` is pickled.*np.str_"),
    "a pickle": (lambda: pickle.dumps(Trap()), "is a pickle, which may run any code when it is read"),
    "one array": (single, "is a single array and no npz"),
    "no label": (lambda: zipped(labels=None), "must have the arrays logits, labels, member, but lacks labels"),
    "words": (lambda: zipped(logits=["a"] * N), "array `logits` must be numbers, but is <U1"),
    "numbers for names": (lambda: zipped(units=np.arange(N)), "array `units` must be names, np.str_, but is int64"),
    "cut short": (lambda: zipped()[:200], "is no npz, or broken"),
    "nothing": (lambda: b"", "is no npz, or broken"),
    "another archive": (foreign, "must have the arrays logits, labels, member"),
}


@pytest.mark.parametrize("what", PACKED)
def test_a_broken_npz_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = PACKED[what]
    path = tmp_path / "broken.npz"
    path.write_bytes(content())
    with pytest.raises(ValueError, match=message) as caught:
        Saved.read(path)
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "trapped").exists()


def test_a_file_must_be_there_and_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no file: name a \.parquet or \.npz"):
        Saved.read(tmp_path / "none.npz")
    (tmp_path / "logits.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.npz"):
        Saved.read(tmp_path / "logits.csv")
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.npz"):
        Saved(LOGITS, LABELS, MEMBER).save(tmp_path / "logits.pkl")
    (tmp_path / "logits.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="is no Parquet file, or broken"):
        Saved.read(tmp_path / "logits.parquet")
