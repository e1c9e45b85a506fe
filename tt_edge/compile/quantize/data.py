"""Calibration data: the user's text and images, or a small set that comes with tt-edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tt_edge.compile.quantize.builtin_text import PASSAGES
from tt_edge.compile.quantize.reading import IMAGE_SUFFIXES, files_of, is_of_rows, paragraphs_of, rows_of
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.sources import ImageSource, Video, VideoFile, images_of_row

#: Model inputs by name: ``input_ids`` int64 ``[B, S]`` and, with images, the image inputs of the model's family.
Batch: TypeAlias = Mapping[str, Tensor]

#: What is asked about each file of a folder of images.
_QUESTION = "Describe the image."


@dataclass(frozen=True)
class CalibrationData:
    """What to calibrate on, how many samples, and on which device.

    ``source`` is a text file (a sample a paragraph), a JSONL file (``text``, ``prompt`` and ``answer``, or ``messages``
    of a chat; for a vision-language model with ``images``, as for ``tt-edge eval``), a folder of images, a folder that
    ``datasets`` saved, or ``None`` for the built-in passages (for a vision-language model with and without a synthetic
    image each).
    ``cache`` is a folder to keep results in.
    """

    source: Path | None = None
    samples: int = 64
    max_length: int = 256
    batch: int = 8
    device: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "max_length", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"calibration {name} is {getattr(self, name)}; give at least 1")
        if self.source is not None and not self.source.exists():
            raise InvalidInputError(
                f"calibration data {self.source} does not exist; give a .txt or .jsonl file, or a folder of images "
                "or of `datasets`"
            )


@dataclass(frozen=True)
class Sample:
    """A text, and the images that its placeholders stand for, in order.

    The text of a chat already contains its special tokens. ``where`` is the file and line it was read from, for errors.
    """

    text: str
    images: tuple[ImageSource, ...] = ()
    where: str = ""
    is_chat: bool = False


class Pictures(Protocol):
    """Builds the inputs of a vision-language model; implemented in ``quantize/pictures.py``."""

    def tokenize(self, sample: Sample) -> list[int]:
        """Token ids of a sample with images. Raises ``InvalidInputError`` for images that cannot be read."""

    def batch(self, ids: Sequence[list[int]], samples: Sequence[Sample]) -> Batch:
        """The model inputs for samples with equal numbers of tokens."""

    def drawn(self, number: int) -> np.ndarray:
        """The synthetic image number ``number``, uint8 ``[H, W, 3]``."""

    def illustrated(self, text: str, image: ImageSource) -> Sample:
        """A sample with ``image``, followed by ``text``."""


class Batches(Sequence[Batch]):
    """Batches that are built on each access, so that preprocessed images do not fill the memory."""

    def __init__(self, rows: Sequence[Sequence[tuple[list[int], Sample]]], pictures: Pictures | None) -> None:
        self._rows, self._pictures = rows, pictures

    @property
    def have_pictures(self) -> bool:
        return any(sample.images for row in self._rows for _, sample in row)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Batches(self._rows[index], self._pictures)
        ids, samples = zip(*self._rows[index], strict=True)
        if any(sample.images for sample in samples):
            assert self._pictures is not None
            return self._pictures.batch(ids, samples)
        return {"input_ids": torch.tensor(ids, dtype=torch.int64)}


def load_batches(data: CalibrationData, tokenizer: Any, pictures: Pictures | None = None) -> Batches:
    """Load ``data`` and group it into batches. Deterministic.

    Samples of equal length share a batch, so that calibration never sees padding. Samples with images need ``pictures``
    and are never truncated. Raises ``InvalidInputError`` for data without text, for images if the model takes none, and for videos.
    """
    found: list[tuple[list[int], Sample]] = []
    for sample in _samples(data.source, tokenizer, pictures):
        if len(found) == data.samples:
            break
        _check_images(sample, pictures)
        if not sample.images:
            cut = {"truncation": True, "max_length": data.max_length}
            tokens = tokenizer(sample.text, add_special_tokens=not sample.is_chat, **cut)["input_ids"]
        else:
            assert pictures is not None
            tokens = pictures.tokenize(sample)
        if tokens:
            found.append((tokens, sample))
    if not found:
        raise InvalidInputError(
            f"calibration data {data.source} has no text; give a file with a sample a paragraph or line"
        )

    def kind(row: tuple[list[int], Sample]) -> tuple[int, bool]:
        return len(row[0]), bool(row[1].images)

    rows = []
    for _, group in groupby(sorted(found, key=kind), key=kind):  # stable: the data's order among equals
        alike = list(group)
        rows += [alike[first : first + data.batch] for first in range(0, len(alike), data.batch)]
    return Batches(rows, pictures)


def _check_images(sample: Sample, pictures: Pictures | None) -> None:
    """Refuse images for a model that takes none, and videos, before any of them is read."""
    for image in sample.images:
        if isinstance(image, Video | VideoFile):
            has = f"{sample.where} has a video {image.name}"
            if pictures is None:
                raise InvalidInputError(f"{has}, which the model does not take; remove it")
            raise InvalidInputError(f"{has}, and a model is calibrated on images only; give its frames as images")
    if sample.images and pictures is None:
        raise InvalidInputError(f"{sample.where} has images, which the model does not take; remove them")


def _samples(source: Path | None, tokenizer: Any, pictures: Pictures | None) -> Iterator[Sample]:
    if source is None:
        for number, text in enumerate(PASSAGES):
            if pictures is not None:
                yield pictures.illustrated(text, pictures.drawn(number))
            yield Sample(text, where="a built-in passage")
    elif source.is_dir() and (images := files_of(source, IMAGE_SUFFIXES)):
        if pictures is None:
            raise InvalidInputError(
                f"calibration data {source} is a folder of images, which the model does not take; give text"
            )
        yield from (pictures.illustrated(_QUESTION, str(image)) for image in images)
    elif is_of_rows(source):
        folder = source if source.is_dir() else source.parent
        yield from (_sample(row, tokenizer, where, folder) for where, row in rows_of(source))
    else:
        yield from map(Sample, paragraphs_of(source))


def _sample(row: dict[str, Any], tokenizer: Any, where: str, folder: Path) -> Sample:
    """Parse one row in any of the supported forms. Images are the files in ``images``, relative to ``folder``, or the
    images of its messages."""
    try:
        images = images_of_row(row, folder)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    if isinstance(row.get("messages"), list):
        messages = list(row["messages"])
        if (answer := row.get("answer")) is not None:
            if not isinstance(answer, str):
                raise InvalidInputError(f"{where}: answer is {answer!r:.80}; give a string")
            messages.append({"role": "assistant", "content": answer})
        try:
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # Jinja's errors, and transformers' for a tokenizer without a template
            reason = str(error).splitlines()[0]
            raise InvalidInputError(
                f"{where}: its messages do not fit the chat template ({reason}); give text"
            ) from error
        return Sample(text, images, where, is_chat=True)
    for keys in (("text",), ("prompt", "answer"), ("prompt", "completion"), ("article",), ("content",)):
        if all(isinstance(row.get(key), str) for key in keys):
            return Sample("\n".join(row[key] for key in keys), images, where)
    raise InvalidInputError(f"{where} has none of text, prompt and answer, or messages (it has {', '.join(row)})")
