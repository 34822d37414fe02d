"""EncoderMI's two classifiers, networks that a `ShadowClassifier` trains (Liu, Jia, Qu and Gong, CCS 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hf_mia.attacks.shadow import Classifier

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin, TransformerMixin


@dataclass(frozen=True)
class MLP(Classifier):
    """EncoderMI-V's classifier: fully connected layers with tanh, two outputs, cross-entropy, Adam.

    `hidden` are the layers' widths; `decay` times the parameters is added to their gradient (L2); `batch` is in
    units; `activation` follows each layer but the last. The defaults are the paper's: 256 and 256, rate 1e-4, L2 1e-6,
    batches of 100, 300 epochs. The paper states no standardisation, but sorted cosine similarities lie in so narrow a
    band that a rate of 1e-4 hardly moves on them, so each column is standardised first. Scores are the logit of a
    member less that of a non-member. A fit is the same for the same features, membership and seed. Raises ValueError
    for settings that are not positive, and for another activation.
    """

    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 1e-4
    decay: float = 1e-6
    batch: int = 100
    epochs: int = 300
    seed: int = 0
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        _check_widths("hidden", self.hidden)
        if self.activation not in ("tanh", "relu"):
            raise ValueError(f"activation must be 'tanh' or 'relu', but is {self.activation!r}.")
        _check_training(self.learning_rate, self.decay, self.batch, self.epochs, self.seed)

    def build(self) -> ClassifierMixin:
        from hf_mia.estimators.networks import NetworkClassifier, Perceptron

        network = Perceptron(self.hidden, self.activation)
        return NetworkClassifier(network, self.learning_rate, self.decay, self.batch, self.epochs, self.seed)


@dataclass(frozen=True)
class DeepSets(Classifier):
    """EncoderMI-S's classifier: a unit's features are a set of numbers, and their order tells nothing.

    `phi` are the widths of the network over each number, `rho` those of the network over their pool; both use ReLU
    within and end in an affine layer, rho's with two outputs. Cross-entropy, Adam; `batch` is in units. The rate of
    1e-3 and batches of 100 are the paper's; the widths, the epochs and the pooling are not verified. The mean is the
    default: every number takes part, where the maximum hangs on a few, and it takes half the time. 20,000 units of 45
    numbers take 7 minutes on one CPU core, 13 with the maximum; a GPU is used where there is one.

    All numbers are scaled by one mean and one deviation over all shadows. The public code standardises each set by
    itself, which erases how large its similarities are, the attack's very signal; standardising each column would
    make the order count. Raises ValueError for settings that are not positive.
    """

    phi: tuple[int, ...] = (256, 256, 256)
    rho: tuple[int, ...] = (256,)
    pool: Literal["mean", "max"] = "mean"
    learning_rate: float = 1e-3
    decay: float = 0.0
    batch: int = 100
    epochs: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        _check_widths("phi", self.phi)
        _check_widths("rho", self.rho)
        if self.pool not in ("mean", "max"):
            raise ValueError(f"pool must be 'mean' or 'max', but is {self.pool!r}.")
        _check_training(self.learning_rate, self.decay, self.batch, self.epochs, self.seed)

    def scaler(self) -> TransformerMixin:
        from hf_mia.estimators.networks import CommonScaler

        return CommonScaler()

    def build(self) -> ClassifierMixin:
        from hf_mia.estimators.networks import NetworkClassifier, SetNetwork

        network = SetNetwork(self.phi, self.rho, self.pool)
        return NetworkClassifier(network, self.learning_rate, self.decay, self.batch, self.epochs, self.seed)


def _check_widths(name: str, widths: tuple[int, ...]) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"{name} must be one or more widths, each at least 1, such as (256, 256), but is {widths}.")


def _check_training(learning_rate: float, decay: float, batch: int, epochs: int, seed: int) -> None:
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be above 0, such as 1e-3, but is {learning_rate}.")
    if not 0 <= decay < float("inf"):
        raise ValueError(f"decay must be at least 0, such as 1e-6, but is {decay}.")
    for name, value, lowest in (("batch", batch, 1), ("epochs", epochs, 1), ("seed", seed, 0)):
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, but is {value}.")
