"""Dates of records: where members are older or newer than non-members, the date alone tells them apart."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import numpy as np

from hf_mia.core import Booleans, Floats, Pool
from hf_mia.reports.estimates import auc

DATE = "date"  # the column of a pool's records
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def days(values: Iterable[object], column: str) -> Floats:
    """Dates (n,) in days since 1970: dates, times, or texts in ISO 8601; a time without a zone is UTC.

    ValueError where a value of the column that `data.date` names is none of these, or missing.
    """
    found, strange = [], []
    for value in values:
        try:
            found.append(_days(value))
        except ValueError:
            strange.append(value)
    if strange:
        raise ValueError(
            f"data.date = {column!r} must be a date in every row, but {len(strange)} hold none, such as {strange[:3]}: "
            "write it as 2024-01-31 or 2024-01-31T12:00:00Z, or leave data.date out."
        )
    return np.array(found, dtype=np.float64)


def unit_days(pool: Pool) -> Floats:
    """The mean date of each unit's records (units,), in days since 1970."""
    count = np.bincount(pool.unit, minlength=len(pool.names))
    total = np.bincount(pool.unit, weights=np.asarray(pool.records[DATE][:]), minlength=len(pool.names))
    return np.asarray(total / count, dtype=np.float64)


def date_scores(found: Floats, member: Booleans) -> Floats:
    """Dates (units,) as scores of the date alone: negated where members are the older ones, so that its AUC >= 0.5.

    The direction is taken from the membership itself, so that no shift passes unseen: this is a control, which an
    attack must beat, and never an attack. A shift that only moves members to the middle is not seen.
    """
    return found if auc(found, member) >= 0.5 else -found


def _days(value: object) -> float:
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no date.")
    zoned = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (zoned - EPOCH) / timedelta(days=1)
