"""Files of a folder that may come from a stranger: looked at before they are read, and never outside of the folder."""

from __future__ import annotations

from pathlib import Path

TABLE = 1 << 30  # bytes of a Parquet or safetensors file
NUMBERS = 1 << 27  # values of a column once it is unpacked, a gigabyte


def inside(folder: Path, path: Path, most: int) -> Path:
    """The path of a file, if it is a plain one inside of the folder and of at most so many bytes; else a ValueError.

    The Hub's cache keeps a snapshot's files as links into the `blobs` of the same repository: those are its own.
    """
    place, real = folder.resolve(), path.resolve()
    within = path.parent.resolve().is_relative_to(place)
    blob = path.is_symlink() and real.parent == place.parent.parent / "blobs"
    if not within or not (blob or (not path.is_symlink() and real.is_relative_to(place))):
        raise ValueError(f"{path} leads out of the run folder: nothing outside of it is read. Copy the file itself.")
    if not path.is_file():
        raise ValueError(f"{path} is no file of the run folder: name a folder that `hf-mia audit` wrote.")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size:,} bytes, and at most {most:,} are read: this is no file of a run.")
    return path


def check_columns(path: Path) -> None:
    """ValueError unless a Parquet file has the columns of evidence, and unpacks to a bounded number of values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, meta = file.schema_arrow, file.metadata
        wanted = {"unit": (pa.string(),), "member": (pa.float64(),), "features": (pa.list_(pa.float64()),)}
        for name, kinds in wanted.items():
            if name not in schema.names or schema.field(name).type not in kinds:
                raise ValueError(f"its column {name!r} must hold {kinds[0]}")
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        if max((sum(g.column(i).num_values for g in groups) for i in range(meta.num_columns)), default=0) > NUMBERS:
            raise ValueError(f"it unpacks to more than {NUMBERS:,} numbers")
        if sum(group.total_byte_size for group in groups) > TABLE:
            raise ValueError(f"it unpacks to more than {TABLE:,} bytes")
