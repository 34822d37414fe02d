"""What an encoder sees of an image: the views that a probe draws, and how alike it finds them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hf_mia.app.limits import Limits
from hf_mia.app.shown import DRAWING, drawn
from hf_mia.data.portraits import matrix
from hf_mia.models.pixels import FORMATS
from hf_mia.probes.views import Views
from hf_mia.queries.query import Query
from hf_mia.reports.figures import matrix_figure
from hf_mia.runner import answers_of
from hf_mia.signals.encoder import table

if TYPE_CHECKING:
    import torch

SHOWN = 10  # views
EDGE = 64  # pixels that a view is drawn with, at least


def checked_image(content: bytes, limits: Limits) -> bytes:
    """The same bytes, if they are an image of not too many pixels; the header says so before anything is unpacked."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ValueError(f"the file is no image of these formats: {', '.join(FORMATS)}. Save it as PNG.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image is too large ({error}): shrink it.") from error
    except Exception as error:  # what decoders raise about broken bytes is of a dozen types
        raise ValueError(f"the image cannot be opened ({error}): save it as PNG or JPEG.") from error
    if width * height > limits.pixels:
        raise ValueError(f"the image is {width} x {height} pixels, and at most {limits.pixels:,} are read: shrink it.")
    return content


def views_page(query: Query, content: bytes) -> str:
    """The first views as the encoder sees them, and the matrix of their similarities; nothing for other probes."""
    if not isinstance(query.signal.probe, Views):
        return ""
    from datasets import Dataset

    probe, value = query.signal.probe, {"bytes": content, "path": None}
    records = Dataset.from_dict({"image": [value]})
    module, collate = query.target.load(), query.target.collate
    (answers,) = answers_of(module, collate, probe, records, check=query.check)
    pairs = table(answers["cosine"])[0].astype(np.float64)
    views = _views(probe, collate.pad(collate.encode({"image": [value]})))
    pictures = "".join(
        f"<img src='data:image/png;base64,{_png(view)}' width='{EDGE}' height='{EDGE}' alt='View {i} of the image'>"
        for i, view in enumerate(views, 1)
    )
    told = f"How alike the encoder finds each two of {probe.n} views: mean cosine similarity {pairs.mean():.3f}."
    with DRAWING:
        alike = drawn(matrix_figure({"this image": matrix(pairs)}, "cosine similarity"), told)
    return (
        f"<h3>The views that the encoder is shown</h3><p class='mia-note'>The first {len(views)} of {probe.n}, at the "
        f"size at which it sees them.</p><div class='mia-views'>{pictures}</div><p>{told}</p>{alike}"
    )


def _views(probe: Views, batch: dict[str, torch.Tensor]) -> npt.NDArray[np.uint8]:
    """The first views (SHOWN, size, size, 3) of the one image of a batch."""
    import torch

    draws = torch.from_numpy(probe.draws(batch["seed"].numpy()))[0][:SHOWN]
    made = probe.augmentation(batch["pixels"].repeat_interleave(len(draws), 0) / 255, draws)
    return np.asarray((made.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy(), dtype=np.uint8)


def _png(view: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    file, factor = io.BytesIO(), max(1, EDGE // max(view.shape[:2]))
    Image.fromarray(view.repeat(factor, 0).repeat(factor, 1)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
