"""A checkpoint's own processor, run on small images: how it writes them in a prompt, and whether tt-edge prepares them equally."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import chain, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import saved_tokenizer
from tt_edge.compile.vision.families import Instruction, has_grids
from tt_edge.compile.vision.features import learned_tokens
from tt_edge.compile.vision.grids.found import patch_inputs_of
from tt_edge.compile.vision.processing.drawing import drawn
from tt_edge.compile.vision.processing.fit_prompt import Expanded, fit_placeholders
from tt_edge.compile.vision.processing.in_front import leading_image, leads, marked_places
from tt_edge.compile.vision.processing.recorded import recorded, settings_of_call
from tt_edge.compile.vision.processing.written import Written, on_canvas
from tt_edge.errors import UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processor_types import class_name
from tt_edge.runtime.multimodal.images.processors import PROCESSORS, ImageProcessor, image_processor_for, read_settings
from tt_edge.runtime.multimodal.instruction import InstructionReader
from tt_edge.runtime.multimodal.leading import LeadingImage
from tt_edge.runtime.multimodal.mrope import CONTINUED
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.text.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.contract import VisionGeometry

#: Sides of the sample images in units of a tile, and what is added in pixels; the longest side of such a unit, and without tiles.
_SHAPES = ((1, 1, 0), (2, 3, 5), (3, 2, -3), (1, 3, 1), (3, 1, 2), (2, 2, 0))
_MOST_UNIT, _UNIT = 448, 64
#: The part of such a unit where a tile is a canvas with room for large images.
_OF_CANVAS = 3
#: Text before and behind an image.
_BEFORE, _BEHIND = "Look: ", " so"
#: transformers resizes with torchvision, tt-edge with Pillow. Steps of 255 that all pixels, and that most, may be apart.
_ALL_STEPS, _MOST_STEPS, _SHARE = 2.5, 1.5, 1e-3
#: Arguments of an image processor that are no settings.
_OF_CALLS = {"data_format", "device", "disable_grouping", "input_data_format", "return_tensors"}
#: Those of a video processor, and which frames it takes.
_OF_VIDEO_CALLS = _OF_CALLS | {"do_sample_frames", "fps", "num_frames", "return_metadata", "video_metadata"}
#: The deviation of pixels that are not divided by one.
_UNSCALED = (1.0, 1.0, 1.0)

Image = NDArray[np.uint8]
#: Frames ``[N, 3, H, W]``, and what transformers is told of them.
Film = tuple[Image, dict[str, Any]]


class OwnProcessor:
    """The processor of ``name``'s checkpoint.

    ``word`` is what a prompt has for an image; empty where the processor puts one image before the text. ``behind`` is what it puts
    behind a prompt.
    """

    def __init__(self, processor: Any, name: str) -> None:
        self._processor, self._name = processor, name
        self.around = ("", "")  # of the processor's tokens, those that prompts have around an image's
        self.behind = ""  # of each prompt, known with ``word``
        self.kind = class_name({}, type(processor.image_processor).__name__)
        if self.kind not in PROCESSORS:
            raise UnsupportedModelError(
                f"{name}'s image processor {self.kind} is not one of the {len(PROCESSORS)} that tt-edge follows, which "
                "docs/how_to/vision.md lists"
            )

    @classmethod
    def open(cls, source: str) -> OwnProcessor:
        """Raises ``UnsupportedModelError`` for a class of image processor that tt-edge does not follow."""
        from tt_edge.compile.parity.images.pytorch_vlm import processor_of

        checkpoint = Checkpoint.open(source)
        return cls(processor_of(checkpoint), str(checkpoint.settings.get("model_type")))

    @cached_property
    def word(self) -> str:
        """The first of the processor's special tokens that it takes for an image; some want it between two others."""
        holders = (self._processor, self._processor.tokenizer)
        named = [getattr(holder, name, None) for name in ("image_token", "boi_token") for holder in holders]
        bare = [each for each in (*named, "<image>") if isinstance(each, str) and each]
        around = [
            f"{start}{each}{end}"
            for each in bare
            for start, end in self._pairs(("image_start_token", "image_end_token"))
        ]
        tried = dict.fromkeys((*bare, *around))
        reason = ""
        for word in tried:
            try:
                text = self.run(f"{_BEFORE}{word}{_BEHIND}", [drawn(_UNIT, _UNIT, 0)]).text
            except UnsupportedModelError as error:
                reason = reason or one_line(error.__cause__ or error)
                continue
            if text.startswith(_BEFORE) and _BEHIND in text:
                self.behind = text.rpartition(_BEHIND)[2]
                return word
            reason = reason or f"it writes {text!r:.80}"
        if leads(self._beside_an_image, self._processor.tokenizer) or self._leading() is not None:
            return ""
        raise UnsupportedModelError(
            f"{self._name}'s processor takes none of {', '.join(tried)} in the midst of a prompt for an image ({reason})"
        )

    def _leading(self) -> LeadingImage | None:
        return leading_image(self._beside_an_image, self._processor.tokenizer)

    def marked(self) -> tuple[int, ...]:
        """See ``marked_places``; none where an image stands in the midst of a prompt."""
        return () if self.word else marked_places(self._beside_an_image)

    def _beside_an_image(self, text: str) -> Written:
        return self.run(text, [drawn(_UNIT, _UNIT, 0)])

    def set_apart(self) -> bool:
        """From here on prompts have the processor's tokens around an image's, too; false if it has none, or they have them.

        Qwen2.5-Omni finds images in a prompt by them.
        """
        start, end = next(iter(self.around_visuals()), ("", ""))
        if not start or self.word.startswith(start):
            return False
        self.word, self.around = f"{start}{self.word}{end}", (start, end)
        return True

    def around_visuals(self) -> list[tuple[str, str]]:
        """The processor's tokens for the start and the end of an image or a video."""
        return self._pairs(("vision_bos_token", "vision_eos_token"), ("vision_start_token", "vision_end_token"))

    def _pairs(self, *names: tuple[str, str]) -> list[tuple[str, str]]:
        """Of two special tokens by each two of ``names``, those that the processor or its tokenizer has."""
        holders = (self._processor, self._processor.tokenizer)
        found = [[getattr(holder, name, None) for name in pair] for pair in names for holder in holders]
        return [(start, end) for start, end in found if isinstance(start, str) and isinstance(end, str)]

    def tile_sizes(self) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Height and width of the tiles that it makes, or of a square with room for each where they are of several sizes; and
        of those for a second tower, if it makes any."""
        text = f"{_BEFORE}{self.word}{_BEHIND}"
        made = self.run(text, [drawn(_UNIT, _UNIT, 0)])
        size, sizes = self._size(made.pixels), made.settings.get("size")
        longest = sizes.get("longest_edge") if isinstance(sizes, dict) else None
        if isinstance(longest, int) and self._size(self.run(text, [drawn(_UNIT, 4 * _UNIT, 0)]).pixels) != size:
            size = longest, longest
        return size, None if made.high_res is None else self._size(made.high_res)

    def _size(self, pixels: torch.Tensor) -> tuple[int, int]:
        if pixels.ndim < 3:
            raise UnsupportedModelError(
                f"{self._name}'s processor makes pixels of shape {list(pixels.shape)}, which are no tiles"
            )
        return int(pixels.shape[-2]), int(pixels.shape[-1])

    @property
    def video_processor(self) -> Any:
        """That for videos; ``None`` where it has none."""
        return getattr(self._processor, "video_processor", None)

    @property
    def film_merge(self) -> int:
        """How many patches a side of a video's frame are a token; 0 where it does not say."""
        found = getattr(self.video_processor, "merge_size", None)
        return found if isinstance(found, int) else 0

    @property
    def video_word(self) -> str:
        """What stands for a video in a prompt."""
        return str(getattr(self._processor, "video_token", None) or "<video>")

    def run(self, prompt: str, images: Sequence[Image], videos: Sequence[Film] = ()) -> Written:
        """What the processor makes of ``prompt`` and ``images``, or videos (frames ``[N, 3, H, W]`` and their metadata).

        Raises ``UnsupportedModelError`` where it raises anything.
        """
        try:
            return self._run(prompt, images, videos)
        except Exception as error:  # with settings that it does not take, transformers raises anything
            what = f"{len(videos)} videos" if videos else f"{len(images)} images"
            raise UnsupportedModelError(f"{self._name}'s processor does not take {what} ({one_line(error)})") from error

    def _run(self, prompt: str, images: Sequence[Image], videos: Sequence[Film]) -> Written:
        from PIL import Image as Pillow

        from tt_edge.compile.parity.images.pytorch_videos import videos_given
        from tt_edge.compile.parity.images.pytorch_vlm import kinds_of_tokens

        processor, texts, calls, film_calls = self._processor, [], [], []
        with (
            recorded(type(processor.tokenizer), lambda args, kwargs: texts.append(kwargs.get("text", args[:1]))),
            recorded(type(processor.image_processor), lambda _args, kwargs: calls.append(kwargs)),
            recorded(type(self.video_processor), lambda _args, kwargs: film_calls.append(kwargs))
            if videos
            else nullcontext(),
        ):
            pictures = [Pillow.fromarray(image) for image in images]
            given: dict[str, Any] = {"images": pictures} if pictures or not videos else {}
            if videos:
                given |= videos_given(processor, videos, [metadata["fps"] for _, metadata in videos])
            out = processor(text=[prompt], return_tensors="pt", **given, **kinds_of_tokens(processor))
        settings = json.loads(processor.image_processor.to_json_string())
        for call in calls:
            settings |= settings_of_call(processor.image_processor, call, _OF_CALLS)
        film = [settings_of_call(self.video_processor, call, _OF_VIDEO_CALLS) for call in film_calls]
        text: Any = texts[-1]
        while isinstance(text, list | tuple):
            text = text[0]
        called, of_films = (json.loads(json.dumps(each, default=dict)) for each in (settings, film[-1] if film else {}))
        return Written(str(text), dict(out), called, of_films)

    def _with_rows_and_columns(self, own: ImageProcessor, images: list[Image], geometry: VisionGeometry) -> list[Image]:
        """``images``, and one more that has several rows and columns of tiles, where none has and a larger image would.

        Of tiles in one line, it cannot be told which number stands in the text between them.
        """
        unit = min(_MOST_UNIT, *(geometry.tile_size or (_UNIT,)))
        larger = (drawn(rows * unit, columns * unit, 0) for rows, columns in product(range(2, 5), repeat=2))
        for image in chain(images, larger):
            layout = own.process(image).layout
            if layout is None or min(layout.rows, layout.columns) > 1:
                return images if any(image is each for each in images) else [*images, image]
        return images

    def samples(self, geometry: VisionGeometry) -> list[Image]:
        """Small images of several proportions, of one tile and of more."""
        unit = _UNIT if geometry.tile_size is None else min(_MOST_UNIT, *geometry.tile_size)
        unit = unit // _OF_CANVAS if geometry.whole_tiles else unit
        return [
            drawn(rows * unit + more, columns * unit + more, number)
            for number, (rows, columns, more) in enumerate(_SHAPES)
        ]

    def prompt(self, model: PreTrainedModel, files: HostFiles, geometry: VisionGeometry) -> ImagePrompt:
        """The record of what it does, with which tt-edge writes and prepares every sample as it does.

        Raises ``UnsupportedModelError``, saying what differs, where there is none; ``BundleError`` for settings that are
        malformed.
        """
        tokenizer, images = BundleTokenizer.from_bundle(files), self.samples(geometry)
        config, leads = model.config, not self.word
        leading = self._leading() if leads else None
        index = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        if leading is not None:
            index = leading.image[0]
        token = tokenizer.backend.id_to_token(index) if isinstance(index, int) else None
        if token is None or not isinstance(index, int):
            raise UnsupportedModelError(
                f"{self._name}'s configuration names no image token of the tokenizer ({index!r})"
            )
        settings = self.run(f"{_BEFORE}{self.word}{_BEHIND}", images[:1]).settings
        instruction = self._instruction(model, files)
        found = ImagePrompt(self.kind, Placeholders(token, leading=leads), (index,), settings, instruction, leading)
        own = image_processor_for(read_settings(files, config.to_dict(), geometry, found))
        images = self._with_rows_and_columns(own, images, geometry)
        written = [self.run(f"{_BEFORE}{self.word}{_BEHIND}", [image]) for image in images]
        prepared = [own.process(image) for image in images]
        grids = patch_inputs_of(model) if has_grids(model) else None
        for image, mine, theirs in zip(images, prepared, written, strict=True):
            pixels = mine.pixels if grids is None else grids.of_images([mine])["pixel_values"].numpy()
            self._check_pixels(own, image, pixels, theirs.pixels, getattr(own, "std", _UNSCALED))
            if mine.high_res is not None and theirs.high_res is not None:
                self._check_pixels(own, image, mine.high_res, theirs.high_res, getattr(own, "high_res_std", _UNSCALED))
        if self.word == token and all(each.text == f"{_BEFORE}{token}{_BEHIND}{self.behind}" for each in written):
            # It leaves prompts as they are: they have all tokens of an image.
            self.word = token * prepared[0].tokens
            written = [self.run(f"{_BEFORE}{self.word}{_BEHIND}", [image]) for image in images]
        if leads:
            self._check_tokens(found, files, geometry, config.to_dict(), images, Instruction.of(model))
            return found
        seen = [
            Expanded(each.text[len(_BEFORE) : len(each.text) - len(_BEHIND + self.behind)], mine)
            for each, mine in zip(written, prepared, strict=True)
        ]
        try:
            placeholders = replace(fit_placeholders(token, self.word, seen), behind=self.behind)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self._name}: {error}") from error
        placeholders = self._with_boundary(placeholders, images[:2], prepared[:2])
        learned = learned_tokens(model)
        words = tuple(str(tokenizer.backend.id_to_token(each)) for each in learned)
        placeholders = replace(placeholders, learned=words)
        rule = CONTINUED if grids is None else grids.positions
        found = ImagePrompt(self.kind, placeholders, (index, *learned), settings, instruction, positions=rule)
        self._check_tokens(found, files, geometry, config.to_dict(), images, Instruction.of(model))
        return found

    def _with_boundary(
        self, found: Placeholders, images: Sequence[Image], prepared: Sequence[ProcessedImage]
    ) -> Placeholders:
        """``found``, with what is around images as their boundary, if the processor writes two side by side with it only."""
        bounded, prompt = replace(found, boundary=found.start), f"{2 * self.word}a"
        if (
            not found.start
            or found.start != found.end
            or found.expand(prompt, prepared) == bounded.expand(prompt, prepared)
        ):
            return found
        return bounded if self.run(prompt, images).text == bounded.expand(prompt, prepared)[0] else found

    def _instruction(self, model: PreTrainedModel, files: HostFiles) -> str | None:
        """The folder of the tokenizer that makes an instruction, whose files go into ``files``; ``None`` where none is read."""
        if (instruction := Instruction.of(model)) is None:
            return None
        folder = instruction.tokenizer
        tokenizer = getattr(self._processor, folder, None)
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModelError(
                f"{self._name}'s processor has no {folder} with a tokenizer.json, which makes {instruction.name} of a prompt's text"
            )
        files.update(saved_tokenizer(tokenizer, f"{folder}/"))
        return folder

    def _check_pixels(
        self,
        own: ImageProcessor,
        image: Image,
        got: NDArray[np.float32],
        pixels: torch.Tensor,
        deviation: Sequence[float],
    ) -> None:
        want = on_canvas(pixels.float(), got).numpy()
        shape = f"an image of {image.shape[1]} x {image.shape[0]} pixels"
        if got.size != want.size:
            raise UnsupportedModelError(
                f"{self._name}'s processor makes {list(want.shape)} of {shape}, and tt-edge {list(got.shape)}"
            )
        std = np.asarray(deviation, np.float32)
        apart = np.abs(got - want.reshape(got.shape))
        if isinstance(own, GridProcessor) and got.ndim < 4:
            apart, std = own.by_channel(apart.reshape(-1, apart.shape[-1])), std[:, None]
        else:
            std = std[:, None, None]
        steps = apart * std * 255
        if steps.max() > _ALL_STEPS or (steps > _MOST_STEPS).mean() > _SHARE:
            raise UnsupportedModelError(
                f"{self._name}'s processor makes other pixels of {shape} than tt-edge, by up to {steps.max():.1f} of 255"
            )

    def _check_tokens(
        self,
        found: ImagePrompt,
        files: HostFiles,
        geometry: VisionGeometry,
        config: dict[str, Any],
        images: Sequence[Image],
        instruction: Instruction | None,
    ) -> None:
        """The ids of prompts with one image and with two, apart and side by side; and those of instructions."""
        own, reader = image_processor_for(read_settings(files, config, geometry, found)), None
        if found.instruction is not None:
            reader = InstructionReader.from_files(files, found.instruction, geometry.max_instruction)
        processor = MultimodalProcessor(
            own, found.token_ids, merge_size=geometry.merge_size, instruction=reader, leading=found.leading
        )
        tokenizer, word = BundleTokenizer.from_bundle(files), self.word
        prompts = [(f"{word}What?", images[:1]), (f"A {word} or {word}?", images[1:3]), (f"{word}{word}", images[3:5])]
        if not word:  # one image
            prompts = [("What?", images[:1]), ("A red one or a BLUE one?", images[1:2])]
        for prompt, given in prompts:
            ids, prepared = processor.tokenize(tokenizer, prompt, given, add_special_tokens=True)
            written = self.run(prompt, given)
            want = written.token_ids
            if ids != want:
                raise UnsupportedModelError(
                    f"{self._name}'s processor makes {len(want)} other tokens of {prompt!r} than tt-edge, which makes {len(ids)}"
                )
            if (
                instruction is not None
                and list(prepared[0].instruction) != written.outputs[instruction.name][0].tolist()
            ):
                raise UnsupportedModelError(
                    f"{self._name}'s processor makes other {instruction.name} of {prompt!r} than tt-edge"
                )
