"""The embedded defaults: a small next-word model of docstrings, and a small encoder of handwritten digits."""

from __future__ import annotations

from hf_mia.images import Images
from hf_mia.papers import PAPERS
from hf_mia.plan import Experiment, Shadows, Users
from hf_mia.recipes.contrastive import MoCo
from hf_mia.recipes.language import Recurrent
from hf_mia.texts import Texts

NEXT_WORD = Experiment(
    data=Texts(users=600),
    split=Users(members=100),
    target=Recurrent(epochs=10, vocabulary=2000, embedding=64, hidden=128, batch=10),
    shadows=Shadows(count=3),
)

ENCODER = Experiment(
    data=Images(),
    split=Users(members=128),
    target=MoCo(width=8, size=8, epochs=600, batch=64, queue=64, splits=4),
    shadows=Shadows(count=1),
    attacks={name: PAPERS[name] for name in Images.beside},
    controls=Images.controls,
    trials=5,
)

DEMOS = {"text": NEXT_WORD, "encoder": ENCODER}
