"""PAPERS: every named attack as one expression. `named` gives one, with fields changed."""

from __future__ import annotations

from hf_mia.attacks.relative import Relative
from hf_mia.attacks.shadow import LogisticRegression, ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Attack
from hf_mia.signals.language import (
    FrequencyRankHistogram,
    LogRankHistogram,
    MeanLogRank,
    MeanLoss,
    MeanRank,
    ProbabilityHistogram,
    RankHistogram,
)
from hf_mia.signals.texts import Beside

PAPERS: dict[str, Attack] = {
    "auditmi": ShadowClassifier(RankHistogram()),
    "auditmi-log-bins": ShadowClassifier(LogRankHistogram()),
    "auditmi-frequency": ShadowClassifier(FrequencyRankHistogram()),
    "auditmi-probabilities": ShadowClassifier(Beside((RankHistogram(), ProbabilityHistogram()))),
    "auditmi-relative": Relative(ShadowClassifier(Beside((MeanLogRank(), MeanLoss())), LogisticRegression())),
    "mean-rank": Threshold(MeanRank()),
    "mean-log-rank": Threshold(MeanLogRank()),
    "mean-loss": Threshold(MeanLoss()),
    "reference": Relative(Threshold(MeanLoss())),
}
