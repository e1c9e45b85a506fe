"""What the images of a prompt mean for its tokens: which they are, where they stand, what stands in for their embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self

if TYPE_CHECKING:
    from tt_edge.contract import IOContract
    from tt_edge.runtime.engine.session import Session

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]

#: Bits of a key that count an image's tokens.
_TOKEN_BITS = 24


@dataclass(frozen=True, eq=False)
class PromptImages:
    """The images of a prompt of S tokens.

    ``indices`` int32 ``[S]``: a token's row in ``features``, or -1 for text (-2 in a block, whose tokens all see each other).
    ``keys``: what tells tokens apart where a prompt's beginning is looked for, the id of a text token, and for an image's token
    a negative number that stands for its place in that very image. ``positions`` int64 ``[3, S]`` are those of M-RoPE, ``None``
    where a position is a token's place; generated tokens follow at their place plus ``delta``. ``features`` are by the names of
    the network's tables, ``[rows, hidden]``. ``notes`` are for the caller, such as that an image was scaled to fit.
    ``in_blocks``: runs of tokens whose index is not -1 see each other, so a call of the network takes all of a run.
    ``kept`` are, of each image some of whose tokens are dropped, the places of those that are kept.
    """

    indices: Int32s
    keys: Sequence[int]
    features: Mapping[str, np.ndarray]
    positions: Int64s | None = None
    delta: int = 0
    notes: tuple[str, ...] = ()
    kept: tuple[Int32s, ...] = ()
    in_blocks: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens of the prompt are an image's."""
        return int((self.indices >= 0).sum())

    def with_features(self, features: Mapping[str, np.ndarray]) -> Self:
        """The same, with the ``features`` of all images, one after the other."""
        return replace(self, features=features)

    def of_vocabulary(self, ids: Sequence[int]) -> Sequence[int]:
        """Those of the prompt's ``ids`` that must have a logit."""
        return ids

    def write_to(self, session: Session, slot: int) -> None:
        """Put the features where the network finds those of ``slot``."""
        session.write_features(slot, self.features)

    def whole(self, start: int, count: int) -> int:
        """How many of the ``count`` tokens from place ``start`` on can be computed in one call without splitting a block.

        At least one block, even where that is more than ``count``.
        """
        if not self.in_blocks:
            return count
        inside = self.indices != -1
        end = start + count
        if not 0 < end < len(inside) or not (inside[end - 1] and inside[end]):
            return count
        first = end - 1
        while first > start and inside[first - 1]:
            first -= 1
        if first > start:
            return first - start
        return int(np.append(np.flatnonzero(~inside[end:]), len(inside) - end)[0]) + count

    @property
    def longest_block(self) -> int:
        """Tokens of the longest block, 0 without."""
        if not self.in_blocks:
            return 0
        edges = np.flatnonzero(np.diff(self.indices != -1, prepend=False, append=False))
        return int((edges[1::2] - edges[::2]).max(initial=0))

    def indices_at(self, start: int, count: int) -> Int32s:
        """Table rows of the ``count`` tokens from place ``start`` on; those behind the prompt are text."""
        given = self.indices[start : start + count]
        return np.concatenate([given, np.full(count - len(given), -1, np.int32)])

    def keys_at(self, start: int, ids: Sequence[int]) -> list[int]:
        """Keys of the tokens ``ids`` that stand at ``start``."""
        given = list(self.keys[start : start + len(ids)])
        return given + list(ids[len(given) :])

    def positions_at(self, start: int, count: int, axes: int) -> Int64s:
        """Positions ``[axes, count]`` of the tokens from place ``start`` on."""
        behind = np.broadcast_to(np.arange(start, start + count) + self.delta, (axes, count))
        if self.positions is None:
            return behind
        given = self.positions[:, start : start + count]
        return np.concatenate([given, behind[:, given.shape[1] :]], axis=1)


#: A prompt without images.
NO_IMAGES = PromptImages(np.zeros(0, np.int32), (), {})


def place_images(
    contract: IOContract,
    shape: tuple[int, ...],
    rows: Iterable[tuple[int, int, int, PromptImages]],
    first: int = 0,
) -> tuple[Int64s, Int32s]:
    """Positions ``[axes, B, S]`` and rows of the feature tables ``[B, S]`` of a step of ``shape`` ``(B, S)``.

    Of each slot with tokens: its index, the index of its first token in its sequence, how many there are, and its images. Row 0
    is the slot ``first``.
    """
    positions = np.zeros((contract.position_axes, *shape), np.int64)
    indices = np.full(shape, -1, np.int32)
    for slot, start, count, images in rows:
        positions[:, slot - first, :count] = images.positions_at(start, count, len(positions))
        own = images.indices_at(start, count)
        base = 0 if contract.sees_tiles else slot * contract.max_image_tokens
        indices[slot - first, :count] = np.where(own >= 0, own + base, own)
    return positions, indices


@dataclass
class ImageKeys:
    """Hands out the keys of image tokens: the same for the same image, as long as it is among the last ``remember``."""

    remember: int = 4096
    _numbers: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _next: int = 0

    def keys(self, identity: str, tokens: int) -> range:
        """Keys of the ``tokens`` tokens of the image with this identity, none of which any other image has."""
        if identity not in self._numbers:
            self._numbers[identity] = self._next
            self._next += 1
        self._numbers.move_to_end(identity)
        if len(self._numbers) > self.remember:
            self._numbers.popitem(last=False)
        first = -1 - (self._numbers[identity] << _TOKEN_BITS)
        return range(first, first - tokens, -1)
