"""How images stand in a prompt, before and after they are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import VisionGeometry, kept_tokens
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.videos.frame_text import FrameText


@dataclass(frozen=True)
class TileText:
    """What stands around the tokens of each tile, for an image of several: before the first tile, between two of a row, between
    two rows, between the tiles and the whole image, behind the last.

    ``{row}``, ``{column}`` and ``{tile}`` are the numbers of the tile that follows, counted from 1.
    """

    start: str = ""
    column: str = ""
    row: str = ""
    whole: str = ""
    end: str = ""

    def written(self, layout: Layout, tokens: str) -> str:
        """The text of an image, each of whose tiles has ``tokens``."""
        rows, columns = layout.rows, layout.columns
        parts = [tokens, self.whole] if layout.whole == "first" else []
        for tile in range(rows * columns):
            row, column = divmod(tile, columns)
            between = self.column if column else self.row
            parts += [_numbered(between, row + 1, column + 1, tile + 1) if tile else "", tokens]
        parts += [self.whole, tokens] if layout.whole == "last" else []
        return "".join([self.start, *parts, self.end])


def _numbered(text: str, row: int, column: int, tile: int) -> str:
    return text.replace("{row}", str(row)).replace("{column}", str(column)).replace("{tile}", str(tile))


@dataclass(frozen=True)
class Placeholders:
    """What a checkpoint's processor writes for an image.

    ``image`` (``video``) is the token that stands once for it in a prompt, and once a row of features in what the model
    reads; ``start`` and ``end`` are put around those. ``numbered``: prompts have ``<image-1>``, ``<image-2>`` in its place.
    ``leading``: prompts have nothing, and one image's tokens stand before everything. ``keep``: how many of an image's tokens are
    kept (``ProcessedImage.kept``). ``written`` is what a prompt has for an image where that is not ``image``. ``before_text``,
    where it is given, is put before the text behind the last image, and a newline after it (PaliGemma); a prompt without images
    is then refused. ``tiles``: an image of several tiles is written otherwise than with ``start`` and ``end`` around all tokens.
    ``single``: an image is one token, whatever its size, and the decoder sees it by cross-attention. ``begins`` is put before the
    text, but behind images that stand before it, unless the prompt has it already.
    ``behind`` is put behind every prompt.
    ``learned``: special tokens around images in whose place the model reads learned rows, in the order of these
    (``VisionGeometry.learned_rows``); they count among the image's tokens.
    ``alone``: of several images in a prompt, each is one tile, without ``start``, ``end`` and ``tiles``.
    ``boundary``: a word around images that is written once where two stand side by side, and with a space behind it before text
    that begins otherwise than with "<" (Idefics 2).
    ``frames``: what is written around the frames of a video; without it, all their tokens are in a row. ``video_start`` and
    ``video_end`` are tokens around ``video`` in a prompt. With ``video_around`` they must be there, since the model finds videos
    by them, and stay; else they may be, and what is written for the video stands in their place, too.
    """

    image: str
    video: str | None = None
    start: str = ""
    end: str = ""
    numbered: bool = False
    leading: bool = False
    keep: float = 1.0
    written: str | None = None
    before_text: str | None = None
    tiles: TileText | None = None
    single: bool = False
    begins: str | None = None
    behind: str = ""
    learned: tuple[str, ...] = ()
    alone: bool = False
    boundary: str = ""
    frames: FrameText | None = None
    video_start: str = ""
    video_end: str = ""
    video_around: bool = False

    @property
    def needs_image(self) -> bool:
        """Whether the model answers no prompt without an image."""
        return self.leading or self.before_text is not None

    @property
    def in_prompt(self) -> str:
        """What a prompt has in the place of an image; nothing where one stands before the text."""
        return "" if self.leading else self.written or self.image

    @property
    def video_in_prompt(self) -> str | None:
        """What a prompt has in the place of a video; ``None`` for a model that takes none."""
        return self._of_videos[0] if self.video else None

    @property
    def _of_videos(self) -> list[str]:
        """All that a prompt may have in the place of a video, the longest first."""
        if not self.video:
            return []
        whole = f"{self.video_start}{self.video}{self.video_end}"
        return [whole] if self.video_around or whole == self.video else [whole, self.video]

    def are_in(self, prompt: str) -> bool:
        """Whether ``prompt`` says where its images stand."""
        return self.leading or bool(self._found(prompt))

    def check(self, prompt: str, images: int) -> None:
        """Raise ``InvalidInputError`` unless ``prompt`` has a place for each of so many images."""
        if self.leading:
            if images > 1:
                raise InvalidInputError(f"this model takes one image a prompt, and there are {images}; give one")
            return
        if self.before_text is not None and not images:
            raise InvalidInputError("this model answers to an image, and the prompt has none; give an image")
        found = len(self._found(prompt))
        if found != images:
            what = "<image-N>" if self.numbered else self.in_prompt
            what += f" or {self.video_in_prompt}" if self.video_around else ""
            of_video = f" (of a video {self.video_in_prompt})" if self.video and not self.video_around else ""
            raise InvalidInputError(
                f"the prompt has {found} placeholders {what} for {images} images; give one for each{of_video}, or a chat, "
                "whose template places them"
            )

    def expand(self, prompt: str, images: Sequence[ProcessedImage]) -> tuple[str, int, list[ProcessedImage]]:
        """``prompt`` with every placeholder as long as its image is, as the Hugging Face processors write it.

        Also how many image tokens stand before the prompt's first token, and the images in the order of their tokens.
        Raises ``InvalidInputError`` unless there are as many placeholders as images.
        """
        self.check(prompt, len(images))
        prompt = self._begun(prompt)
        if self.leading:
            return prompt + self.behind, sum(image.kept(self.keep) for image in images), list(images)
        found = self._found(prompt)
        several = sum(not image.is_video for image in images) > 1
        among = replace(self, start="", end="", tiles=None) if self.alone and several else self
        parts, ordered, end = [], [], 0
        for place, match in enumerate(found):
            number = self._number(match, len(images)) if self.numbered else place
            image = images[number]
            if image.is_video != (match[0] in self._of_videos):
                kinds = ("a video", "an image") if image.is_video else ("an image", "a video")
                raise InvalidInputError(f"placeholder {place + 1} is for {kinds[1]}, and is given {kinds[0]}")
            parts += [prompt[end : match.start()], among._written(image, number + 1)]
            ordered.append(image)
            end = match.end()
        rest = prompt[end:] if self.before_text is None else f"{self.before_text}{prompt[end:]}\n"
        return self._bounded("".join([*parts, rest])) + self.behind, 0, ordered

    def _bounded(self, text: str) -> str:
        """``text`` with each ``boundary`` once, and apart from what follows."""
        if not self.boundary:
            return text
        once = text.replace(2 * self.boundary, self.boundary)
        return re.sub(rf"{re.escape(self.boundary)}(?=[^\s<])", lambda found: f"{found[0]} ", once)

    def _begun(self, prompt: str) -> str:
        """``prompt`` with what it begins with."""
        if self.begins is None or self.begins in prompt:
            return prompt
        rest, word = prompt, self.in_prompt
        while rest.startswith(word):
            rest = rest[len(word) :]
        return f"{prompt[: len(prompt) - len(rest)]}{self.begins}{rest}"

    def rows(self, layout: Layout, geometry: VisionGeometry) -> NDArray[np.int64]:
        """The feature row of each token of an image of such tiles, counted from its first, in the order of the text."""
        kinds = self.kinds(layout, geometry.tokens_a_tile * layout.tiles)
        tile, place = np.divmod(np.cumsum(kinds == 0) - 1, geometry.tokens_a_tile)
        return np.where(kinds == 0, tile * geometry.tokens_a_unit + place, geometry.tokens_a_tile + kinds - 1)

    def kinds(self, layout: Layout, tokens: int) -> NDArray[np.int64]:
        """What each token of an image of such tiles is: 0 for one of its own ``tokens``, or the number of a word of ``learned``."""
        words = (self.image, *self.learned)
        found = re.findall("|".join(map(re.escape, words)), self._around(layout, self.image * tokens))
        return np.array([words.index(word) for word in found], np.int64)

    def learned_in(self, layout: Layout) -> int:
        """How many tokens of ``learned`` are written for an image of such tiles."""
        if not self.learned:
            return 0
        return len(re.findall("|".join(map(re.escape, self.learned)), self._around(layout, "")))

    def _around(self, layout: Layout, tokens: str) -> str:
        """``tokens`` of all tiles, and the texts around those of each."""
        if self.tiles is not None and layout.tiles > 1:
            return self.tiles.written(layout, tokens[: len(tokens) // layout.tiles])
        return f"{self.start}{tokens}{self.end}"

    def _found(self, prompt: str) -> list[re.Match[str]]:
        pattern = (
            r"<image-([0-9]{1,6})>"
            if self.numbered
            else "|".join(map(re.escape, filter(None, (self.in_prompt, *self._of_videos))))
        )
        return list(re.finditer(pattern, prompt))

    @staticmethod
    def _number(match: re.Match[str], images: int) -> int:
        number = int(match[1])
        if not 1 <= number <= images:
            raise InvalidInputError(f"the prompt has {match[0]}, and there are {images} images; count from 1")
        return number - 1

    def _written(self, image: ProcessedImage, number: int) -> str:
        if image.is_video and self.video:
            return self._of_video(image, self.video)
        token, layout = self.image, image.layout
        tokens = 1 if self.single else image.kept(self.keep)
        if layout is not None:
            tokens -= self.learned_in(layout)
            if self.tiles is not None and layout.tiles > 1:
                return self._around(layout, token * tokens)
        before = f"<image {number}>" if self.numbered else ""
        there = image.grid is not None and self.written is None  # in the prompt already
        start, end = ("", "") if there else (self.start, self.end)
        return f"{before}{start}{token * tokens}{end}"

    def _of_video(self, video: ProcessedImage, token: str) -> str:
        start, end = (self.video_start, self.video_end) if self.video_around else ("", "")
        if self.frames is None:
            return f"{start}{token * video.kept(self.keep)}{end}"
        tokens = [kept_tokens(self.keep, each) for each in video.groups]
        return f"{start}{self.frames.written(tokens, token, video.timestamps, video.duration)}{end}"
