"""Pairs from files, and their audits: members found in a model that overfitted, none in one that did not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from worlds import UNTRAINED, World, pair_config, pair_table, pair_world

from hf_mia.attacks.relative import Relative
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.facts import facts
from hf_mia.audits.plan import kind
from hf_mia.audits.setting import jobs, setting
from hf_mia.core import audit
from hf_mia.data.pairs import Pairs
from hf_mia.papers import PAPERS
from hf_mia.units import of_units

ROWS = [("bob", "two words", "deux mots"), ("ann", "one", "un"), ("bob", "x y", "z"), ("cy", "a", "b")]


def write(
    path: Path, rows: list[tuple[object, ...]] = ROWS, names: tuple[str, ...] = ("user", "source", "target")
) -> Path:  # type: ignore[assignment]
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), path)
    return path


def by_user(data: Pairs) -> dict[str, list[tuple[str, str]]]:
    pool = data.load()
    rows = list(zip(pool.records["source"], pool.records["target"], pool.unit, strict=True))
    return {name: [(s, t) for s, t, u in rows if u == i] for i, name in enumerate(pool.names)}


EXPECTED = {"ann": [("one", "un")], "bob": [("two words", "deux mots"), ("x y", "z")], "cy": [("a", "b")]}


def test_pairs_have_the_names_that_the_config_says(tmp_path: Path) -> None:
    assert by_user(Pairs(path=str(write(tmp_path / "p.parquet")))) == EXPECTED
    path = write(tmp_path / "q.parquet", names=("document", "en", "fr"))
    data = Pairs(path=str(path), user="document", source="en", target="fr")
    assert by_user(data) == EXPECTED
    assert data.unit == "document"
    assert data.load().records.column_names == ["source", "target"]
    swapped = by_user(Pairs(path=str(path), user="document", source="fr", target="en"))
    assert swapped["ann"] == [("un", "one")]


def test_columns_within_columns(tmp_path: Path) -> None:
    """As the Hub's translations have them."""
    table = {"translation": [{"en": s, "fr": t} for _, s, t in ROWS], "meta": [{"film": u} for u, _, _ in ROWS]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    data = Pairs(path=str(tmp_path / "p.parquet"), source="translation.en", target="translation.fr", user="meta.film")
    assert by_user(data) == EXPECTED
    assert data.unit == "film"
    with pytest.raises(ValueError, match=r"data\.target = 'translation\.de' is no column.*'translation\.fr'"):
        Pairs(path=data.path, source="translation.en", target="translation.de", user="meta.film").load()


def test_pairs_of_nothing_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, ("ann", "", " "), ("dee", None, None), (None, "s", "t"), (None, "s", "")]
    with caplog.at_level(logging.WARNING):
        assert by_user(Pairs(path=str(write(tmp_path / "p.parquet", rows)))) == EXPECTED
    assert "4 of 8 texts are empty or have no user" in caplog.text


@pytest.mark.parametrize("half", [("s", ""), ("s", None), ("\n", "t"), (None, "t")])
def test_half_a_pair_is_refused(tmp_path: Path, half: tuple[object, object]) -> None:
    rows = [ROWS[0], ("ann", *half), *ROWS[1:], ("bob", *half)]
    with pytest.raises(
        ValueError, match=r"2 of 6 records have a source or a target but not both, such as rows \[1, 5\]"
    ):
        Pairs(path=str(write(tmp_path / "p.parquet", rows))).load()


def test_what_no_pairs_can_be_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.parquet"))
    for field in ("source", "target", "user"):
        with pytest.raises(ValueError, match=rf"data\.{field} = 'nothing' is no column"):
            Pairs(path=path, **{field: "nothing"}).load()
    with pytest.raises(ValueError, match=r"data\.path must name the pairs"):
        Pairs().load()
    with pytest.raises(ValueError, match=r"\{source\}, where the source goes, but is 'translate'"):
        Pairs(path=path, prompt="translate")
    with pytest.raises(ValueError, match=r"target trains on texts, but data\.kind is pairs"):
        experiment({"data": {"kind": "pairs", "path": path}, "target": "lstm"})
    with pytest.raises(ValueError, match=r"target trains on pairs, but data\.kind is texts"):
        experiment({"target": "seq2seq-gru"})
    assert kind(Pairs.columns) == "pairs"


def test_members_are_marked_by_a_column(tmp_path: Path) -> None:
    rows = [(*row, int(row[0] == "bob")) for row in ROWS]
    path = write(tmp_path / "p.parquet", rows, ("user", "source", "target", "in"))
    assert Pairs(path=str(path)).marked("in") == ["bob"]


def test_every_user_is_on_one_side_with_all_pairs(tmp_path: Path) -> None:
    table = pair_table(16, 4, seed=2)
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    made = setting(experiment(pair_config(tmp_path / "p.parquet", 16, epochs=1, shadows=2)))
    whose = {(s, t): u for u, s, t in zip(table["user"], table["source"], table["target"], strict=True)}
    trained = [
        {whose[pair] for pair in zip(job.records["source"], job.records["target"], strict=True)} for job in jobs(made)
    ]
    names = made.corpus.names
    assert trained[0] == {names[i] for i in made.split.members}
    for job, users in zip(jobs(made), trained, strict=True):
        assert len(job.records) == 4 * len(users) == 16  # all pairs of four users
    assert not trained[0] & trained[1]
    asked = made.candidates()
    assert sorted(asked.names) == sorted(names[i] for i in made.split.candidates)
    assert not set(asked.names) & set(made.shadow_pool().names)


def test_both_vocabularies_are_counted_outside_the_candidates(tmp_path: Path) -> None:
    """A word that only candidates use is unknown on either side, however frequent."""
    table = pair_table(16, 4, seed=2)
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    described = pair_config(tmp_path / "p.parquet", 16, epochs=1, shadows=2)
    made = setting(experiment(described))
    candidates = {made.corpus.names[i] for i in made.split.candidates}
    for side in ("source", "target"):
        table[side] = [
            f"{text} secret secret secret" if user in candidates else text
            for user, text in zip(table["user"], table[side], strict=True)
        ]
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    again = setting(experiment(described))
    processors = {id(job.processor): job.processor for job in jobs(again)}
    (tokenizer,) = processors.values()  # the target's is the shadows'
    for words, side in (("w", "source"), ("v", "target")):
        counted = next(s for s, n in zip(tokenizer.sides, ("source", "target"), strict=True) if n == side)
        known = set(counted.get_vocab()) - {"<eos>", "<unk>"}
        outside = of_units(again.corpus, np.setdiff1d(np.arange(16), again.split.candidates)).records[side]
        used = {word for text in outside for word in text.split()}
        assert known <= used
        assert all(word.startswith(words) for word in known)
        assert len(known) == min(198, len(used))


@pytest.fixture(scope="module")
def untrained_pairs(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pair_world(tmp_path_factory.mktemp("blank"), UNTRAINED, epochs=0, shadows=2)


@pytest.mark.parametrize("name", Pairs.beside)
def test_finds_members_of_an_overfitted_model(overfitted_pairs: World, name: str) -> None:
    world = overfitted_pairs
    report = audit(PAPERS[name], world.target, world.shadows, world.ask)
    assert report.auc.value is not None
    assert report.auc.value > 0.9


@pytest.mark.parametrize("name", Pairs.beside)
def test_acquits_a_model_that_saw_nothing(untrained_pairs: World, name: str) -> None:
    world = untrained_pairs
    report = audit(PAPERS[name], world.target, world.shadows, world.ask)
    assert report.auc.low is not None
    assert report.auc.high is not None
    assert report.auc.low < 0.5 < report.auc.high


def test_a_report_says_who_and_what(overfitted_pairs: World) -> None:
    world = overfitted_pairs
    told = facts(world.setting, world.target)
    assert told["users"]["members"] == told["users"]["non_members"] == 16  # type: ignore[index]
    assert told["data"]["pairs_asked"] == 32 * 6  # type: ignore[index]
    portrait = world.experiment.data.portrait(world.target, world.ask, PAPERS["auditmi"].signal.probe)
    shares = portrait.facts["unknown_word_share"]
    assert shares["members"] == pytest.approx(shares["non_members"], abs=0.03)  # type: ignore[index]
    assert list(portrait.figures) == ["ranks"]


def test_the_blind_control_reads_both_sides(tmp_path: Path) -> None:
    """Where only the members' sources, or only their targets, have a mark, it finds them; else nobody."""
    data = Pairs()
    for marked, low, high in ((None, 0.3, 0.7), ("source", 0.85, 1), ("target", 0.85, 1)):
        table = pair_table(100, 4, seed=5)
        inside = {f"user {u:03d}" for u in range(0, 100, 2)}
        if marked:
            rows = zip(table["user"], table[marked], strict=True)
            table[marked] = [f"{text} mark mark mark" if user in inside else text for user, text in rows]
        pq.write_table(pa.table(table), tmp_path / f"{marked}.parquet")
        pool = Pairs(path=str(tmp_path / f"{marked}.parquet")).load()
        member = np.array([name in inside for name in pool.names])
        scores = data.blind(pool, member)
        auc = (scores[member][:, None] > scores[~member]).mean()
        assert low <= auc <= high, marked


@pytest.mark.parametrize(
    "target",
    [
        "seq2seq-lstm",
        {"name": "seq2seq-gru", "hidden": 32, "embedding": 32},
        {"name": "marian-small", "layers": 1, "shared": True},
        {"name": "fine-tune-seq2seq", "model": "m", "source_language": "en_XX", "target_language": "fr_XX"},
        {"name": "checkpoint", "model": "m", "members": ["a"]},
    ],
)
def test_an_experiment_survives_a_yaml_round_trip(target: object) -> None:
    data = {"kind": "pairs", "path": "p", "source": "en", "target": "fr", "user": "document", "least": 20}
    data |= {"prompt": "translate: {source}", "source_language": "en_XX", "target_language": "fr_XX"}
    shadows = {"count": 2, "recipe": "seq2seq-gru", "data": {"path": "q", "source": "a", "target": "b"}}
    first = experiment({"data": data, "target": target, "shadows": shadows, "attacks": ["auditmi", "reference"]})
    again = experiment(yaml.safe_load(yaml.safe_dump(mapping(first))))
    assert again == first
    assert isinstance(again.data, Pairs)
    assert isinstance(again.attacks["reference"], Relative)
    assert isinstance(again.shadows.data, Pairs)


def test_defaults_are_the_papers() -> None:
    made = experiment({"data": {"kind": "pairs", "path": "p"}})
    assert made.shadows.count == 10
    assert list(made.attacks) == list(Pairs.beside)
    target = mapping(made)["target"]
    assert target["name"] == "seq2seq-lstm"  # type: ignore[index]
    expected = {"cell": "lstm", "attention": True, "tied": False, "embedding": 128, "hidden": 128, "dropout": 0.5}
    expected |= {"epochs": 30, "batch": 20, "learning_rate": 1e-3, "clip": 5.0, "optimizer": "adam", "vocabulary": 5000}
    assert {name: target[name] for name in expected} == expected  # type: ignore[index]
