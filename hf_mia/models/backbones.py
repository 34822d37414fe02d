"""Vision encoders of transformers without their heads, and one feature vector an image from what they answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from transformers import MODEL_MAPPING, AutoModel, PretrainedConfig
from transformers.utils import ModelOutput, logging

import hf_mia.architectures.encoders  # noqa: F401  registers our architectures with the Auto classes
from hf_mia.models.checkpoints import configuration
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.placing import kept, taken

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # what transformers' encoders call the parameter
OTHER_TOKENS = ("distillation_token", "register_tokens")  # as CLASS_TOKENS: they come before the positions' tokens
TOWER = "vision_model"
UNREAD = ("mask_token", "num_batches_tracked", "relative_position_index")  # not learnt, or read in training only


def _pooler(output: ModelOutput) -> torch.Tensor | None:
    found = output.get("pooler_output")
    return None if found is None else found.flatten(1)


def _first_token(output: ModelOutput) -> torch.Tensor | None:
    tokens = output.get("last_hidden_state")
    return None if tokens is None or tokens.ndim != 3 else tokens[:, 0]


def _mean_of_map(output: ModelOutput) -> torch.Tensor | None:
    maps = output.get("last_hidden_state")
    return None if maps is None or maps.ndim != 4 else maps.mean((2, 3))


def _mean_of_tokens(output: ModelOutput) -> torch.Tensor | None:
    tokens = output.get("last_hidden_state")
    return None if tokens is None or tokens.ndim != 3 else tokens.mean(1)


RULES: dict[str, Callable[[ModelOutput], torch.Tensor | None]] = {
    "pooler_output": _pooler,
    "class token": _first_token,
    "mean over the map": _mean_of_map,
    "mean over tokens": _mean_of_tokens,
}


def rule_of(backbone: torch.nn.Module, output: object, untrained: Collection[str]) -> str | None:
    """The first of the RULES that holds, or None: how an encoder's answer becomes features (rows, d).

    1. `pooler_output`, flattened, where the answer has it and the checkpoint has the pooler's weights: ResNet's and
       ConvNeXt's mean over the map, Swin's over tokens, DINOv2's and CLIP's class token after its layer norm (CLIP's
       before the projection), SigLIP's attention pooling, BEiT's and ViT's pooler. A pooler that is `untrained`, as
       that of a ViT saved by a classifier, is passed over.
    2. The `class token`, the first of `last_hidden_state` (rows, tokens, d), where the encoder has one.
    3. The `mean over the map` `last_hidden_state` (rows, d, h, w).
    4. The `mean over tokens` of `last_hidden_state` (rows, tokens, d).
    """
    if not isinstance(output, ModelOutput):
        return None
    passed = {"pooler_output"} if any("pooler" in name for name in untrained) else set()
    if not any(name.endswith(CLASS_TOKENS) for name, _ in backbone.named_parameters()):
        passed.add("class token")
    return next((name for name, rule in RULES.items() if name not in passed and rule(output) is not None), None)


class Encoder(torch.nn.Module):
    """A vision encoder in evaluation: float images (rows, 3, S, S) in [0, 1] to features (rows, d), float32.

    `scale` and `shift` (3,) are what the image processor does to a channel, `order` which channel it takes for which,
    and `rule` is the one of RULES by which the features are pooled.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, backbone: torch.nn.Module, scale: list[float], shift: list[float], order: list[int], rule: str
    ) -> None:
        super().__init__()
        self.backbone, self.order, self.rule = backbone.eval().requires_grad_(False), order, rule
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = RULES[self.rule](self._answer(images))
        return cast("torch.Tensor", features).float()

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The last layer's features at every position of images (rows, 3, S, S): (rows, positions, d), float32.

        They are the `last_hidden_state`, a map row after row, or tokens without those of no position, such as the class
        token. Raises ValueError where the encoder answers with none, or with fewer than two positions.
        """
        found = self._answer(images).get("last_hidden_state")
        if found is not None and found.ndim == 4:
            found = found.flatten(2).transpose(1, 2)
        elif found is not None and found.ndim == 3:
            found = found[:, _elsewhere(self.backbone, found.shape[2]) :]
        if found is None or found.ndim != 3 or found.shape[1] < 2:
            kind, size = type(self.backbone).__name__, " x ".join(map(str, images.shape[2:]))
            has = "no map" if found is None or found.ndim != 3 else f"a map of {found.shape[1]} positions"
            raise ValueError(
                f"the encoder ({kind}) has {has} of an image of {size}, and an attack that compares parts of an image "
                "with its map needs two positions or more: leave this attack out, or take larger images."
            )
        return cast("torch.Tensor", found).float()

    def _answer(self, images: torch.Tensor) -> ModelOutput:
        prepared = images[:, self.order] * self.scale.to(images.device) + self.shift.to(images.device)
        return cast("ModelOutput", self.backbone(pixel_values=taken(self.backbone, prepared)))


def _elsewhere(backbone: torch.nn.Module, size: int) -> int:
    """How many tokens of `size` numbers come before those of an image's positions."""
    named = backbone.named_parameters()
    return sum(part.numel() // size for name, part in named if name.endswith((*CLASS_TOKENS, *OTHER_TOKENS)))


def vision_config(folder: Path, name: str) -> PretrainedConfig:
    """The configuration of a model that takes images, or has a vision tower; ValueError for any other."""
    config = configuration(folder, name)
    known = MODEL_MAPPING.get(type(config), None)
    kind = known[0] if isinstance(known, tuple) else known
    alone = kind is not None and kind.main_input_name == "pixel_values" and not config.is_encoder_decoder
    if not alone and not (kind is not None and "vision_config" in config.to_dict() and _has_tower(config)):
        raise ValueError(
            f"model {name!r} is no vision encoder ({config.model_type}). Name one that takes images, such as a ResNet, "
            "ViT, DINOv2 or ConvNeXt, or a CLIP or SigLIP, of which the vision tower is taken."
        )
    if "mask_ratio" in config.to_dict():
        config.mask_ratio = 0.0  # a masked autoencoder sees the whole image
    return config


def backbone(folder: Path, name: str, loading: Loading = WHOLE) -> tuple[torch.nn.Module, set[str]]:
    """The encoder, and which weights of its pooler the checkpoint lacks; ValueError where it lacks others."""
    with _quiet():
        model, info = AutoModel.from_pretrained(
            folder,
            config=vision_config(folder, name),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **loading.options("float32"),
        )
    alone = model.main_input_name == "pixel_values"
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    missing = {key for key in missing if (alone or key.startswith(f"{TOWER}.")) and not key.endswith(UNREAD)}
    if needed := sorted(key for key in missing if "pooler" not in key):
        raise ValueError(
            f"model {name!r} lacks {len(needed)} of the weights that its config.json asks for, such as {needed[:3]}: "
            "random ones would stand in. Save the whole model again."
        )
    return model if alone else kept(model, getattr(model, TOWER)), missing


def pooling(folder: Path, name: str, shape: tuple[int, int], loading: Loading = WHOLE) -> str:
    """The rule by which an encoder's answers are pooled, found by asking it about a black image of (height, width).

    Raises ValueError where it cannot take such an image, or answers with nothing that is or can be pooled.
    """
    module, untrained = backbone(folder, name, loading)
    kind = type(module).__name__
    try:
        with torch.inference_mode():
            output = module.eval()(pixel_values=taken(module, torch.zeros(1, 3, *shape)))
    except Exception as error:  # a foreign forward can raise anything
        raise ValueError(
            f"model {name!r} ({kind}) cannot be asked about an image of 3 x {shape[0]} x {shape[1]}, as its image "
            f"processor makes them: {str(error).rstrip('.')}. Save model and processor that fit each other."
        ) from error
    rule = rule_of(module, output, untrained)
    if rule is None:
        has = sorted(output) if isinstance(output, Mapping) else "no names"
        raise ValueError(
            f"model {name!r} ({kind}) answers with no pooled feature: its {type(output).__name__} has {has}, but no "
            "pooler_output, nor a last_hidden_state of three or four dimensions. Name a model that is a backbone alone."
        )
    return rule


def _has_tower(config: PretrainedConfig) -> bool:
    """Whether a model has a vision tower; built without weights, for it may be large."""
    with torch.device("meta"), _quiet():
        model = AutoModel.from_config(config, trust_remote_code=False)
    return isinstance(getattr(model, TOWER, None), torch.nn.Module)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the weights of a head that is left out."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
