"""Vision encoders by name or folder: how images reach them, and a module that answers with one feature vector each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt

from hf_mia.collate import Batch, Collate, Item
from hf_mia.core import Floats, Model
from hf_mia.models.checkpoints import check_weights, folder_of, name_of
from hf_mia.models.loading import WHOLE, Loading
from hf_mia.models.pixels import decode
from hf_mia.storage.keys import content_key, folder_key

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BaseImageProcessor

    from hf_mia.models.backbones import Encoder

PATCH = 256  # pixels that count as one position of a batch
LARGEST = 2**28  # pixels that an image may have once resized: a long one is resized by its shorter edge
CONVNEXT = 384  # pixels from which ConvNeXt's processor warps and does not crop

Channels = tuple[list[float], list[float], list[int]]  # scale, shift and order, as `Encoder` takes them


@dataclass(frozen=True)
class ImageCollate(Collate):
    """Images for a vision encoder: uint8 (3, height, width), before any augmentation and normalisation.

    An image is resized by Pillow, antialiased, with the filter `resample`: to `resized`, its (height, width) or its
    shorter edge, and then cropped in the centre to `size`, an edge or (height, width); or, without `resized`, to `size`
    at once. A batch is `pixels` uint8 (b, 3, height, width) and `seed` int64 (b,), a digest of an image's own pixels in
    [0, 2^63). Raises ValueError, which names the image, where one cannot be opened.
    """

    size: int | tuple[int, int] = 32
    resized: int | tuple[int, int] | None = None
    resample: int = 2  # PIL.Image.Resampling.BILINEAR
    columns: ClassVar[tuple[str, ...]] = ("image",)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every image in a batch."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """An RGB image as the encoder sees it, (3, height, width)."""
        from PIL import Image

        height, width = self._target(image)
        if height * width > LARGEST:
            raise ValueError(
                f"it is {image.width} x {image.height} pixels, so long that it would be resized to {width} x {height}. "
                "Crop it, or leave it out of the data"
            )
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling(self.resample))
        if (height, width) != self.shape:
            left, top = (width - self.shape[1]) // 2, (height - self.shape[0]) // 2
            image = image.crop((left, top, left + self.shape[1], top + self.shape[0]))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def encode(self, records: Mapping[str, Sequence[object]]) -> list[Item]:
        return [self._item(record, value) for record, value in enumerate(records["image"])]

    def pad(self, items: Sequence[Item]) -> Batch:
        import torch

        pixels = np.stack([np.asarray(item.values["pixels"], dtype=np.uint8) for item in items])
        seed = np.array([item.values["seed"] for item in items], dtype=np.int64)
        return {"pixels": torch.from_numpy(pixels), "seed": torch.from_numpy(seed)}

    def _item(self, record: int, value: object) -> Item:
        encoded = cast("Mapping[str, object]", value)
        name = f"{record} of its chunk ({encoded.get('path') or 'without a path'})"
        image = decode(encoded, name)
        try:
            pixels = self.pixels(image)
        except ValueError as error:
            raise ValueError(f"image {name} cannot be used: {error}.") from error
        seed = int.from_bytes(blake2b(pixels.tobytes(), digest_size=8).digest(), "little") >> 1
        return Item(record, math.ceil(self.shape[0] * self.shape[1] / PATCH), {"pixels": pixels, "seed": seed})

    def _target(self, image: Image.Image) -> tuple[int, int]:
        """Height and width to resize an image to, before the crop."""
        if not isinstance(self.resized, int):
            return self.resized or self.shape
        short, long = sorted(image.size)
        other = int(self.resized * long / short)
        return (other, self.resized) if image.width <= image.height else (self.resized, other)


def encoder(source: str | Path, revision: str | None = None, loading: Loading = WHOLE) -> Model:
    """A vision encoder from a local folder or the Hub: any that transformers' AutoModel loads, without its head.

    Of a model of images and texts that has one, such as CLIP, it is the vision tower. Images are resized, cropped and
    normalised as the model's own image processor does, and its answers pooled by one of `backbones.RULES`, which
    the loaded module's `rule` names. Loads safetensors only and runs no code from the repository. Raises ValueError,
    with the way out, where the model takes no images, lacks weights, gives no pooled feature, has no image processor,
    or has one that does more than this.
    """
    from hf_mia.models.backbones import pooling, vision_config

    loading.check()
    folder, name = folder_of(source, revision), str(source)
    vision_config(folder, name)
    check_weights(folder, name)
    processor = image_processor(folder, name)
    collate = image_collate(processor, name)
    channels = image_channels(processor, collate, name)
    rule = pooling(folder, name, collate.shape, loading)
    key = loading.key(content_key([folder_key(folder), rule]))
    return Model(name_of(source, revision), key, collate, partial(_load, folder, name, channels, rule, loading))


def _load(folder: Path, name: str, channels: Channels, rule: str, loading: Loading) -> Encoder:
    from hf_mia.models.backbones import Encoder, backbone

    return Encoder(backbone(folder, name, loading)[0], *channels, rule)


def image_processor(folder: Path, name: str) -> BaseImageProcessor:
    """A saved model's image processor; ValueError where it has none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ValueError(
            f"model {name!r} has no image processor that transformers can load ({error}). Save the one that it was "
            "trained with beside it: `processor.save_pretrained(folder)` writes preprocessor_config.json."
        ) from error


def image_collate(processor: BaseImageProcessor, name: str) -> ImageCollate:
    """How an image processor resizes and crops. One that keeps the aspect and crops nothing is followed by a crop."""
    has = processor.to_dict()
    size, crop, share = has.get("size") or {}, has.get("crop_size") or {}, has.get("crop_pct")
    if not has.get("do_resize") or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(
            f"model {name!r} has an image processor that makes images of different sizes (do_resize = "
            f"{has.get('do_resize')}, size = {size}). Set do_resize, and size as height and width or as shortest_edge, "
            "in its preprocessor_config.json."
        )
    resample = int(has.get("resample") or 0)
    edge = int(size.get("shortest_edge", 0))
    resized = edge or (int(size["height"]), int(size["width"]))
    if has.get("image_processor_type") == "LevitImageProcessor":
        share = 224 / 256
    if has.get("do_center_crop"):
        return ImageCollate((int(crop["height"]), int(crop["width"])), int(edge / (share or 1)) or resized, resample)
    if edge and share:  # ConvNeXt's own rule
        return ImageCollate(edge, int(edge / share) if edge < CONVNEXT else (edge, edge), resample)
    return ImageCollate(edge, edge, resample) if edge else ImageCollate((size["height"], size["width"]), None, resample)


def image_channels(processor: BaseImageProcessor, collate: ImageCollate, name: str) -> Channels:
    """What an image processor makes of each channel once it is resized: scale, shift, and which channel stands where.

    Read off what it makes of black and of white, so it is right whatever do_rescale, do_normalize, image_mean and
    image_std say; and tried on a random image, so that a processor that does anything else is refused.
    """
    from PIL import Image

    height, width = collate.shape
    black, white = (_processed(processor, np.full((height, width, 3), level, np.uint8)) for level in (0, 255))
    shift = black[:, height // 2, width // 2]
    scale = white[:, height // 2, width // 2] - shift
    image = np.random.default_rng(0).integers(0, 256, (height + 5, 2 * width + 3, 3), dtype=np.uint8)
    if _processed(processor, image).shape != black.shape:  # it crops nothing
        image = np.ascontiguousarray(image[:, : height + 5])
    expected, pixels = _processed(processor, image), collate.pixels(Image.fromarray(image)) / 255
    for order in ([0, 1, 2], [2, 1, 0]):
        found = pixels[order] * scale[:, None, None] + shift[:, None, None]
        if found.shape == expected.shape and np.abs(found - expected).max() < 1e-4 * np.abs(scale).max():
            return scale.tolist(), shift.tolist(), order
    raise ValueError(
        f"model {name!r} has an image processor ({type(processor).__name__}) that does more than resize, crop, rescale "
        "and normalise, so random views cannot be drawn in between. If the model was trained on images that are only "
        "resized and normalised, save a processor that does only that in its place, such as a CLIPImageProcessor."
    )


def _processed(processor: BaseImageProcessor, image: npt.NDArray[np.uint8]) -> Floats:
    from PIL import Image

    found = processor(images=[Image.fromarray(image)], return_tensors="np")["pixel_values"][0]
    return np.asarray(found, dtype=np.float64)
