"""Converting speech to another sampling rate. NumPy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.audio.load import Audio

#: Zero crossings of the sinc on each side, and the part of the lower rate's band that is kept, as torchaudio's ``resample`` has
#: them by default.
_CROSSINGS, _ROLLOFF = 6, 0.99
#: Numbers of the filters; rates with no common factor would make gigabytes of them.
_MOST_NUMBERS = 1 << 21
_ROWS = 4096


def resample(audio: Audio, rate: int) -> NDArray[np.float32]:
    """The samples of ``audio`` at ``rate`` per second: windowed sinc interpolation, as torchaudio's and so transformers' pipelines.

    Raises ``InvalidInputError`` for two rates that have next to no common factor.
    """
    if audio.rate == rate:
        return audio.samples
    common = math.gcd(audio.rate, rate)
    old, new = audio.rate // common, rate // common
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_CROSSINGS * old / base)
    if new * (2 * width + old) > _MOST_NUMBERS:
        raise InvalidInputError(
            f"the audio has {audio.rate} samples per second, which is not converted here to the model's {rate}; convert it, for "
            f"example with ffmpeg -i IN -ac 1 -ar {rate} OUT.wav"
        )
    times = base * (np.arange(-width, width + old) / old - np.arange(new)[:, None] / new)  # [new, taps]
    times = np.clip(times, -_CROSSINGS, _CROSSINGS)
    window = np.cos(times * np.pi / _CROSSINGS / 2) ** 2
    filters = (np.sinc(times) * window * base / old).T
    padded = np.pad(audio.samples, (width, width + old))
    rows = np.lib.stride_tricks.sliding_window_view(padded, len(filters))[::old]
    found = np.empty((len(rows), new), np.float32)
    for first in range(0, len(rows), _ROWS):
        found[first : first + _ROWS] = rows[first : first + _ROWS] @ filters
    return found.reshape(-1)[: math.ceil(new * len(audio.samples) / old)]
