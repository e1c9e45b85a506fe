from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from building import NetworkBuilder, evaluate, evaluate_all
from oracle import assert_rounded, torch

from tt_edge.dtypes import DType
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.number_formats import unpack_nibbles

LIMITS = {DType.INT8: (-128, 127), DType.INT4: (-8, 7), DType.FP8: (-448, 448), DType.FP4: (-6, 6)}


def spread(scale: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The scale of each element, by plain repetition."""
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(()), shape)
    if scale.ndim == 1:
        return np.broadcast_to(scale.reshape([-1 if d == axis else 1 for d in range(len(shape))]), shape)
    for d, n in enumerate(shape):
        scale = np.repeat(scale, n // scale.shape[d], d)
    return scale


SCALES = {
    "tensor": ((), -1),
    "channel 0": ((6,), 0),
    "channel 1": ((32,), 1),
    "blocks": ((6, 4), -1),
    "rows": ((2, 32), -1),
}


@pytest.mark.parametrize("scale_shape", SCALES)
@pytest.mark.parametrize("target", LIMITS)
def test_quantize_rounds_to_even_and_clamps(rng, normal, dtype, target, scale_shape):
    shape, axis = SCALES[scale_shape]
    x = normal(6, 32) * dtype.numpy.type(4)
    scale = rng.uniform(0.25, 1, shape).astype(np.float32)
    value = evaluate("QUANTIZE", x, scale, dtype=target, axis=axis, to_type=target.value, constants=(1,))
    exact = x.astype(np.float32) / spread(scale, x.shape, axis)
    exact = exact if target.is_floating else np.round(exact)
    np.testing.assert_array_equal(value, np.clip(exact, *LIMITS[target]).astype(target.numpy))


def test_fp8_against_torch(rng):
    x = rng.uniform(-500, 500, 4000).astype(np.float32)
    value = evaluate("QUANTIZE", x, np.array(1.0, np.float32), dtype=DType.FP8, axis=-1)
    expected = torch.from_numpy(x).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(value.astype(np.float32), expected)


@pytest.mark.parametrize("scale_shape", SCALES)
@pytest.mark.parametrize("source", LIMITS)
def test_dequantize(rng, dtype, source, scale_shape):
    shape, axis = SCALES[scale_shape]
    x = np.clip(rng.standard_normal((6, 32)) * 4, *LIMITS[source]).astype(source.numpy)
    scale = rng.uniform(0.25, 1, shape).astype(dtype.numpy)
    exact = x.astype(np.float64) * spread(scale, x.shape, axis).astype(np.float64)
    for constants in ((), (0, 1)):
        value = evaluate("DEQUANTIZE", x, scale, dtype=dtype, axis=axis, constants=constants)
        assert_rounded(value, torch.from_numpy(exact), 1)


def test_packed_int4_weights_low_nibble_first():
    values = unpack_nibbles(np.array([0x8F, 0x70], np.uint8), DType.INT4, 4)
    assert values.astype(int).tolist() == [-1, -8, 0, 7]
    assert unpack_nibbles(np.array([0x21, 0x0F], np.uint8), DType.FP4, 3).astype(float).tolist() == [0.5, 1.0, -6.0]


@pytest.mark.parametrize("budget", [4 << 30, 0])
def test_int4_weight_of_a_linear_layer(rng, budget):
    """[N, K] in groups of 16 along K, scale [N, K / 16]: folded and kept as float32, or dequantized in every run."""
    rows, columns, group = 256, 512, 16
    weight, scale = (
        rng.integers(-8, 8, (rows, columns)),
        rng.uniform(0.01, 0.1, (rows, columns // group)).astype(np.float16),
    )
    nibbles = (weight.reshape(-1) & 15).astype(np.uint8)
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT16, (-1, columns))
    w = builder.layer("CONSTANT", [], DType.INT4, (rows, columns), weights="packed", shape=[rows, columns])
    builder.network.weights["packed"] = nibbles[0::2] | nibbles[1::2] << 4
    w = builder.layer("DEQUANTIZE", [w, builder.constant(scale)], DType.FLOAT16, (rows, columns), axis=-1)
    y = builder.layer("MATRIX_MULTIPLY", [x, w], DType.FLOAT16, (-1, rows), op0="NONE", op1="TRANSPOSE")
    feeds = {"x": rng.standard_normal((3, columns)).astype(np.float16)}
    value = ReferenceEvaluator(builder.output(y), constant_bytes=budget).run(feeds)[y]
    dense = (weight * np.repeat(scale, group, 1).astype(np.float64)).astype(np.float16).astype(np.float64)
    assert_rounded(value, torch.from_numpy(feeds["x"].astype(np.float64) @ dense.T), scale=100)


@pytest.mark.parametrize("attributes", [{"block_shape": [1, 16]}, {"axis": 1, "block_size": 16, "block_shape": None}])
def test_dynamic_nvfp4(rng, normal, dtype, attributes):
    x = normal(5, 64)
    x[0, :16] = 0
    outer = np.array(np.abs(x.astype(np.float32)).max() / (6 * 448), np.float32)
    data, scales = evaluate_all("DYNAMIC_QUANTIZE", [x, outer], [(DType.FP4, 2), (DType.FP8, 2)], **attributes)
    blocks = x.astype(np.float32).reshape(5, 4, 16)
    stored = (np.abs(blocks).max(-1) / 6 / outer).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(scales, stored)
    steps = stored.astype(np.float32)[..., None] * outer
    expected = np.divide(blocks, steps, where=steps != 0, out=np.zeros_like(blocks)).clip(-6, 6)
    np.testing.assert_array_equal(data, expected.reshape(5, 64).astype(ml_dtypes.float4_e2m1fn))
    restored = data.astype(np.float32).reshape(blocks.shape) * steps
    assert np.linalg.norm(restored - blocks) < 0.15 * np.linalg.norm(blocks)


def test_double_dequantization_restores_dynamic_quantization(rng):
    x = rng.standard_normal((4, 32)).astype(np.float32)
    outer = np.array(0.002, np.float32)
    data, scales = evaluate_all("DYNAMIC_QUANTIZE", [x, outer], [(DType.FP4, 2), (DType.FP8, 2)], block_shape=[1, 16])
    steps = evaluate("DEQUANTIZE", scales, outer, dtype=DType.FLOAT32, axis=-1)
    restored = evaluate("DEQUANTIZE", data, steps, dtype=DType.FLOAT32, axis=-1)
    assert np.linalg.norm(restored - x) < 0.15 * np.linalg.norm(x)


def test_dynamic_fp8_with_float_scales_of_fully_blocked_rows(rng):
    x = rng.standard_normal((3, 32)).astype(np.float32)
    data, scales = evaluate_all("DYNAMIC_QUANTIZE", [x], [(DType.FP8, 2), (DType.FLOAT32, 2)], block_shape=[1, -1])
    np.testing.assert_allclose(scales[:, 0], np.abs(x).max(1) / 448, rtol=1e-6)
    np.testing.assert_allclose(data.astype(np.float32) * scales, x, atol=0.07 * np.abs(x).max())
