"""The multimodal processor: tokenizes prompts with images, preprocesses the images, and places them among the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images import (
    ImageProcessor,
    ProcessedImage,
    image_processor_for,
    pixels_of,
    read_settings,
)
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.mrope import mrope_positions
from tt_edge.runtime.multimodal.prompt_images import ImageKeys, PromptImages
from tt_edge.runtime.multimodal.sources import ImageSource, Video
from tt_edge.runtime.text.tokenizer import BundleTokenizer, Files, read_json


@dataclass(frozen=True)
class MultimodalProcessor:
    """What a checkpoint's own processor does: prompts to token ids, images to pixels, positions for both.

    ``token_ids`` are the tokens that stand for a row of features: that of images, then that of videos. ``axes`` is 3 for
    M-RoPE, whose positions count in units of ``merge_size`` squared patches; it is 1 for others.
    """

    image_processor: ImageProcessor
    token_ids: tuple[int, ...]
    axes: int = 1
    merge_size: int = 1
    _keys: ImageKeys = field(default_factory=ImageKeys, repr=False)

    @classmethod
    def from_files(
        cls, files: Files, geometry: VisionGeometry, tokenizer: BundleTokenizer, axes: int = 1
    ) -> MultimodalProcessor:
        """The processor that a bundle's or checkpoint's files describe, for a vision network of this ``geometry``.

        Raises ``BundleError`` where the files lack the settings that it needs.
        """
        model = read_json(files, "config.json")
        named = {
            "image": model.get("image_token_id", model.get("image_token_index")),
            "video": model.get("video_token_id"),
        }
        ids = {kind: index for kind, index in named.items() if isinstance(index, int)}
        tokens = {kind: tokenizer.backend.id_to_token(ids[kind]) if kind in ids else None for kind in named}
        settings = read_settings(files, model, geometry, tokens)
        return cls(image_processor_for(settings), tuple(ids.values()), axes, geometry.merge_size)

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""
        return self.image_processor.placeholders

    def tokenize(
        self, tokenizer: BundleTokenizer, prompt: str, sources: Sequence[ImageSource], *, add_special_tokens: bool
    ) -> tuple[list[int], list[ProcessedImage]]:
        """Token ids of ``prompt``, each placeholder as long as its image is, and the preprocessed images in token order.

        Raises ``InvalidInputError`` for images that cannot be read, and unless there is a placeholder for each.
        """
        processed = [self.preprocess(source) for source in sources]
        text, leading, ordered = self.placeholders.expand(prompt, processed)
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [self.token_ids[0]] * leading + ids, ordered

    def preprocess(self, source: ImageSource) -> ProcessedImage:
        """Read and preprocess an image or a video. Raises ``InvalidInputError`` for one that cannot be read."""
        if not isinstance(source, Video):
            return self.image_processor.process(pixels_of(source))
        process_video = getattr(self.image_processor, "process_video", None)
        if process_video is None:
            raise UnsupportedModelError("this model takes no videos; give its frames as images")
        processed: ProcessedImage = process_video([pixels_of(frame) for frame in source.frames], source.fps)
        return processed

    def place(self, token_ids: Sequence[int], images: Sequence[ProcessedImage]) -> PromptImages:
        """Where ``images`` stand among the tokens of their prompt. The result has no features yet.

        Raises ``BundleError`` unless there are as many image tokens as the images have.
        """
        ids = np.asarray(token_ids)
        is_image = np.isin(ids, self.token_ids)
        count = sum(image.tokens for image in images)
        if int(is_image.sum()) != count:
            raise BundleError(
                f"the prompt has {int(is_image.sum())} image tokens for images of {count}; its tokenizer and preprocessing differ"
            )
        keys: list[int] = ids.tolist()
        image_keys = [key for image in images for key in self._keys.keys(image.digest, image.tokens)]
        for place, key in zip(np.flatnonzero(is_image).tolist(), image_keys, strict=True):
            keys[place] = key
        indices = np.full(len(ids), -1, np.int32)
        indices[is_image] = np.arange(count)
        positions, delta = None, 0
        if self.axes > 1:
            spans = [span for image in images for span in image.spans]
            positions, delta = mrope_positions(is_image, spans, self.merge_size)
        return PromptImages(indices, keys, {}, positions, delta)
