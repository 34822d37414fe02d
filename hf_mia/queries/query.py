"""Was this in the training set? A finished run's attack, fitted again and asked about new units.

    opened(folder) -> Run -> query(run, attack) -> Query.ask([user("me", texts)]) -> [Answer]

An answer is a one-sided conformal p-value: how unusual the unit's score is among those of the audit's known non-members
that were read from as many records. It is evidence, not proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from hf_mia.audits.exposure import p_values
from hf_mia.config import check_name
from hf_mia.core import Answers, Booleans, Evidence, Floats, Integers, Model, Pool, Scorer, Signal
from hf_mia.progress import Check, on
from hf_mia.queries.askable import against_base, obstacles, references, target
from hf_mia.queries.calibration import Calibration
from hf_mia.queries.opened import Run
from hf_mia.queries.refit import fitted
from hf_mia.queries.words import Word, words
from hf_mia.runner import Runner
from hf_mia.services.spoken import as_asked
from hf_mia.storage.keys import content_key
from hf_mia.units import places

Verdict = Literal["consistent with membership", "not distinguishable", "n/a"]
LARGEST = 1 << 27  # bytes of an image


@dataclass(frozen=True)
class Unit:
    """Whom or what is asked about: a name, and the records, each as a row of data holds it, such as {"text": ...}."""

    name: str
    records: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What an attack says of a unit; what cannot be said is None and `n/a`, and `why` tells why.

    `read` of the `given` records were read, as many as of each of the n non-members whose scores (n,) are the
    `calibration`. `words` are those of a unit with one record; one with several has an answer for each of its `records`
    by itself, calibrated on one record of each non-member.
    """

    unit: str
    verdict: Verdict
    why: str
    given: int
    read: int = 0
    score: float | None = None
    p_value: float | None = None
    calibration: Floats = field(default_factory=lambda: np.empty(0), repr=False)
    words: tuple[Word, ...] = field(default=(), repr=False)
    records: tuple[Answer, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, object]:
        """Plain Python values, as JSON holds them."""
        own: dict[str, object] = {"unit": self.unit, "verdict": self.verdict, "why": self.why, "given": self.given}
        own |= {"read": self.read, "score": self.score, "p_value": self.p_value}
        own |= {"calibration": self.calibration.tolist(), "words": [vars(word) for word in self.words]}
        return own | {"records": [record.to_dict() for record in self.records]}


@dataclass(frozen=True, eq=False)
class Query:
    """An attack of a finished run, fitted again, with the models that it asks: the target, and references if any.

    `hindered` tells of each of the run's attacks why it cannot be asked, "" where it can. `check` is asked between two
    steps whether to go on, and raises if not.
    """

    run: Run
    name: str
    signal: Signal
    scorer: Scorer
    calibration: Calibration
    target: Model
    references: tuple[Model, ...]
    hindered: Mapping[str, str]
    check: Check = on

    def ask(self, units: Sequence[Unit], fpr: float = 0.05) -> list[Answer]:
        """One answer a unit, in their order, each independent of the others. Nothing that is asked is left on disk.

        Blank records are left out. `fpr` is the chance that a non-member is called consistent with membership; below
        1 / (n + 1) n non-members cannot tell, and the verdict is n/a. ValueError for another `fpr`, for records that
        lack what the model takes, for a pair with one blank side, and for images that cannot be read.
        """
        if not 0 < fpr < 1:
            raise ValueError(f"fpr must lie between 0 and 1, but is {fpr}: write five percent as 0.05.")
        units = [replace(unit, records=_written(unit)) for unit in units]
        silent = [Answer(unit.name, "n/a", "There is nothing to read: no record, or blank ones.", 0) for unit in units]
        full = [i for i, unit in enumerate(units) if unit.records]
        answers = dict(zip(full, self._answers([units[i] for i in full], fpr), strict=True)) if full else {}
        return [answers.get(i, silent[i]) for i in range(len(units))]

    def _answers(self, units: Sequence[Unit], fpr: float) -> list[Answer]:
        from datasets import Dataset

        records = [record for unit in units for record in unit.records]
        unit = np.repeat(np.arange(len(units)), [len(one.records) for one in units])
        columns = self.target.collate.columns
        if missing := {name for record in records for name in columns if name not in record}:
            raise ValueError(f"the model takes {list(columns)} of each record, and some lack {sorted(missing)}.")
        table = Dataset.from_dict({name: [record[name] for record in records] for name in columns})
        read = [self.calibration.like(len(one.records)) for one in units]
        whole = Pool(table, unit, tuple(str(i) for i in range(len(units))))
        apart = Pool(table, np.arange(len(records)), tuple(str(i) for i in range(len(records))))
        with TemporaryDirectory() as folder:
            said = self._said(table, Path(folder))
        by_unit = self._features(said, whole, _drawn(records, unit, read))
        by_record = self._features(said, apart, None)
        spoken = words(self.target, [_text(record[columns[-1]]) for record in records], said[0])
        found, place = [], 0
        for i, one in enumerate(units):
            self.check()
            here = range(place, place := place + len(one.records))
            each = [self._answer(_name(one, row - here[0]), by_record[:, row], 1, 1, fpr, spoken[row]) for row in here]
            own = self._answer(
                one.name, by_unit[:, i], len(here), read[i], fpr, each[0].words if len(each) == 1 else ()
            )
            found.append(replace(own, records=tuple(each) if len(each) > 1 else ()))
        return found

    def _said(self, table: object, folder: Path) -> list[list[Answers]]:
        """What every model answers, in memory: on the disk a question would stay."""
        ask, probe = Runner(folder, check=self.check), self.signal.probe
        return [list(ask(as_asked(model, probe), probe, table)) for model in (self.target, *self.references)]  # type: ignore[arg-type]

    def _features(self, said: Sequence[Sequence[Answers]], pool: Pool, keep: Booleans | None) -> Floats:
        """What the signal reads off every model's answers: (models, units, f)."""
        return np.stack([self.signal.read(answers, pool, keep) for answers in said])

    def _answer(
        self, unit: str, features: Floats, given: int, read: int, fpr: float, spoken: tuple[Word, ...]
    ) -> Answer:
        """The verdict on features (models, f): the unit is scored among the non-members, as if it were one of them."""
        if not np.isfinite(features).all():
            return Answer(unit, "n/a", "The model scores nothing of it: it is too short.", given, words=spoken)
        scores = self.scorer.score(_among(self.calibration.evidence[read], features))
        others, score = scores[:-1], float(scores[-1])
        p = float(p_values(scores, np.arange(len(scores)) == len(others))[-1])
        verdict, why = _verdict(p, int((others >= score).sum()), len(others), fpr)
        if spoken and not any(word.known for word in spoken):
            why += " The model knows none of its words, so that there is little to go by."
        return Answer(unit, verdict, why, given, read, score, p, others, spoken)


def query(run: Run, attack: str | None = None, model: str | Path | None = None, cache: Path | None = None) -> Query:
    """Fit an attack of a run again, from its folder alone; without a name, the first that can be asked.

    The target is `model`, or the one that the folder keeps, or that of the cache, or where the config says that it is;
    its weights and processor must be those that were audited. ValueError where it is another, where an attack cannot be
    asked from this folder, and as `Run`.
    """
    hindered = obstacles(run, cache)
    able = [name for name, why in hindered.items() if not why]
    if attack is None and not able:
        reasons = {why: f"{', '.join(n for n in hindered if hindered[n] == why)}: {why}" for why in hindered.values()}
        raise ValueError(f"run {str(run.folder)!r} cannot be asked: {' '.join(reasons.values())}")
    name = able[0] if attack is None else attack
    check_name(name, hindered, "attack of this run")
    if hindered[name]:
        raise ValueError(f"{name!r} cannot be asked from this folder: {hindered[name]} Those that can: {able}.")
    made, calibration = run.experiment.attacks[name], run.calibration(name)
    assert calibration is not None
    own = fitted(name, made, [] if against_base(run, made) else run.evidence(name), calibration.learnt)
    asked, others = target(run, model, cache), references(run, made, cache)
    return Query(run, name, own.signal, own.scorer, calibration, asked, others, hindered)


def user(name: str, texts: Iterable[str]) -> Unit:
    """One person's texts."""
    return Unit(name, tuple({"text": text} for text in texts))


def user_of_pairs(name: str, pairs: Iterable[tuple[str, str]]) -> Unit:
    """One person's pairs of a source and its target."""
    return Unit(name, tuple({"source": source, "target": target} for source, target in pairs))


def picture(path: Path) -> Unit:
    """One image file; ValueError for none, or one above 128 megabytes."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise ValueError(f"image {str(path)!r} must be a file of at most {LARGEST >> 20} megabytes: check the path.")
    return Unit(str(path), ({"image": {"bytes": path.read_bytes(), "path": None}},))


def _drawn(records: Sequence[Mapping[str, object]], unit: Integers, read: Sequence[int]) -> Booleans:
    """Which records (n,) are read, as many of a unit as `read` says: a draw by their content, whatever their order."""
    full = np.array(read)[unit] >= np.bincount(unit)[unit]
    keys = ["" if all_ else content_key(map(str, r.values())) for r, all_ in zip(records, full, strict=True)]
    rank = np.unique(keys, return_inverse=True)[1].astype(np.float64)
    return np.asarray(places(unit, rank) < np.array(read)[unit], dtype=np.bool_)


def _among(others: Evidence, features: Floats) -> Evidence:
    """The non-members' evidence and, last, that of a unit (models, f); all of them as if nothing were known of them."""
    names = (*others.names, "")  # no user of a run has a blank name

    def with_(one: Evidence, own: Floats, last: float) -> Evidence:
        return Evidence(np.vstack([one.features, own]), np.append(one.member, last), names)

    pairs = zip(others.references, features[1:], strict=True)
    references = tuple(with_(one, own, 0.0) for one, own in pairs)  # no shadow saw what comes from outside
    return replace(with_(others, features[0], np.nan), member=np.full(len(names), np.nan), references=references)


def _verdict(p: float, above: int, others: int, fpr: float) -> tuple[Verdict, str]:
    least, why = 1 / (others + 1), f"{above} of {others} non-members score as high or higher."
    if fpr < least and not math.isclose(fpr, least):
        return "n/a", f"{why} A false-positive rate below {least:.3g} cannot be resolved by so few."
    if p <= fpr or math.isclose(p, fpr):
        return "consistent with membership", f"{why} This is evidence, not proof."
    return "not distinguishable", f"{why} This does not show that it was not in the training set."


def _name(unit: Unit, record: int) -> str:
    return unit.name if len(unit.records) == 1 else f"{unit.name} [{record + 1}]"


def _text(value: object) -> str:
    return "" if isinstance(value, Mapping) else str(value)  # an image is no text


def _written(unit: Unit) -> tuple[Mapping[str, object], ...]:
    """A unit's records without those that hold nothing but whitespace; ValueError where one side of a pair does."""
    found = []
    for number, record in enumerate(unit.records, 1):
        blank = {name: not str(record[name] or "").strip() for name in ("text", "source", "target") if name in record}
        if len(set(blank.values())) > 1:
            lacks = next(name for name, is_blank in blank.items() if is_blank)
            raise ValueError(f"pair {number} of {unit.name!r} has an empty {lacks}: give both sides, or leave it out.")
        if not blank or not all(blank.values()):
            found.append(record)
    return tuple(found)
