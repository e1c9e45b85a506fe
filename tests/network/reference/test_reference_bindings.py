"""Shapes and types against TensorRT's own inference: each layer is also added to a real network definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from building import evaluate_all

from tt_edge.dtypes import DType

trt = pytest.importorskip("tensorrt_rtx")

TYPES = {
    DType.FLOAT32: trt.float32, DType.FLOAT16: trt.float16, DType.INT64: trt.int64, DType.INT32: trt.int32,
    DType.INT8: trt.int8, DType.FP8: trt.fp8, DType.FP4: trt.fp4, DType.BOOL: trt.bool,
}  # fmt: skip


@dataclass
class Definition:
    """A network definition whose inputs have the static shapes of given arrays."""

    def __post_init__(self):
        self.builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.network = self.builder.create_network()
        self.arrays = []

    def input(self, array: np.ndarray):
        return self.network.add_input(f"in{self.network.num_inputs}", TYPES[DType.of(array.dtype)], array.shape)

    def constant(self, array: np.ndarray):
        self.arrays.append(array)
        return self.network.add_constant(array.shape, trt.Weights(array)).get_output(0)


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def f16(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float16)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def padding(layer, before, after, mode):
    layer.pre_padding, layer.post_padding = before, after
    layer.padding_mode, layer.stride_nd = mode, (2, 2)
    return layer


def shuffled(n, x):
    layer = n.add_shuffle(x)
    layer.first_transpose, layer.reshape_dims, layer.second_transpose = (0, 2, 1, 3), (0, 0, -1), (0, 2, 1)
    return layer


def sliced(n, x, axes):
    layer = n.add_slice(x, (1,), (2,), (1,))
    layer.axes = axes
    return layer


def attributes(**values):
    return values


POOL = attributes(type="MAX", window_size_nd=[3, 3], stride_nd=[2, 2], pre_padding=[3, 3], post_padding=[2, 2])
Add = Callable[..., object]

# name: (kind, inputs, indices of constant inputs, attributes, how to add it to a definition `n` with tensors `t`)
CASES: dict[str, tuple[str, list[np.ndarray], tuple[int, ...], dict, Add]] = {
    "shuffle: 0 refers to the transposed input": (
        "SHUFFLE", [f32(2, 3, 4, 5)], (),
        attributes(first_transpose=[0, 2, 1, 3], reshape_dims=[0, 0, -1], second_transpose=[0, 2, 1]),
        shuffled,
    ),
    "squeeze": (
        "SQUEEZE", [f32(1, 3, 1), i64(0, -1)], (1,), {}, lambda n, x, a: n.add_squeeze(x, a)
    ),
    "unsqueeze": (
        "UNSQUEEZE", [f32(2, 3), i64(0, -1)], (1,), {}, lambda n, x, a: n.add_unsqueeze(x, a)
    ),
    "slice with axes": (
        "SLICE", [f32(4, 5, 6)], (), attributes(start=[1], shape=[2], stride=[1], axes=[1]),
        lambda n, x: sliced(n, x, (1,)),
    ),
    "slice with stride 0": (
        "SLICE", [f32(4, 5)], (), attributes(start=[1, 0], shape=[7, 5], stride=[0, 1]),
        lambda n, x: n.add_slice(x, (1, 0), (7, 5), (0, 1)),
    ),
    "concatenation by default along the third axis from the end": (
        "CONCATENATION", [f32(2, 3, 4, 5), f32(2, 6, 4, 5)], (), {}, lambda n, a, b: n.add_concatenation([a, b])
    ),
    "shape": ("SHAPE", [f32(2, 3)], (), {}, lambda n, x: n.add_shape(x)),
    "gather": (
        "GATHER", [f32(4, 5, 6), np.zeros((2, 3), np.int32)], (),
        attributes(axis=1, mode="DEFAULT", num_elementwise_dims=0), lambda n, x, i: n.add_gather(x, i, 1),
    ),
    "gather nd": (
        "GATHER", [f32(4, 5, 6), np.zeros((3, 2, 1), np.int64)], (1,),
        attributes(axis=0, mode="ND", num_elementwise_dims=0), lambda n, x, i: n.add_gather_v2(x, i, trt.GatherMode.ND),
    ),
    "matrix times vector": (
        "MATRIX_MULTIPLY", [f32(2, 3, 4), f32(2, 4)], (), attributes(op0="NONE", op1="VECTOR"),
        lambda n, a, b: n.add_matrix_multiply(a, trt.MatrixOperation.NONE, b, trt.MatrixOperation.VECTOR),
    ),
    "vector times transposed matrix": (
        "MATRIX_MULTIPLY", [f32(2, 4), f32(2, 3, 4)], (), attributes(op0="VECTOR", op1="TRANSPOSE"),
        lambda n, a, b: n.add_matrix_multiply(a, trt.MatrixOperation.VECTOR, b, trt.MatrixOperation.TRANSPOSE),
    ),
    "broadcast batch": (
        "MATRIX_MULTIPLY", [f16(2, 1, 3, 4), f16(1, 5, 6, 4)], (), attributes(op0="NONE", op1="TRANSPOSE"),
        lambda n, a, b: n.add_matrix_multiply(a, trt.MatrixOperation.NONE, b, trt.MatrixOperation.TRANSPOSE),
    ),
    "einsum": (
        "EINSUM", [f32(3, 4), f32(4, 5)], (), attributes(equation="ij,jk"), lambda n, *t: n.add_einsum(t, "ij,jk")
    ),
    "comparison": (
        "ELEMENTWISE", [f16(2, 1), f16(1, 3)], (), attributes(op="LESS"),
        lambda n, a, b: n.add_elementwise(a, b, trt.ElementWiseOperation.LESS),
    ),
    "reduce": (
        "REDUCE", [f16(2, 3, 4)], (), attributes(op="AVG", axes=0b101, keep_dims=False),
        lambda n, x: n.add_reduce(x, trt.ReduceOperation.AVG, 0b101, False),
    ),
    "topk": (
        "TOPK", [f16(2, 3, 4)], (), attributes(op="MAX", axes=0b100, k=2),
        lambda n, x: n.add_topk(x, trt.TopKOperation.MAX, 2, 0b100),
    ),
    "cast": ("CAST", [f16(2, 3)], (), attributes(to_type="int64"), lambda n, x: n.add_cast(x, trt.int64)),
    "select": (
        "SELECT", [np.zeros((1, 1, 5), bool), f16(1, 3, 1), f16(2, 1, 1)], (), {},
        lambda n, c, a, b: n.add_select(c, a, b),
    ),
    "one hot": (
        "ONE_HOT", [np.zeros((2, 3), np.int32), f32(2), np.array(5, np.int32)], (2,), attributes(axis=1),
        lambda n, i, v, d: n.add_one_hot(i, v, d, 1),
    ),
    "cumulative": (
        "CUMULATIVE", [f32(2, 3), np.array(1, np.int32)], (1,), attributes(op="SUM", exclusive=False, reverse=True),
        lambda n, x, a: n.add_cumulative(x, a, trt.CumulativeOperation.SUM, False, True),
    ),
    "quantize": (
        "QUANTIZE", [f32(4, 8), np.array(1, np.float32)], (1,), attributes(axis=-1),
        lambda n, x, s: n.add_quantize(x, s, trt.int8),
    ),
    "nvfp4": (
        "DYNAMIC_QUANTIZE", [f32(4, 32), np.array(1, np.float32)], (1,), attributes(axis=1, block_size=16),
        lambda n, x, s: with_input(n.add_dynamic_quantize(x, 1, 16, trt.fp4, trt.fp8), 1, s),
    ),
    "rotary embedding": (
        "ROTARY_EMBEDDING", [f16(2, 3, 5, 8), f16(9, 4), f16(9, 4), np.zeros((2, 5), np.int64)], (1, 2),
        attributes(interleaved=False, rotary_embedding_dim=0),
        lambda n, x, c, s, p: with_input(n.add_rotary_embedding(x, c, s, False, 0), 3, p),
    ),
    "cache update": (
        "KV_CACHE_UPDATE", [f16(2, 3, 9, 8), f16(2, 3, 4, 8), np.zeros(2, np.int32)], (),
        attributes(cache_mode="LINEAR"),
        lambda n, c, u, w: n.add_kv_cache_update(c, u, w, trt.KVCacheMode.LINEAR),
    ),
    "attention": (
        "ATTENTION", [f16(2, 6, 4, 8), f16(2, 3, 9, 8), f16(2, 3, 9, 8)], (), attributes(causal_kind="LOWER_RIGHT"),
        lambda n, q, k, v: n.add_attention_v2(
            q, k, v, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT
        ),
    ),
    **{
        f"pooling {mode}": (
            "POOLING", [f32(1, 2, 6, 7)], (), POOL | attributes(padding_mode=mode),
            lambda n, x, mode=mode: padding(
                n.add_pooling_nd(x, trt.PoolingType.MAX, (3, 3)), (3, 3), (2, 2), getattr(trt.PaddingMode, mode)
            ),
        )
        for mode in ("EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP", "SAME_UPPER", "SAME_LOWER")
    },
}  # fmt: skip


def with_input(layer, index, tensor):
    layer.set_input(index, tensor)
    return layer


@pytest.mark.parametrize("case", CASES)
def test_output_shapes_and_types_are_tensorrts(case):
    kind, inputs, constants, values, add = CASES[case]
    definition = Definition()
    tensors = [definition.constant(a) if i in constants else definition.input(a) for i, a in enumerate(inputs)]
    layer = add(definition.network, *tensors)
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    names = {dtype: name for name, dtype in TYPES.items()}
    declared = [(names[tensor.dtype], len(tensor.shape)) for tensor in outputs]
    results = evaluate_all(kind, inputs, declared, constants, **values)
    assert [result.shape for result in results] == [tuple(tensor.shape) for tensor in outputs]


def test_every_enum_member_of_the_bindings_is_known():
    from tt_edge.network.reference import attention, convolution, elementwise, indexing, reductions, resize, slicing

    def members(enum) -> set[str]:
        return set(enum.__members__)

    one = np.float32(1)
    assert members(trt.ActivationType) == set(elementwise._activations(one, one))
    assert members(trt.ElementWiseOperation) == set(elementwise._BINARY)
    assert members(trt.UnaryOperation) == set(elementwise._UNARY)
    assert members(trt.ReduceOperation) - {"NONE"} == set(reductions._REDUCTIONS)  # NONE is for collectives
    assert members(trt.SampleMode) == {"STRICT_BOUNDS", *slicing._SAMPLED}
    assert members(trt.PaddingMode) == set(convolution._MODES)
    assert members(trt.PoolingType) == set(convolution._POOLINGS)
    assert members(trt.ResizeCoordinateTransformation) == set(resize._COORDINATES)
    assert members(trt.ResizeRoundMode) == set(resize._ROUNDINGS)
    assert members(trt.CausalMaskKind) == set(attention._DIAGONALS)
    assert members(trt.AttentionIOForm) == set(attention._FORMS)
    assert members(trt.GatherMode) == set(indexing._GATHER_MODES)
