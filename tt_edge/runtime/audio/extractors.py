"""What prepares speech for an encoder, by the checkpoint's feature extractor. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.audio.filter_bank import FilterBank
from tt_edge.runtime.audio.load import Audio
from tt_edge.runtime.audio.log_mel import LogMel
from tt_edge.runtime.audio.waveform import Waveform


class SpeechFeatures(Protocol):
    """Makes features of speech."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one source's features; ``None`` where speech is as long as it is."""
        ...

    def features(self, audio: Audio) -> NDArray[np.float32]:
        """Features of one source. Raises ``InvalidInputError`` for speech that is too long, and as ``resample`` does."""
        ...

    def all_features(self, audio: Audio) -> NDArray[np.float32]:
        """Features of speech of any length, which may be more than one source. Raises as ``resample`` does."""
        ...


#: By the name of transformers' class. Older checkpoints of Whisper do not name theirs.
_KNOWN: dict[str, type[FilterBank | LogMel | Waveform]] = {
    "WhisperFeatureExtractor": LogMel,
    "Speech2TextFeatureExtractor": FilterBank,
    "SeamlessM4TFeatureExtractor": FilterBank,
    "Wav2Vec2FeatureExtractor": Waveform,
    "SpeechT5FeatureExtractor": Waveform,
}


def extractor_of(settings: Mapping[str, Any], *, any_length: bool = False) -> SpeechFeatures:
    """From a checkpoint's ``preprocessor_config.json``; ``any_length``: of an encoder of speech of any length, so not
    Whisper's.

    Raises ``BundleError`` for settings that are wrong, and ``UnsupportedModelError`` for an extractor that is not there, or
    settings of it that are not followed.
    """
    name = settings.get("feature_extractor_type")
    if name is None and any_length:
        raise UnsupportedModelError(
            "preprocessor_config.json has no feature_extractor_type, so it is not known how speech is prepared; add it and "
            "compile the model again"
        )
    name = str(name or "WhisperFeatureExtractor")
    if name not in _KNOWN:
        raise UnsupportedModelError(
            f"speech for {name} is not prepared here (there are {', '.join(sorted(_KNOWN))}); give the extractor's features to "
            "SourcePipeline.source in a program"
        )
    return _KNOWN[name].from_settings(settings)
