"""Building a decoder block from its captured form, ahead of time, with the real builder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from tests.network.networks import constant
from tt_edge.config import Limits
from tt_edge.contract import TWO_PROFILES, IOContract, KVPair, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.build import build_engine, check_target, known_targets
from tt_edge.network.capture import capture

H, KV, D, CAP = 4, 2, 16, 64
WIDTH = H * D


def contract():
    half, cache = DType.FLOAT16, ("batch", KV, CAP, D)
    return IOContract(
        inputs=(
            TensorSpec("hidden", half, ("batch", "sequence", WIDTH)),
            TensorSpec("position_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("write_indices", DType.INT32, ("batch",)),
            TensorSpec("past_key_0", half, cache),
            TensorSpec("past_value_0", half, cache),
        ),
        outputs=(),
        limits=Limits(max_batch=2, max_input_len=32, max_seq_len=CAP),
        phases=TWO_PROFILES,
        kv_cache=(KVPair("past_key_0", "present_key_0"), KVPair("past_value_0", "present_value_0")),
    )


def block(tensorrt):
    """One attention block, by hand on the network API."""
    trt = tensorrt.module
    builder = trt.Builder(tensorrt.logger)
    n = builder.create_network()
    dims = {"batch": -1, "sequence": -1}
    kinds = {DType.FLOAT16: trt.float16, DType.INT64: trt.int64, DType.INT32: trt.int32}
    inputs = {s.name: n.add_input(s.name, kinds[s.dtype], s.resolve(**dims)) for s in contract().inputs}
    rng = np.random.default_rng(0)

    def weight(*shape):
        return constant(trt, n, rng.standard_normal(shape).astype(np.float16))

    tables = [weight(CAP, D // 2) for _ in range(2)]

    def heads(count):
        matrix = weight(1, count * D, WIDTH)
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        product = n.add_matrix_multiply(inputs["hidden"], none, matrix, transpose)
        layer = n.add_shuffle(product.get_output(0))
        layer.reshape_dims, layer.second_transpose = (0, 0, count, D), (0, 2, 1, 3)
        return layer.get_output(0)

    def rotate(tensor):
        layer = n.add_rotary_embedding(tensor, *tables, False, 0)
        layer.set_input(3, inputs["position_ids"])
        return layer.get_output(0)

    caches = []
    for kind, update in (("key", rotate(heads(KV))), ("value", heads(KV))):
        layer = n.add_kv_cache_update(inputs[f"past_{kind}_0"], update, inputs["write_indices"], trt.KVCacheMode.LINEAR)
        layer.get_output(0).name = f"present_{kind}_0"
        n.mark_output(layer.get_output(0))
        caches.append(layer.get_output(0))
    layer = n.add_attention_v2(
        rotate(heads(H)), *caches, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT
    )
    layer.decomposable = True
    n.mark_output(layer.get_output(0))
    return builder, n


@pytest.fixture
def captured(tensorrt):
    _builder, network = block(tensorrt)
    return capture(tensorrt, network, "block"), network.num_layers


def test_a_rebuilt_network_builds_to_an_engine(tensorrt, captured):
    network, layers = captured
    engine, phases = io.BytesIO(), set()

    def progress(phase, done, total):
        assert 0 <= done <= total
        phases.add(phase)
        return True

    built = build_engine(tensorrt, network, contract().profiles(), "sm89", engine, progress=progress)
    assert built.layers == layers
    assert built.bytes == len(engine.getvalue()) > 10_000
    assert (built.compute_capability, built.flavour) == ("sm89", tensorrt.flavour)
    assert phases


def test_cancelling_stops_the_build(tensorrt, captured):
    with pytest.raises(KeyboardInterrupt):
        build_engine(tensorrt, captured[0], contract().profiles(), "sm89", io.BytesIO(), progress=lambda *_: False)


def test_ctrl_c_during_the_build_is_raised_afterwards(tensorrt, captured):
    def progress(phase, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(tensorrt, captured[0], contract().profiles(), "sm89", io.BytesIO(), progress=progress)


def test_a_full_disk_is_the_error_that_is_seen(tensorrt, captured):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        build_engine(tensorrt, captured[0], contract().profiles(), "sm89", Full())


def test_the_builders_own_complaint_is_reported(tensorrt, captured):
    profiles = contract().profiles()
    del profiles[0]["position_ids"]
    with pytest.raises(EngineError, match=r"cannot build this network for sm89: .*position_ids"):
        build_engine(tensorrt, captured[0], profiles[:1], "sm89", io.BytesIO())


def test_unknown_targets_list_the_known_ones(tensorrt):
    assert "sm89" in known_targets(tensorrt)
    with pytest.raises(EngineError, match=r"no target sm42; it has sm75, .*sm120"):
        check_target(tensorrt, "sm42")


def test_local_without_a_gpu_says_what_to_do(tensorrt):
    if torch.cuda.is_available():
        assert check_target(tensorrt, None).startswith("sm")
    else:
        with pytest.raises(EngineError, match="sm89"):
            check_target(tensorrt, None)
