"""What a service will not show is said before anything is paid for: every attack reads made-up answers of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hf_mia.core import Answers, Attack, Pool
from hf_mia.papers import PAPERS
from hf_mia.probes.continuations import Continuations
from hf_mia.probes.respondents import RawTexts, Respondent, Told
from hf_mia.probes.tokens import Tokens
from hf_mia.runner import answers_of
from hf_mia.services.service import Service

WRITTEN = ("generation-chrf", "generation-rouge", "generation-edit")  # of one greedy continuation a text, the same one
TEXT = "Nobody is asked about this."
LOCAL = ("token", "start", "rank", "logprob", "mean", "deviation", "compressed")


class Rehearsal(Respondent):
    """Answers as a service gives them, but empty: `tokens` lists what is shown of each token, `whole` of each text."""

    def __init__(self, names: Sequence[str], whole: Mapping[str, int]) -> None:
        super().__init__()
        self.names, self.whole = names, whole

    def tokens(self, texts: Sequence[str]) -> list[Told]:
        numbers: dict[str, npt.NDArray[np.generic]] = {name: np.ones(2, dtype=np.int64) for name in self.names}
        return [Told(numbers, self.whole) for _ in texts]

    def continued(
        self, prompts: Sequence[str], tokens: Sequence[int], samples: int, temperature: float, seed: int
    ) -> list[list[str]]:
        return [["words"] * samples for _ in prompts]


class Silent(Rehearsal):
    """Answers of a service that shows text alone."""

    def __init__(self, service: Service) -> None:
        super().__init__((), {})
        self.service = service

    def tokens(self, texts: Sequence[str]) -> list[Told]:
        raise self.service.silent()


def served(service: Service, names: Sequence[str], shadows: int) -> list[str]:
    """Those of some names in PAPERS that the service can serve; where there is none, of `WRITTEN`."""
    module = stand_in(service)
    found = [[name for name in some if not lacking(module, PAPERS[name], shadows)] for some in (names, WRITTEN)]
    return found[0] or found[1]


def rehearse(service: Service, attacks: Mapping[str, Attack], shadows: int) -> None:
    """ValueError for the first attack that reads what the service does not show, with those of PAPERS that it can
    serve. Nothing is sent."""
    module = stand_in(service)
    for name, attack in attacks.items():
        if said := lacking(module, attack, shadows):
            fit = {known: other for known, other in PAPERS.items() if other.least <= shadows}
            able = [known for known, other in fit.items() if not lacking(module, other, shadows)]
            raise ValueError(
                f"attack {name!r} cannot be played on the service {service.endpoint.model}: {said} With access = "
                f"{service.access} and shadows.count = {shadows} these can, as they are: {able}."
            )


def stand_in(service: Service) -> Rehearsal:
    """What the service shows at best."""
    if service.access == "text":
        return Silent(service)
    names = ["start", *(["logprob"] if service.access == "prompt" else [])]
    if service.access == "prompt" and not service.endpoint.ranks:
        return Rehearsal(names, {})
    return Rehearsal([*names, "rank"], {"shown": service.k})


def lacking(module: Rehearsal, attack: Attack, shadows: int) -> str:
    """What an attack says of answers of that kind; "" where it can read them."""
    from datasets import Dataset

    probe, records = attack.signal.probe, Dataset.from_dict({"text": [TEXT]})
    if not isinstance(probe, Tokens | Continuations):
        return f"it asks by {probe}, and a service is asked by Tokens or Continuations alone."
    local = Rehearsal(LOCAL, {"vocabulary": 9})
    try:
        own: list[list[Answers]] = [list(answers_of(local, RawTexts(), probe, records))] if shadows else []
        answers = list(answers_of(module, RawTexts(), probe, records))
        with np.errstate(invalid="ignore", divide="ignore"):
            attack.signal.learn(own).read(answers, Pool(records, np.zeros(1, dtype=np.int64), ("",)))
    except ValueError as error:
        return str(error)
    return ""
