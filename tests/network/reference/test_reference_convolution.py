from __future__ import annotations

import numpy as np
import pytest
from building import NetworkBuilder, evaluate
from oracle import assert_rounded, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.network.reference import ReferenceEvaluator

CONVOLUTIONS = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", CONVOLUTIONS)
def test_convolution(normal, rank, groups, bias):
    x, weight = normal(2, 4, *(7, 8, 6)[:rank]), normal(6, 4 // groups, *(3, 2, 2)[:rank])
    b = normal(6) if bias else None
    stride, padding, dilation = [2, 1, 1][:rank], [1, 2, 0][:rank], [2, 1, 3][:rank]
    value = _convolution(x, weight, b, stride, padding, dilation, groups)
    wide = [None if t is None else to_torch(t, True) for t in (x, weight, b)]
    expected = CONVOLUTIONS[rank](*wide, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert_rounded(value, expected, scale=20)


def _convolution(x, weight, bias, stride, padding, dilation, groups):
    """With the kernel as an input and as a stored weight; both must agree."""
    dtype, rank = DType.of(x.dtype), x.ndim
    attributes = {
        "num_output_maps": len(weight), "kernel_size_nd": list(weight.shape[2:]), "stride_nd": stride,
        "padding_nd": padding, "dilation_nd": dilation, "num_groups": groups, "padding_mode": "EXPLICIT_ROUND_DOWN",
    }  # fmt: skip
    results = []
    for stored in (False, True):
        builder = NetworkBuilder()
        builder.network.weights.update({"k": weight} | ({} if bias is None else {"b": bias}))
        inputs = [builder.input("x", dtype, (-1, x.shape[1], *x.shape[2:]))]
        if stored:
            attributes |= {"kernel": "k"} | ({} if bias is None else {"bias": "b"})
        else:
            inputs += [builder.constant(weight)] + ([] if bias is None else [builder.constant(bias)])
        y = builder.layer("CONVOLUTION", inputs, dtype, (-1,) * rank, **attributes)
        results.append(ReferenceEvaluator(builder.output(y)).run({"x": x})[y])
    np.testing.assert_array_equal(*results)
    return results[0]


def test_patch_embedding_is_one_window(normal):
    x, weight = normal(9, 3, 2, 4, 4), normal(8, 3, 2, 4, 4)
    value = _convolution(x, weight, None, [2, 4, 4], [0, 0, 0], [1, 1, 1], 1)
    assert_rounded(value.reshape(9, 8), to_torch(x, True).flatten(1) @ to_torch(weight, True).flatten(1).T, scale=40)


@pytest.mark.parametrize(
    ("mode", "size"), [("EXPLICIT_ROUND_DOWN", 5), ("EXPLICIT_ROUND_UP", 5), ("SAME_UPPER", 3), ("SAME_LOWER", 3)]
)
def test_padding_modes_of_the_header(mode, size):
    """Pooling example 1: I = 6, B = 3, A = 2, S = 2, F = 3."""
    x = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    value = evaluate(
        "POOLING", x, type="MAX", window_size_nd=[3, 3], stride_nd=[2, 2], pre_padding=[3, 3], post_padding=[2, 2],
        padding_mode=mode,
    )  # fmt: skip
    assert value.shape == (1, 1, size, size)
    if mode.startswith("SAME"):
        last = {"SAME_UPPER": [2, 4, 5], "SAME_LOWER": [1, 3, 5]}[mode]
        np.testing.assert_array_equal(value[0, 0], x[0, 0][np.ix_(last, last)])


def test_round_up_adds_a_window():
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)
    attributes = {"type": "MAX", "window_size_nd": [3, 1], "stride_nd": [2, 1]}
    assert evaluate("POOLING", x, padding_mode="EXPLICIT_ROUND_DOWN", **attributes).ravel().tolist() == [2, 4]
    assert evaluate("POOLING", x, padding_mode="EXPLICIT_ROUND_UP", **attributes).ravel().tolist() == [2, 4, 5]


@pytest.mark.parametrize("excludes", [True, False])
@pytest.mark.parametrize("rank", [2, 3])
def test_pooling(normal, rank, excludes):
    x = normal(2, 3, *(7, 6, 5)[:rank])
    attributes = {
        "window_size_nd": [3] * rank, "stride_nd": [2] * rank, "padding_nd": [1] * rank,
        "average_count_excludes_padding": excludes, "padding_mode": "EXPLICIT_ROUND_DOWN",
    }  # fmt: skip
    wide = to_torch(x, True)
    maximum = getattr(torch.nn.functional, f"max_pool{rank}d")(wide, 3, 2, 1)
    average = getattr(torch.nn.functional, f"avg_pool{rank}d")(wide, 3, 2, 1, count_include_pad=not excludes)
    assert_rounded(evaluate("POOLING", x, type="MAX", **attributes), maximum)
    assert_rounded(evaluate("POOLING", x, type="AVERAGE", **attributes), average)
    blended = evaluate("POOLING", x, type="MAX_AVERAGE_BLEND", blend_factor=0.25, **attributes)
    assert_rounded(blended, 0.75 * maximum + 0.25 * average)
