"""hf_mia: whose data does a model give away? Membership inference for the Hugging Face ecosystem.

Start with `hf_mia.core`, which holds the nouns. The names here are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_mia.attacks.networks import MLP as MLP
    from hf_mia.attacks.networks import DeepSets as DeepSets
    from hf_mia.attacks.relative import Relative as Relative
    from hf_mia.attacks.shadow import LinearSVC as LinearSVC
    from hf_mia.attacks.shadow import LogisticRegression as LogisticRegression
    from hf_mia.attacks.shadow import ShadowClassifier as ShadowClassifier
    from hf_mia.attacks.threshold import Threshold as Threshold
    from hf_mia.callback import MembershipAuditCallback as MembershipAuditCallback
    from hf_mia.core import Attack as Attack
    from hf_mia.core import Evidence as Evidence
    from hf_mia.core import Game as Game
    from hf_mia.core import Model as Model
    from hf_mia.core import Pool as Pool
    from hf_mia.core import Probe as Probe
    from hf_mia.core import Signal as Signal
    from hf_mia.core import audit as audit
    from hf_mia.models.language import language_model as language_model
    from hf_mia.models.pairs import pair_model as pair_model
    from hf_mia.models.vision import encoder as encoder
    from hf_mia.papers import PAPERS as PAPERS
    from hf_mia.probes.tokens import Tokens as Tokens
    from hf_mia.probes.views import Views as Views
    from hf_mia.publish.hub import fetch_run as fetch_run
    from hf_mia.publish.hub import push_run as push_run
    from hf_mia.reports.estimates import Estimate as Estimate
    from hf_mia.reports.membership import membership_inference as membership_inference
    from hf_mia.reports.report import Report as Report
    from hf_mia.runner import Runner as Runner
    from hf_mia.saved.arrays import Reference as Reference
    from hf_mia.saved.arrays import Shadow as Shadow
    from hf_mia.saved.arrays import attack as attack
    from hf_mia.saved.arrays import scores as scores
    from hf_mia.saved.attacking import Saved as Saved

_HOMES = {
    "MLP": "attacks.networks",
    "PAPERS": "papers",
    "Attack": "core",
    "DeepSets": "attacks.networks",
    "Estimate": "reports.estimates",
    "Evidence": "core",
    "Game": "core",
    "LinearSVC": "attacks.shadow",
    "LogisticRegression": "attacks.shadow",
    "MembershipAuditCallback": "callback",
    "Model": "core",
    "Pool": "core",
    "Probe": "core",
    "Reference": "saved.arrays",
    "Relative": "attacks.relative",
    "Report": "reports.report",
    "Runner": "runner",
    "Saved": "saved.attacking",
    "Shadow": "saved.arrays",
    "ShadowClassifier": "attacks.shadow",
    "Signal": "core",
    "Threshold": "attacks.threshold",
    "Tokens": "probes.tokens",
    "Views": "probes.views",
    "attack": "saved.arrays",
    "audit": "core",
    "encoder": "models.vision",
    "fetch_run": "publish.hub",
    "language_model": "models.language",
    "membership_inference": "reports.membership",
    "pair_model": "models.pairs",
    "push_run": "publish.hub",
    "scores": "saved.arrays",
}

__version__ = "0.1.0"
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_mia' has no attribute {name!r}: it has {__all__}.")
    return getattr(import_module(f"hf_mia.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
