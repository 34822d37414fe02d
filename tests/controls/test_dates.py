"""Dates as data hold them, and what the date alone tells of membership: the verdict must not rest on it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped, unused-ignore]
from worlds import config, table

from hf_mia.audits.experiment import experiment
from hf_mia.audits.folder import write_folder
from hf_mia.audits.played import Played, checks
from hf_mia.audits.run import play
from hf_mia.audits.setting import setting
from hf_mia.audits.table import print_played
from hf_mia.controls.dates import date_scores, days, unit_days
from hf_mia.data.classified import ClassifiedTexts
from hf_mia.data.pairs import Pairs
from hf_mia.data.texts import Texts
from hf_mia.publish.card import section
from hf_mia.publish.outcome import read_outcome

USERS = 4 * 12
DAY = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-02", 1.0),
        (" 1970-01-01T06:00:00Z ", 0.25),
        ("1970-01-01T06:00:00+06:00", 0.0),
        ("1970-01-01 12:00", 0.5),
        ("0970-01-01", -365242.0),
        (date(1970, 1, 11), 10.0),
        (datetime(1970, 1, 1, 18), 0.75),
        (datetime(1970, 1, 1, 18, tzinfo=timezone(timedelta(hours=18))), 0.0),
    ],
)
def test_days_since_1970(value: object, expected: float) -> None:
    assert days([value], "when").tolist() == [expected]


@pytest.mark.parametrize("strange", ["now", "yesterday", "01/02/2020", "2020", "2020-13-01", "", None, 2020, 1.5e9])
def test_what_is_no_date_is_refused(strange: object) -> None:
    with pytest.raises(ValueError, match=r"data\.date = 'when' must be a date in every row, but 1 hold none"):
        days(["2020-01-01", strange], "when")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_members_may_be_the_newer_or_the_older_ones(sign: float) -> None:
    rng = np.random.default_rng(0)
    member = rng.random(50) < 0.5
    found = rng.normal(size=50) + sign * member
    expected = roc_auc_score(member, sign * found)
    assert expected > 0.6
    assert roc_auc_score(member, date_scores(found, member)) == pytest.approx(expected)


def written(path: Path, columns: dict[str, list[object]]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_units_date_is_the_mean_of_its_records(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "user": ["bob", "ann", "bob", "cy"],
        "text": ["a", "b", "c", " "],
        "when": ["1970-01-02", "1970-01-05", "1970-01-04", "no text, so no date either"],
    }
    data = Texts(path=written(tmp_path / "t.parquet", columns), date="when")
    assert data.load().names == ("ann", "bob")
    assert data.dates(data.load()).tolist() == [4.0, 2.0]  # type: ignore[union-attr]
    assert replace(data, date=None).dates(data.load()) is None
    with pytest.raises(ValueError, match=r"data\.date = 'then' is no column of the data"):
        replace(data, date="then").load()
    with pytest.raises(ValueError, match=r"data\.date = 'text' must be a date"):
        replace(data, date="text").load()


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("ns"), pa.timestamp("ms", "America/New_York"), pa.string()])
def test_pairs_and_classified_texts_have_dates_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    given = [DAY + timedelta(days=i) for i in range(4)]
    made = pa.array(given, pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    when = pa.array(given, kind) if pa.types.is_timestamp(kind) and kind.tz else made.cast(kind)
    path = str(tmp_path / "t.parquet")
    texts = {"t": pa.array(["one", "two", "two", "three"]), "s": pa.array(["a", "b", "c", "d"])}
    pq.write_table(
        pa.table({**texts, "label": ["x", "y", "y", "x"], "meta": pa.StructArray.from_arrays([when], ["at"])}), path
    )
    pairs = Pairs(path=path, source="s", target="t", user=None, texts_per_user=1, date="meta.at").load()
    start = (DAY - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert unit_days(pairs).tolist() == [start, start + 1, start + 2, start + 3]
    pq.write_table(pa.table({**texts, "label": ["x", "y", "y", "x"], "at": when}), path)
    classified = ClassifiedTexts(path=path, text="t", date="at")
    assert classified.dates(classified.load()).tolist() == [start, start + 1, start + 3]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Dated:
    """Two audits of the same texts and models: dates that say nothing, and dates that give the members away."""

    fair: Played
    shifted: Played
    out: Path


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Dated:
    folder = tmp_path_factory.mktemp("dated")
    columns: dict[str, list[object]] = {**table(USERS, 6, seed=1)}
    rng = np.random.default_rng(0)
    inside: set[str] = set()
    played = []
    for name in ("fair", "shifted"):
        years = [rng.integers(0, 600) + 3000 * (user in inside) for user in columns["user"]]
        columns["date"] = [str((DAY - timedelta(days=int(some))).date()) for some in years]  # members are older
        given = config(Path(written(folder / f"{name}.parquet", columns)), USERS, epochs=30, shadows=1)
        given["data"] = {"path": str(folder / f"{name}.parquet"), "date": "date"}
        described = experiment({**given, "attacks": ["mean-loss"]})
        played.append(play(setting(described), folder / "cache"))
        inside = {n for n, m in zip(played[0].control.units, played[0].control.member, strict=True) if m}
        write_folder(folder / name, described, played[-1])
    return Dated(*played, folder)


def test_dates_that_tell_as_much_leave_nothing_shown(dated: Dated) -> None:
    assert dated.shifted.verdict(dated.shifted.headline) == "inconclusive"
    found = checks(dated.shifted.headline, dated.shifted.control, dated.shifted.dates)
    assert found == {
        "beats chance": True,
        "beats the blind control": True,
        "beats the dates": False,
        "beats shuffled membership": True,
    }
    assert dated.shifted.dates is not None
    assert dated.shifted.dates.auc.value == 1.0


def test_fair_dates_leave_a_leak(dated: Dated) -> None:
    np.testing.assert_array_equal(dated.fair.headline.scores, dated.shifted.headline.scores)  # the same models
    assert dated.fair.verdict(dated.fair.headline) == "leak"
    assert dated.fair.dates is not None
    assert dated.fair.dates.auc.low is not None
    assert dated.fair.dates.auc.low < 0.5


@pytest.mark.parametrize(("name", "verdict"), [("fair", "leak"), ("shifted", "inconclusive")])
def test_the_folder_and_the_table_tell_the_shift(dated: Dated, name: str, verdict: str) -> None:
    told = json.loads((dated.out / name / "report.json").read_text())
    assert told["verdict"] == told["attacks"]["mean-loss"]["verdict"] == verdict
    assert told["attacks"]["mean-loss"]["checks"]["beats the dates"] == (verdict == "leak")
    played = dated.fair if name == "fair" else dated.shifted
    assert played.dates is not None
    assert told["date_shift"]["estimates"]["auc"]["value"] == played.dates.auc.value
    assert told["ngram_overlap"]["read"] == told["ngram_overlap"]["of"] == [12 * 6, 12 * 6]
    assert 0 <= told["ngram_overlap"]["members"] < 0.5
    assert read_outcome(dated.out / name).verdict == verdict
    file = io.StringIO()
    described = experiment(yaml.safe_load((dated.out / name / "config.yaml").read_text()))
    print_played(described, played, Console(file=file, width=200, highlight=False))
    assert "dates (no model)" in file.getvalue()
    assert "of a member's runs of 7 words also stand in a non-member's text" in file.getvalue()
    assert ("It does not beat the dates." in file.getvalue()) == (verdict == "inconclusive")
    made = section(read_outcome(dated.out / name))  # the card shows the same controls
    assert f"| dates (no model) | {played.dates.auc} |" in made
    assert ("It does not beat the dates." in made) == (verdict == "inconclusive")
    assert str(played.overlap) in made


def test_a_verdict_that_hides_the_dates_is_refused(dated: Dated, tmp_path: Path) -> None:
    told = json.loads((dated.out / "shifted" / "report.json").read_text())
    (tmp_path / "config.yaml").write_text((dated.out / "shifted" / "config.yaml").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**told, "verdict": "leak"}))
    with pytest.raises(ValueError, match="is not that of its scores"):
        read_outcome(tmp_path)
