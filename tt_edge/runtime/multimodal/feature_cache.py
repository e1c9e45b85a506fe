"""Features of the most recent images, in host memory: an image that comes again is not encoded again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

#: Features of one image, ``[tokens, hidden]`` by the names of the language network's tables.
Features = dict[str, np.ndarray]
#: A client's salt, and the digest of all that the network reads of an image: pixels, and the instruction where it reads one.
Key = tuple[str, str]

#: Bytes of features that are kept where nothing else is said.
DEFAULT_BYTES = 256 << 20


@dataclass(frozen=True)
class CacheStats:
    """``hits`` and ``misses`` count images that were asked for, ``evictions`` those that made room.

    ``images`` of ``nbytes`` in all are kept.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    images: int = 0
    nbytes: int = 0


class FeatureCache:
    """Features up to ``max_bytes`` in all; the image that was used the longest ago goes first. 0 keeps nothing. Thread-safe.

    The key is of the *preprocessed* pixels (and of the instruction, where a network reads one with them): they are all that a
    vision network reads of an image, so the features of one key are
    equal by construction, whatever the file's format, and under any preprocessing settings. The salt is part of the key: no
    client can find out by an answer's time which images another one has sent. (A digest of the file would not know the settings,
    and one of the decoded pixels not how they are scaled to fit beside other images. Preprocessing is paid each time.)
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[Key, Features] = OrderedDict()  # least recently used first
        self._nbytes = self._hits = self._misses = self._evictions = 0

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._images), self._nbytes)

    def find(self, keys: Iterable[Key]) -> dict[Key, Features]:
        """The features that are kept of ``keys``, which become the most recently used."""
        with self._lock:
            found = {key: self._images[key] for key in keys if key in self._images}
            for key in found:
                self._images.move_to_end(key)
            return found

    def count(self, keys: Sequence[Key], found: Iterable[Key]) -> None:
        """Count a request for ``keys``, of which ``found`` were kept."""
        have = set(found)
        hits = sum(key in have for key in keys)
        with self._lock:
            self._hits += hits
            self._misses += len(keys) - hits

    def make_room(self, nbytes: int) -> None:
        """Drop images until ``nbytes`` more fit, before they are allocated; nothing where they never fit."""
        if nbytes > self.max_bytes:
            return
        with self._lock:
            while self._images and self._nbytes + nbytes > self.max_bytes:
                self._drop_oldest()

    def add(self, key: Key, features: Features) -> None:
        """Keep ``features``, unless they alone are larger than the cache."""
        size = _size(features)
        if size > self.max_bytes:
            return
        for array in features.values():
            array.flags.writeable = False  # several requests read it
        with self._lock:
            if (before := self._images.pop(key, None)) is not None:
                self._nbytes -= _size(before)
            while self._images and self._nbytes + size > self.max_bytes:
                self._drop_oldest()
            self._images[key] = features
            self._nbytes += size

    def clear(self) -> None:
        """Drop all. The counts go on."""
        with self._lock:
            self._images.clear()
            self._nbytes = 0

    def _drop_oldest(self) -> None:
        _, features = self._images.popitem(last=False)
        self._nbytes -= _size(features)
        self._evictions += 1


def _size(features: Features) -> int:
    return sum(array.nbytes for array in features.values())
