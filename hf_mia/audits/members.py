"""Who a given target's members are: named in the config, listed in a file, or marked in a column of the data."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np

from hf_mia.audits.targets import Elsewhere
from hf_mia.core import Integers, Pool
from hf_mia.data import Data

LARGEST_LIST = 1 << 28  # bytes


def members_of(target: Elsewhere, corpus: Pool, data: Data) -> Integers:
    """Indices of the member units; ValueError for names that the data does not know, or where none are given."""
    given = {
        "members": bool(target.members),
        "members_file": target.members_file,
        "members_column": target.members_column,
    }
    if sum(map(bool, given.values())) != 1:
        raise ValueError(
            "the members of a target that was trained elsewhere are given in exactly one of target.members (a list), "
            "target.members_file (one user a line) or target.members_column (1 or 0), but "
            f"{[name for name, value in given.items() if value] or 'none'} is set."
        )
    place = {name: i for i, name in enumerate(corpus.names)}
    if target.members_column:  # users with too few texts are out of the audit, marked or not
        names = [name for name in data.marked(target.members_column) if name in place]
    elif target.members_file:
        names = _listed(Path(target.members_file))
    else:
        names = list(target.members)
    unknown = [name for name in names if name not in place]
    if unknown:
        near = difflib.get_close_matches(unknown[0], corpus.names, 1)
        raise ValueError(
            f"{len(unknown)} of {len(names)} members are no {data.unit}s of the data, such as {unknown[:3]}"
            f"{f' (did you mean {near[0]!r}?)' if near else ''}: check the data's columns, or leave them out."
        )
    return np.array(sorted({place[name] for name in names}), dtype=np.int64)


def _listed(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise ValueError(f"target.members_file = {str(path)!r} is larger than {LARGEST_LIST} bytes: is it a list?")
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"target.members_file = {str(path)!r} is not UTF-8: save it as UTF-8 first.") from error
    except OSError as error:
        raise ValueError(f"target.members_file = {str(path)!r} could not be read: {error.strerror}.") from error
