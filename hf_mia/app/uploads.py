"""Files that visitors send: small enough, whole, and read in memory alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.app.limits import Limits
from hf_mia.reports.estimates import Bools, Floats
from hf_mia.reports.membership import LABELS, MISSING, members, numbers

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("score", "member")
UNPACKED = 1 << 26  # bytes of a Parquet file's two columns in memory


def scores_of(upload: str | None, limits: Limits) -> tuple[Floats, Bools]:
    """Scores (U,) float64 and membership (U,) of a CSV or Parquet file with columns `score` and `member`.

    ValueError for another kind of file, a column that is missing, holds no numbers or empty rows, and too many rows.
    """
    content = limits.content(upload, "a CSV or Parquet file with columns `score` and `member`")
    found = _table(content, limits)
    if found.num_rows > limits.rows:
        raise ValueError(f"the file has {found.num_rows:,} rows, and at most {limits.rows:,} are read: upload fewer.")
    for name in COLUMNS:
        if empty := found[name].null_count:
            raise ValueError(f"column {name!r} is empty in {empty:,} rows. {MISSING if name == 'score' else LABELS}")
    scores = numbers("column 'score'", found["score"].to_numpy(), MISSING).astype(np.float64)
    return scores, members("column 'member'", found["member"].to_numpy())


def _table(content: bytes, limits: Limits) -> pa.Table:
    """The two columns; a Parquet file is known by its first bytes, and its size unpacked before it is."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if not content.startswith(b"PAR1"):
            found = pyarrow.csv.read_csv(io.BytesIO(content))
            _check(found.column_names)
            return found.select(list(COLUMNS))
        with pq.ParquetFile(io.BytesIO(content)) as file:
            _check(file.schema_arrow.names)
            if file.metadata.num_rows > limits.rows:
                raise ValueError(
                    f"the file has {file.metadata.num_rows:,} rows, and at most {limits.rows:,} are read: upload fewer."
                )
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > UNPACKED:
                raise ValueError(f"the file unpacks to more than {UNPACKED >> 20} MB: keep only the two columns.")
            return file.read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid is a ValueError too
        told = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"the file could not be read as CSV or Parquet: {told}.") from error


def _check(names: list[str]) -> None:
    if missing := [name for name in COLUMNS if name not in names]:
        raise ValueError(f"the file must have the columns {list(COLUMNS)}, but lacks {missing}: it has {names[:10]}.")
