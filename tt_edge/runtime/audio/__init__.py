"""Speech for encoder-decoders: reading files, and features. Torch-free."""

from tt_edge.runtime.audio.extractors import SpeechFeatures, extractor_of
from tt_edge.runtime.audio.load import Audio, load_audio
from tt_edge.runtime.audio.log_mel import LogMel

__all__ = ["Audio", "LogMel", "SpeechFeatures", "extractor_of", "load_audio"]
