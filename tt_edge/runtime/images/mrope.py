"""M-RoPE: the positions of a prompt with pictures, on three axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError

Grid = tuple[int, int, int]


def mrope_positions(
    is_image: Sequence[bool] | NDArray[np.bool_], grids: Sequence[Grid], merge_size: int
) -> tuple[NDArray[np.int64], int]:
    """Positions ``[3, S]`` (frame, row, column) of a prompt's tokens, and how far generated tokens are from their places.

    ``is_image`` ``[S]`` says which tokens are an image's; ``grids`` are those images', in patches, in order. Text counts on
    all axes alike; an image's tokens stand at their row and column, and the text behind it goes on at the longer side's
    end. A generated token at place ``n`` has position ``n + delta`` (transformers, ``get_rope_index`` of the Qwen-VL models).
    """
    flags = np.asarray(is_image, bool)
    positions = np.empty((3, len(flags)), np.int64)
    place, next_position, remaining = 0, 0, list(grids)
    while place < len(flags):
        if not flags[place]:
            until = place + int(np.argmax(flags[place:])) if flags[place:].any() else len(flags)
            positions[:, place:until] = next_position + np.arange(until - place)
            next_position += until - place
            place = until
            continue
        if not remaining:
            raise InvalidInputError(f"the prompt has more image tokens than its {len(grids)} images; expand it again")
        frames, rows, columns = remaining.pop(0)
        rows, columns = rows // merge_size, columns // merge_size
        count = frames * rows * columns
        if not flags[place : place + count].all() or place + count > len(flags):
            raise InvalidInputError(f"an image of {count} tokens has fewer in the prompt; expand it again")
        positions[:, place : place + count] = next_position + np.indices((frames, rows, columns)).reshape(3, -1)
        next_position += max(rows, columns)
        place += count
    highest = int(positions.max()) if len(flags) else -1
    return positions, highest + 1 - len(flags)
