"""What a reader of a report needs beside the scores: who was asked about what, and by which means."""

from __future__ import annotations

from importlib.metadata import version

from hf_mia.core import Ask, Game
from hf_mia.keys import records_key
from hf_mia.models import TextCollate
from hf_mia.setting import Setting
from hf_mia.signals.language import TokenShare

LIBRARIES = ("hf_mia", "torch", "transformers", "tokenizers", "datasets", "scikit-learn", "numpy")


def facts(setting: Setting, target: Game, ask: Ask) -> dict[str, object]:
    """The target, the data's fingerprint, how membership came about, who is who, what was asked, the versions."""
    members = int(target.member.sum())
    return {
        "target": {"name": target.model.name, "key": target.model.key},
        "data": {
            "path": setting.experiment.data.path,
            "fingerprint": records_key(target.pool.records, target.model.collate.columns),
            "texts_asked": len(target.pool.records),
        },
        "membership_provenance": setting.experiment.provenance,
        "access": "rank and log-probability of each true next token, given the true text before it",
        "users": {
            "members": members,
            "non_members": len(target.member) - members,
            "attacker": len(setting.split.attackers),
            "shadows": len(setting.split.shadows),
        },
        "unknown_word_share": _unknown(target, ask),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _unknown(target: Game, ask: Ask) -> dict[str, float] | None:
    """The mean share of unknown words of both sides' users: where they differ, the vocabulary gives members away."""
    assert isinstance(target.model.collate, TextCollate)
    unknown = target.model.collate.tokenizer.unk_token_id
    if unknown is None:
        return None
    signal = TokenShare(token=unknown)
    shares = signal.read(ask(target.model, signal.probe, target.pool.records), target.pool)[:, 0]
    inside = target.member == 1
    return {"members": float(shares[inside].mean()), "non_members": float(shares[~inside].mean())}
