"""Samples of speech for encoders that take them as they are, as Wav2Vec2's and SpeechT5's extractors prepare them. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.runtime.audio.load import Audio
from tt_edge.runtime.audio.resample import resample
from tt_edge.runtime.audio.settings import flag, number


@dataclass(frozen=True)
class Waveform:
    """Settings of a checkpoint's ``preprocessor_config.json``: ``rate`` samples per second, with zero mean and unit variance over
    the whole of the speech if ``normalize``."""

    rate: int = 16_000
    normalize: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Waveform:
        """Raises ``BundleError`` for settings that are wrong."""
        wav2vec2 = settings.get("feature_extractor_type") == "Wav2Vec2FeatureExtractor"  # SpeechT5's has other defaults
        number(settings, "feature_size", 1, most=1)
        return cls(number(settings, "sampling_rate", 16_000), flag(settings, "do_normalize", wav2vec2))

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one source's features: as many as there are."""
        return (None,)

    def features(self, audio: Audio) -> NDArray[np.float32]:
        """float32 ``[samples]``. Other sampling rates are converted. Raises as ``resample`` does."""
        samples = resample(audio, self.rate)
        if not self.normalize or not len(samples):
            return samples
        scaled: NDArray[np.float32] = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(1e-7))
        return scaled

    all_features = features
