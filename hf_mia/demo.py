"""The embedded default: a small next-word model of docstrings, with users that are modules."""

from __future__ import annotations

from hf_mia.experiment import Experiment, Shadows, Users
from hf_mia.recipes.language import Recurrent
from hf_mia.texts import Data

NEXT_WORD = Experiment(
    data=Data(users=600),
    split=Users(members=100),
    target=Recurrent(epochs=10, vocabulary=2000, embedding=64, hidden=128, batch=10),
    shadows=Shadows(count=3),
)
