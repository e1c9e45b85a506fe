"""An image or a video, ready for a vision network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import kept_tokens

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """Rows and columns of an image's tiles. ``whole``: the whole image is a tile, too, ``first`` or ``last``, or there is none."""

    rows: int
    columns: int
    whole: str = ""

    @property
    def tiles(self) -> int:
        """How many tiles the image has in all."""
        return self.rows * self.columns + bool(self.whole)


@dataclass(frozen=True)
class Span:
    """A run of vision tokens in a prompt: frames, rows and columns of patches, and the positions from frame to frame.

    These are ``interval`` times ``a_second``, where the model multiplies by the seconds of a patch first.
    """

    grid: Grid
    interval: float = 1.0
    a_second: float = 1.0


@dataclass(frozen=True, eq=False)
class ProcessedImage:
    """``pixels`` fp32: patches ``[N, patch_dim]`` of a ``grid``, frames, rows and columns of them; or tiles ``[n, 3, H, W]``.

    ``tokens`` is how many image tokens it has, of which a prompt may have fewer (``kept``). A video has as many frames as its grid,
    ``interval`` times ``a_second`` positions apart, or as tiles; where a prompt says when each is shown, ``timestamps`` are their
    seconds, and ``duration`` is that of the file, if they are from one. ``note`` says what the caller should know, such as that the
    image was scaled to fit.

    ``rows`` int64 ``[tokens]`` are the feature rows of its tokens, counted from its first; by default all, in order. ``of_frames``
    are how many tokens each frame of a video has, where that is not the same for all; ``merge`` how many patches a side are a
    token, where the network has another number for images.
    With ``blend`` float32 ``[tokens, n]``, ``rows`` are ``[tokens, n]``, and each token is the sum of n rows with these weights.
    ``size`` is the image's own height and width, or those of all its tiles, where the model asks for it. ``layout`` is how its
    tiles are arranged. ``instruction`` are the token ids that the network reads with the pixels, where it does
    (``InstructionReader``). ``place`` is that of its first token in a prompt, where it is always the same (``LeadingImage``).
    ``high_res`` are its tiles in the size that a second tower takes. ``edges`` ``[n, 2]`` are the rows and columns of patches of
    each tile that are not padding, where the network asks.
    """

    pixels: NDArray[np.float32]
    grid: Grid | None
    tokens: int
    is_video: bool = False
    interval: float = 1.0
    a_second: float = 1.0
    timestamps: tuple[float, ...] = ()
    duration: float | None = None
    note: str = ""
    rows: NDArray[np.int64] | None = None
    layout: Layout | None = None
    size: tuple[int, int] | None = None
    instruction: tuple[int, ...] = ()
    place: int | None = None
    high_res: NDArray[np.float32] | None = None
    blend: NDArray[np.float32] | None = None
    edges: NDArray[np.int64] | None = None
    of_frames: tuple[int, ...] = ()
    merge: int | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a network reads, and the rows used of its result, in hex: equal for equal images."""
        shape = repr((self.pixels.shape, self.grid, self.instruction, self.merge)).encode()
        rows = b"" if self.rows is None else self.rows.tobytes()
        more = b"" if self.high_res is None else self.high_res.tobytes()
        more += b"" if self.blend is None else self.blend.tobytes()
        more += b"" if self.edges is None else self.edges.tobytes()
        return hashlib.sha256(shape + rows + self.pixels.tobytes() + more).hexdigest()

    @property
    def groups(self) -> list[int]:
        """How many tokens each of its frames or tiles has."""
        if self.of_frames:
            return list(self.of_frames)
        if self.rows is not None:  # they are of no tile alone
            return [self.tokens]
        count = len(self.pixels) if self.grid is None else self.grid[0]
        return [self.tokens // count] * count

    def kept(self, keep: float) -> int:
        """How many tokens it has in a prompt where ``keep`` of each frame's or tile's are kept (``kept_tokens``)."""
        return sum(kept_tokens(keep, tokens) for tokens in self.groups)

    def rows_of(self, features: np.ndarray, rows: NDArray[np.int64]) -> np.ndarray:
        """Its features ``[tokens, hidden]``, of all ``features``; ``rows`` are its own among them, all of a token in succession."""
        found = features[rows]
        if self.blend is None:
            return found
        apart = found.reshape(*self.blend.shape, -1).astype(np.float32)
        blended: np.ndarray = np.einsum("tnh,tn->th", apart, self.blend).astype(features.dtype)
        return blended

    @property
    def identity(self) -> str:
        """Equal for images whose tokens mean the same in a prompt: the digest, and where the tokens stand to each other.

        Frames of a video have other positions at another rate, though their features are equal.
        """
        return f"{self.digest} {self.interval if self.grid is not None and self.grid[0] > 1 else 1.0} {self.timestamps}"

    @property
    def spans(self) -> list[Span]:
        """The runs of its tokens: one, or one a frame where text stands between frames. None for tiles."""
        if self.grid is None:
            return []
        if self.timestamps:
            return [Span((1, *self.grid[1:]))] * self.grid[0]
        return [Span(self.grid, self.interval, self.a_second)]
