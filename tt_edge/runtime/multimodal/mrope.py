"""M-RoPE: the positions of a prompt with images, on several axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.processed import Span

Positions = tuple[NDArray[np.int64], int]


def mrope_positions(
    is_image: Sequence[bool] | NDArray[np.bool_],
    spans: Sequence[Span],
    merge_size: int,
    kept: Sequence[NDArray[np.int32]] | None = None,
    axes: int = 3,
    *,
    behind_frames: bool = False,
) -> Positions:
    """Positions ``[3, S]`` (frame, row, column) of a prompt's tokens, and how far generated tokens are from their places.

    ``is_image`` ``[S]`` says which tokens are an image's; ``spans`` are their runs, in order. Text counts on all axes alike; an
    image's tokens stand at their row and column, a video's at their time too, and the text behind goes on at the longer
    side's end. Where tokens are dropped, ``kept`` are the places of a span's kept tokens, which have the positions that they
    have among all; so has the text behind (transformers, ``get_rope_index`` of the Qwen-VL models). A generated token at place
    ``n`` has position ``n + delta``: behind the prompt's last token, as in ``generate()``. The frames of a slow video may have
    later ones (the delta of ``get_rope_index`` is behind all of them), unless the text stands ``behind_frames``, too.
    """
    del axes  # three
    flags = np.asarray(is_image, bool)
    positions = np.empty((3, len(flags)), np.int64)
    place, next_position, remaining = 0, 0, list(spans)
    while place < len(flags):
        if not flags[place]:
            until = place + int(np.argmax(flags[place:])) if flags[place:].any() else len(flags)
            positions[:, place:until] = next_position + np.arange(until - place)
            next_position += until - place
            place = until
            continue
        if not remaining:
            raise InvalidInputError(f"the prompt has more image tokens than its {len(spans)} images; expand it again")
        own_kept = None if kept is None else kept[len(spans) - len(remaining)]
        span = remaining.pop(0)
        frames, rows, columns = span.grid
        rows, columns = rows // merge_size, columns // merge_size
        count = frames * rows * columns if own_kept is None else len(own_kept)
        if not flags[place : place + count].all() or place + count > len(flags):
            raise InvalidInputError(f"an image of {count} tokens has fewer in the prompt; expand it again")
        own = np.indices((frames, rows, columns)).reshape(3, -1)
        seconds = own[0].astype(np.float32) * np.float32(span.interval)
        own[0] = (seconds * np.float32(span.a_second)).astype(np.int64)
        positions[:, place : place + count] = next_position + (own if own_kept is None else own[:, own_kept])
        next_position += int(own.max()) + 1 if behind_frames else max(rows, columns)
        place += count
    last = positions if len(flags) and flags[-1] else positions[:, -1:]
    return positions, int(last.max(initial=-1)) + 1 - len(flags)


def counted_positions(
    is_image: Sequence[bool] | NDArray[np.bool_],
    spans: Sequence[Span],
    merge_size: int,
    kept: Sequence[NDArray[np.int32]] | None = None,
    axes: int = 3,
) -> Positions:
    """Likewise ``[axes, S]``, where all tokens count on all axes, but that on the last three an image's have their column, their
    row, and its number in the prompt (HunyuanOCR).

    An image's first token and its last have their place on all axes; the end of a line is in the last column. None is dropped.
    """
    assert kept is None
    flags = np.array(is_image, bool)
    positions = np.tile(np.arange(len(flags)), (axes, 1))
    place = 0
    for number, span in enumerate(spans):
        frames, rows, columns = span.grid
        rows, columns = frames * rows // merge_size, columns // merge_size + 1
        place += int(np.argmax(flags[place:])) if place < len(flags) else 0
        end = place + rows * columns + 2
        if end > len(flags) or not flags[place:end].all():
            raise InvalidInputError(f"an image of {rows * columns + 2} tokens has fewer in the prompt; expand it again")
        row, column = np.indices((rows, columns)).reshape(2, -1)
        positions[-3:, place + 1 : end - 1] = np.stack([column, row, np.full(rows * columns, number)])
        flags[place:end] = False
        place = end
    if flags.any():
        raise InvalidInputError(f"the prompt has more image tokens than its {len(spans)} images; expand it again")
    return positions, int(positions.max(initial=-1)) + 1 - len(flags)


#: How the positions of a prompt with images on several axes are computed.
CONTINUED, COUNTED, BEHIND_FRAMES = "continued", "counted", "behind frames"
POSITIONS: dict[str, Callable[..., Positions]] = {
    CONTINUED: mrope_positions,
    COUNTED: counted_positions,
    BEHIND_FRAMES: partial(mrope_positions, behind_frames=True),
}
