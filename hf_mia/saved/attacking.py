"""Logits in a file, with the true classes and who was a member: Parquet or npz, and no pickle."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from hf_mia.core import Floats, Integers
from hf_mia.saved.outputs import Numbers

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {"logits": "logits", "label": "labels", "member": "member", "unit": "units"}  # of Parquet: npz's arrays
WAY_OUT = "write it with hf_mia.Saved(...).save(path)"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file holds of n units: logits (n, C) or (n, q, C) as they were saved, the true classes labels (n,), member
    (n,) as 1, 0 or NaN for unknown, and the units' names, if any.

    Parquet has a row a unit: `logits` list<float>, or list<list<float>> of q queries, `label` int, `member` bool, null
    where unknown, and `unit` string, if any. An npz has arrays `logits`, `labels`, `member` and, if any, `units`.
    """

    logits: Numbers = field(repr=False)
    labels: Integers = field(repr=False)
    member: Floats = field(repr=False)
    units: tuple[str, ...] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Saved:
        """What a file holds. ValueError with the file, the column, the rule and the way out for one that does not fit;
        OSError where it cannot be read."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: name a .parquet or .npz file of logits, or {WAY_OUT}.")
        return _parquet(path) if _suffix(path) == ".parquet" else _npz(path)

    def save(self, path: Path) -> None:
        """Write a file that `read` reads, put in place whole; by its suffix Parquet or npz."""
        temporary = path.with_name(f".{path.name}.tmp")
        if _suffix(path) == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(self._table(), temporary, compression="zstd")
        else:
            kept: dict[str, np.ndarray] = {"logits": self.logits, "labels": self.labels, "member": self.member}
            if self.units is not None:
                kept["units"] = np.array(self.units, dtype=np.str_)
            with temporary.open("wb") as file:  # numbers and strings: numpy 2.0 takes no `allow_pickle` here
                np.savez_compressed(file, **kept)  # type: ignore[arg-type]
        temporary.replace(path)

    def _table(self) -> pa.Table:
        import pyarrow as pa

        logits: pa.Array = pa.array(np.ascontiguousarray(self.logits).ravel())
        for width in reversed(self.logits.shape[1:]):
            offsets = np.arange(0, len(logits) + 1, width, dtype=np.int64)
            small = offsets[-1] < 2**31
            logits = (pa.ListArray if small else pa.LargeListArray).from_arrays(
                pa.array(offsets, pa.int32() if small else pa.int64()), logits
            )
        unknown = np.isnan(self.member)
        columns = {
            "logits": logits,
            "label": pa.array(self.labels, pa.int64()),
            "member": pa.array(self.member == 1, pa.bool_(), mask=unknown),
        }
        return pa.table(columns if self.units is None else {**columns, "unit": pa.array(self.units, pa.string())})


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in (".parquet", ".npz"):
        raise ValueError(f"{path} must end in .parquet or .npz, which say how logits are saved: {WAY_OUT}.")
    return path.suffix.lower()


def _parquet(path: Path) -> Saved:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _named(path, file.schema_arrow.names, "column", ("logits", "label", "member"))
        found = {name: column.combine_chunks() for name, column in _columns(file.read([*_kept(file)]))}
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file, or broken ({error}): {WAY_OUT}.") from error
    for name, column in found.items():
        if name != "member" and column.null_count:
            where = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[:5].tolist()
            raise ValueError(
                f"{path}: column `{name}` must have a value in each row, but is null in {column.null_count}, such as "
                f"{where}: leave these rows out."
            )
    member, label = found["member"], found["label"]
    if not (pa.types.is_boolean(member.type) or pa.types.is_integer(member.type) or pa.types.is_floating(member.type)):
        raise ValueError(f"{path}: column `member` must be bool, null where unknown, but is {member.type}: cast it.")
    if not pa.types.is_integer(label.type):
        raise ValueError(f"{path}: column `label` must be int, the place of the class, but is {label.type}: cast it.")
    units = tuple(map(str, found["unit"].to_pylist())) if "unit" in found else None
    known = member.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    return Saved(_nested(path, found["logits"]), label.cast(pa.int64()).to_numpy(), known, units)


def _kept(file: pa.parquet.ParquetFile) -> list[str]:
    return [name for name in COLUMNS if name in file.schema_arrow.names]


def _columns(table: pa.Table) -> zip[tuple[str, pa.ChunkedArray]]:
    return zip(table.column_names, table.columns, strict=True)


def _nested(path: Path, column: pa.Array) -> Numbers:
    """Lists of equally many numbers, or of equally many lists of them, as one array."""
    import pyarrow as pa

    shape = [len(column)]
    while (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        sizes = column.value_lengths().to_numpy(zero_copy_only=False)
        if len(sizes) and (sizes != sizes[0]).any():
            row = int(np.flatnonzero(sizes != sizes[0])[0]) // int(np.prod(shape[1:], dtype=np.int64))
            raise ValueError(
                f"{path}: column `logits` must have as many numbers in each row, one a class, but row {row} has others "
                "than row 0: give every unit the logits of all classes."
            )
        shape.append(int(sizes[0]) if len(sizes) else 0)
        column = column.flatten()
    if len(shape) not in (2, 3) or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(
            f"{path}: column `logits` must be list<float>, one number a class, or list<list<float>>, a list a query, "
            f"but is {'list of ' * (len(shape) - 1)}{column.type}: {WAY_OUT}."
        )
    if column.null_count:
        raise ValueError(f"{path}: column `logits` must be numbers, but {column.null_count} of them are null.")
    return np.asarray(column.to_numpy(zero_copy_only=False).reshape(shape))


def _npz(path: Path) -> Saved:
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{path} is a single array and no npz: np.savez(path, logits=..., labels=..., member=...)."
            )
        with opened as file:
            _named(path, file.files, "array", ("logits", "labels", "member"))
            found = {name: _array(path, file, name) for name in COLUMNS.values() if name in file.files}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no npz, or broken ({error}): {WAY_OUT}.") from error
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(f"{path} is a pickle, which may run any code when it is read: {WAY_OUT}.") from error
    units = None if "units" not in found else tuple(map(str, found["units"].tolist()))
    logits, labels = cast("Numbers", found["logits"]), cast("Integers", found["labels"])
    return Saved(logits, labels, found["member"].astype(np.float64), units)


def _array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> npt.NDArray[np.generic]:
    try:
        found = np.asarray(file[name])
    except ValueError as error:  # of objects, which numpy pickles
        raise ValueError(
            f"{path}: array `{name}` is pickled, and a pickle may run any code when it is read: save numbers, all rows "
            "of one length, or names as np.str_."
        ) from error
    wanted = "U" if name == "units" else "biuf"
    if found.dtype.kind not in wanted:
        kind = "names, np.str_" if name == "units" else "numbers"
        raise ValueError(f"{path}: array `{name}` must be {kind}, but is {found.dtype}: convert it.")
    return found


def _named(path: Path, names: list[str], what: str, wanted: tuple[str, ...]) -> None:
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{path} must have the {what}s {', '.join(wanted)}, but lacks {', '.join(missing)} and has "
            f"{names}: rename yours, or {WAY_OUT}."
        )
