"""A checkpoint's own processor, run on small videos: how it writes them in a prompt, and whether tt-edge prepares them equally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compile.vision.decoder_call import blocks_of, compare_calls
from tt_edge.compile.vision.families import VLMFamily, has_grids
from tt_edge.compile.vision.grids.found import patch_inputs_of
from tt_edge.compile.vision.processing.drawing import drawn
from tt_edge.compile.vision.processing.fit_frames import Filmed, fit_frames
from tt_edge.compile.vision.processing.own_processor import Film, OwnProcessor
from tt_edge.compile.vision.processing.videos import without_videos
from tt_edge.compile.vision.processing.written import Written
from tt_edge.compile.vision.tower import Tower
from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processors import image_processor_for, read_settings
from tt_edge.runtime.multimodal.mrope import BEHIND_FRAMES, CONTINUED
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.sources import Video
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.processors import VIDEO_TYPES, video_processor_for
from tt_edge.runtime.text.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.contract import VisionGeometry

#: Text before and behind a video.
_BEFORE, _BEHIND = "Look: ", " so"
#: Sides of the frames; their places in videos of one frame in 40 seconds, so that no number of a frame is that of its time.
_SIDES = (72, 104)
_PLACES, _RATE = ((1, 3, 4, 6), (2, 3, 5, 6, 8, 9)), 0.025
#: Absolute difference of pixels, of about 1 in size: as for images, two steps of 255.
_CLOSE = 0.05


@dataclass(frozen=True)
class _Film:
    """Frames, and what the processor is told of them."""

    frames: list[NDArray[np.uint8]]
    places: tuple[int, ...]

    @property
    def source(self) -> Video:
        return Video(tuple(self.frames), _RATE, self.times)

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(place / _RATE for place in self.places)

    @property
    def given(self) -> Film:
        metadata = {"fps": _RATE, "total_num_frames": max(self.places) + 1, "frames_indices": list(self.places)}
        return np.stack(self.frames).transpose(0, 3, 1, 2), metadata


@dataclass(frozen=True)
class VideoFinder:
    """What is known of a checkpoint whose images are followed: the model and its tower, its processor, the bundle's files."""

    model: PreTrainedModel
    family: VLMFamily
    tower: Tower
    geometry: VisionGeometry
    own: OwnProcessor
    files: HostFiles

    def find(self, prompt: ImagePrompt) -> ImagePrompt:
        """``prompt`` with what the processor makes of videos; without, saying why, where that is not followed.

        Tokens, pixels, and what the model hands its decoder are compared.
        """
        if (processor := self.own.video_processor) is None:
            return without_videos(prompt, "")
        if (name := type(processor).__name__) not in VIDEO_TYPES:
            return without_videos(prompt, f"its frames are prepared by {name}, which is not followed")
        failure: Exception | None = None
        # Of images alone, both rules of positions are the same.
        rules = (prompt.positions, *([BEHIND_FRAMES] if prompt.positions == CONTINUED else []))
        rules = rules[: self.family.position_axes]  # one where a position is a place
        for around, rule in product((self.own.around, *self._pairs()), rules):
            try:
                return self._found(replace(prompt, video=name, positions=rule), around)
            except (UnsupportedModelError, InvalidInputError, BundleError) as error:
                failure = failure or error
        assert failure is not None
        return without_videos(prompt, one_line(failure).partition(";")[0])

    def _pairs(self) -> list[tuple[str, str]]:
        """Two special tokens by whose names a video begins and ends: a model may find videos by them."""
        added = BundleTokenizer.from_bundle(self.files).backend.get_added_tokens_decoder().values()
        names = [token.content for token in added if "video" in token.content]
        pairs = [(name, name.replace("begin", "end").replace("start", "end")) for name in names]
        return [(start, end) for start, end in pairs if start != end and end in names]

    def _found(self, prompt: ImagePrompt, around: tuple[str, str]) -> ImagePrompt:
        """``prompt`` with videos, ``around`` which prompts have these tokens. Raises ``UnsupportedModelError`` for what differs."""
        tokenizer, own, word = BundleTokenizer.from_bundle(self.files), self.own, self.own.video_word
        films = [_Film([drawn(*_SIDES, number) for number in range(len(places))], places) for places in _PLACES]
        in_prompt = word.join(around)
        of_video = tokenizer.backend.token_to_id(word)
        ids = prompt.token_ids if of_video is None else (*prompt.token_ids, of_video)
        start, end = around
        placeholders = replace(
            prompt.placeholders, video=word, video_start=start, video_end=end, video_around=bool(start)
        )
        settings = own.run(f"{_BEFORE}{in_prompt}{_BEHIND}", [], [films[0].given]).video_settings
        found = replace(prompt, placeholders=placeholders, token_ids=ids, video_settings=settings)
        videos, seen, token = self._processor(found).video_processor, [], word
        assert videos is not None
        for film in films:
            written = own.run(f"{_BEFORE}{in_prompt}{_BEHIND}", [], [film.given])
            made = videos.process(Frames(film.frames, _RATE, film.times))
            _check_pixels(self.model, made, written)
            text = written.text[len(_BEFORE + around[0]) : len(written.text) - len(around[1] + _BEHIND + own.behind)]
            token = word if word in text else prompt.placeholders.image
            seen.append(Filmed(text, made, made.timestamps or _first_times(film.times, len(made.groups))))
        frames = fit_frames(token, word, seen)
        if seen[0].video.timestamps and (frames is None or not frames.has_times):
            raise UnsupportedModelError("its processor does not write when frames are shown")
        found = replace(found, placeholders=replace(found.placeholders, frames=frames))
        self._check(found, tokenizer, in_prompt, films)
        return found if start else self._with_dropped(found, films[0], seen[0].text)

    def _with_dropped(self, prompt: ImagePrompt, film: _Film, text: str) -> ImagePrompt:
        """``prompt`` with the tokens around a video that the processor replaces together with the video's, by ``text``."""
        word = self.own.video_word
        for start, end in self.own.around_visuals():
            written = self.own.run(f"{_BEFORE}{start}{word}{end}{_BEHIND}", [], [film.given])
            if written.text == f"{_BEFORE}{text}{_BEHIND}{self.own.behind}":
                return replace(prompt, placeholders=replace(prompt.placeholders, video_start=start, video_end=end))
        return prompt

    def _processor(self, prompt: ImagePrompt) -> MultimodalProcessor:
        settings = read_settings(self.files, self.model.config.to_dict(), self.geometry, prompt)
        images, axes, merge = image_processor_for(settings), self.family.position_axes, self.geometry.merge_size
        videos = video_processor_for(settings, images)
        return MultimodalProcessor(
            images, prompt.token_ids, axes, merge, positions=prompt.positions, video_processor=videos
        )

    def _check(self, prompt: ImagePrompt, tokenizer: BundleTokenizer, in_prompt: str, films: Sequence[_Film]) -> None:
        """The ids of prompts with a video and with two, and what the decoder is handed with one."""
        processor = self._processor(prompt)
        one = films[0]
        for asked, given in ((f"A {in_prompt} or {in_prompt}?", [one, one]), (f"{in_prompt}What?", [one])):
            written = self.own.run(asked, [], [film.given for film in given])
            sources = [film.source for film in given]
            ids, prepared = processor.tokenize(tokenizer, asked, sources, add_special_tokens=True)
            if ids != written.token_ids:
                raise UnsupportedModelError(f"its processor makes other tokens of {asked!r} with videos than tt-edge")
        video = _with_pixels(self.model, prepared[0], written)
        placed, *calls = compare_calls(
            self.model, self.family, self.tower, self.geometry, processor, written, ids, [video]
        )
        if (blocks := blocks_of(self.model, placed, *calls)) not in (None, self.family.blocks):
            raise UnsupportedModelError(f"tokens of videos see each other otherwise ({blocks}) than those of images")


def _first_times(times: Sequence[float], groups: int) -> tuple[float, ...]:
    """The times of the first frame of each of so many groups."""
    return tuple(times[:: max(1, len(times) // groups)])[:groups]


def _with_pixels(model: PreTrainedModel, made: ProcessedImage, written: Written) -> ProcessedImage:
    """``made`` with the processor's own pixels."""
    pixels = written.of_videos.float()
    if made.grid is None:
        return replace(made, pixels=pixels.reshape(made.pixels.shape).numpy())
    frames = [(1, *made.grid[1:])] * made.grid[0]
    return replace(made, pixels=np.concatenate(patch_inputs_of(model).blocks(pixels, frames)))


def _check_pixels(model: PreTrainedModel, made: ProcessedImage, written: Written) -> None:
    if written.of_videos.numel() != made.pixels.size:
        raise UnsupportedModelError(
            f"its processor makes {list(written.of_videos.shape)} of a video, and tt-edge {list(made.pixels.shape)}"
        )
    apart = float(np.abs(_with_pixels(model, made, written).pixels - made.pixels).max())
    if apart > _CLOSE:
        raise UnsupportedModelError(f"its processor makes other pixels of a video than tt-edge, by up to {apart:.2g}")
    assert has_grids(model) == (made.grid is not None)
