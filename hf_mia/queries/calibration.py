"""What a question is compared with: an audit's known non-members, each read from as few records as the question has.

A user's score from one text says little beside other users' scores from hundreds. So an audit keeps what each attack
reads off its non-members by 1, 2, 3, 4, 6, 8, 12 ... of their records. Kept are features, numbers such as a histogram
of ranks, and no texts, tokens or images; but they are numbers about people, as all evidence in a run folder is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hf_mia.attacks.downstream import Downstream
from hf_mia.audits.folder import file_name, write_evidence
from hf_mia.audits.games import opponents
from hf_mia.audits.played import Played
from hf_mia.core import Ask, Attack, Booleans, Evidence, Game, Signal
from hf_mia.progress import bar
from hf_mia.queries.learnt import Array, learnt
from hf_mia.services.spoken import as_asked
from hf_mia.units import places

FOLDER, LEARNT = "calibration", "learnt.safetensors"
LEAST = 2  # non-members that a score is compared with


@dataclass(frozen=True, eq=False)
class Calibration:
    """An attack's evidence of known non-members by the number of records that each is read from, and what its signal
    learnt from the attacker's pools."""

    evidence: Mapping[int, Evidence]
    learnt: Mapping[str, Array] = field(default_factory=dict)

    def like(self, records: int) -> int:
        """The largest number of records, at most as many as are given, that non-members were read from."""
        return max(each for each in self.evidence if each <= records)


def ladder(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to `most`, and `most`: at least two thirds of any number of records are read."""
    powers = {base * 2**i for base in (2, 3) for i in range(most.bit_length())}
    return sorted(each for each in {1, most, *powers} if each <= most)


def calibrated(attack: Attack, target: Game, shadows: Sequence[Game], ask: Ask, seed: int = 0) -> Calibration:
    """Reads the target's non-members again, from random records of each; the same of every shadow if it compares.

    The most records are the non-members' median: at least half of them have so many, and the others are left out there.
    Asks what the audit asked, so nothing is asked anew. Units that the model scores nothing of are left out.
    """
    probe = attack.signal.probe
    target, *shadows = (replace(game, model=as_asked(game.model, probe)) for game in (target, *shadows))
    pools = {id(shadow.pool): shadow for shadow in shadows}.values()
    signal = attack.signal.learn([ask(game.model, attack.signal.probe, game.pool.records) for game in pools])
    games = [target, *(shadow.about(target.pool) for shadow in shadows if attack.compares)]
    pool, outside = target.pool, target.member == 0
    place, count = places(pool.unit, np.random.default_rng(seed).random(len(pool.unit))), np.bincount(pool.unit)
    found = {}
    for each in ladder(int(np.median(count[outside]))):
        able = outside & (count >= each)
        evidence = _evidence(signal, games, ask, able, (place < each) & able[pool.unit])
        if len(evidence.names) >= LEAST:
            found[each] = evidence
    return Calibration(found, learnt(signal))


def _evidence(signal: Signal, games: Sequence[Game], ask: Ask, able: Booleans, keep: Booleans) -> Evidence:
    """What the first game's model says of the able units' kept records, the others' as references."""
    pool = games[0].pool
    features = [signal.read(ask(game.model, signal.probe, pool.records), pool, keep) for game in games]
    rows = np.flatnonzero(able & np.all([np.isfinite(one).all(axis=1) for one in features], axis=0))
    names, group = tuple(pool.names[i] for i in rows), None if pool.group is None else pool.group[rows]
    own, *others = (
        Evidence(one[rows], game.member[rows], names, group=group) for one, game in zip(features, games, strict=True)
    )
    return Evidence(own.features, own.member, names, tuple(others), group)


def calibrations(played: Played, ask: Ask) -> dict[str, Calibration]:
    """Every attack's calibration from a played audit's cached answers; none of attacks on downstream classifiers."""
    target, shadows = played.own.games()
    attacks = {name: a for name, a in played.own.setting.experiment.attacks.items() if not isinstance(a, Downstream)}
    found = {}
    with bar("calibrating") as progress:
        for done, (name, attack) in enumerate(attacks.items(), 1):
            found[name] = calibrated(attack, target, opponents(attack, shadows, played.own.base), ask)
            progress(done, len(attacks), name)
    return found


def write_calibrations(folder: Path, found: Mapping[str, Calibration]) -> None:
    """One Parquet file for each attack and number of records, as evidence is written, and what a signal learnt."""
    from safetensors.numpy import save_file

    for name, calibration in found.items():
        place = folder / FOLDER / file_name(name)
        place.mkdir(parents=True, exist_ok=True)
        for stale in (*place.glob("records-*.parquet"), *place.glob(LEARNT)):
            stale.unlink()
        for each, evidence in calibration.evidence.items():
            write_evidence(evidence, place / f"records-{each:06d}.parquet")
        if calibration.learnt:
            save_file({path: np.ascontiguousarray(array) for path, array in calibration.learnt.items()}, place / LEARNT)
