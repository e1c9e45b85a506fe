"""The multimodal processor: tokenizes prompts with images, preprocesses the images, and places them among the tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import TEXT_IN_BLOCK, VisionGeometry
from tt_edge.errors import BundleError, CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.crossed.aspect_ratios import AspectRatioProcessor
from tt_edge.runtime.multimodal.crossed.placing import place_crossed
from tt_edge.runtime.multimodal.images import AS_IT_IS, ImageOptions, Layout, OpenedImage, ProcessedImage, open_image
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import ImageProcessor, image_processor_for, read_settings
from tt_edge.runtime.multimodal.instruction import InstructionReader
from tt_edge.runtime.multimodal.leading import LeadingImage
from tt_edge.runtime.multimodal.mrope import CONTINUED, POSITIONS
from tt_edge.runtime.multimodal.prompt_images import ImageKeys, PromptImages
from tt_edge.runtime.multimodal.sources import ImageSource, SizedImage, Video, VideoFile
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.processors import VideoProcessor, video_processor_for
from tt_edge.runtime.text.tokenizer import BundleTokenizer, Files, read_json

#: Most pixels of all images of a prompt, before they are decoded.
MAX_PROMPT_PIXELS = 256 << 20


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """An image whose size is decided, and which is not decoded yet.

    It gets ``tokens`` image tokens: the ``wanted`` of its own size, or less where ``limit`` is the most that it may have.
    """

    image: OpenedImage
    options: ImageOptions
    wanted: int
    tokens: int
    limit: int | None = None

    @property
    def note(self) -> str:
        """What the caller should know: that the image is scaled to fit, if it is."""
        if self.tokens == self.wanted:
            return ""
        height, width = self.image.size
        return (
            f"image {self.image.name} of {width} x {height} pixels is scaled to {self.tokens} image tokens to fit the compiled "
            f"model; in full it has {self.wanted}"
        )


@dataclass(frozen=True)
class MultimodalProcessor:
    """What a checkpoint's own processor does: prompts to token ids, images to pixels, positions for both.

    ``token_ids`` are the tokens that stand for a row of features: that of images, then that of videos. ``axes`` is 3 or 4 for
    M-RoPE, whose positions count in units of ``merge_size`` squared patches; it is 1 for others. Of ``max_tokens`` image
    tokens, what the vision network takes in one call, each image of a prompt gets its share: larger images are scaled to
    fit, or refused without ``scale_to_fit``. Then ``keep`` of each frame's or tile's are in the prompt (``kept_tokens``).
    ``in_blocks`` is that of ``PromptImages``. ``instruction`` reads the text of a prompt for a network that takes it with images.
    ``leading``: an image stands before each text, and its tokens are known by their places. ``positions`` is the rule of
    ``POSITIONS``. ``video_processor`` prepares videos; without it, ``no_videos`` may say why there are none.
    """

    image_processor: ImageProcessor
    token_ids: tuple[int, ...]
    axes: int = 1
    merge_size: int = 1
    max_tokens: int | None = None
    scale_to_fit: bool = True
    keep: float = 1.0
    in_blocks: bool = False
    instruction: InstructionReader | None = None
    leading: LeadingImage | None = None
    positions: str = CONTINUED
    video_processor: VideoProcessor | None = None
    no_videos: str = ""
    _keys: ImageKeys = field(default_factory=ImageKeys, repr=False)

    @classmethod
    def from_files(
        cls,
        files: Files,
        geometry: VisionGeometry,
        axes: int = 1,
        max_tokens: int | None = None,
    ) -> MultimodalProcessor:
        """The processor that a bundle's files describe, for a vision network of this ``geometry``.

        Raises ``BundleError`` where the files lack the settings that it needs.
        """
        prompt = ImagePrompt.read(files)
        settings = read_settings(files, read_json(files, "config.json"), geometry, prompt)
        own = image_processor_for(settings)
        most = geometry.max_instruction
        reader = InstructionReader.from_files(files, prompt.instruction, most) if prompt.instruction and most else None
        return cls(
            own,
            prompt.token_ids,
            axes,
            geometry.merge_size,
            max_tokens,
            keep=geometry.keep,
            instruction=reader,
            leading=prompt.leading,
            positions=prompt.positions,
            video_processor=video_processor_for(settings, own),
            no_videos=prompt.no_videos,
        )

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""
        return replace(self.image_processor.placeholders, keep=self.keep)

    def tokens_in_prompt(self, image: ProcessedImage) -> int:
        """How many tokens of a prompt stand for ``image``."""
        return 1 if self.placeholders.single else image.kept(self.keep)

    def tokenize(
        self, tokenizer: BundleTokenizer, prompt: str, sources: Sequence[ImageSource], *, add_special_tokens: bool
    ) -> tuple[list[int], list[ProcessedImage]]:
        """Token ids of ``prompt``, each placeholder as long as its image is, and the preprocessed images in token order.

        Raises ``InvalidInputError`` for images that cannot be read, and unless there is a placeholder for each; and
        ``CapacityError`` for more images than fit. What their sizes tell is found before any image is decoded.
        """
        if any(isinstance(source, Video | VideoFile) for source in sources):
            self._takes_videos()  # a model that takes no videos has no placeholder for one either
        self.placeholders.check(prompt, len(sources))
        processed = [self.preprocess(planned) for planned in self.plan(sources)]
        text, leading, ordered = self.placeholders.expand(prompt, processed)
        adds = add_special_tokens and self.placeholders.before_text is None  # what begins the sequence is in its midst
        if self.leading is None:
            ids = [self.token_ids[0]] * leading + tokenizer.encode(text, add_special_tokens=adds)
            self.check_ids(ids, ordered)
        elif not ordered:
            raise InvalidInputError("this model answers to an image, and the prompt has none; give an image")
        else:
            ids = self.leading.ids + tokenizer.encode(self.leading.text(text), add_special_tokens=False)
        if self.instruction is not None and ordered:
            asked = self.instruction.read(prompt, add_special_tokens=add_special_tokens)
            ordered = [replace(image, instruction=asked) for image in ordered]
        return ids, ordered

    def check_ids(self, token_ids: Sequence[int], images: Sequence[ProcessedImage] = ()) -> None:
        """Raise ``InvalidInputError`` for more image tokens than ``images`` have: the text has some of its own.

        Not where places say which tokens are an image's.
        """
        if self.leading is not None:
            return
        found = int(np.isin(np.asarray(token_ids, np.int64), self.token_ids).sum())
        if found > (count := sum(map(self.tokens_in_prompt, images))):
            raise InvalidInputError(
                f"the prompt has {found} image tokens ({self.image_processor.placeholders.image}), and its images have {count}; "
                "remove those of the text"
            )

    def image_ids(self, tokens: int, layout: Layout | None = None) -> list[int]:
        """What stands in a prompt for an image of so many image tokens, and of such tiles, without other text around it."""
        if self.leading is not None:
            return self.leading.ids
        if not self.placeholders.learned or layout is None:
            return [self.token_ids[0]] * tokens
        own = tokens - self.placeholders.learned_in(layout)
        return [self.token_ids[kind] for kind in self.placeholders.kinds(layout, own)]

    def plan(self, sources: Sequence[ImageSource]) -> list[PlannedImage | ProcessedImage]:
        """Open the images of a prompt and decide their sizes. Videos are preprocessed at once.

        Raises ``InvalidInputError`` and ``CapacityError`` as ``tokenize`` does.
        """
        one_tile = self.placeholders.alone and sum(not isinstance(each, Video | VideoFile) for each in sources) > 1
        found = [self._opened(source, one_tile=one_tile) for source in sources]
        pixels = sum(image.image.size[0] * image.image.size[1] for image in found if isinstance(image, PlannedImage))
        if pixels > MAX_PROMPT_PIXELS:
            raise InvalidInputError(
                f"the prompt's images have {pixels:,} pixels, more than {MAX_PROMPT_PIXELS:,}; give fewer or smaller images"
            )
        wanted = [image.tokens for image in found]
        if self.max_tokens is None or sum(wanted) <= self.max_tokens:
            return found
        if self.scale_to_fit:
            fixed = sum(image.tokens for image in found if isinstance(image, ProcessedImage))
            share = _share([i.tokens for i in found if isinstance(i, PlannedImage)], self.max_tokens - fixed)
            found = [self._scaled(image, share) if isinstance(image, PlannedImage) else image for image in found]
        if (tokens := sum(image.tokens for image in found)) > self.max_tokens:
            raise CapacityError(
                f"the prompt's images and videos have {tokens} image tokens, more than max_image_tokens {self.max_tokens}; "
                "give fewer or smaller images, or compile with a larger --max-image-tokens"
            )
        return found

    def preprocess(self, source: ImageSource | PlannedImage) -> ProcessedImage:
        """Read and preprocess an image or a video, of which nothing is asked yet.

        Raises ``InvalidInputError`` for one that cannot be read.
        """
        if isinstance(source, ProcessedImage):
            return source
        if isinstance(source, Video | VideoFile):
            return self._video(self.video(source))
        if isinstance(source, PlannedImage):
            found = self.image_processor.process(source.image.pixels(), source.options, source.limit)
            empty = () if self.instruction is None else self.instruction.empty
            place = None if self.leading is None else len(self.leading.before)
            return replace(found, note=source.note, instruction=empty, place=place)
        [planned] = self.plan([source])
        return self.preprocess(planned)

    def place(
        self, token_ids: Sequence[int], images: Sequence[ProcessedImage], kept_places: NDArray[np.int32] | None = None
    ) -> PromptImages:
        """Where ``images`` stand among the tokens of their prompt. The result has no features yet.

        ``kept_places`` are the places of each image's kept tokens among its own, of all images one after the other, where the
        vision network drops some. Raises ``BundleError`` unless there are as many image tokens as the images have.
        """
        if isinstance(self.image_processor, AspectRatioProcessor):
            return place_crossed(token_ids, self.token_ids[0], images, self.image_processor.max_tiles, self._keys)
        ids = np.asarray(token_ids)
        is_image = np.isin(ids, self.token_ids) if self.leading is None else self.leading.places(len(ids))
        counts = [image.kept(self.keep) for image in images]
        count = sum(counts)
        if int(is_image.sum()) != count:
            raise BundleError(
                f"the prompt has {int(is_image.sum())} image tokens for images of {count}; its tokenizer and preprocessing differ"
            )
        keys: list[int] = ids.tolist()
        image_keys = [
            key for image, own in zip(images, counts, strict=True) for key in self._keys.keys(image.identity, own)
        ]
        kept = () if kept_places is None else tuple(np.split(kept_places, np.cumsum(counts)[:-1]))
        for place, key in zip(np.flatnonzero(is_image).tolist(), image_keys, strict=True):
            keys[place] = key
        indices = np.full(len(ids), -1, np.int32)
        if self.placeholders.before_text is not None:  # all tokens see each other, so each depends on all
            content = repr((keys, [image.digest for image in images])).encode()
            keys = list(self._keys.keys(hashlib.sha256(content).hexdigest(), len(ids)))
            indices[:] = TEXT_IN_BLOCK
        indices[is_image] = np.arange(count)
        positions, delta = None, 0
        if self.axes > 1:
            spans = [span for image in images for span in image.spans]
            rule = POSITIONS[self.positions]
            positions, delta = rule(is_image, spans, self.merge_size, _by_span(images, kept), self.axes)
        notes = tuple(image.note for image in images if image.note)
        return PromptImages(indices, keys, {}, positions, delta, notes, kept, self.in_blocks)

    def _opened(self, source: ImageSource, *, one_tile: bool = False) -> PlannedImage | ProcessedImage:
        if isinstance(source, Video | VideoFile | ProcessedImage):
            return self.preprocess(source)
        file, options = (source.image, source.options) if isinstance(source, SizedImage) else (source, AS_IT_IS)
        options = replace(options, low_detail=True) if one_tile else options
        opened = open_image(file)
        tokens = self.image_processor.tokens_of(opened.size, options)
        return PlannedImage(opened, options, tokens, tokens)

    def _scaled(self, image: PlannedImage, share: int) -> PlannedImage:
        if image.tokens <= share:
            return image
        tokens = self.image_processor.tokens_of(image.image.size, image.options, share)
        return replace(image, tokens=tokens, limit=share)

    def video(self, source: Video | VideoFile) -> Video:
        """The frames of ``source``. Raises as ``read_video`` does, and ``UnsupportedModelError`` for a model without videos."""
        if isinstance(source, Video):
            return source
        processor = self._takes_videos()
        from tt_edge.runtime.multimodal.videos.file import read_video

        return read_video(source, processor.sampling, MAX_PROMPT_PIXELS)

    def _takes_videos(self) -> VideoProcessor:
        """The family's preprocessing of videos. Raises ``UnsupportedModelError`` where it has none."""
        if self.video_processor is None:
            why = f" ({self.no_videos})" if self.no_videos else ""
            raise UnsupportedModelError(f"this model takes no videos{why}; give its frames as images")
        return self.video_processor

    def _video(self, video: Video) -> ProcessedImage:
        processor = self._takes_videos()
        frames = [open_image(frame) for frame in video.frames]
        if (pixels := sum(frame.size[0] * frame.size[1] for frame in frames)) > MAX_PROMPT_PIXELS:
            raise InvalidInputError(
                f"the video's frames have {pixels:,} pixels, more than {MAX_PROMPT_PIXELS:,}; give fewer or smaller frames"
            )
        decoded = [frame.pixels() for frame in frames]
        return processor.process(Frames(decoded, video.fps, video.times, video.duration, video.asked))


def _by_span(images: Sequence[ProcessedImage], kept: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]] | None:
    """The places of kept tokens in the span that each is in; ``None`` where all are kept."""
    if not kept:
        return None
    found = []
    for image, places in zip(images, kept, strict=True):
        size = image.tokens // len(image.spans)
        found += [places[places // size == number] - number * size for number in range(len(image.spans))]
    return found


def _share(wanted: Sequence[int], budget: int) -> int:
    """The most tokens that each image may have so that all have ``budget``: those that want less leave more to others."""
    left = budget
    for place, tokens in enumerate(sorted(wanted)):
        share = left // (len(wanted) - place)
        if tokens > share:
            return max(1, share)
        left -= tokens
    return max(1, budget)
