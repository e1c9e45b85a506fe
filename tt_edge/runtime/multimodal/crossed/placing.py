"""Which tiles the tokens of a prompt see, where the decoder sees images by cross-attention."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.contract.seen_tiles import MOST_TILES, seen_tiles
from tt_edge.errors import BundleError, CapacityError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.prompt_images import ImageKeys, Int32s, Int64s, PromptImages

if TYPE_CHECKING:
    from tt_edge.runtime.engine.session import Session


@dataclass(frozen=True, eq=False)
class CrossedImages(PromptImages):
    """The images of a prompt whose tokens see tiles: ``indices`` are the numbers of ``tt_edge.contract.seen_tiles``.

    ``rows`` int64 ``[n]`` is the order of the features' rows in which padding is last. ``first_key`` is the key of a token with
    the id 0: as tokens before an image depend on it, too, all tokens are told apart by all images. ``token_id`` is an image's.
    """

    rows: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    first_key: int = -1
    token_id: int = -1

    @property
    def tokens(self) -> int:
        """How many rows of keys and values the images have. In the prompt each image is one token."""
        return len(self.rows)

    def with_features(self, features: Mapping[str, np.ndarray]) -> Self:
        return replace(self, features={name: table[self.rows] for name, table in features.items()})

    def write_to(self, session: Session, slot: int) -> None:
        cross = {}
        for spec in session.contract.cross:
            _, heads, _, size = spec.resolve(batch=1)
            cross[spec.name] = self.features[spec.name].reshape(-1, heads, size).transpose(1, 0, 2)
        session.write_cross(slot, cross, len(self.rows))

    def indices_at(self, start: int, count: int) -> Int32s:
        """Tokens behind the prompt see what its last one does."""
        given = self.indices[start : start + count]
        return np.concatenate([given, np.full(count - len(given), self.indices[-1], np.int32)])

    def keys_at(self, start: int, ids: Sequence[int]) -> list[int]:
        return [self.first_key - token for token in ids]

    def of_vocabulary(self, ids: Sequence[int]) -> list[int]:
        """The image token may have no logit."""
        return [token for token in ids if token != self.token_id]


def place_crossed(
    token_ids: Sequence[int], token_id: int, images: Sequence[ProcessedImage], tiles: int, keys: ImageKeys
) -> CrossedImages:
    """Where ``images``, each of up to ``tiles``, stand among the tokens of their prompt. The result has no features yet.

    A token sees the last image before it, and those whose tokens stand immediately before that one's. Raises ``BundleError``
    unless there are as many image tokens as images.
    """
    ids = np.asarray(token_ids)
    is_image = ids == token_id
    if int(is_image.sum()) != len(images):
        raise BundleError(
            f"the prompt has {int(is_image.sum())} image tokens for {len(images)} images; its tokenizer and preprocessing differ"
        )
    counts = np.array([image.layout.tiles if image.layout else 1 for image in images])
    ends = np.concatenate([[0], np.cumsum(counts)])
    if (most := tiles * len(images)) > MOST_TILES:
        raise CapacityError(f"the prompt's images have {most} tiles, more than {MOST_TILES}; give fewer images")
    firsts = _first_of_runs(np.flatnonzero(is_image))
    latest = np.cumsum(is_image)  # images up to each token
    indices = [seen_tiles(-1, most) if n == 0 else seen_tiles(int(ends[firsts[n - 1]]), int(ends[n])) for n in latest]
    there = np.arange(tiles) < counts[:, None]
    order = np.concatenate([np.flatnonzero(there), np.flatnonzero(~there)])
    a_tile = images[0].tokens // tiles
    rows = (order[:, None] * a_tile + np.arange(a_tile)).reshape(-1)
    identity = hashlib.sha256(repr([image.digest for image in images]).encode()).hexdigest()
    first_key = keys.keys(identity, 1)[0]
    return CrossedImages(
        np.array(indices, np.int32),
        [first_key - token for token in token_ids],
        {},
        notes=tuple(image.note for image in images if image.note),
        rows=rows,
        first_key=first_key,
        token_id=token_id,
    )


def _first_of_runs(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``places`` the number of the first one of its run of neighbours."""
    begins = np.diff(places, prepend=-2) != 1
    return np.maximum.accumulate(np.where(begins, np.arange(len(places)), 0))
