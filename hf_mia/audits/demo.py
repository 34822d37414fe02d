"""The embedded defaults: small models of docstrings, of an interface's messages, and of handwritten digits."""

from __future__ import annotations

from hf_mia.attacks.networks import MLP, DeepSets
from hf_mia.attacks.shadow import ShadowClassifier
from hf_mia.attacks.threshold import Threshold
from hf_mia.audits.experiment import label
from hf_mia.audits.plan import Experiment, Shadows, Users
from hf_mia.data.classified import ClassifiedImages
from hf_mia.data.images import Images
from hf_mia.data.pairs import MESSAGES, Pairs
from hf_mia.data.texts import Texts
from hf_mia.papers import PAPERS
from hf_mia.probes.augmentation import Augmentation
from hf_mia.probes.views import Views
from hf_mia.recipes.classifying import ImageClassifier
from hf_mia.recipes.contrastive import SimCLR
from hf_mia.recipes.language import Recurrent
from hf_mia.recipes.pairing import RecurrentPairs
from hf_mia.signals.encoder import MeanSimilarity, ViewSimilarity

NEXT_WORD = Experiment(
    data=Texts(users=600),
    split=Users(members=100),
    target=Recurrent(epochs=10, vocabulary=2000, embedding=64, hidden=128, batch=10),
    shadows=Shadows(count=3),
)

TRANSLATION = Experiment(
    data=Pairs(path=MESSAGES, user="block"),
    split=Users(members=24),
    target=RecurrentPairs(vocabulary=2000, embedding=96, hidden=96, dropout=0.25, epochs=40, batch=10),
    shadows=Shadows(count=3),
)

VIEWS = Views(n=30)
RIVALS = {
    "encodermi-v": ShadowClassifier(ViewSimilarity(probe=VIEWS), MLP()),
    "encodermi-s": ShadowClassifier(ViewSimilarity(first=10, probe=VIEWS), DeepSets()),
    "encodermi-t": Threshold(MeanSimilarity(probe=VIEWS)),
    "encoder-feature": PAPERS["encoder-feature"],
    "encoder-similarity": PAPERS["encoder-similarity"],
}

ENCODER = Experiment(
    data=Images(),
    split=Users(members=64),
    target=SimCLR(
        architecture="vgg11",
        width=16,
        size=8,
        epochs=600,
        batch=32,
        temperature=0.1,
        splits=1,
        augmentation=Augmentation(scale=(0.35, 1.0), jitter=(0.2, 0.2, 0.0, 0.0), gray=0.0),
    ),
    shadows=Shadows(count=1),
    attacks={label(name, attack): attack for name, attack in RIVALS.items()},
    controls=Images.controls,
    trials=3,
)

CLASSIFIER = Experiment(
    data=ClassifiedImages(),
    split=Users(members=400),
    target=ImageClassifier(
        architecture="mlp",
        size=8,
        hidden=128,
        epochs=60,
        batch=32,
        learning_rate=2e-3,
        optimizer="adam",
        schedule="constant",
    ),
    shadows=Shadows(count=16, pool="same"),
    attacks={
        name: PAPERS[name]
        for name in (
            "rmia",
            "lira",
            "base",
            "relative-loss",
            "loss",
            "modified-entropy",
            "loss-per-class",
            "confidence",
            "correctness",
        )
    },
    controls=ClassifiedImages.controls,
)

DEMOS = {"text": NEXT_WORD, "translation": TRANSLATION, "encoder": ENCODER, "classifier": CLASSIFIER}
