"""What images show: encoded ones are opened, in RGB, one at a time, and compared pixel by pixel."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from hf_mia.core import Floats, Pool
from hf_mia.storage.keys import IMAGES, encoded_content

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

# What is opened, and nothing else: Pillow's reader of EPS starts another program, and those of PSD and FITS had holes.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
BILINEAR = 2  # of PIL.Image.Resampling
THUMBNAIL = 8  # pixels a side that the blind baseline sees
SHOWN = 3  # bad images that a message names
WAY_OUT = "Leave it out of the data, or save it again as PNG or JPEG."


def decode(value: Mapping[str, object], name: str) -> Image.Image:
    """An RGB image from its encoded form, {"bytes", "path"}; `name` is what a message calls it.

    Gray, palette and CMYK images are converted as Pillow converts them, and transparency is dropped, not laid on a
    background (`convert("RGB")`, as most training pipelines do; some image processors of transformers lay it on white).
    Of 16-bit gray the upper 8 bits stay, where Pillow would clip. An animation gives its first frame. EXIF's
    orientation is applied, as `datasets.Image` does. One image is in memory at full size. Raises ValueError, with the
    reason and the way out, for what is no image, truncated, or beyond `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        return _opened(value)
    except ValueError as error:
        raise ValueError(f"image {name} cannot be opened: {error}. {WAY_OUT}") from error


def pixel_digests(pool: Pool) -> list[str]:
    """What each image of a pool shows: a digest of its RGB pixels at native size. Every image is decoded once.

    Raises ValueError, which names the first by unit, where some cannot be opened. Few images are in memory at a time.
    """
    found, bad = [], []
    for row, value in enumerate(encoded(pool.records)):
        try:
            image = _opened(value)
            digest = blake2b(repr(image.size).encode(), digest_size=16)
            digest.update(image.tobytes())
            found.append(digest.hexdigest())
        except ValueError as error:
            bad.append(f"{pool.names[pool.unit[row]]} ({error})")
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(pool.records)} images cannot be opened, such as {', '.join(bad[:SHOWN])}. Leave them "
            "out of the data, or save them again as PNG or JPEG."
        )
    return found


def overlap(ours: Pool, theirs: Pool) -> int:
    """How many of our images show, pixel by pixel, what one of theirs shows. ValueError as `pixel_digests`."""
    known = set(pixel_digests(theirs))
    return sum(digest in known for digest in pixel_digests(ours))


def looks(pool: Pool) -> tuple[Floats, list[bytes]]:
    """What the pixel-level blind baseline sees of each unit's image: numbers (units, 196), and a digest of the image.

    Its 8x8 thumbnail (192), the deviation of its gray at full size, and the logarithms of its width, its height and the
    size of its file, which tells how it was saved and how much there is to see. One image a unit.
    """
    found = np.empty((len(pool.names), 3 * THUMBNAIL**2 + 4))
    content = [b""] * len(found)
    for row, value in enumerate(encoded(pool.records)):
        unit, image = pool.unit[row], _opened(value)
        small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), BILINEAR), dtype=np.float64).ravel() / 255
        sizes = np.log([image.width, image.height, len(encoded_content(value))])
        found[unit] = [*small, np.asarray(image.convert("L")).std() / 255, *sizes]
        content[unit] = blake2b(found[unit].tobytes(), digest_size=16).digest()
    return found, content


def encoded(records: Dataset) -> Iterator[Mapping[str, object]]:
    """The encoded images one after the other, few in memory."""
    for rows in records.select_columns(["image"]).iter(batch_size=IMAGES):
        yield from rows["image"]


def _opened(value: Mapping[str, object]) -> Image.Image:
    """An image in RGB. ValueError with the reason alone."""
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

    try:
        content = encoded_content(value)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                turned = image.getexif().get(ExifTags.Base.Orientation) is not None
                return _rgb(ImageOps.exif_transpose(image) if turned else image)
    except UnidentifiedImageError as error:
        raise ValueError(
            "it is empty" if not content else f"it is no image of these formats: {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it is too large ({error}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS") from error
    except Exception as error:  # what decoders raise about broken bytes is of a dozen types
        raise ValueError(str(error).rstrip(".") or type(error).__name__) from error


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers of no known range")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    if image.mode in ("P", "PA"):  # by way of RGBA, because Pillow warns of transparency that is lost
        image = image.convert("RGBA")
    return image.convert("RGB")
