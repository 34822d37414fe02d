"""How a large model is loaded: over which devices, in which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from hf_mia.storage.keys import content_key

Quantization = Literal["8bit", "4bit"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Loading:
    """What transformers is told when it loads a model; null leaves it whole, on one device.

    `device_map` spreads it over all GPUs, the CPU's memory and the disk: `auto`, `balanced`, `balanced_low_0`,
    `sequential`, or a device. `quantization` loads 8-bit or 4-bit weights, by the package bitsandbytes. `dtype` is that
    of the weights; null is float32, and for language models the saved one where there is a GPU.
    """

    device_map: str | None = None
    quantization: Quantization | None = None
    dtype: Dtype | None = None

    def key(self, key: str) -> str:
        """The key of a model with this key, loaded so: other numbers are other answers, other devices are not."""
        if self.quantization is None and self.dtype is None:
            return key
        return content_key([key, str(self.quantization), str(self.dtype)])

    def check(self) -> None:
        """ValueError where a package is not there that the quantization takes."""
        if self.quantization is not None and find_spec("bitsandbytes") is None:
            raise ValueError(
                f"quantization = {self.quantization!r} takes the package bitsandbytes, which is not installed: install "
                "it, or set quantization to null and device_map to auto, which spreads the whole model."
            )

    def options(self, usual: Dtype | None = None) -> dict[str, object]:
        """Keyword arguments of `from_pretrained`; `usual` is the dtype where none is set. ValueError as `check`."""
        import torch

        self.check()
        found: dict[str, object] = {
            "dtype": self.dtype or usual or ("auto" if torch.cuda.is_available() else "float32")
        }
        if self.device_map is not None:
            found["device_map"] = self.device_map
        if self.quantization is not None:
            from transformers import BitsAndBytesConfig

            eight = self.quantization == "8bit"
            found["quantization_config"] = BitsAndBytesConfig(load_in_8bit=eight, load_in_4bit=not eight)
        return found


WHOLE = Loading()
