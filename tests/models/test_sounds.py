"""Sounds as libsndfile and SciPy hold them, against samples and tones that are known; and what is no sound, refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from hf_mia.models.sounds import decode, resample

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.9, 0.9, 4000).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 8000, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    content = encoded(NOISE, 11025)
    (tmp_path / "a.wav").write_bytes(content)
    for value in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.wav")}):
        samples, rate = decode(value, "0")
        assert (samples.dtype, rate) == (np.float32, 11025)
        np.testing.assert_array_equal(samples, NOISE)


@pytest.mark.parametrize(("kind", "subtype", "off"), [("WAV", "PCM_16", 2**-15), ("FLAC", "PCM_24", 2**-23)])
def test_whole_numbers_are_parts_of_their_largest(kind: str, subtype: str, off: float) -> None:
    samples, rate = decode({"bytes": encoded(NOISE, 8000, kind, subtype), "path": None}, "0")
    assert rate == 8000
    assert 0 < np.abs(samples - NOISE).max() <= off


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_what_loses_some_is_opened_too(kind: str) -> None:
    wave = tone(440, 16000)
    samples, rate = decode({"bytes": encoded(0.5 * wave, 16000, kind, None), "path": "a"}, "0")
    assert rate == 16000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] == pytest.approx(440, abs=4)


def test_channels_are_averaged() -> None:
    both = np.stack([NOISE, -0.5 * NOISE, NOISE[::-1]], axis=1)
    samples, _ = decode({"bytes": encoded(both), "path": None}, "0")
    expected = [(float(a) + float(b) + float(c)) / 3 for a, b, c in both]
    np.testing.assert_allclose(samples, expected, rtol=1e-6, atol=1e-8)


def test_the_form_is_that_of_datasets() -> None:
    records = datasets.Dataset.from_dict({"audio": [{"bytes": encoded(NOISE), "path": "a.wav"}]})
    records = records.cast_column("audio", datasets.Audio(decode=False))
    np.testing.assert_array_equal(decode(records[0]["audio"], "0")[0], NOISE)


REFUSED = {
    "no sound": ({"bytes": b"not a sound at all", "path": "a"}, r"cannot be opened: it is not a sound that libsndfile"),
    "no byte": ({"bytes": b"", "path": "a.wav"}, r"cannot be opened: it is empty\. Leave it out"),
    "no sample": ({"bytes": encoded(NOISE[:0]), "path": None}, r"cannot be used: it has no sample\. Leave it out"),
    "NaN": ({"bytes": encoded(np.array([0, np.nan], np.float32)), "path": None}, r"NaN or infinite\. Leave it out"),
    "infinite": ({"bytes": encoded(np.array([np.inf, 0], np.float32)), "path": None}, r"NaN or infinite"),
    "nothing": ({"bytes": None, "path": None}, r"cannot be opened: it has neither bytes nor a path\. Leave it out"),
    "no file": ({"bytes": None, "path": "no/such.wav"}, r"cannot be opened: .*No such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sound_is_refused(case: str) -> None:
    value, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        decode(value, "3 of its chunk (x)")
    assert "sound 3 of its chunk (x)" in str(caught.value)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        ValueError, match=r"without the package soundfile: install it with `pip install 'hf_mia\[audio\]'"
    ):
        decode({"bytes": encoded(NOISE), "path": None}, "0")


@pytest.mark.parametrize(("rate", "to"), [(8000, 16000), (44100, 16000), (16000, 11025), (48000, 8000)])
def test_a_tone_stays_the_tone(rate: int, to: int) -> None:
    """Against the same sine sampled at the other rate, but for the ends, where the filter sees nothing beyond."""
    samples = resample(tone(440, rate), rate, to)
    assert samples.dtype == np.float32
    assert len(samples) == -(-len(tone(440, rate)) * to // rate)
    inside = slice(to // 20, len(samples) - to // 20)
    np.testing.assert_allclose(samples[inside], tone(440, to, 1)[: len(samples)][inside], rtol=0, atol=5e-3)


def test_what_the_lower_rate_cannot_hold_is_left_out_and_not_folded() -> None:
    samples = resample(tone(7000, 48000), 48000, 8000)
    assert np.abs(samples[400:-400]).max() < 5e-3
    assert np.abs(tone(7000, 48000)[::6]).max() > 0.9  # what taking every sixth sample would give


def test_the_same_rate_changes_nothing_and_none_is_refused() -> None:
    np.testing.assert_array_equal(resample(NOISE, 8000, 8000), NOISE)
    for rate, to in ((0, 8000), (8000, -1)):
        with pytest.raises(ValueError, match=rf"at least 1 Hz, but are {rate} and {to}"):
            resample(NOISE, rate, to)
