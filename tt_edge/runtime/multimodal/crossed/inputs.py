"""Inputs of a tower that takes whole images: tiles of their canvases, and which arrangement each has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tt_edge.contract import ASPECT_RATIO_IDS, ASPECT_RATIO_MASK, CANVAS_PIXELS, VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.crossed.aspect_ratios import arrangements
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage


def canvas_inputs(geometry: VisionGeometry, images: Sequence[ProcessedImage]) -> dict[str, np.ndarray]:
    """Of ``images`` one after the other: tiles ``[images, tiles, 3, H, W]``, of which those that an image lacks are zeros, the
    number of each image's arrangement ``[images]``, and which of its tiles it has ``[images, tiles]``.

    Raises ``InvalidInputError`` for an image that was prepared for another model.
    """
    every = arrangements(geometry.tiles)
    shape = (3, *(geometry.tile_size or ()))
    pixels = np.zeros((len(images), geometry.tiles, *shape), np.float32)
    ids, mask = np.zeros(len(images), np.int64), np.zeros((len(images), geometry.tiles), np.int64)
    for index, image in enumerate(images):
        layout = image.layout or Layout(1, 1)
        pair = layout.rows, layout.columns
        if pair not in every or image.pixels.shape != (layout.tiles, *shape):
            raise InvalidInputError(
                f"an image has tiles {image.pixels.shape}, arranged as {pair}; the model takes up to {geometry.tiles} of {shape}"
            )
        pixels[index, : layout.tiles] = image.pixels
        ids[index] = every.index(pair) + 1
        mask[index, : layout.tiles] = 1
    return {CANVAS_PIXELS: pixels, ASPECT_RATIO_IDS: ids, ASPECT_RATIO_MASK: mask}
