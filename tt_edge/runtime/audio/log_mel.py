"""Log-mel features of speech, as Whisper's feature extractor computes them. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.audio.load import Audio
from tt_edge.runtime.audio.resample import resample
from tt_edge.runtime.audio.settings import number, refuse_others

#: Slaney's mel scale: linear below 1,000 Hz, which is 15 mel, and logarithmic above, 27 mel for a factor of 6.4.
_LINEAR_HZ, _LINEAR_MEL, _STEP = 1000.0, 15.0, 27.0 / np.log(6.4)
#: The lowest power, and how many decades below the loudest are kept.
_FLOOR, _RANGE = 1e-10, 8.0


@dataclass(frozen=True)
class LogMel:
    """Settings of a checkpoint's ``preprocessor_config.json``: ``mels`` features for every ``hop`` samples, from windows of
    ``window`` samples, of speech of at most ``seconds`` at ``rate`` samples per second."""

    mels: int
    rate: int = 16_000
    hop: int = 160
    window: int = 400
    seconds: int = 30

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> LogMel:
        """Raises ``BundleError`` for settings that are missing or wrong, ``UnsupportedModelError`` for those not followed."""
        names = {
            "mels": "feature_size", "rate": "sampling_rate", "hop": "hop_length", "window": "n_fft", "seconds": "chunk_length"
        }  # fmt: skip
        defaults = {f.name: None if f.default is MISSING else f.default for f in fields(cls)}
        values = {field: number(settings, name, defaults[field]) for field, name in names.items()}
        if values["window"] % 2:  # transformers makes one frame less with it
            raise BundleError(f"preprocessor_config.json has n_fft {values['window']}, and only even ones are followed")
        # Speech is followed by silence, and not preceded.
        refuse_others(settings, {"do_normalize": False, "dither": 0.0, "padding_value": 0.0, "padding_side": "right"})
        return cls(**values)

    @property
    def frames(self) -> int:
        """Features of one source."""
        return self.seconds * self.rate // self.hop

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one source's features."""
        return self.mels, self.frames

    def features(self, audio: Audio) -> NDArray[np.float32]:
        """float32 ``[mels, frames]``; shorter speech is followed by silence.

        Raises ``InvalidInputError`` for speech that is too long, and as ``resample`` does.
        """
        if audio.seconds > self.seconds:
            raise InvalidInputError(
                f"the audio is {np.ceil(10 * audio.seconds) / 10:.1f} s long, and the model takes {self.seconds} s; ask for "
                "timestamps, or cut it into shorter pieces"
            )
        return self.all_features(audio)

    def all_features(self, audio: Audio) -> NDArray[np.float32]:
        """The same for speech of any length: float32 ``[mels, n]``, of at least ``frames``. Other sampling rates are converted.

        Raises as ``resample`` does.
        """
        given = resample(audio, self.rate)
        length = max(self.seconds * self.rate, len(given))
        samples = np.zeros(length, np.float64)
        samples[: len(given)] = given
        padded = np.pad(samples, self.window // 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][: length // self.hop]
        log = np.empty((self.mels, len(windows)))
        for first in range(0, len(windows), 512):  # half a minute at once would be 10 MB of products
            part = windows[first : first + 512] * self._hann
            power = (np.abs(np.fft.rfft(part)) ** 2).T
            log[:, first : first + 512] = np.log10(np.maximum(self._filters @ power, _FLOOR))
        log = np.maximum(log, log.max() - _RANGE)
        scaled: NDArray[np.float32] = ((log + 4.0) / 4.0).astype(np.float32)
        return scaled

    @cached_property
    def _hann(self) -> NDArray[np.float64]:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    @cached_property
    def _filters(self) -> NDArray[np.float64]:
        """Triangles of equal area on Slaney's mel scale, up to 8 kHz: ``[mels, bins]``."""
        top = _mel_of(8000.0)
        edges = _hz_of(np.linspace(0.0, top, self.mels + 2))
        bins = np.linspace(0, self.rate // 2, self.window // 2 + 1)
        widths = np.diff(edges)
        slopes = edges[:, None] - bins
        rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
        area: NDArray[np.float64] = 2.0 / (edges[2:] - edges[:-2])
        return np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]


def _mel_of(hz: float) -> float:
    linear = hz * _LINEAR_MEL / _LINEAR_HZ
    return linear if hz < _LINEAR_HZ else _LINEAR_MEL + float(np.log(hz / _LINEAR_HZ)) * _STEP


def _hz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * _LINEAR_HZ / _LINEAR_MEL
    above: NDArray[np.float64] = _LINEAR_HZ * np.exp((mel - _LINEAR_MEL) / _STEP)
    return np.where(mel < _LINEAR_MEL, linear, above)
