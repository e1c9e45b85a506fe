"""Mel filter banks of speech as Kaldi computes them, as Speech2Text's and SeamlessM4T's extractors prepare them. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.runtime.audio.load import Audio
from tt_edge.runtime.audio.resample import resample
from tt_edge.runtime.audio.settings import flag, number, refuse_others

#: Samples of a window, from one window to the next, and of the Fourier transform.
_WINDOW, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS, _LOWEST_HZ = 0.97, 20.0
#: The lowest energy of a filter (the epsilon of float32), and what SeamlessM4T adds to a variance.
_FLOOR, _EPSILON = 1.192092955078125e-07, 1e-7


@dataclass(frozen=True)
class FilterBank:
    """Settings of a checkpoint's ``preprocessor_config.json``: the logarithm of ``mels`` filters for every 160 samples.

    Over the whole of the speech, each filter has zero mean if ``centre``, and unit variance if ``scale``; with ``unbiased``, the
    variance is that of a sample, and never zero. ``stack`` frames become one.
    """

    mels: int = 80
    rate: int = 16_000
    centre: bool = True
    scale: bool = True
    unbiased: bool = False
    stack: int = 1

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> FilterBank:
        """Raises ``BundleError`` for settings that are wrong, ``UnsupportedModelError`` for those that are not followed."""
        mels, rate = number(settings, "num_mel_bins", 80), number(settings, "sampling_rate", 16_000)
        if settings.get("feature_extractor_type") == "SeamlessM4TFeatureExtractor":
            refuse_others(
                settings, {"padding_side": "right", "mel_filters": None}
            )  # what is left of a frame is at the end
            return cls(mels, rate, unbiased=True, stack=number(settings, "stride", 2))
        refuse_others(settings, {"dither": 0.0})
        normalize = flag(settings, "do_ceptral_normalize", True)
        centre, scale = (normalize and flag(settings, name, True) for name in ("normalize_means", "normalize_vars"))
        return cls(mels, rate, centre, scale)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of one source's features, with as many frames as there are."""
        return None, self.mels * self.stack

    def features(self, audio: Audio) -> NDArray[np.float32]:
        """float32 ``[frames, mels * stack]``; what is left of a frame at the end is dropped. Other sampling rates are converted.

        Raises as ``resample`` does.
        """
        samples = resample(audio, self.rate).astype(np.float64) * 2.0**15
        frames = max(0, 1 + (len(samples) - _WINDOW) // _HOP)
        log = np.empty((frames, self.mels), np.float32)
        for first in range(0, frames, 512):  # half a minute at once would be 10 MB of products
            part = samples[first * _HOP : (min(first + 512, frames) - 1) * _HOP + _WINDOW]
            windows = np.lib.stride_tricks.sliding_window_view(part, _WINDOW)[::_HOP]
            windows = windows - windows.mean(axis=1, keepdims=True)
            windows[:, 1:] -= _PREEMPHASIS * windows[:, :-1].copy()
            windows[:, 0] *= 1 - _PREEMPHASIS
            power = np.abs(np.fft.rfft(windows * self._povey, _FFT)) ** 2
            log[first : first + 512] = np.log(np.maximum(power @ self._filters, _FLOOR))
        return self._stacked(self._normalized(log))

    all_features = features

    def _normalized(self, log: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(log) < 2:  # too short for any encoder, and of no variance
            return log
        if self.unbiased:
            wide = log.astype(np.float64)
            wide -= wide.mean(axis=0)
            scaled: NDArray[np.float32] = (wide / np.sqrt(wide.var(axis=0, ddof=1) + _EPSILON)).astype(np.float32)
            return scaled
        # transformers adds up float32 numbers here, frame by frame; exact sums would be 2e-4 away.
        if self.centre:
            log = log - log.mean(axis=0)
        if self.scale:
            with np.errstate(divide="ignore", invalid="ignore"):  # silence; the numbers are checked
                log = log / log.std(axis=0)
        return log

    def _stacked(self, log: NDArray[np.float32]) -> NDArray[np.float32]:
        frames = len(log) // self.stack
        return log[: frames * self.stack].reshape(frames, self.stack * self.mels)

    @cached_property
    def _povey(self) -> NDArray[np.float64]:
        window: NDArray[np.float64] = np.hanning(_WINDOW) ** 0.85
        return window

    @cached_property
    def _filters(self) -> NDArray[np.float64]:
        """Triangles on Kaldi's mel scale, in which they are symmetric: ``[bins, mels]``."""
        edges = np.linspace(_mel_of(_LOWEST_HZ), _mel_of(self.rate // 2), self.mels + 2)
        bins = _mel_of(self.rate / _FFT * np.arange(_FFT // 2 + 1))[:, None]
        widths = np.diff(edges)
        rising, falling = (bins - edges[:-2]) / widths[:-1], (edges[2:] - bins) / widths[1:]
        filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
        return filters


def _mel_of(hz: Any) -> Any:
    return 1127.0 * np.log(1.0 + hz / 700.0)
