"""Small TensorRT networks, one for each kind of layer, on whatever builder is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

Add = Callable[[Any, Any], Any]
KEEP: list[np.ndarray] = []  # TensorRT reads constants from the array that was passed in


def constant(trt: Any, n: Any, array: np.ndarray, dtype: Any = None, shape: tuple[int, ...] | None = None) -> Any:
    array = np.asarray(array, order="C")
    KEEP.append(array)
    shape = array.shape if shape is None else shape
    count = int(np.prod(shape))
    weights = trt.Weights(array) if dtype is None else trt.Weights(dtype, array.ctypes.data, count)
    return n.add_constant(shape, weights).get_output(0)


def x(trt: Any, n: Any, shape: tuple[int, ...] = (-1, 4, 8), dtype: Any = None, name: str = "x") -> Any:
    return n.add_input(name, dtype or trt.float16, shape)


def _shuffle(trt: Any, n: Any) -> Any:
    layer = n.add_shuffle(x(trt, n))
    layer.first_transpose = trt.Permutation([1, 0, 2])
    layer.reshape_dims = (0, -1, 2)
    layer.second_transpose = trt.Permutation([2, 0, 1])
    return layer


def _dynamic_shuffle(trt: Any, n: Any) -> Any:
    layer = n.add_shuffle(x(trt, n))
    layer.set_input(1, constant(trt, n, np.array([0, 32], np.int64)))
    return layer


def _dynamic_slice(trt: Any, n: Any) -> Any:
    layer = n.add_slice(x(trt, n), (0, 0, 0), (1, 1, 1), (1, 1, 1))
    layer.set_input(2, n.add_shape(n.get_input(0)).get_output(0))
    layer.mode = trt.SampleMode.CLAMP
    return layer


def _fill(trt: Any, n: Any) -> Any:
    layer = n.add_fill((1,), trt.FillOperation.LINSPACE, trt.int32)
    layer.set_input(0, constant(trt, n, np.array([5], np.int64)))
    layer.set_input(1, constant(trt, n, np.array(3, np.int32)))
    layer.set_input(2, constant(trt, n, np.array([2], np.int32)))
    return layer


def _static_fill(trt: Any, n: Any) -> Any:
    layer = n.add_fill((6,), trt.FillOperation.LINSPACE, trt.float32)
    layer.alpha, layer.beta = 2.0, 0.5
    return layer


def _gather(trt: Any, n: Any) -> Any:
    layer = n.add_gather_v2(x(trt, n), n.add_input("i", trt.int64, (-1,)), trt.GatherMode.DEFAULT)
    layer.axis, layer.num_elementwise_dims = 1, 1
    return layer


def _rotary(trt: Any, n: Any) -> Any:
    tables = [constant(trt, n, np.ones((16, 2), np.float16)) for _ in range(2)]
    layer = n.add_rotary_embedding(x(trt, n, (-1, 2, -1, 8)), *tables, True, 4)
    layer.set_input(3, n.add_input("p", trt.int64, (-1, -1)))
    return layer


def _cache(trt: Any, n: Any) -> Any:
    cache = x(trt, n, (-1, 2, 16, 8), name="cache")
    return n.add_kv_cache_update(
        cache, x(trt, n, (-1, 2, -1, 8)), n.add_input("w", trt.int32, (-1,)), trt.KVCacheMode.LINEAR
    )


def _attention(trt: Any, n: Any) -> Any:
    q, k, v = (x(trt, n, s, name=name) for name, s in zip("qkv", [(-1, 4, -1, 8)] + [(-1, 2, 16, 8)] * 2, strict=True))
    layer = n.add_attention_v2(q, k, v, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT)
    layer.key_value_lengths = n.add_input("l", trt.int32, (-1,))
    layer.decomposable = True
    return layer


def _masked_attention(trt: Any, n: Any) -> Any:
    q, k, v = (x(trt, n, s, name=name) for name, s in zip("qkv", [(-1, 4, -1, 8)] + [(-1, 2, 16, 8)] * 2, strict=True))
    layer = n.add_attention_v2(q, k, v, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE)
    layer.mask = n.add_input("m", trt.bool, (-1, 1, -1, 16))
    return layer


def _convolution(trt: Any, n: Any) -> Any:
    kernel, bias = np.ones((6, 1, 3, 3), np.float16), np.ones(6, np.float16)
    KEEP.extend([kernel, bias])
    layer = n.add_convolution_nd(x(trt, n, (-1, 3, 8, 8)), 6, (3, 3), trt.Weights(kernel), trt.Weights(bias))
    layer.stride_nd, layer.padding_nd, layer.num_groups = (2, 2), (1, 1), 3
    return layer


def _dequantize(trt: Any, n: Any) -> Any:
    data = constant(trt, n, np.arange(16, dtype=np.int8).reshape(4, 4))
    layer = n.add_dequantize(data, constant(trt, n, np.ones(4, np.float16)), trt.float16)
    layer.axis = 0
    return layer


def _int4(trt: Any, n: Any) -> Any:
    packed = constant(trt, n, np.arange(64, dtype=np.uint8), trt.DataType.INT4, (4, 32))
    return n.add_dequantize(packed, constant(trt, n, np.ones((4, 2), np.float16)), trt.float16)


def _bf16(trt: Any, n: Any) -> Any:
    weight = constant(trt, n, np.arange(8).astype(ml_dtypes.bfloat16), trt.bfloat16, (1, 1, 8))
    return n.add_elementwise(x(trt, n, dtype=trt.bfloat16), weight, trt.ElementWiseOperation.PROD)


def _normalization(trt: Any, n: Any) -> Any:
    scale, bias = (constant(trt, n, np.ones((1, 1, 8), np.float16)) for _ in range(2))
    layer = n.add_normalization_v2(x(trt, n), scale, bias, 1 << 2)
    layer.epsilon = 1e-6
    return layer


def _resize(trt: Any, n: Any) -> Any:
    layer = n.add_resize(x(trt, n, (1, 3, 8, 8)))
    layer.shape = (1, 3, 16, 16)
    layer.resize_mode = trt.InterpolationMode.LINEAR
    return layer


NETWORKS: dict[str, Add] = {
    "activation": lambda trt, n: n.add_activation(x(trt, n), trt.ActivationType.GELU_ERF),
    "attention": _attention,
    "attention mask": _masked_attention,
    "bfloat16 constant": _bf16,
    "cast": lambda trt, n: n.add_cast(x(trt, n), trt.float32),
    "concatenation": lambda trt, n: n.add_concatenation([x(trt, n), x(trt, n, name="y")]),
    "convolution": _convolution,
    "cumulative": lambda trt, n: n.add_cumulative(
        x(trt, n), constant(trt, n, np.array(1, np.int32)), trt.CumulativeOperation.SUM, False, True
    ),
    "dequantize": _dequantize,
    "einsum": lambda trt, n: n.add_einsum([x(trt, n), x(trt, n, name="y")], "bij,bkj->bik"),
    "elementwise": lambda trt, n: n.add_elementwise(x(trt, n), x(trt, n, name="y"), trt.ElementWiseOperation.POW),
    "fill": _fill,
    "fill static": _static_fill,
    "gather": _gather,
    "identity": lambda trt, n: n.add_identity(x(trt, n)),
    "int4 constant": _int4,
    "kv cache update": _cache,
    "matrix multiply": lambda trt, n: n.add_matrix_multiply(
        x(trt, n),
        trt.MatrixOperation.NONE,
        constant(trt, n, np.ones((1, 3, 8), np.float16)),
        trt.MatrixOperation.TRANSPOSE,
    ),
    "non zero": lambda trt, n: n.add_non_zero(x(trt, n)),
    "normalization": _normalization,
    "pooling": lambda trt, n: n.add_pooling_nd(x(trt, n, (-1, 3, 8, 8)), trt.PoolingType.AVERAGE, (2, 2)),
    "quantize": lambda trt, n: n.add_quantize(x(trt, n), constant(trt, n, np.ones((), np.float16)), trt.fp8),
    "reduce": lambda trt, n: n.add_reduce(x(trt, n), trt.ReduceOperation.AVG, 1 << 2, True),
    "resize": _resize,
    "rotary embedding": _rotary,
    "scatter": lambda trt, n: n.add_scatter(
        x(trt, n), n.add_input("i", trt.int32, (-1, 4, 8)), x(trt, n, name="u"), trt.ScatterMode.ELEMENT
    ),
    "select": lambda trt, n: n.add_select(n.add_input("c", trt.bool, (-1, 4, 8)), x(trt, n), x(trt, n, name="y")),
    "shape": lambda trt, n: n.add_shape(x(trt, n)),
    "shuffle": _shuffle,
    "shuffle dynamic": _dynamic_shuffle,
    "slice": lambda trt, n: n.add_slice(x(trt, n, (2, 4, 8)), (0, 1, 0), (2, 2, 4), (1, 1, 2)),
    "slice dynamic": _dynamic_slice,
    "softmax": lambda trt, n: n.add_softmax(x(trt, n)),
    "squeeze": lambda trt, n: n.add_squeeze(x(trt, n, (-1, 1, 8)), constant(trt, n, np.array([1], np.int64))),
    "topk": lambda trt, n: n.add_topk(x(trt, n), trt.TopKOperation.MAX, 2, 1 << 2),
    "unary": lambda trt, n: n.add_unary(x(trt, n), trt.UnaryOperation.ERF),
    "unsqueeze": lambda trt, n: n.add_unsqueeze(x(trt, n), constant(trt, n, np.array([1], np.int64))),
}
