"""PAPERS: every named attack as one expression. `named` gives one, with fields changed."""

from __future__ import annotations

from hf_mia.attacks.downstream import Downstream
from hf_mia.attacks.gaussians import Gaussians
from hf_mia.attacks.groups import PerGroup
from hf_mia.attacks.lira import LiRA, OfflineLiRA
from hf_mia.attacks.networks import MLP, DeepSets
from hf_mia.attacks.relative import Against, Relative
from hf_mia.attacks.rmia import BASE, RMIA, OfflineRMIA
from hf_mia.attacks.shadow import LogisticRegression, ScikitLearn, ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.core import Attack
from hf_mia.probes.masked import MaskedNeighbours
from hf_mia.probes.posteriors import Posteriors, Shifts
from hf_mia.probes.versions import Lowercase, Neighbours, Prefixed
from hf_mia.signals import classifier as classes
from hf_mia.signals.continuations import (
    Bleu,
    Chrf,
    EditSimilarity,
    ExactMatch,
    Rouge1Recall,
    RougeL,
    Sampled,
)
from hf_mia.signals.encoder import (
    ConcatenatedFeatures,
    Confidence,
    Feature,
    FeatureNorm,
    MeanSimilarity,
    PartEnergies,
    PlainSimilarity,
    ViewSimilarity,
)
from hf_mia.signals.language import (
    FrequencyRankHistogram,
    LogRankHistogram,
    MeanLogRank,
    MeanLoss,
    MeanRank,
    ProbabilityHistogram,
    RankHistogram,
)
from hf_mia.signals.likelihood import LossGap, LossRatio, MinK, MinKPlusPlus, TextLoss, ZlibLoss
from hf_mia.signals.texts import Beside, RandomTexts, RarestTexts

# As the published code trains it, less its start (normal, deviation .01) and its choice of the epoch that is best on
# the target, and with each column standardised.
PARTCROP = MLP((1024, 512, 64), learning_rate=1e-3, decay=5e-4, batch=256, epochs=100, activation="relu")
SHIFTS = Shifts(reach=1, mirror=True)
FOREST = ScikitLearn("RandomForestClassifier", {"n_estimators": 200, "min_samples_leaf": 5})
LABELS = Posteriors(access="label", queries=SHIFTS)
BOTH = Beside((MeanLogRank(), MeanLoss()))

PAPERS: dict[str, Attack] = {
    "auditmi": ShadowClassifier(RankHistogram()),
    "auditmi-log-bins": ShadowClassifier(LogRankHistogram()),
    "auditmi-frequency": ShadowClassifier(FrequencyRankHistogram()),
    "auditmi-probabilities": ShadowClassifier(Beside((RankHistogram(), ProbabilityHistogram()))),
    "auditmi-relative": Relative(ShadowClassifier(BOTH, LogisticRegression())),
    "mean-rank": Threshold(MeanRank()),
    "mean-log-rank": Threshold(MeanLogRank()),
    "mean-loss": Threshold(MeanLoss()),
    "text-loss": Threshold(TextLoss()),
    "min-k": Threshold(MinK()),
    "min-k++": Threshold(MinKPlusPlus()),
    "zlib": Threshold(ZlibLoss()),
    "lowercase": Threshold(LossGap(Lowercase())),
    "neighbourhood": Threshold(LossGap(Neighbours())),
    "neighbourhood-masked": Threshold(LossGap(MaskedNeighbours())),
    "recall": Threshold(LossRatio(Prefixed())),
    "reference": Relative(Threshold(MeanLoss())),
    "base-reference": Against(Threshold(MeanLoss())),
    "relative-log-rank": Relative(Threshold(MeanLogRank())),
    "auditmi-random-texts": ShadowClassifier(RandomTexts(RankHistogram(), 4)),
    "auditmi-rarest-texts": ShadowClassifier(RarestTexts(RankHistogram(), 4)),
    "auditmi-relative-random-texts": Relative(ShadowClassifier(RandomTexts(BOTH, 4), LogisticRegression())),
    "auditmi-relative-rarest-texts": Relative(ShadowClassifier(RarestTexts(BOTH, 4), LogisticRegression())),
    "auditmi-sampled": ShadowClassifier(Sampled(RankHistogram(top=8))),
    "samia": Threshold(Rouge1Recall()),
    "generation-chrf": Threshold(Chrf()),
    "generation-bleu": Threshold(Bleu()),
    "generation-rouge": Threshold(RougeL()),
    "generation-exact": Threshold(ExactMatch()),
    "generation-edit": Threshold(EditSimilarity()),
    "encodermi-v": ShadowClassifier(ViewSimilarity(), MLP()),
    "encodermi-s": ShadowClassifier(ViewSimilarity(), DeepSets()),
    "encodermi-t": Threshold(MeanSimilarity()),
    "encoder-feature": ShadowClassifier(Feature(), MLP()),
    "encoder-similarity": Threshold(PlainSimilarity()),
    "encoder-concatenated": ShadowClassifier(ConcatenatedFeatures(), MLP()),
    "partcrop": ShadowClassifier(PartEnergies(), PARTCROP),
    "lpla": ShadowClassifier(FeatureNorm(), Gaussians()),
    "correctness": Threshold(classes.Correctness()),
    "loss": Threshold(classes.Loss()),
    "confidence": Threshold(classes.Confidence()),
    "entropy": Threshold(classes.Entropy()),
    "modified-entropy": Threshold(classes.ModifiedEntropy()),
    "loss-per-class": PerGroup(Threshold(classes.Loss())),
    "modified-entropy-per-class": PerGroup(Threshold(classes.ModifiedEntropy())),
    "label-only": Threshold(classes.AugmentedCorrectness(LABELS)),
    "shokri": PerGroup(ShadowClassifier(classes.Posterior(), ScikitLearn())),
    "shokri-forest": PerGroup(ShadowClassifier(classes.Posterior(), FOREST)),
    "relative-loss": Relative(Threshold(classes.Loss())),
    "lira": LiRA(classes.LogitGap()),
    "lira-offline": OfflineLiRA(classes.LogitGap()),
    "lira-augmented": LiRA(classes.LogitGap(Posteriors(queries=SHIFTS))),
    "rmia": RMIA(classes.Loss()),
    "rmia-offline": OfflineRMIA(classes.Loss()),
    "base": BASE(classes.Loss()),
    "gradient-norm": Threshold(classes.GradientNorm()),
    "white-box": ShadowClassifier(classes.WhiteBox(), LogisticRegression()),
    "downstream-confidence": Downstream(ShadowClassifier(Confidence(), MLP())),
}
