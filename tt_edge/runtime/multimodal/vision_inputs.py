"""The inputs of a vision network for some images: everything that depends on their sizes. Torch-free.

The computations are those of transformers' ``vision_utils``, for one image after the other; the order of patches is that of the
processors: block by block of ``merge_size`` squared patches, which become one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import (
    ASPECT_RATIO_MASK,
    CU_TILES,
    HIGH_RES_PIXELS,
    INSTRUCTION_IDS,
    KEPT_ROWS,
    MERGED_PATCHES,
    OFFSETS_OF,
    PATCH_POSITIONS,
    PATCHES,
    PRUNING_PLAN,
    TILE_EDGES,
    TILE_PIXELS,
    TILES,
    WHOLE_IMAGES,
    IOContract,
    VisionGeometry,
    kept_tokens,
)
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.multimodal.crossed.inputs import canvas_inputs
from tt_edge.runtime.multimodal.images.processed import Grid, ProcessedImage
from tt_edge.runtime.multimodal.position_table import in_blocks, interpolation

#: The inputs by name.
VisionInputs = dict[str, np.ndarray]
Rows = NDArray[np.int64]


def vision_inputs(contract: IOContract, images: Sequence[ProcessedImage]) -> tuple[VisionInputs, Rows]:
    """As ``vision_calls``, for images that one call takes."""
    [inputs], rows = vision_calls(contract, images)
    return inputs, rows


def vision_calls(contract: IOContract, images: Sequence[ProcessedImage]) -> tuple[list[VisionInputs], Rows]:
    """Inputs of the calls for ``images``, and the row of their joined results for each image token that is kept, in order; the rows
    of each where it has several (``ProcessedImage.blend``).

    It is one call, or several of some tiles each: a frame of a video may have fewer tokens than a tile of an image, so that more
    frames fit than the network takes tiles. Raises ``CapacityError`` for more than the network takes, before anything is computed.
    """
    tokens = sum(image.tokens for image in images)
    if tokens > contract.max_image_tokens:
        raise CapacityError(
            f"the prompt's images and videos have {tokens} image tokens, more than max_image_tokens {contract.max_image_tokens}; "
            "give fewer or smaller images, or compile with a larger --max-image-tokens"
        )
    geometry = contract.tower
    inputs, rows = unpadded_inputs(geometry, images)
    units, most = len(next(iter(inputs.values()))), contract.max_units
    if units > most and geometry.frame_rows:
        whole = [{name: array[at : at + most] for name, array in inputs.items()} for at in range(0, units, most)]
        return [_typed(contract, each) for each in whole], rows
    if units > most and any(image.of_frames for image in images):
        raise CapacityError(
            f"the frames have {units} {geometry.unit} before tokens of what does not move are left out, and the compiled model "
            f"takes {most}; give fewer or smaller frames, or compile with a larger --max-image-tokens"
        )
    if units > most:
        raise CapacityError(
            f"the images' edges leave {units} {geometry.unit} partly empty, and the compiled model takes {contract.max_units}; "
            "give fewer or less elongated images, or compile with a larger --max-image-tokens"
        )
    if geometry.prunes:
        inputs[PRUNING_PLAN] = _pruning_plan(geometry, images, rows, max(contract.min_units, units))
        rows = np.arange(sum(image.kept(geometry.keep) for image in images))
        inputs[KEPT_ROWS] = rows
    return [_typed(contract, inputs)], rows


def _typed(contract: IOContract, inputs: VisionInputs) -> VisionInputs:
    """``inputs`` as one call takes them: padded to the fewest units, with offsets where it is ragged."""
    geometry = contract.tower
    more = contract.min_units - len(next(iter(inputs.values())))
    if more > 0:
        planned = (PRUNING_PLAN, KEPT_ROWS)  # of all units already
        inputs = {
            name: array if name in planned else _padded(name, array, more, geometry) for name, array in inputs.items()
        }
    if geometry.ragged:
        inputs = inputs | _offsets(inputs)
    return {t.name: np.ascontiguousarray(inputs[t.name], t.dtype.numpy) for t in contract.inputs}


def unpadded_inputs(geometry: VisionGeometry, images: Sequence[ProcessedImage]) -> tuple[VisionInputs, Rows]:
    """As ``vision_inputs``, of exactly these images, for a tower without limits."""
    if geometry.unit == WHOLE_IMAGES:
        return canvas_inputs(geometry, images), np.arange(len(images) * geometry.tokens_a_unit)
    if geometry.unit == TILES:
        return _tiles(geometry, images)
    inputs, rows = grid_inputs(geometry, images)
    return inputs, _kept(rows, images, geometry.merge_size)


def _kept(rows: Rows, images: Sequence[ProcessedImage], merge: int) -> Rows:
    """Of the ``rows`` of all tokens those of the tokens that are in the prompt: of some videos, not all (VideoLLaMA 3)."""
    if all(image.rows is None and image.merge is None for image in images):
        return rows
    counts = [
        image.tokens if image.rows is None and image.merge is None else math.prod(_grid(image, merge)) // merge**2
        for image in images
    ]
    apart = zip(np.split(rows, np.cumsum(counts)[:-1]), images, strict=True)
    return np.concatenate([own[: image.tokens] if image.rows is None else own[image.rows] for own, image in apart])


def _padded(name: str, array: np.ndarray, more: int, geometry: VisionGeometry) -> np.ndarray:
    """``array`` with ``more`` masked units behind: no image token attends to them."""
    shape = (more, *array.shape[1:])
    if name == "window_ids":  # windows of their own, no larger than others
        fill = np.broadcast_to(-1 - (np.arange(more) // geometry.window_tokens)[:, None], shape)
    else:
        fill = np.full(shape, {"segment_ids": -1, ASPECT_RATIO_MASK: 1, TILE_EDGES: 1}.get(name, 0))
    return np.concatenate([array, fill.astype(array.dtype)])


def _offsets(inputs: VisionInputs) -> VisionInputs:
    """Inputs of a ragged tower in place of segment and window ids: the offset of each, and the end."""
    if TILE_PIXELS in inputs:
        return {CU_TILES: np.arange(len(inputs[TILE_PIXELS]) + 1)}
    found = {}
    for name, offsets in OFFSETS_OF.items():
        if name in inputs:
            ids = inputs[name].reshape(-1)
            found[offsets] = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [len(ids)]])
    return found | {"max_seqlen_carrier": np.zeros(np.diff(found["cu_seqlens"]).max())}


def _pruning_plan(
    geometry: VisionGeometry, images: Sequence[ProcessedImage], rows: Rows, units: int
) -> NDArray[np.int32]:
    """For each token ``[units, tokens, 4]``: its frame or tile, its place, how many of its frame's or tile's are kept, its row."""
    groups = [tokens for image in images for tokens in image.groups]
    plan = np.full((units * geometry.tokens_a_unit, 4), -1, np.int32)
    plan[:, 2] = 0  # of padding none is kept
    plan[:, 3] = np.arange(len(plan))
    plan[rows, 0] = np.repeat(np.arange(len(groups)), groups)
    plan[rows, 1] = np.arange(len(rows))
    plan[rows, 2] = np.repeat([kept_tokens(geometry.keep, tokens) for tokens in groups], groups)
    return plan.reshape(units, geometry.tokens_a_unit, 4)


def _tiles(geometry: VisionGeometry, images: Sequence[ProcessedImage]) -> tuple[VisionInputs, Rows]:
    rows, first = [], 0
    for image in images:
        rows.append(first + (np.arange(image.tokens) if image.rows is None else image.rows.reshape(-1)))
        first += len(image.pixels) * geometry.tokens_a_unit
    if geometry.flattened_patches:
        return flattened_inputs(images), np.concatenate(rows)
    inputs = {TILE_PIXELS: np.concatenate([image.pixels for image in images])}
    if geometry.high_res_size is not None:
        inputs[HIGH_RES_PIXELS] = np.concatenate([image.high_res for image in images if image.high_res is not None])
    if geometry.padded_tiles:
        inputs[TILE_EDGES] = np.concatenate([image.edges for image in images if image.edges is not None])
    if geometry.max_instruction:
        inputs[INSTRUCTION_IDS] = _instructions(images)
    return inputs, np.concatenate(rows)


def flattened_inputs(images: Sequence[ProcessedImage]) -> VisionInputs:
    """Patches ``[images, n, P]``, and the row and the column of each ``[images, n, 2]`` from 1 on; 0 where there is none."""
    patches = np.concatenate([image.pixels for image in images])
    positions = np.zeros((*patches.shape[:2], 2), np.int64)
    edges = np.concatenate([image.edges for image in images if image.edges is not None])
    for own, (rows, columns) in zip(positions, edges.tolist(), strict=True):
        own[: rows * columns] = np.indices((rows, columns)).reshape(2, -1).T + 1
    return {PATCHES: patches, PATCH_POSITIONS: positions}


def _instructions(images: Sequence[ProcessedImage]) -> NDArray[np.int64]:
    """Token ids ``[tiles, I]``. Raises ``InvalidInputError`` for images of one call that are asked about in different lengths."""
    if len(lengths := {len(image.instruction) for image in images}) > 1:
        raise InvalidInputError(
            f"the images of a call have instructions of {sorted(lengths)} tokens; give those of one prompt"
        )
    return np.repeat([image.instruction for image in images], [len(image.pixels) for image in images], axis=0)


def grid_inputs(geometry: VisionGeometry, images: Sequence[ProcessedImage]) -> tuple[VisionInputs, Rows]:
    """Everything that a tower for grids may read of ``images``, by name; and the row of its result for each of their tokens."""
    merge, block = geometry.merge_size, geometry.merge_size**2
    merges = [merge if image.merge is None else image.merge for image in images]
    grids = [_grid(image, own) for image, own in zip(images, merges, strict=True)]
    patches = np.concatenate([image.pixels for image in images])
    count = sum(math.prod(grid) for grid in grids)
    if patches.shape != (count, geometry.patch_dim):
        raise InvalidInputError(
            f"patches {patches.shape} do not fit grids {grids}; pass [{count}, {geometry.patch_dim}] in all"
        )
    inputs: VisionInputs = {
        "patches": patches,
        "patch_positions": np.concatenate(list(map(patch_positions, grids, merges))),
        "segment_ids": _segments(grids),
    }
    if geometry.position_table_side:
        pairs = [interpolation(grid, geometry) for grid in grids]
        inputs["interpolation_indices"], inputs["interpolation_weights"] = map(np.concatenate, zip(*pairs, strict=True))
    if geometry.film_merge:
        inputs[MERGED_PATCHES] = _merged(grids, merges, geometry.film_merge**2)
    by_token = {name: array.reshape(count // block, block, *array.shape[1:]) for name, array in inputs.items()}
    if not geometry.window_tokens:
        return by_token, _with_ends(geometry, grids, np.arange(count // block))
    windows = np.concatenate(_windows(grids, merge, geometry.window_tokens))  # [W, tokens], -1 where empty
    empty, rows = windows < 0, np.empty(count // block, np.int64)
    if geometry.ragged:
        order = windows[~empty]
        rows[order] = np.arange(len(order))
        numbers = np.broadcast_to(np.arange(len(windows))[:, None], windows.shape)[~empty]
        arranged = {name: array[order] for name, array in by_token.items()}
        arranged |= {"window_ids": np.repeat(numbers[:, None], block, axis=1)}
        return arranged, _with_ends(geometry, grids, rows)
    arranged = {}
    for name, array in by_token.items():
        placed = array[windows]  # [W, tokens, block, …]
        placed[empty] = -1 if name == "segment_ids" else 0
        arranged[name] = placed.reshape(len(windows), -1, *array.shape[2:])
    rows[windows[~empty]] = np.flatnonzero(~empty)
    return arranged, _with_ends(geometry, grids, rows)


def _merged(grids: Sequence[Grid], merges: Sequence[int], most: int) -> NDArray[np.int64]:
    """``[patches, most]``: in the places of an image's first tokens the patches of each, one or ``most``; behind, any."""
    found, first = [], 0
    for grid, merge in zip(grids, merges, strict=True):
        count = math.prod(grid)
        own = np.repeat(first + np.arange(count)[:, None], most, axis=1)
        if merge > 1:
            own[: count // most] = first + np.arange(count).reshape(-1, most)
        found.append(own)
        first += count
    return np.concatenate(found)


def _with_ends(geometry: VisionGeometry, grids: Sequence[Grid], rows: Rows) -> Rows:
    """``rows`` of the features of all images, with the model's own rows that begin and end an image, and end each line."""
    if not geometry.end_rows:
        return rows
    before, behind = (np.arange(end, end + geometry.image_ends) for end in (0, 1))
    found: list[np.ndarray] = []
    first = 0
    for frames, height, width in grids:
        lines, columns = frames * height // geometry.merge_size, width // geometry.merge_size
        own = rows[first : first + lines * columns].reshape(lines, columns) + geometry.end_rows
        ends = np.full((lines, int(geometry.line_ends)), geometry.end_rows - 1)
        found += [before, np.hstack([own, ends]).reshape(-1), behind]
        first += lines * columns
    return np.concatenate(found).astype(np.int64)


def _grid(image: ProcessedImage, merge: int) -> Grid:
    grid = image.grid
    if grid is None or min(grid) < 1 or grid[1] % merge or grid[2] % merge:
        raise InvalidInputError(f"an image has the grid {grid}; its rows and columns must be multiples of {merge}")
    return grid


def patch_positions(grid: Grid, merge: int) -> Rows:
    """Row and column of every patch, ``[t * h * w, 2]``."""
    frames, height, width = grid
    rows, columns = np.mgrid[:height, :width]
    plane = np.stack([in_blocks(rows, merge), in_blocks(columns, merge)], axis=-1)
    return np.tile(plane, (frames, 1)).astype(np.int64)


def _segments(grids: Sequence[Grid]) -> NDArray[np.int32]:
    """A number for every patch that says which frame of which image it is of: patches of one frame attend to each other."""
    sizes = [height * width for frames, height, width in grids for _ in range(frames)]
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _windows(grids: Sequence[Grid], merge: int, window_tokens: int) -> list[Rows]:
    """For each image, the tokens of each window ``[W, window_tokens]``, -1 where a window reaches over the edge."""
    side, found, first = math.isqrt(window_tokens), [], 0
    for frames, height, width in grids:
        rows, columns = height // merge, width // merge
        tokens = first + np.arange(frames * rows * columns).reshape(frames, rows, columns)
        padding = ((0, 0), (0, -rows % side), (0, -columns % side))
        padded = np.pad(tokens, padding, constant_values=-1)
        apart = padded.reshape(frames, padded.shape[1] // side, side, padded.shape[2] // side, side)
        found.append(apart.transpose(0, 1, 3, 2, 4).reshape(-1, window_tokens))
        first += tokens.size
    return found
