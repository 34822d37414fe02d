"""The metrics of `evaluate.load`: membership inference from scores, and of a model that is asked about texts or images.

The Spaces in `spaces/` import one class each. They are adapters: `hf_mia.reports.membership` computes the first without
evaluate, `hf_mia.queries.inquiry` the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

try:
    import datasets
    import evaluate
except ImportError as error:
    raise ImportError("hf_mia.metric needs evaluate: pip install 'hf_mia[evaluate]'.") from error

from hf_mia.core import Pool
from hf_mia.data import Data
from hf_mia.data.images import Images
from hf_mia.data.texts import Texts
from hf_mia.queries.inquiry import Inquiry, encoded, images_of, labels, member_of, sequence, texts_of
from hf_mia.reports.membership import FPRS, LABELS, MISSING, Numbers, membership_inference, numbers

CARLINI = """\
@inproceedings{carlini2022membership,
  title={Membership Inference Attacks From First Principles},
  author={Carlini, Nicholas and Chien, Steve and Nasr, Milad and Song, Shuang and Terzis, Andreas
          and Tram{\\`e}r, Florian},
  booktitle={IEEE Symposium on Security and Privacy},
  year={2022}
}"""
SONG = """\
@inproceedings{song2019auditing,
  title={Auditing Data Provenance in Text-Generation Models},
  author={Song, Congzheng and Shmatikov, Vitaly},
  booktitle={ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  year={2019}
}"""
LIU = """\
@inproceedings{liu2021encodermi,
  title={{EncoderMI}: Membership Inference against Pre-trained Encoders in Contrastive Learning},
  author={Liu, Hongbin and Jia, Jinyuan and Qu, Wenjie and Gong, Neil Zhenqiang},
  booktitle={ACM SIGSAC Conference on Computer and Communications Security},
  year={2021}
}"""
SCORES = """
Args:
    predictions: one score a unit, larger = more likely a member; finite numbers.
    references: 1 (or True) for a member, 0 (or False) for a non-member; at least two of each.
    fpr: false-positive rates at which the true-positive rate is told, by default [0.01, 0.001].
    confidence: of every interval, by default 0.95.
    threshold: a unit is called a member where score >= threshold; chosen without these units.
Returns:
    auc, tpr@FPR, with a threshold accuracy, precision, recall, advantage, each with NAME_low and NAME_high; n, members,
    non_members. What the data cannot tell is left out, so every value is a number.
Examples:
    >>> metric = evaluate.load("membership_inference")
    >>> metric.compute(predictions=[0.9, 0.4, 0.5, 0.1], references=[1, 1, 0, 0])["auc"]
    0.75
"""
ASKED = """    model_id: a folder or a Hub id; safetensors only, and no code from its repository is run.
    revision: a branch, tag or commit of it.
    run: a folder that `hf-mia audit` wrote; the attack is fitted on the shadows' evidence in it.
    attack: an attack of the run, by default its first; without a run, one that needs no shadows, by default {free}.
    cache: where answers are kept, by default where an audit keeps them.
    fpr, confidence: as of membership_inference.
Returns:
    attack; names and scores, one a {unit}, larger = more likely a member; threshold, where a run has one; and where
    references are given, what membership_inference returns, at that threshold.
"""
TEXTS = """
Args:
    predictions: texts.
    references: 1 or 0 for each text, the same for all texts of a user; None where membership is unknown.
    users: who wrote each text; without, each text is a unit of its own.
""" + ASKED.format(free="mean-rank", unit="user")
IMAGES = """
Args:
    predictions: Pillow images, or paths or bytes of image files.
    references: 1 or 0 for each image; None where membership is unknown.
""" + ASKED.format(free="encodermi-t", unit="image")


class MembershipInference(evaluate.Metric):  # type: ignore[misc]
    """How well scores tell members from non-members, as `evaluate.load` gives it."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
        return evaluate.MetricInfo(
            description="How well an attack's scores tell training members from non-members: AUC, TPR at low FPRs and, "
            "at a threshold, accuracy, precision, recall and advantage, each with its interval.",
            citation=CARLINI,
            inputs_description=SCORES,
            features=datasets.Features(features),
            format="arrow",  # numpy would round scores to float32
            reference_urls=["https://arxiv.org/abs/2112.03570"],
        )

    def add_batch(
        self, *, predictions: Numbers | None = None, references: Numbers | None = None, **others: object
    ) -> None:
        """Add scores and membership, which must be numbers: evaluate would take '0.5' for one."""
        numbers("predictions", predictions, MISSING)
        numbers("references", references, LABELS)
        super().add_batch(predictions=predictions, references=references, **others)

    def add(self, *, prediction: float | None = None, reference: float | None = None, **others: object) -> None:
        """Add one score and its membership, which must be numbers."""
        row = {"predictions": prediction, "references": reference, **others}
        for name, value in row.items():
            numbers(name, [value], LABELS if name == "references" else MISSING)
        super().add(prediction=row.pop("predictions"), reference=row.pop("references"), **row)

    def _compute(
        self,
        predictions: Numbers,
        references: Numbers,
        fpr: Sequence[float] = FPRS,
        confidence: float = 0.95,
        threshold: float | None = None,
    ) -> dict[str, float]:
        try:
            return membership_inference(predictions, references, fpr, confidence, threshold)
        except ValueError as error:
            raise ValueError(f"predictions are the scores, references the membership. {error}") from error


class Asking(evaluate.Metric):  # type: ignore[misc]
    """A metric that asks a model about records: the kind of its data, and the attack that it takes without a run."""

    kind: ClassVar[Data]
    free: ClassVar[str]

    def pool(self, predictions: Sequence[object], users: Sequence[str]) -> Pool:
        """The records with their units."""
        raise NotImplementedError

    def add(self, *, prediction: object = None, reference: float | None = None, **others: object) -> None:
        """Add one record."""
        row = {"predictions": prediction, "references": reference, **others}
        self.add_batch(**{name: [value] for name, value in row.items()})

    def _compute(
        self,
        predictions: Sequence[object],
        references: Numbers,
        users: Sequence[str] = (),
        model_id: str = "",
        revision: str | None = None,
        run: str | Path | None = None,
        attack: str | None = None,
        cache: str | Path | None = None,
        fpr: Sequence[float] = FPRS,
        confidence: float = 0.95,
    ) -> dict[str, object]:
        inquiry = Inquiry(
            data=self.kind,
            free=self.free,
            model=model_id,
            revision=revision,
            run=run,
            attack=attack,
            cache=cache,
            fpr=fpr,
            confidence=confidence,
        )
        pool = self.pool(predictions, users)
        return inquiry.answer(pool, member_of(labels(references, len(predictions)), pool))


class AuditMI(Asking):
    """Whose texts a language model was trained on: each user's score, from the ranks of the true next words."""

    kind: ClassVar[Data] = Texts()
    free: ClassVar[str] = "mean-rank"

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "users": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="Whose texts a language model was trained on, by AuditMI: a score a "
            "user and, where membership is known, how well the scores tell it.",
            citation=SONG,
            inputs_description=TEXTS,
            features=datasets.Features({**features, "references": datasets.Value("float64")}),
            reference_urls=["https://arxiv.org/abs/1811.00513"],
        )

    def pool(self, predictions: Sequence[object], users: Sequence[str]) -> Pool:
        return texts_of(predictions, users)

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Numbers | None = None,
        users: Sequence[str] | None = None,
        **settings: object,
    ) -> dict[str, object] | None:
        """Ask the model about the texts that were added, and these."""
        given = {"predictions": predictions, "references": references, "users": users}
        found: dict[str, object] | None = super().compute(**given, **settings)
        return found

    def add_batch(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Numbers | None = None,
        users: Sequence[str] | None = None,
    ) -> None:
        """Add texts; without users each text is a unit, without references membership is unknown."""
        texts = sequence("predictions", predictions)
        users = [""] * len(texts) if users is None else users
        texts_of(texts, users)
        super().add_batch(predictions=texts, references=labels(references, len(texts)), users=users)


class EncoderMI(Asking):
    """Which images a vision encoder was trained on: each image's score, from the similarities of its views."""

    kind: ClassVar[Data] = Images()
    free: ClassVar[str] = "encodermi-t"

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Image(decode=False), "references": datasets.Value("float64")}
        return evaluate.MetricInfo(
            description="Which images a vision encoder was trained on, by EncoderMI: a score an "
            "image and, where membership is known, how well the scores tell it.",
            citation=LIU,
            inputs_description=IMAGES,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2108.11023"],
        )

    def pool(self, predictions: Sequence[object], users: Sequence[str]) -> Pool:
        if len(users):
            raise ValueError("users: each image is a unit of its own. Leave users out.")
        return images_of([encoded(image, place) for place, image in enumerate(predictions)])

    def add_batch(self, *, predictions: Sequence[object] | None = None, references: Numbers | None = None) -> None:
        """Add images; without references their membership is unknown."""
        images = [encoded(image, place) for place, image in enumerate(sequence("predictions", predictions))]
        super().add_batch(predictions=images, references=labels(references, len(images)))
