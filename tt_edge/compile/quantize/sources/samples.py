"""Samples of sources: texts, recordings or pages, with answers where the data has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.compile.quantize.builtin_text import PASSAGES
from tt_edge.compile.quantize.reading import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    files_of,
    is_of_rows,
    paragraphs_of,
    rows_of,
)
from tt_edge.compile.vision.processing.drawing import drawn
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.multimodal.images import ImageFile
from tt_edge.runtime.multimodal.sources import Video, VideoFile, images_of_row
from tt_edge.runtime.seq2seq.prompts import the_page

#: What is asked about an image without a text, of a model that reads both.
_QUESTION = "What does the image describe?"
#: Keys of a row with a text to read, and with the answer to it.
_TEXTS, _ANSWERS = ("text", "prompt", "article", "content"), ("answer", "completion", "highlights", "summary")
#: Height and width of a generated page, and seconds and samples per second of a generated recording.
_PAGE, _SECONDS, _RATE = (560, 420), 1, 16_000
#: Recordings and pages of the built-in set.
_GENERATED = 16


@dataclass(frozen=True)
class Takes:
    """What an encoder takes: texts, recordings, pages, or an image and a text. ``name`` is the model's."""

    name: str
    text: bool = False
    speech: bool = False
    page: bool = False

    def __str__(self) -> str:
        return "images with a text" if self.text and self.page else "texts" if self.text else self.other

    @property
    def other(self) -> str:
        """Recordings or pages."""
        return "speech" if self.speech else "pages"


@dataclass(frozen=True, eq=False)
class SourceSample:
    """One source. ``audio`` is a file or samples; ``answer`` is ``None`` where the model's own is to be found.

    ``where`` is the file and line it was read from, for errors.
    """

    where: str
    text: str = ""
    image: ImageFile | None = None
    audio: str | Audio | None = None
    answer: str | None = None
    language: str | None = None
    task: str | None = None


def samples_of(source: Path | None, takes: Takes) -> Iterator[SourceSample]:
    """The samples of calibration data; ``None``: the built-in texts, or generated recordings or pages.

    Raises ``InvalidInputError`` for data of which the model takes nothing, with file and line.
    """
    if source is None:
        yield from _built_in(takes)
    elif source.is_dir() and (images := files_of(source, IMAGE_SUFFIXES)):
        _check(takes.page, source, "is a folder of images", takes)
        question = _QUESTION if takes.text else ""
        yield from (SourceSample(str(image), question, str(image)) for image in images)
    elif source.is_dir() and (recordings := files_of(source, AUDIO_SUFFIXES)):
        _check(takes.speech, source, "is a folder of recordings", takes)
        yield from (SourceSample(str(file), audio=str(file)) for file in recordings)
    elif is_of_rows(source):
        folder = source if source.is_dir() else source.parent
        yield from (_sample(row, where, folder, takes) for where, row in rows_of(source))
    else:
        _check(takes.text and not takes.page, source, "is a text", takes)
        yield from (SourceSample(str(source), paragraph) for paragraph in paragraphs_of(source))


def _check(fits: bool, where: object, is_what: str, takes: Takes) -> None:
    if not fits:
        raise InvalidInputError(f"{where} {is_what}, and {takes.name} is calibrated on {takes}; give those")


def _sample(row: Mapping[str, Any], where: str, folder: Path, takes: Takes) -> SourceSample:
    def string(*names: str) -> str | None:
        name = next((name for name in names if row.get(name) is not None), None)
        if name is not None and not isinstance(row[name], str):
            raise InvalidInputError(f"{name} is {row[name]!r:.80}; give a string")
        return None if name is None else str(row[name])

    try:
        images = images_of_row(row, folder)
        text, audio = string(*_TEXTS), string("audio")
        if any(isinstance(image, Video | VideoFile) for image in images):
            raise InvalidInputError("it has a video, which encoder-decoders do not take; remove it")
        for has, fits, what in ((bool(images), takes.page, "images"), (audio is not None, takes.speech, "audio")):
            if has and not fits:
                raise InvalidInputError(f"it has {what}, which {takes.name} does not take; remove the line")
        if takes.speech and audio is None:
            raise InvalidInputError(f"it has no audio, the file of a recording (it has {', '.join(row)})")
        if takes.text and text is None:
            raise InvalidInputError(f"it has none of {', '.join(_TEXTS)} (it has {', '.join(row)})")
        image = the_page(images) if takes.page else None
        answer, language, task = string(*_ANSWERS), string("language"), string("task")
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    return SourceSample(
        where,
        text or "",
        image,
        None if audio is None else str(folder / audio),
        answer,
        language,
        task,
    )


def _built_in(takes: Takes) -> Iterator[SourceSample]:
    for number in range(len(PASSAGES) if takes.text and not takes.page else _GENERATED):
        text = PASSAGES[number] if not takes.page else _QUESTION
        yield SourceSample(
            f"built-in sample {number}",
            text if takes.text else "",
            drawn(*_PAGE, number) if takes.page else None,
            _sound(number) if takes.speech else None,
        )


def _sound(number: int) -> Audio:
    """Tones that rise and fall within noise, in syllables."""
    generator, seconds = np.random.default_rng(number), np.arange(_SECONDS * _RATE) / _RATE
    pitch = generator.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * generator.uniform(0.3, 1.0) * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / _RATE
    tone = sum(np.sin(harmonic * phase) * generator.uniform(0.2, 1) / harmonic for harmonic in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(2, 5) * seconds) + 0.3, 0, 1)
    samples = 0.1 * tone * syllables + generator.normal(0, 0.005, len(seconds))
    return Audio(np.clip(samples, -1, 1).astype(np.float32), _RATE)
