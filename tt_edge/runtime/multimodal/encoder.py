"""Pictures of prompts: preprocessed, encoded by the vision network, and put where the language network looks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images import ImageProcessor, ProcessedImage
from tt_edge.runtime.multimodal.images.mrope import mrope_positions
from tt_edge.runtime.multimodal.preprocess import Preprocessor, read_processor
from tt_edge.runtime.multimodal.prompt_images import ImageKeys, PromptImages
from tt_edge.runtime.multimodal.vision_inputs import vision_feeds
from tt_edge.runtime.text.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.engine.vision_session import VisionSession

_Features = dict[str, np.ndarray]


class VisionEncoder(Preprocessor):
    """A vision network with the preprocessing of its checkpoint. Features of the last images are kept in host memory.

    ``axes`` is 3 for M-RoPE.
    """

    def __init__(
        self,
        session: VisionSession,
        processor: ImageProcessor,
        token_ids: Sequence[int],
        axes: int,
        max_bytes: int = 256 << 20,
    ) -> None:
        super().__init__(processor, token_ids)
        self.session = session
        self._axes, self._max_bytes = axes, max_bytes
        self._keys = ImageKeys()
        self._kept: OrderedDict[str, _Features] = OrderedDict()

    @classmethod
    def from_bundle(cls, bundle: Bundle, session: VisionSession, tokenizer: BundleTokenizer) -> VisionEncoder:
        """Raises ``BundleError`` for a bundle without the settings that preprocessing needs."""
        processor, token_ids = read_processor(bundle, session.contract.geometry, tokenizer)
        return cls(session, processor, token_ids, bundle.manifest.contract.position_axes)

    def prompt_images(self, token_ids: Sequence[int], images: Sequence[ProcessedImage]) -> PromptImages:
        """What ``images`` mean for the tokens of their prompt; encodes those that have not been lately."""
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
        if self._axes > 1:
            spans = [span for image in images for span in image.spans]
            positions, delta = mrope_positions(is_image, spans, self.session.contract.geometry.merge_size)
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

    def forget(self) -> None:
        """Drop all features that are kept."""
        self._kept.clear()

    def close(self) -> None:
        self.session.close()
