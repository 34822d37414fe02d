"""What sounds hold: encoded ones are opened, as one channel, one at a time, and brought to a model's rate."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import gcd

import numpy as np
import numpy.typing as npt

from hf_mia.storage.keys import encoded_content

Samples = npt.NDArray[np.float32]

WAY_OUT = "Leave it out of the data, or save it again as WAV or FLAC."
INSTALL = "install it with `pip install 'hf_mia[audio]'`"


def decode(value: Mapping[str, object], name: str) -> tuple[Samples, int]:
    """The samples (n,) of an encoded sound, {"bytes", "path"}, and their rate in Hz; `name` is for messages.

    What libsndfile reads is read, such as WAV, FLAC, Ogg and MP3: whole numbers as parts of their largest, so in
    [-1, 1); several channels are averaged. Raises ValueError, with the reason and the way out, for what is no sound, is
    empty, or holds samples that are not finite, and where the package soundfile is absent.
    """
    try:
        content = encoded_content(value)
    except (ValueError, OSError) as error:
        raise ValueError(f"sound {name} cannot be opened: {error}. {WAY_OUT}") from error
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library libsndfile
        raise ValueError(f"sound {name} cannot be opened without the package soundfile: {INSTALL}.") from error
    try:
        channels, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (RuntimeError, ValueError, TypeError) as error:  # soundfile's own are RuntimeErrors
        reason = "it is empty" if not content else f"it is not a sound that libsndfile knows ({error})"
        raise ValueError(f"sound {name} cannot be opened: {reason}. {WAY_OUT}") from error
    if len(channels) == 0:
        raise ValueError(f"sound {name} cannot be used: it has no sample. {WAY_OUT}")
    if not np.isfinite(channels).all():
        raise ValueError(f"sound {name} cannot be used: it holds samples that are NaN or infinite. {WAY_OUT}")
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32), int(rate)


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """Samples (n,) at another rate, (ceil(n to / rate),): by SciPy's polyphase filter, so nothing is aliased.

    Raises ValueError where a rate is not at least 1 Hz.
    """
    from scipy.signal import resample_poly

    if min(rate, to) < 1:
        raise ValueError(f"rate and to must be at least 1 Hz, but are {rate} and {to}.")
    if rate == to:
        return samples
    common = gcd(rate, to)
    return np.asarray(resample_poly(samples.astype(np.float64), to // common, rate // common), dtype=np.float32)
