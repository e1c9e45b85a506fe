from __future__ import annotations

import numpy as np
import pytest
from building import evaluate
from oracle import assert_rounded, to_torch, torch


def resize(x, size, mode, transform, dynamic=False, **attributes):
    shape = [*x.shape[:2], *size]
    attributes |= {"resize_mode": mode, "coordinate_transformation": transform}
    if dynamic:
        return evaluate("RESIZE", x, np.array(shape), shape=None, scales=None, **attributes)
    return evaluate("RESIZE", x, shape=shape, scales=None, **attributes)


@pytest.mark.parametrize("size", [(8, 10), (3, 4), (4, 12)])
@pytest.mark.parametrize(("transform", "corners"), [("ALIGN_CORNERS", True), ("HALF_PIXEL", False)])
def test_linear(normal, size, transform, corners):
    x = normal(2, 3, 4, 5)
    expected = torch.nn.functional.interpolate(to_torch(x, True), size, mode="bilinear", align_corners=corners)
    assert_rounded(resize(x, size, "LINEAR", transform), expected, scale=3)


def test_cubic(normal):
    x = normal(2, 3, 6, 7)
    expected = torch.nn.functional.interpolate(to_torch(x, True), (9, 4), mode="bicubic", align_corners=False)
    assert_rounded(resize(x, (9, 4), "CUBIC", "HALF_PIXEL", cubic_coeff=-0.75), expected, scale=10)


def test_cubic_that_excludes_what_is_outside_keeps_a_constant(dtype):
    x = np.ones((1, 1, 5, 5), dtype.numpy)
    value = resize(x, (7, 7), "CUBIC", "HALF_PIXEL", exclude_outside=True)
    np.testing.assert_allclose(value.astype(np.float32), 1, rtol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_nearest(normal, dynamic):
    x = normal(2, 3, 4, 5)
    value = resize(x, (8, 3), "NEAREST", "ASYMMETRIC", dynamic, nearest_rounding="FLOOR")
    np.testing.assert_array_equal(value, x[:, :, np.arange(8) // 2][..., [0, 1, 3]])


@pytest.mark.parametrize(
    ("rounding", "picked"), list({"HALF_UP": [1, 3], "HALF_DOWN": [0, 2], "FLOOR": [0, 2], "CEIL": [1, 3]}.items())
)
def test_nearest_rounding(rounding, picked):
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)  # coordinates 0.5 and 2.5
    assert resize(x, (1, 2), "NEAREST", "HALF_PIXEL", nearest_rounding=rounding).ravel().tolist() == picked


def test_scales_round_the_size_down(normal):
    x = normal(1, 2, 5, 5)
    value = evaluate("RESIZE", x, scales=[1.0, 1.0, 1.5, 2.0], shape=None, resize_mode="NEAREST")
    assert value.shape == (1, 2, 7, 10)


def test_single_pixel_selector():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    assert resize(x, (1, 1), "LINEAR", "HALF_PIXEL").ravel().tolist() == [1.5]
    assert resize(x, (1, 1), "LINEAR", "HALF_PIXEL", selector_for_single_pixel="UPPER").ravel().tolist() == [0]
