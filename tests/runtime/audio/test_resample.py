"""Other sampling rates: what can be known of the result, and scipy's."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.audio.resample import resample

RATE = 16_000


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_a_tone_is_the_same_tone(rate):
    """Away from the ends, and below the lower rate's band."""
    seconds = np.arange(2 * rate) / rate
    got = resample(Audio((0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32), rate), RATE)
    want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert got.shape == want.shape
    assert got.dtype == np.float32
    assert np.abs(got - want)[100:-100].max() < 3e-3


def test_a_tone_above_the_band_is_gone():
    samples = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(88_200) / 44_100)
    assert np.abs(resample(Audio(samples.astype(np.float32), 44_100), RATE))[100:-100].max() < 5e-3


def test_beside_scipy():
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(0).standard_normal(48_000)
    low = signal.sosfiltfilt(signal.butter(8, 4_000, fs=48_000, output="sos"), noise).astype(np.float32)
    got, want = resample(Audio(low, 48_000), RATE), signal.resample_poly(low, 1, 3)
    assert np.abs(got - want)[100:-100].max() < 0.01 * np.abs(want).max()


def test_rates():
    same = Audio(np.ones(5, np.float32), RATE)
    assert resample(same, RATE) is same.samples
    assert len(resample(Audio(np.ones(4411, np.float32), 44_100), RATE)) == 1601
    with pytest.raises(InvalidInputError, match=r"has 44101 samples per second, which is not converted here .* ffmpeg"):
        resample(Audio(np.ones(5, np.float32), 44_101), RATE)
