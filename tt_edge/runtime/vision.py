"""Pictures of prompts: preprocessed, encoded by the vision network, and put where the language network looks for them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tt_edge.errors import BundleError
from tt_edge.runtime.images import ImageProcessor, ProcessedImage, image_processor_for, load_image
from tt_edge.runtime.images.mrope import mrope_positions
from tt_edge.runtime.images.processor import expand
from tt_edge.runtime.prompt_images import ImageKeys, PromptImages
from tt_edge.runtime.tokenizer import read_json
from tt_edge.runtime.vision_inputs import vision_feeds

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.vision_session import VisionSession

#: A path, a ``data:image/…;base64,`` URL, a file's content, or pixels ``[H, W, 3]`` uint8.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray

_Features = dict[str, np.ndarray]


class VisionEncoder:
    """A vision network with the preprocessing of its checkpoint. Features of the last images are kept in host memory.

    ``image_token_id`` is the token that stands for a row of features; ``axes`` is 3 for M-RoPE.
    """

    def __init__(
        self,
        session: VisionSession,
        processor: ImageProcessor,
        image_token_id: int,
        axes: int,
        max_bytes: int = 256 << 20,
    ) -> None:
        self.session, self.processor = session, processor
        self._image_token_id, self._axes, self._max_bytes = image_token_id, axes, max_bytes
        self._keys = ImageKeys()
        self._kept: OrderedDict[str, _Features] = OrderedDict()

    @classmethod
    def from_bundle(cls, bundle: Bundle, session: VisionSession) -> VisionEncoder:
        """Raises ``BundleError`` for a bundle without the settings that preprocessing needs."""
        settings, model = (read_json(bundle, name) for name in ("preprocessor_config.json", "config.json"))
        token = model.get("image_token_id", model.get("image_token_index"))
        if not settings or not isinstance(token, int):
            raise BundleError(
                "the bundle has no preprocessor_config.json or no image_token_id, so images cannot be prepared; compile from a "
                "checkpoint that has its image processor's settings"
            )
        processor = image_processor_for(settings, model)
        return cls(session, processor, token, bundle.manifest.contract.position_axes)

    def prepare(self, prompt: str, sources: Sequence[ImageSource]) -> tuple[str, list[ProcessedImage]]:
        """``prompt`` with its placeholders as long as the images are, and the images, preprocessed.

        Raises ``InvalidInputError`` for images that cannot be read, and for another number of placeholders.
        """
        pictures = [s if isinstance(s, np.ndarray) else load_image(s) for s in sources]
        processed = [self.processor.process(picture) for picture in pictures]
        return expand(prompt, self.processor.placeholder, processed), processed

    def prompt_images(self, token_ids: Sequence[int], images: Sequence[ProcessedImage]) -> PromptImages:
        """What ``images`` mean for the tokens of their prompt; encodes those that have not been lately."""
        ids = np.asarray(token_ids)
        is_image = ids == self._image_token_id
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
        if self._axes > 1:
            grids = [image.grid for image in images if image.grid is not None]
            positions, delta = mrope_positions(is_image, grids, self.session.contract.geometry.merge_size)
        return PromptImages(indices, keys, self.encode(images), positions, delta)

    def encode(self, images: Sequence[ProcessedImage]) -> _Features:
        """Features ``[tokens, hidden]`` by the names of the language network's tables. One call for all that are new."""
        fresh = list({i.digest: i for i in images if i.digest not in self._kept}.values())
        found = {image.digest: self._kept[image.digest] for image in images if image.digest in self._kept}
        if fresh:
            feeds, rows = vision_feeds(self.session.contract, fresh)
            out, first = self.session.run(feeds), 0
            for image in fresh:
                own = rows[first : first + image.tokens]
                found[image.digest] = {name: array[own] for name, array in out.items()}
                first += image.tokens
        for digest, features in found.items():
            self._kept[digest] = features
            self._kept.move_to_end(digest)
        while len(self._kept) > 1 and sum(a.nbytes for f in self._kept.values() for a in f.values()) > self._max_bytes:
            self._kept.popitem(last=False)
        names = [spec.name for spec in self.session.contract.outputs]
        return {name: np.concatenate([found[image.digest][name] for image in images]) for name in names}

    def close(self) -> None:
        self.session.close()


def images_of(messages: Sequence[Any]) -> list[ImageSource]:
    """The images of a conversation, in order: parts ``{"type": "image", "image": …}``, and OpenAI's ``image_url``."""
    found: list[ImageSource] = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "image":
                found.append(part.get("image", part.get("path", part.get("url", ""))))
            elif kind == "image_url":
                url = part.get("image_url")
                found.append(url.get("url", "") if isinstance(url, dict) else str(url))
    return found
