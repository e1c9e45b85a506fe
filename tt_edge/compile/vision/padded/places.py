"""Patches of tiles that may be partly padding: which of them are there, and where they stand in a tower's table of positions."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.export.semantics import SeenKeys


class DoneError(Exception):
    """What was asked for is seen."""


def places_in_lines(embeddings: Any, tile_size: tuple[int, int], count: int) -> Tensor:
    """``[n, n]`` of a tower for tiles whose patches have places in a table by where they are in what is no padding: the rows of the
    table for n patches in a line, for 1 to n of them. ``count`` is n, ``embeddings`` what takes pixels and a mask of patches.
    """
    seen: list[Tensor] = []

    def called(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise DoneError

    there = torch.ones(count, count).tril().bool()[:, :, None].repeat(1, 1, count)
    weight = embeddings.patch_embedding.weight
    patches = weight.new_zeros(1, 1, 1, 1).expand(
        count, 1, count, count
    )  # takes minutes to compute, and is not looked at
    handle = embeddings.position_embedding.register_forward_pre_hook(called)
    try:
        with patch.object(embeddings.patch_embedding, "forward", lambda _: patches):
            embeddings(weight.new_zeros(1, 3, *tile_size).expand(count, -1, -1, -1), there)
    except DoneError:
        pass
    finally:
        handle.remove()
    places: Tensor = seen[0].reshape(count, count, count)[:, :, 0] // embeddings.num_patches_per_side
    return places


def embedded(embeddings: Any, lines: Tensor, pixel_values: Tensor, tile_edges: Tensor) -> tuple[Tensor, Tensor]:
    """Of tiles, and the rows and columns of patches of each that are no padding: the states of patches with their positions
    ``[tiles, patches, hidden]``, and which of them are no padding ``[tiles, patches]``; ``lines`` are ``places_in_lines``."""
    made = embeddings.patch_embedding(pixel_values)
    sizes = made.shape[2:]
    down, right = (torch.arange(sizes[axis]) < tile_edges[:, axis : axis + 1] for axis in (0, 1))
    there = torch.logical_and(down[:, :, None], right[:, None, :]).flatten(1)
    rows, columns = (torch.index_select(lines[:, : sizes[axis]], 0, tile_edges[:, axis] - 1) for axis in (0, 1))
    places = (rows[:, :, None] * embeddings.num_patches_per_side + columns[:, None, :]).flatten(1)
    patches = made.flatten(2).transpose(1, 2)
    return patches + embeddings.position_embedding(places * there.long()), there


def seen_by(there: Tensor, queries: int) -> SeenKeys:
    """Each of so many queries sees what is ``there`` ``[tiles, keys]``."""
    return SeenKeys(torch.logical_or(there[:, None, :], torch.zeros(queries, 1, dtype=torch.bool))[:, None])
