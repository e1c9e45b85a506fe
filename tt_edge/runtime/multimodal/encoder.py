"""The vision encoder: preprocessed images to the features that the language network looks up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.vision_inputs import vision_inputs

if TYPE_CHECKING:
    from tt_edge.runtime.engine.feed_forward import FeedForward

_Features = dict[str, np.ndarray]


class VisionEncoder:
    """Runs a vision network. Features of the most recent images are kept in host memory, up to ``max_bytes``."""

    def __init__(self, session: FeedForward, max_bytes: int = 256 << 20) -> None:
        self.session = session
        self._max_bytes = max_bytes
        self._cache: OrderedDict[tuple[str, str], _Features] = OrderedDict()

    def encode(self, images: Sequence[ProcessedImage], cache_salt: str = "") -> _Features:
        """Features ``[tokens, hidden]`` by the names of the language network's tables. New images are encoded in one call.

        Cached features are reused only where ``cache_salt`` is the same.
        """
        keys = [(cache_salt, image.digest) for image in images]
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._cache}
        found = {key: self._cache[key] for key in keys if key in self._cache}
        if fresh:
            inputs, rows = vision_inputs(self.session.contract, list(fresh.values()))
            out, first = self.session.run(inputs), 0
            for key, image in fresh.items():
                own = rows[first : first + image.tokens]
                found[key] = {name: array[own] for name, array in out.items()}
                first += image.tokens
        for key, features in found.items():
            self._cache[key] = features
            self._cache.move_to_end(key)
        while (
            len(self._cache) > 1 and sum(a.nbytes for f in self._cache.values() for a in f.values()) > self._max_bytes
        ):
            self._cache.popitem(last=False)
        names = [spec.name for spec in self.session.contract.outputs]
        return {name: np.concatenate([found[key][name] for key in keys]) for name in names}

    @property
    def cached_images(self) -> int:
        """How many images' features are kept."""
        return len(self._cache)

    def forget(self) -> None:
        """Drop all cached features."""
        self._cache.clear()

    def close(self) -> None:
        """Release the network. Closing twice is harmless."""
        self.session.close()
