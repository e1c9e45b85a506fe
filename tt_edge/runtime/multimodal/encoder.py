"""The vision encoder: preprocessed images to the features that the language network looks up."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.contract import KEPT_PLACES
from tt_edge.runtime.multimodal.feature_cache import FeatureCache, Features, Key
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.vision_inputs import VisionInputs, vision_calls

if TYPE_CHECKING:
    from tt_edge.runtime.engine.feed_forward import FeedForward


class VisionEncoder:
    """Runs a vision network, for images whose features ``cache`` does not have.

    Thread-safe: the network runs one call at a time.
    """

    def __init__(self, session: FeedForward, cache: FeatureCache | None = None) -> None:
        self.session = session
        self.cache = cache or FeatureCache()
        self._turn = threading.Lock()

    def encode(self, images: Sequence[ProcessedImage], cache_salt: str = "") -> Features:
        """Features ``[tokens, hidden]`` by the names of the language network's tables. New images are encoded in one call.

        Cached features are reused only where ``cache_salt`` is the same; then the network does not run. Images that cannot be
        encoded leave nothing in the cache. Where the network drops image tokens, ``KEPT_PLACES`` is the place of each kept token
        among those of its image.
        """
        keys = [(cache_salt, image.digest) for image in images]
        found = self.cache.find(keys)
        if len(found) < len(set(keys)):
            with self._turn:
                found |= self.cache.find(keys)  # another thread may have encoded them meanwhile
                self.cache.count(keys, found)
                fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
                found |= self._encoded(fresh) if fresh else {}
        else:
            self.cache.count(keys, found)
        names = [spec.name for spec in self.session.contract.outputs]
        return {name: np.concatenate([found[key][name] for key in keys]) for name in names}

    def _encoded(self, images: dict[Key, ProcessedImage]) -> dict[Key, Features]:
        calls, rows = vision_calls(self.session.contract, list(images.values()))
        row_bytes = sum(
            int(spec.dtype.nbytes(math.prod(size for size in spec.shape[1:] if isinstance(size, int))))
            for spec in self.session.contract.outputs
        )
        self.cache.make_room(row_bytes * len(rows))
        out, first, place = self._run(calls), 0, 0
        found: dict[Key, Features] = {}
        for key, image in images.items():
            count = image.kept(self.session.contract.tower.keep) if image.blend is None else image.blend.size
            own = rows[first : first + count]
            found[key] = {name: image.rows_of(array, own) for name, array in out.items()}
            if KEPT_PLACES in out:
                found[key][KEPT_PLACES] -= place
            first, place = first + count, place + image.tokens
        for key, features in found.items():
            self.cache.add(key, features)
        return found

    def _run(self, calls: Sequence[VisionInputs]) -> Features:
        """The results of all calls, one after the other."""
        if len(calls) == 1:
            return self.session.run(calls[0])
        # Copied, because the next call may overwrite them.
        parts = [{name: array.copy() for name, array in self.session.run(inputs).items()} for inputs in calls]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def cached_images(self) -> int:
        """How many images' features are kept."""
        return self.cache.stats.images

    def forget(self) -> None:
        """Drop all cached features."""
        self.cache.clear()

    def close(self) -> None:
        """Release the network. Closing twice is harmless."""
        self.session.close()
