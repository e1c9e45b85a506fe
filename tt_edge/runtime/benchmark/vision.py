"""Random images and prompts for benchmarks of vision-language models. Torch-free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.contract import WHOLE_IMAGES, IOContract, VisionGeometry, kept_tokens
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images import Layout, ProcessedImage

if TYPE_CHECKING:
    from tt_edge.runtime.llm import LLM


def random_picture(contract: IOContract, tokens: int, seed: int = 0) -> ProcessedImage:
    """A preprocessed image of ``tokens`` image tokens, of random pixels, as nearly square as that number allows.

    Raises ``InvalidInputError`` for a number that images of this model cannot have.
    """
    geometry, generator = contract.tower, np.random.default_rng(seed)
    if geometry.unit == WHOLE_IMAGES:
        if tokens != geometry.tokens_a_unit:
            raise InvalidInputError(
                f"an image of this model has {geometry.tokens_a_unit} image tokens; give that number"
            )
        canvas = generator.standard_normal((geometry.tiles, 3, *(geometry.tile_size or ())), np.float32)
        return ProcessedImage(canvas, None, tokens, rows=np.arange(tokens), layout=Layout(1, geometry.tiles))
    if geometry.flattened_patches:
        return _flattened_picture(geometry, tokens, generator)
    if geometry.partial_tiles:
        return _padded_picture(geometry, tokens, generator)
    if geometry.tile_size is not None:
        tiles, rest = divmod(tokens, geometry.tokens_a_tile)
        if rest or not tiles:
            raise InvalidInputError(
                f"no image of this model has {tokens} image tokens; give a multiple of {geometry.tokens_a_tile}"
            )
        sizes = (geometry.tile_size, geometry.high_res_size)
        pixels, high_res = (
            None if size is None else generator.standard_normal((tiles, 3, *size), np.float32) for size in sizes
        )
        first = np.arange(tiles)[:, None] * geometry.tokens_a_unit
        more = geometry.tokens_a_unit > geometry.tokens_a_tile
        own_rows = (first + np.arange(geometry.tokens_a_tile)).reshape(-1) if more else None
        instruction = (0,) * min(16, geometry.max_instruction)
        assert pixels is not None
        edges = np.full((tiles, 2), geometry.padded_tiles) if geometry.padded_tiles else None
        return ProcessedImage(
            pixels, None, tokens, rows=own_rows, high_res=high_res, instruction=instruction, edges=edges
        )
    if tokens < 1:
        raise InvalidInputError(f"no image has {tokens} image tokens; give 1 or more")
    sides = ((rows, geometry.columns_of(tokens, rows)) for rows in range(math.isqrt(tokens), 0, -1))
    rows, columns = next(((rows, found) for rows, found in sides if found), (0, 0))
    if not rows:
        raise InvalidInputError(
            f"no image of this model has {tokens} image tokens, with those at the ends of lines and of images; give another number"
        )
    grid = (1, rows * geometry.merge_size, columns * geometry.merge_size)
    pixels = generator.standard_normal((math.prod(grid), geometry.patch_dim), np.float32)
    return ProcessedImage(pixels, grid, tokens)


def _flattened_picture(geometry: VisionGeometry, tokens: int, generator: np.random.Generator) -> ProcessedImage:
    """The largest square of patches."""
    if tokens != geometry.tokens_a_unit:
        raise InvalidInputError(f"an image of this model has {geometry.tokens_a_unit} image tokens; give that number")
    side = math.isqrt(geometry.flattened_patches)
    pixels = np.zeros((1, geometry.flattened_patches, geometry.patch_dim), np.float32)
    pixels[:, : side**2] = generator.standard_normal((side**2, geometry.patch_dim), np.float32)
    return ProcessedImage(pixels, None, tokens, rows=np.arange(tokens), edges=np.array([[side, side]]))


def _padded_picture(geometry: VisionGeometry, tokens: int, generator: np.random.Generator) -> ProcessedImage:
    """Tiles without padding one above the other, and the whole image small."""
    assert geometry.tile_size is not None
    side, unit = math.isqrt(geometry.tokens_a_unit - 2), geometry.tokens_a_unit
    lines = np.concatenate([np.arange(side**2).reshape(side, side), np.full((side, 1), side**2)], axis=1).reshape(-1)
    tiles, rest = divmod(tokens - 1, len(lines))
    if rest or tiles < 2:
        raise InvalidInputError(
            f"no image of this model has {tokens} image tokens; give a multiple of {len(lines)} and 1 more, such as "
            f"{geometry.least_image_tokens}"
        )
    rows = [*(tile * unit + lines for tile in range(1, tiles)), np.array([side**2 + 1]), lines]
    height, width = geometry.tile_size
    pixels = generator.standard_normal((tiles, 3, height, width), np.float32)
    edges = np.full((tiles, 2), geometry.padded_tiles)
    return ProcessedImage(
        pixels, None, tokens, rows=np.concatenate(rows), size=((tiles - 1) * height, width), edges=edges
    )


def random_prompt(llm: LLM, length: int, image_tokens: int, seed: int = 0, *, whole: bool = False) -> list[int]:
    """``length`` token ids with ``image_tokens`` of an image among them: in front where the model has images there, and one
    where an image is one token of the prompt.

    Of a bundle that drops image tokens there are only the kept ones, and the prompt is so much shorter, unless it is ``whole``.
    """
    assert llm.vision is not None
    if llm.vision.processor.placeholders.single:
        image_tokens, whole = int(image_tokens > 0), True
    if image_tokens >= length:
        raise InvalidInputError(
            f"{length} input tokens have no room for {image_tokens} image tokens and text; raise --isl, or lower --image-tokens"
        )
    vocabulary = np.setdiff1d(np.arange(llm.session.contract.vocab_size), llm.vision.processor.token_ids)
    around = len(llm.vision.processor.image_ids(image_tokens)) - image_tokens
    text: list[int] = np.random.default_rng(seed).choice(vocabulary, max(0, length - image_tokens - around)).tolist()
    before = 0 if llm.vision.processor.placeholders.leading else len(text) // 2
    geometry = llm.vision.encoder.session.contract.tower
    if image_tokens and not whole and geometry.prunes:
        group = image_tokens if geometry.tile_size is None else geometry.tokens_a_tile
        image_tokens = image_tokens // group * kept_tokens(geometry.keep, group)
    return text[:before] + llm.vision.processor.image_ids(image_tokens) + text[before:]
