"""Speech for encoder-decoders: reading files, and log-mel features. Torch-free."""

from tt_edge.runtime.audio.load import Audio, load_audio
from tt_edge.runtime.audio.log_mel import LogMel

__all__ = ["Audio", "LogMel", "load_audio"]
