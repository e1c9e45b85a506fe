"""Each rule: the same numbers as before it, and a network that TensorRT-RTX builds."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.network.reference.building import NetworkBuilder
from tt_edge.contract import ShapeRange
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.build import build_engine
from tt_edge.network.ir import Network
from tt_edge.network.legalize.form import REPLACEABLE, Form
from tt_edge.network.legalize.legalize import RULES, legalize, needed_features
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.tensorrt_features import (
    ATTENTION,
    ATTENTION_LENGTHS,
    DYNAMIC_QUANTIZE,
    FEATURES,
    KV_CACHE_UPDATE,
    ROTARY_EMBEDDING,
    SQUEEZE,
    Feature,
    features_of_release,
)

B, H, KV, S, T, D = 2, 4, 2, 3, 9, 16


@dataclass
class Case:
    """One layer over inputs whose dynamic dimensions are -1 in ``shapes``; ``lacking`` is what is to be replaced."""

    lacking: tuple[Feature, ...]
    kind: str
    inputs: list[np.ndarray | None]
    shapes: list[tuple[int, ...] | None]
    output: tuple[int, ...]
    attributes: dict = field(default_factory=dict)
    constants: tuple[int, ...] = ()

    def network(self) -> tuple[Network, dict[str, np.ndarray]]:
        builder, feeds, names = NetworkBuilder(), {}, []
        for index, (array, shape) in enumerate(zip(self.inputs, self.shapes, strict=True)):
            if array is None or shape is None:
                names.append(None)
            elif index in self.constants:
                names.append(builder.constant(array))
            else:
                names.append(builder.input(f"in{index}", DType.of(array.dtype), shape))
                feeds[f"in{index}"] = array
        dtype = DType.of(next(array for array in self.inputs if array is not None).dtype)
        return builder.output(builder.layer(self.kind, names, dtype, self.output, **self.attributes)), feeds


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32).astype(dtype)


def attention(
    lacking, *, heads=(H, KV), kind="NONE", lengths=None, mask=None, mask_shape=None, keys=T, dtype=np.float32
):
    q, k = (-1, heads[0], -1, D), (-1, heads[1], keys, D)
    real = (B, heads[1], T, D)
    lengths = None if lengths is None else np.array(lengths, np.int32)
    return Case(
        lacking,
        "ATTENTION",
        [
            normal(B, heads[0], S, D, dtype=dtype), normal(*real, dtype=dtype), normal(*real, dtype=dtype) * 2,
            mask, None, None, lengths,
        ],
        [q, k, k, mask_shape, None, None, None if lengths is None else (-1,)],
        q,
        {"norm_op": "SOFTMAX", "causal_kind": kind, "decomposable": True},
    )  # fmt: skip


def visible(batch=B, heads=1, keys=T) -> np.ndarray:
    seen = np.random.default_rng(3).random((batch, heads, S, keys)) < 0.5
    seen[..., 0] = True
    return seen


def rotary(*, interleaved=False, rotated=D, by_rows=False, dtype=np.float32) -> Case:
    rows = (B, S, rotated // 2)
    tables = [normal(*(rows if by_rows else (T, rotated // 2)), dtype=dtype) for _ in range(2)]
    tables[1] = tables[1][::-1].copy()
    positions = None if by_rows else np.array([[0, 4, 8], [3, 1, 2]], np.int64)
    table_shape = (-1, -1, rotated // 2) if by_rows else (T, rotated // 2)
    return Case(
        (ROTARY_EMBEDDING,),
        "ROTARY_EMBEDDING",
        [normal(B, H, S, D, dtype=dtype), *tables, positions],
        [(-1, H, -1, D), table_shape, table_shape, None if by_rows else (-1, -1)],
        (-1, H, -1, D),
        {"interleaved": interleaved, "rotary_embedding_dim": 0 if rotated == D else rotated},
        constants=() if by_rows else (1, 2),
    )


def axes(kind: str, shape: tuple[int, ...], numbers: list[int], output: tuple[int, ...]) -> Case:
    dynamic = tuple(size if size == 1 else -1 for size in shape)
    inputs = [normal(*shape), np.array(numbers, np.int64)]
    return Case((SQUEEZE,), kind, inputs, [dynamic, (len(numbers),)], output, constants=(1,))


LENGTHS, PLAIN = (ATTENTION_LENGTHS,), (ATTENTION, ATTENTION_LENGTHS)
CASES = {
    "lower right, lengths": attention(LENGTHS, kind="LOWER_RIGHT", lengths=[5, 9]),
    "lower right": attention(LENGTHS, kind="LOWER_RIGHT"),
    "lower right, any number of keys": attention(LENGTHS, kind="LOWER_RIGHT", keys=-1),
    "upper left": attention(LENGTHS, kind="UPPER_LEFT"),
    "lengths alone": attention(LENGTHS, lengths=[5, 9]),
    "lengths and a mask": attention(
        LENGTHS, kind="LOWER_RIGHT", lengths=[5, 9], mask=visible(), mask_shape=(-1, 1, -1, T)
    ),
    "plain, lengths": attention(PLAIN, kind="LOWER_RIGHT", lengths=[5, 9]),
    "plain, half": attention(PLAIN, kind="LOWER_RIGHT", lengths=[5, 9], dtype=np.float16),
    "plain, one head each": attention(PLAIN, heads=(H, H), kind="LOWER_RIGHT", lengths=[3, 9]),
    "plain, one key head": attention(PLAIN, heads=(H, 1), kind="LOWER_RIGHT", lengths=[3, 9]),
    "plain, everything is seen": attention(PLAIN, keys=-1),
    "plain, one mask": attention(PLAIN, mask=visible(1), mask_shape=(1, 1, -1, T)),
    "plain, a mask for each head": attention(PLAIN, mask=visible(B, H), mask_shape=(-1, H, -1, T)),
    "plain, numbers are added": attention(PLAIN, mask=normal(B, 1, S, T), mask_shape=(-1, 1, -1, T)),
    "cache": Case(
        (KV_CACHE_UPDATE,), "KV_CACHE_UPDATE",
        [normal(B, KV, T, D), normal(B, KV, S, D), np.array([6, 2], np.int32)],
        [(-1, KV, T, D), (-1, KV, -1, D), (-1,)], (-1, KV, T, D), {"cache_mode": "LINEAR"},
    ),
    "rotary": rotary(),
    "rotary, half": rotary(dtype=np.float16),
    "rotary, neighbours": rotary(interleaved=True),
    "rotary, a part": rotary(rotated=8),
    "rotary, a part, neighbours": rotary(rotated=8, interleaved=True),
    "rotary, rows": rotary(by_rows=True),
    "unsqueeze": axes("UNSQUEEZE", (2, 1, 3, 9), [2], (-1, 1, 1, -1, -1)),
    "unsqueeze twice": axes("UNSQUEEZE", (2, 3), [0, -1], (1, -1, -1, 1)),
    "squeeze": axes("SQUEEZE", (2, 1, 3, 1), [1, -1], (-1, -1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_captured_network(name):
    network, feeds = CASES[name].network()
    before = [(layer.kind, tuple(layer.inputs)) for layer in network.layers]
    available = set(FEATURES) - set(CASES[name].lacking)
    legal = legalize(network, available)
    assert needed_features(legal.network).keys() <= available
    assert [(layer.kind, tuple(layer.inputs)) for layer in network.layers] == before  # it is as it was
    output = network.outputs[0]
    want = ReferenceEvaluator(network).run({k: v.copy() for k, v in feeds.items()})[output].copy()
    got = ReferenceEvaluator(legal.network).run({k: v.copy() for k, v in feeds.items()})[output]
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    tolerance = 2e-6 if want.dtype == np.float32 else 4e-3
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_tensorrt_builds_the_result(tensorrt, name):
    network, feeds = CASES[name].network()
    legal = legalize(network, set(FEATURES) - set(CASES[name].lacking))
    profile = {key: ShapeRange(array.shape, array.shape, array.shape) for key, array in feeds.items()}
    assert build_engine(tensorrt, legal.network, [profile], "sm89", io.BytesIO()).bytes


def test_nothing_is_done_where_nothing_is_lacking():
    network, _ = CASES["lower right, lengths"].network()
    legal = legalize(network, FEATURES)
    assert legal.network is network
    assert legal.form == Form()
    assert str(legal.form) == "as captured"


def test_what_cannot_be_replaced_is_refused_with_the_release_that_has_it():
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT16, (-1, 32))
    scale = builder.constant(np.ones(1, np.float32))
    outputs = builder.layers(
        "DYNAMIC_QUANTIZE", [x, scale], [(DType.FP4, (-1, 32)), (DType.FP8, (-1, 2))], axis=1, block_size=16
    )
    network = builder.output(*outputs)
    assert DYNAMIC_QUANTIZE in needed_features(network)
    with pytest.raises(
        EngineError, match=r"needs dynamic quantization, which TensorRT 10\.3 lacks and TensorRT 10\.8 is"
    ):
        legalize(network, features_of_release("10.3"), "TensorRT 10.3")


@pytest.mark.parametrize("release", ["10.3", "10.13", "10.14", "10.16"])
def test_a_form_has_a_name_that_is_read_again(release):
    network, _ = CASES["lower right, lengths"].network()
    form = legalize(network, features_of_release(release)).form
    assert Form.parse(form.name) == form
    with pytest.raises(ValueError, match="'no_such' is no part of a network's form"):
        Form.parse("no_such")


def test_a_form_names_what_the_rules_replace():
    assert frozenset(rule.feature for rule in RULES) == REPLACEABLE
