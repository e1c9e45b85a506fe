"""Features of encoders of speech of any length, beside transformers' own extractors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.audio.test_log_mel import sound
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.audio.extractors import extractor_of

#: Class, its settings, and the kind of source that it makes.
EXTRACTORS = {
    "speech2text": ("Speech2TextFeatureExtractor", {}, "input_features"),
    "speech2text, means only": ("Speech2TextFeatureExtractor", {"normalize_vars": False, "num_mel_bins": 40}, "input_features"),
    "speech2text, as they are": ("Speech2TextFeatureExtractor", {"do_ceptral_normalize": False}, "input_features"),
    "seamless": ("SeamlessM4TFeatureExtractor", {}, "input_features"),
    "wav2vec2": ("Wav2Vec2FeatureExtractor", {}, "input_values"),
    "moonshine": ("Wav2Vec2FeatureExtractor", {"do_normalize": False}, "input_values"),
    "speecht5": ("SpeechT5FeatureExtractor", {}, "input_values"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("seconds", [0.06, 0.31, 6.7])
def test_as_transformers_extractors(kind, seconds):
    """Of an odd number of frames, SeamlessM4T's hides the last one from the model."""
    import transformers

    name, settings, source = EXTRACTORS[kind]
    samples, extractor = sound(seconds), getattr(transformers, name)(**settings)
    given = {"audio": samples} if name.startswith("SpeechT5") else {"raw_speech": samples}
    made = extractor(**given, sampling_rate=16_000, return_tensors="np")
    seen = made.get("attention_mask", np.ones(made[source].shape[:2]))[0].astype(bool)
    found = extractor_of(extractor.to_dict())
    got = found.features(Audio(samples, 16_000))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, made[source][0][seen], atol=1e-4)
    assert [size in (None, have) for size, have in zip(found.shape, got.shape, strict=True)] == [True] * got.ndim


def test_too_short_for_a_window():
    assert extractor_of({"feature_extractor_type": "Speech2TextFeatureExtractor"}).features(
        Audio(sound(0.02), 16_000)
    ).shape == (0, 80)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"feature_extractor_type": "ParakeetFeatureExtractor"}, UnsupportedModelError,
         "speech for ParakeetFeatureExtractor is not prepared here"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 2}, BundleError, "has feature_size 2"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": 1}, BundleError, "has do_normalize 1"),
        ({"feature_extractor_type": "Speech2TextFeatureExtractor", "dither": 0.1}, UnsupportedModelError,
         r"extractor's setting dither is 0.1, which tt-edge does not follow \(only 0.0\); correct preprocessor_config.json"),
        ({"feature_size": 80, "dither": 1}, UnsupportedModelError, "setting dither is 1"),
        ({"feature_size": 80, "do_normalize": True}, UnsupportedModelError, "setting do_normalize is True"),
        ({"feature_size": 80, "padding_value": 0.5}, UnsupportedModelError, "setting padding_value is 0.5"),
        ({"feature_size": 80, "padding_side": "left"}, UnsupportedModelError, "setting padding_side is 'left'"),
        ({"feature_extractor_type": "SeamlessM4TFeatureExtractor", "padding_side": "left"}, UnsupportedModelError,
         "setting padding_side is 'left'"),
        ({"feature_extractor_type": "SeamlessM4TFeatureExtractor", "stride": 0}, BundleError, "has stride 0"),
    ],
)  # fmt: skip
def test_what_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        extractor_of(settings)
