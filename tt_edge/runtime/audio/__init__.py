"""Speech for encoder-decoders: reading files; ``extractors`` makes features of them. Torch-free."""

from tt_edge.runtime.audio.load import Audio, load_audio

__all__ = ["Audio", "load_audio"]
