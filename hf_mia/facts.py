"""What a reader of a report needs beside the scores: who was asked about what, and by which means."""

from __future__ import annotations

from importlib.metadata import version

from hf_mia.core import Game
from hf_mia.keys import records_key
from hf_mia.setting import Setting

LIBRARIES = ("hf_mia", "torch", "transformers", "tokenizers", "datasets", "kornia", "scikit-learn", "numpy")


def facts(setting: Setting, target: Game) -> dict[str, object]:
    """The target, the data's fingerprint, how membership came about, who is who, what was asked, the versions."""
    members, data = int(target.member.sum()), setting.experiment.data
    return {
        "target": {"name": target.model.name, "key": target.model.key},
        "data": {
            "path": data.path,
            "fingerprint": records_key(target.pool.records, target.model.collate.columns),
            f"{data.record}s_asked": len(target.pool.records),
        },
        "membership_provenance": setting.experiment.provenance,
        f"{data.unit}s": {
            "members": members,
            "non_members": len(target.member) - members,
            "attacker": len(setting.split.attackers),
            "shadows": len(setting.split.shadows),
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }
