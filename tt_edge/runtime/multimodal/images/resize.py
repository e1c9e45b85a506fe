"""Resizing and normalising, as the Hugging Face processors do it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.load import ImageLimits


def check_resize(size: tuple[int, int], to: tuple[int, int]) -> None:
    """Raise ``InvalidInputError`` where resizing from one ``(height, width)`` to another would make too many pixels on the way.

    ``resize`` changes the width first: an image of 1 x 1,000,000 would have 448 million pixels in between.
    """
    (height, width), (to_height, to_width) = size, to
    if max(height * to_width, to_height * to_width) > ImageLimits.max_pixels:
        raise InvalidInputError(
            f"an image of {width} x {height} pixels cannot be resized to {to_width} x {to_height}; crop it"
        )


def resize(image: NDArray[np.uint8], height: int, width: int, resample: int) -> NDArray[np.uint8]:
    """``[H, W, 3]`` in another size, with Pillow's filter ``resample`` (2 bilinear, 3 bicubic), antialiased.

    First the width, then the height: torchvision, which transformers' processors use, rounds between the two. In one call
    Pillow differs from it by up to 9 of 255 at sharp edges, in two by at most 2, and by more than 1 in a pixel of 50,000.
    Raises ``InvalidInputError`` as ``check_resize`` does.
    """
    from PIL import Image

    check_resize((image.shape[0], image.shape[1]), (height, width))
    method = Image.Resampling(resample)
    resized = Image.fromarray(image)
    for size in ((width, image.shape[0]), (width, height)):
        if resized.size != size:
            resized = resized.resize(size, method)
    return np.array(resized)


def resize_floats(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """``[H, W, C]`` in another size with Pillow's bilinear filter, antialiased, without rounding, as PyTorch's ``interpolate``."""
    from PIL import Image

    check_resize((image.shape[0], image.shape[1]), (height, width))
    channels = [Image.fromarray(np.ascontiguousarray(image[..., each])) for each in range(image.shape[2])]
    return np.stack([np.asarray(each.resize((width, height), Image.Resampling.BILINEAR)) for each in channels], axis=-1)


def resize_at_once(image: NDArray[np.uint8], height: int, width: int, resample: int = 3) -> NDArray[np.uint8]:
    """``[H, W, 3]`` in another size by one call of Pillow (its default filter is bicubic), as qwen-vl-utils does."""
    from PIL import Image

    check_resize((image.shape[0], image.shape[1]), (height, width))
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def sampled(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """``[C, H, W]`` in another size by PyTorch's bicubic filter without antialiasing: four pixels a side, wherever they are."""
    for axis, length in ((1, height), (2, width)):
        if (size := image.shape[axis]) != length:
            places = (np.arange(length) + 0.5) * (size / length) - 0.5
            first = np.floor(places).astype(np.int64)
            image = sum(  # type: ignore[assignment]
                np.take(image, np.clip(first + tap, 0, size - 1), axis)
                * _cubic(np.abs(places - first - tap)).astype(np.float32).reshape(-1, *(1,) * (2 - axis))
                for tap in range(-1, 3)
            )
    return np.ascontiguousarray(image)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of a pixel at a ``distance`` of 0 to 2, with PyTorch's coefficient of -0.75."""
    a, d = -0.75, distance
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, far)


def normalize(image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """``[H, W, 3]`` of 0 to 255 as ``[3, H, W]``: scaled to 1, less ``mean``, by ``std``."""
    scaled = image.astype(np.float32) / np.float32(255)
    out = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(out.transpose(2, 0, 1))
