"""Reading sound files."""

from __future__ import annotations

import io
import struct
import wave
from contextlib import suppress

import numpy as np
import pytest

from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.audio import Audio, load_audio

NUMBERS = np.array([[0.0, 0.5], [-1.0, 0.0], [0.25, 0.25]])  # two channels


def wav(width: int, numbers: np.ndarray = NUMBERS, rate: int = 16_000) -> bytes:
    scaled = np.round(numbers * (2 ** (8 * width - 1))).astype(np.int64)
    data = {
        1: lambda: (scaled + 128).astype(np.uint8).tobytes(),
        3: lambda: scaled.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
    }.get(width, lambda: scaled.astype(f"<i{width}").tobytes())()
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(numbers.shape[1])
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(data)
    return file.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_channels_are_averaged(width, tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(wav(width))
    audio = load_audio(file)
    assert (audio.rate, audio.samples.dtype) == (16_000, np.float32)
    np.testing.assert_allclose(audio.samples, [0.25, -0.5, 0.25], atol=1e-6)


def test_a_file_that_was_cut():
    assert len(load_audio(wav(2)[:-3]).samples) == 2


@pytest.mark.parametrize("content", [b"", b"RIFF", b"\x00" * 100, wav(2, NUMBERS[:0])])
def test_no_sound(content):
    with pytest.raises((InvalidInputError, MissingDependencyError)) as caught:
        load_audio(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_sizes_of_a_pipe(size):
    """As ffmpeg and others write them that cannot go back to the header."""
    content = bytearray(wav(2))
    struct.pack_into("<I", content, 4, min(size + 36, 0xFFFFFFFF))
    struct.pack_into("<I", content, 40, size)
    assert len(load_audio(bytes(content), max_seconds=1800).samples) == 3


def test_no_sampling_rate():
    content = bytearray(wav(2))
    struct.pack_into("<I", content, 24, 0)
    with pytest.raises(InvalidInputError, match="has 0 samples per second"):
        load_audio(bytes(content), max_seconds=1800)


@pytest.mark.parametrize(("number", "message"), [(3e38, "holds a sample of 3e.38"), (np.nan, "are not finite")])
def test_floats_that_are_no_sound(number, message):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, np.full((100, 2), number, np.float32), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(InvalidInputError, match=message):
        load_audio(file.getvalue())


def test_no_file(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        load_audio(tmp_path / "none.wav")


@pytest.mark.parametrize("place", range(4, 44))
def test_a_damaged_header_is_read_or_refused(place):
    """Every byte of the header, at both ends of its range."""
    good = wav(2)
    for value in (0x00, 0xFF):
        with suppress(InvalidInputError, MissingDependencyError):
            load_audio(good[:place] + bytes([value]) + good[place + 1 :])


def test_a_chunk_longer_than_the_file():
    good = wav(2)
    with pytest.raises((InvalidInputError, MissingDependencyError), match="is no "):
        load_audio(good[:16] + b"\xff" * 4 + good[20:])


def test_a_name_that_no_file_can_have():
    with pytest.raises(InvalidInputError, match="cannot be read: embedded null byte"):
        load_audio("a\0.wav")


@pytest.mark.parametrize("width", [2, 3])
def test_the_extensible_format_of_integers(width):
    """As ffmpeg writes files of 24 bits."""
    plain = wav(width)
    subformat = bytes.fromhex("0100000000001000800000aa00389b71")
    more = struct.pack("<HHI", 22, 8 * width, 3) + subformat
    body = b"WAVEfmt " + struct.pack("<I", 40) + b"\xfe\xff" + plain[22:36] + more + plain[36:]
    audio = load_audio(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_array_equal(audio.samples, load_audio(plain).samples)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(9, np.int16), 16_000, r"samples of speech are int16 \(9,\); give float32 of one dimension"),
        (np.zeros((9, 2), np.float32), 16_000, r"samples of speech are float32 \(9, 2\)"),
        ([0.0], 16_000, "samples of speech are list"),
        (np.zeros(9, np.float32), 0, "sampling rate of speech is 0; give an integer"),
        (np.zeros(9, np.float32), 16e3, r"sampling rate of speech is 16000\.0"),
    ],
)
def test_sound_of_a_program(samples, rate, message):
    with pytest.raises(InvalidInputError, match=message):
        Audio(samples, rate)
