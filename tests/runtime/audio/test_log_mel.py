"""Features of speech, beside transformers' own extractor."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.audio.log_mel import LogMel


def sound(seconds: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    at = np.arange(int(seconds * 16_000))
    return (0.3 * np.sin(at * 0.05) + 0.1 * generator.standard_normal(len(at))).astype(np.float32)


@pytest.mark.parametrize(("mels", "seconds"), [(80, 0.31), (80, 30.0), (128, 3.7)])
def test_as_whispers_extractor(mels, seconds):
    from transformers import WhisperFeatureExtractor

    samples, extractor = sound(seconds), WhisperFeatureExtractor(feature_size=mels)
    wanted = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    got = LogMel.from_settings(extractor.to_dict()).features(Audio(samples, 16_000))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (
            Audio(sound(0.1), 44_101),
            r"has 44101 samples per second, which is not converted here to the model's 16000; convert it",
        ),
        (Audio(sound(30.1), 16_000), r"is 30\.1 s long, and the model takes 30 s; ask for timestamps, or cut it"),
        (
            Audio(np.zeros(480_001, np.float32), 16_000),
            r"is 30\.1 s long, and the model takes 30 s; ask for timestamps, or cut it",
        ),
    ],
)
def test_what_is_refused(audio, message):
    with pytest.raises(InvalidInputError, match=message):
        LogMel(80).features(audio)


@pytest.mark.parametrize(
    "settings", [{}, {"feature_size": 0}, {"feature_size": 80, "n_fft": "400"}, {"feature_size": 80, "n_fft": 401}]
)
def test_wrong_settings(settings):
    with pytest.raises(BundleError, match=r"preprocessor_config\.json"):
        LogMel.from_settings(settings)
