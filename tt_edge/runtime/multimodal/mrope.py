"""M-RoPE: the positions of a prompt with images, on three axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.processed import Span


def mrope_positions(
    is_image: Sequence[bool] | NDArray[np.bool_],
    spans: Sequence[Span],
    merge_size: int,
    kept: Sequence[NDArray[np.int32]] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Positions ``[3, S]`` (frame, row, column) of a prompt's tokens, and how far generated tokens are from their places.

    ``is_image`` ``[S]`` says which tokens are an image's; ``spans`` are their runs, in order. Text counts on all axes alike; an
    image's tokens stand at their row and column, a video's at their time too, and the text behind goes on at the longer
    side's end. Where tokens are dropped, ``kept`` are the places of a span's kept tokens, which have the positions that they
    have among all; so has the text behind. A generated token at place ``n`` has position ``n + delta`` (transformers,
    ``get_rope_index`` of the Qwen-VL
    models).
    """
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
        own[0] = (own[0].astype(np.float32) * np.float32(span.interval)).astype(np.int64)
        positions[:, place : place + count] = next_position + (own if own_kept is None else own[:, own_kept])
        next_position += max(rows, columns)
        place += count
    highest = int(positions.max()) if len(flags) else -1
    return positions, highest + 1 - len(flags)
