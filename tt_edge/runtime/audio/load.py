"""Reading speech from files. WAV needs nothing; other formats need soundfile (the extra ``audio``). Torch-free."""

from __future__ import annotations

import io
import math
import os
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError, MissingDependencyError

#: Bytes. Half a minute of speech in 16 kHz is 1 MB; this is an hour of it, and no more than that is read.
MAX_BYTES = 128 << 20

#: The largest sample: files of floats may hold integers of up to 32 bits. Squares and sums of larger ones would overflow.
_LARGEST = 2.0**32

#: The number of the extensible format, and its subformat of integers (KSDATAFORMAT_SUBTYPE_PCM).
_EXTENSIBLE = b"\xfe\xff"
_INTEGERS = bytes.fromhex("0100000000001000800000aa00389b71")

AudioFile = str | os.PathLike[str] | bytes


@dataclass(frozen=True, eq=False)
class Audio:
    """One channel of sound, float32 ``[samples]`` from -1 to 1; ``rate`` is in samples per second.

    Raises ``InvalidInputError`` for samples of another type or shape, and a rate that is no positive integer.
    """

    samples: NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        given = self.samples
        if not isinstance(given, np.ndarray) or given.ndim != 1 or given.dtype != np.float32:
            what = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            raise InvalidInputError(f"the samples of speech are {what}; give float32 of one dimension, from -1 to 1")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int) or self.rate < 1:
            raise InvalidInputError(f"the sampling rate of speech is {self.rate!r}; give an integer, such as 16000")

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def load_audio(file: AudioFile, max_seconds: float = math.inf) -> Audio:
    """Read a file, or its content. Channels are averaged.

    WAV files of 8, 16, 24 or 32 bits are read by the standard library. Raises ``InvalidInputError`` for what is no sound or is
    longer than ``max_seconds``, before it is decoded, and ``MissingDependencyError`` for another format where soundfile is not
    installed.
    """
    content, name = _content(file)
    try:
        with wave.open(io.BytesIO(_plain(content))) as reader:
            # What is written to a pipe says the largest size that there is.
            frames = min(reader.getnframes(), len(content) // (reader.getsampwidth() * reader.getnchannels()))
            _check_length(frames, reader.getframerate(), max_seconds, name)
            return _pcm(reader, frames, name)
    except (wave.Error, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that is longer than the file
        return _by_soundfile(content, name, error, max_seconds)


def _check_length(frames: int, rate: int, max_seconds: float, name: str) -> None:
    if rate < 1:
        raise InvalidInputError(f"{name} has {rate} samples per second; give a recording")
    if frames > max_seconds * rate:
        raise InvalidInputError(f"{name} is longer than {max_seconds:g} s; cut it into shorter pieces")


def _content(file: AudioFile) -> tuple[bytes, str]:
    if isinstance(file, bytes):
        content, name = file, "the audio"
    else:
        name = os.fspath(file)
        try:
            with Path(name).open("rb") as source:
                content = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidInputError(f"audio {name} cannot be read: {error.strerror}") from error
        except ValueError as error:  # no path can have this name
            raise InvalidInputError(f"audio {name!r} cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise InvalidInputError(f"{name} has more than {MAX_BYTES >> 20} MiB; give a shorter recording")
    return content, name


def _plain(content: bytes) -> bytes:
    """A WAV file of integers in the extensible format, as most of 24 bits are, as one in the plain format.

    Python before 3.12 does not read the extensible one.
    """
    if content[12:16] == b"fmt " and content[20:22] == _EXTENSIBLE and content[44:60] == _INTEGERS:
        return content[:20] + b"\x01\x00" + content[22:]
    return content


def _pcm(reader: wave.Wave_read, frames: int, name: str) -> Audio:
    width, channels, rate = reader.getsampwidth(), reader.getnchannels(), reader.getframerate()
    data = reader.readframes(frames)
    data = data[: len(data) // (width * channels) * width * channels]  # of a file that was cut
    if width == 1:  # unsigned
        numbers = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        numbers = (wide.view("<i4").ravel() / 2**31).astype(np.float32)
    elif width in (2, 4):
        numbers = (np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)
    else:
        raise InvalidInputError(f"{name} has samples of {width} bytes; give a WAV file of 8, 16, 24 or 32 bits")
    return _mono(numbers.reshape(-1, channels), rate, name)


def _by_soundfile(content: bytes, name: str, error: Exception, max_seconds: float) -> Audio:
    try:
        import soundfile
    except ImportError:
        raise MissingDependencyError(
            f"{name} is no WAV file of integers ({error}), and other formats are read with the package soundfile, which is not "
            "installed; pip install 'tt-edge[audio]', or give a WAV file"
        ) from error
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as reader:
            _check_length(reader.frames, reader.samplerate, max_seconds, name)
            # A header may say less than there is.
            most = -1 if math.isinf(max_seconds) else int(max_seconds * reader.samplerate)
            samples, rate = reader.read(most, dtype="float32", always_2d=True), reader.samplerate
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as problem:
        reason = getattr(problem, "error_string", problem)  # the whole has the address of an object
        raise InvalidInputError(f"{name} is no sound file that soundfile reads ({reason})") from problem
    return _mono(samples, int(rate), name)


def _mono(samples: np.ndarray, rate: int, name: str) -> Audio:
    if not len(samples):
        raise InvalidInputError(f"{name} holds no sound; give a recording")
    if not np.isfinite(samples).all():
        raise InvalidInputError(f"{name} holds samples that are not finite; record it again")
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > _LARGEST:
        raise InvalidInputError(f"{name} holds a sample of {peak:g}; give samples from -1 to 1")
    return Audio(np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32)), rate)
