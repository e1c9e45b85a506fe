"""MMMU (Yue et al., arXiv:2311.16502): VLMEvalKit's TSV with images in base64, asked and scored by VLMEvalKit's rules.

The prompt is VLMEvalKit's for multiple choice, with the images where the question has ``<image 1>``, or before it. The letter is
found in the answer without a judge (its ``exact_matching``). As there, an open question becomes one of two options when it is
scored: its answer, or another. Rows without an image are left out, as there.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
import string
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tt_edge.contract import IOContract
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.evaluation.formats.task import Task
from tt_edge.evaluation.requests import Answer, Ask, Generate, Item
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.sources import SizedImage

MAX_NEW_TOKENS = 512
#: Columns that every row needs. Options are columns A, B, C …; ``hint``, ``category``, ``l2-category`` and ``split`` may be there.
COLUMNS = ("index", "image", "question", "answer")
#: A shorter ``image`` is the index of the row that has the image.
_SHORTEST_IMAGE = 64
_IN_LIST = re.compile(r"""['"]([A-Za-z0-9+/=\s]+)['"]""")
_PLACE = re.compile(r"<image (\d)>")
#: Answers that count as none, and what is replaced by blanks before letters are looked for.
_REFUSALS = (
    "Failed to obtain answer via API",
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SENTENCE = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


@dataclass(frozen=True)
class Preset:
    """Sizes of an evaluation: image tokens of a prompt, tokens of a prompt, and of a sequence."""

    min_image_tokens: int
    max_image_tokens: int
    max_input_len: int
    max_seq_len: int

    def check(self, contract: IOContract) -> None:
        """Raise ``CapacityError`` for a bundle that takes less."""
        for name in ("max_image_tokens", "max_input_len", "max_seq_len"):
            if (value := getattr(contract, name)) < (needed := getattr(self, name)):
                raise CapacityError(
                    f"{name} of the bundle is {value}, and the preset needs {needed}; compile with "
                    f"--{name.replace('_', '-')} {needed}"
                )


#: ``--preset``.
PRESETS = {"driveos": Preset(1280, 6620, 7168, 8192)}


class MMMU(Task):
    """``path`` is the TSV. With a ``preset``, images get its number of tokens, and answers what its sequence leaves."""

    name = "mmmu"
    marks = ("accuracy",)

    def __init__(
        self,
        path: Path,
        count: int | None = None,
        preset: str | None = None,
        max_new_tokens: int | None = None,
        split: str | None = None,
    ) -> None:
        if preset is not None and preset not in PRESETS:
            raise InvalidInputError(f"preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        self._preset = None if preset is None else PRESETS[preset]
        default = MAX_NEW_TOKENS if self._preset is None else self._preset.max_seq_len - self._preset.max_input_len
        most = max_new_tokens or default
        super().__init__([path], {"preset": preset, "max_new_tokens": most, "split": split, "count": count})
        self._items = [replace(item, generate=Generate(most)) for item in _items(path, count, split)]

    def items(self, model: Any) -> list[Item]:
        """Raises ``CapacityError`` for a bundle smaller than the preset, and ``InvalidInputError`` for one without vision."""
        if model.llm.vision is None:
            raise InvalidInputError(
                "MMMU asks about images, and the bundle takes none; compile a vision-language model"
            )
        if self._preset is None:
            return self._items
        self._preset.check(model.llm.session.contract)
        processor = model.llm.vision.processor.image_processor
        side = getattr(processor, "patch_size", 0) * getattr(processor, "merge_size", 0)
        if not side:
            raise InvalidInputError(
                "the preset sets image sizes, which this model's processor does not take; omit --preset"
            )
        return [replace(item, ask=self._sized(item.ask, side)) for item in self._items]

    def _sized(self, ask: Ask, side: int) -> Ask:
        """The images of a question share the image tokens; each token is ``side`` pixels wide and high."""
        assert self._preset is not None
        most = self._preset.max_image_tokens // len(ask.images)
        least = min(self._preset.min_image_tokens, most)
        options = ImageOptions(min_pixels=least * side**2, max_pixels=most * side**2)
        return replace(ask, images=tuple(SizedImage(image, options) for image in ask.images))  # type: ignore[arg-type]

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        right = item.answer if item.answer in list(string.ascii_uppercase) else "A"
        return {"accuracy": letter_of(answer.text or "", dict(item.options)) == right}


def letter_of(answer: str, options: Mapping[str, str]) -> str:
    """The option that an answer chooses, by VLMEvalKit's rules without a judge; ``Z`` for none."""
    if _REFUSALS[0] not in answer:
        if any(refusal in answer for refusal in _REFUSALS):
            return "Z"
        words = answer.translate(_PUNCTUATION).split()
        letters = [letter for letter in options if letter in words]
        if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
            return letters[0]
        if not letters and "Z" in words:
            return "Z"
        sentence = _SENTENCE.search(answer)
        if sentence and sentence[1].upper() in options:
            return sentence[1].upper()
    return _option_by_text(answer.lower(), options)


def _option_by_text(answer: str, options: Mapping[str, str]) -> str:
    """The only option whose text is in ``answer``, which must not be much longer than all options."""
    if len(answer) > 2 * sum(map(len, options.values())):
        return "Z"
    found = [letter for letter, text in options.items() if text.lower() in answer]
    return found[0] if len(found) == 1 else "Z"


def _items(path: Path, count: int | None, split: str | None) -> Iterator[Item]:
    rows = list(_rows(path))
    by_index = {row["index"]: row["image"] for _, row in rows}
    given = 0
    for number, row in rows:
        if given == count:
            return
        if not row["image"] or (split is not None and row.get("split") != split):
            continue
        given += 1
        where = f"{path} row {number}"
        image = row["image"]
        if len(image) <= _SHORTEST_IMAGE:
            if len(by_index.get(image, "")) <= _SHORTEST_IMAGE:
                raise InvalidInputError(f"{where}: image is {image!r}, which is no index of a row with an image")
            image = by_index[image]
        yield _item(row, where, _images(image, where))
    if not given:
        wanted = "" if split is None else f" of split {split}"
        raise InvalidInputError(f"{path} has no questions{wanted} with an image; give VLMEvalKit's TSV of MMMU")


def _item(row: Mapping[str, str], where: str, images: list[bytes]) -> Item:
    options = {letter: row[letter] for letter in string.ascii_uppercase if row.get(letter)}
    hint = f"Hint: {row['hint']}\n" if row.get("hint") else ""
    lines = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    asked = f"Options:\n{lines}Please select the correct answer from the options above. \n" if options else ""
    text = f"{hint}Question: {row['question']}\n{asked}"
    parts: list[dict[str, str]] = []
    ordered: list[bytes] = []
    before, *pieces = _PLACE.split(text)
    if not pieces:
        parts, ordered = [{"type": "image"}] * len(images), images
    if before or not pieces:
        parts = [*parts, {"type": "text", "text": before}]
    for place, piece in zip(pieces[::2], pieces[1::2], strict=True):
        if not 1 <= int(place) <= len(images):
            raise InvalidInputError(
                f"{where}: the question names <image {place}>, and the row has {len(images)} images"
            )
        ordered.append(images[int(place) - 1])
        parts += [{"type": "image"}, *([{"type": "text", "text": piece}] if piece else [])]
    if not options.get("A"):  # an open question
        options = {**options, "A": row["answer"], "B": "Other Answers"}
    return Item(
        row["index"],
        where,
        Ask(messages=({"role": "user", "content": parts},), images=tuple(ordered)),
        row["answer"],
        tuple((level, row[level]) for level in ("split", "l2-category", "category") if row.get(level)),
        options=tuple(sorted(options.items())),
    )


def _images(cell: str, where: str) -> list[bytes]:
    """The files in a cell: base64, or a list of them as Python prints it."""
    found = _IN_LIST.findall(cell) if cell.startswith("[") and cell.endswith("]") else [cell]
    try:
        images = [base64.b64decode(text, validate=True) for text in found]
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"{where}: image is {cell[:40]!r}…, which is no base64 ({error})") from error
    if not images:
        raise InvalidInputError(f"{where}: image is {cell[:40]!r}…, a list without images")
    return images


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number, the header being row 1, and its cells by column."""
    csv.field_size_limit(min(sys.maxsize, 1 << 31))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = next(reader, [])
            for column in COLUMNS:
                if column not in header:
                    raise InvalidInputError(
                        f"{path} row 1 has no column {column}, but {', '.join(header) or 'nothing':.200}; "
                        "give VLMEvalKit's TSV of MMMU"
                    )
            seen: dict[str, int] = {}
            for number, cells in enumerate(reader, 2):
                if len(cells) != len(header):
                    raise InvalidInputError(
                        f"{path} row {number} has {len(cells)} columns, and the header {len(header)}"
                    )
                row = dict(zip(header, cells, strict=True))
                for column in ("index", "question", "answer"):
                    if not row[column]:
                        raise InvalidInputError(f"{path} row {number} has no {column}; every row needs one")
                if row["index"] in seen:
                    raise InvalidInputError(
                        f"{path} row {number} has the index {row['index']} of row {seen[row['index']]}; give each its own"
                    )
                seen[row["index"]] = number
                yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}); give VLMEvalKit's TSV of MMMU") from error
