"""What a decode step costs: counted by hand for small networks, and by formula for a decoder."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.models.decoders import compiled
from tests.network.reference.building import DecoderShape, NetworkBuilder
from tt_edge.dtypes import DType
from tt_edge.network.inspection import DecodeCost, decode_cost, kv_bytes_per_token, parameters_by_dtype
from tt_edge.network.simplify import simplify

SHAPE = DecoderShape()
_, CONTRACT = compiled()


@pytest.fixture
def b():
    builder = NetworkBuilder()
    builder.input("x", DType.FLOAT16, (-1, -1, 8))
    builder.input("ids", DType.INT64, (-1, -1))
    return builder


def matmul(b: NetworkBuilder, weight: str):
    rows = b.network.tensors[weight].shape[-2]
    return b.layer("MATRIX_MULTIPLY", ["x", weight], DType.FLOAT16, (-1, -1, rows), op0="NONE", op1="TRANSPOSE")


def gather(b: NetworkBuilder, table: str):
    shape = (-1, -1, *b.network.tensors[table].shape[1:])
    return b.layer("GATHER", [table, "ids"], DType.FLOAT16, shape, axis=0, mode="DEFAULT", num_elementwise_dims=0)


def half(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float16)


def test_a_matrix_is_read_whole_and_multiplied(b):
    cost = decode_cost(b.output(matmul(b, b.constant(half(1, 5, 8), "w"))), CONTRACT)
    assert (cost.weight_bytes, cost.flops) == (5 * 8 * 2, 2 * 5 * 8)


def test_one_row_of_a_gathered_table_is_read(b):
    cost = decode_cost(b.output(gather(b, b.constant(half(100, 8), "table"))), CONTRACT)
    assert (cost.weight_bytes, cost.flops) == (8 * 2, 0)


def test_a_tied_table_is_read_whole_and_once(b):
    table = b.constant(half(100, 8), "table")
    outputs = gather(b, table), matmul(b, b.constant(half(100, 8), "table", (1, 100, 8)))
    cost = decode_cost(b.output(*outputs), CONTRACT)
    assert (cost.weight_bytes, cost.flops) == (100 * 8 * 2, 2 * 100 * 8)


def test_a_weight_used_twice_is_read_once_and_multiplied_twice(b):
    weight = b.constant(half(1, 5, 8), "w")
    cost = decode_cost(b.output(matmul(b, weight), matmul(b, weight)), CONTRACT)
    assert (cost.weight_bytes, cost.flops) == (5 * 8 * 2, 2 * 2 * 5 * 8)


def test_one_row_of_each_rotary_table_is_read(b):
    tables = [b.constant(half(64, 4), name) for name in ("cos", "sin")]
    rotated = b.layer("ROTARY_EMBEDDING", ["x", *tables, "ids"], DType.FLOAT16, (-1, -1, 8), interleaved=False)
    assert decode_cost(b.output(rotated), CONTRACT).weight_bytes == 2 * 4 * 2


def test_four_bit_weights_take_half_a_byte(b):
    weights = b.network.weights
    assert isinstance(weights, dict)
    weights["w"] = np.zeros(20, np.uint8)
    packed = b.layer("CONSTANT", [], DType.INT4, (5, 8), weights="w", shape=[5, 8])
    y = b.layer("DEQUANTIZE", [packed, b.constant(half(5, 1), "s")], DType.FLOAT16, (5, 8))
    product = b.layer("MATRIX_MULTIPLY", ["x", y], DType.FLOAT16, (-1, -1, 5), op0="NONE", op1="TRANSPOSE")
    network = b.output(product)
    cost = decode_cost(network, CONTRACT)
    assert (cost.weight_bytes, cost.flops) == (20 + 10, 2 * 5 * 8)
    assert parameters_by_dtype(network) == {DType.INT4: (40, 20), DType.FLOAT16: (5, 10)}


def test_parameters_count_a_shared_weight_once(b):
    b.constant(half(100, 8), "table")
    b.constant(half(100, 8), "table", (1, 100, 8))
    b.constant(np.zeros(3, ml_dtypes.bfloat16))
    b.constant(np.zeros((), np.int64))
    assert parameters_by_dtype(b.network) == {
        DType.FLOAT16: (800, 1600),
        DType.BFLOAT16: (3, 6),
        DType.INT64: (1, 8),
    }


def test_cache_bytes():
    per_token = 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_dim * 4
    assert kv_bytes_per_token(CONTRACT) == per_token
    assert CONTRACT.kv_bytes(1) == per_token * CONTRACT.max_seq_len


@pytest.mark.parametrize(("cached", "expected"), [(None, 24), (0, 0), (5, 5), (48, 48)])
def test_the_cache_is_read_up_to_the_cached_tokens(cached, expected):
    network, contract = compiled()
    cost = decode_cost(network, contract, cached)
    assert (cost.cached_tokens, cost.kv_bytes) == (expected, expected * kv_bytes_per_token(contract))
    assert cost.bytes == cost.weight_bytes + cost.kv_bytes


def test_a_decoder_costs_two_operations_a_matrix_element_and_a_read_of_every_weight():
    network, contract = compiled()
    h, q, kv = SHAPE.hidden, SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim
    matrices = SHAPE.layers * (h * q + 2 * h * kv + q * h + 3 * h * SHAPE.intermediate) + h * SHAPE.vocabulary
    cost = decode_cost(network, contract)
    assert cost.flops == 2 * matrices
    tables = 2 * SHAPE.head_dim // 2 * (contract.max_seq_len - 1) * 4
    assert cost.weight_bytes == sum(network.weight_bytes().values()) - tables


def test_tidying_changes_no_cost():
    network, contract = compiled()
    before = decode_cost(network, contract)
    simplify(network)
    assert decode_cost(network, contract) == before


def test_the_bound_is_bandwidth_over_bytes():
    assert DecodeCost(weight_bytes=900_000_000, kv_bytes=100_000_000, flops=0, cached_tokens=0).tokens_per_s(200) == 200
