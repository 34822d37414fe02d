"""What a reader of a report needs beside the scores: who was asked about what, and by which means."""

from __future__ import annotations

from importlib.metadata import version

from hf_mia.audits.plan import Experiment
from hf_mia.audits.setting import Setting
from hf_mia.audits.targets import Hosted
from hf_mia.core import Game
from hf_mia.probes.respondents import RawTexts
from hf_mia.services.service import Remote
from hf_mia.storage.keys import records_key

LIBRARIES = ("hf_mia", "torch", "transformers", "tokenizers", "datasets", "kornia", "scikit-learn", "numpy")


def facts(setting: Setting, target: Game, base: Game | None = None) -> dict[str, object]:
    """The target and its base, the data's fingerprint, how membership came about, who is who, the versions; what was
    asked of a service by this process so far."""
    members, data = int(target.member.sum()), setting.experiment.data
    return {
        "target": {"name": target.model.name, "key": target.model.key, **_place(setting.experiment)},
        **_asked(target),
        **({} if base is None else {"reference": {"name": base.model.name, "key": base.model.key}}),
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


def _asked(target: Game) -> dict[str, object]:
    """Queries to a service: sent, refused, found among the kept replies; and what they cost."""
    if not isinstance(target.model.collate, RawTexts):
        return {}
    asked = target.model.load()
    if not isinstance(asked, Remote):
        return {}
    line = asked.line
    return {"queries": line.tally.to_dict(None if line.budget.cost is None else line.cost)}


def _place(experiment: Experiment) -> dict[str, object]:
    """Where a service was asked, in which words, and what it shows."""
    target = experiment.target
    if not isinstance(target, Hosted):
        return {}
    asked = {"url": target.url, "provider": target.provider, "endpoint": target.endpoint, "access": target.access}
    return {"service": {**asked, "shown": target.k} if target.access != "text" else asked}
