"""AWQ, GPTQ and packed compressed-tensors, integers with a scale and a zero point a group, come back exactly."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import GROUP, K, N, write
from tests.compile.checkpoint.prequantized.reading import AWQ, GPTQ, INT4, compressed, read, refused
from tt_edge.compile.checkpoint.prequantized import read_quantized

SYMMETRIC = N * K // 2 + N * (K // GROUP) * 2  # bytes of INT4 with fp16 scales


def test_awq_without_shift_is_int4(tmp_path):
    weight = read(tmp_path, AWQ, packing.awq(zeros=torch.full((N, K // GROUP), 8)))
    assert (weight.format, weight.group_size, weight.nbytes) == ("int4", GROUP, SYMMETRIC)
    assert (weight.unpacked().min(), weight.unpacked().max()) == (-8, 7)


def test_awq_with_zero_points_is_int8_with_the_same_groups(tmp_path):
    weight = read(tmp_path, AWQ, packing.awq())
    assert (weight.format, weight.group_size, weight.values.dtype) == ("int8", GROUP, torch.int8)
    assert weight.scale.dtype == torch.float16


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_gptq(tmp_path, layout):
    weight = read(tmp_path, {**GPTQ, "checkpoint_format": layout}, packing.gptq(v2=layout == "gptq_v2"))
    assert (weight.format, weight.nbytes, weight.permutation) == ("int4", SYMMETRIC, None)


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_gptq_with_zero_points(tmp_path, layout):
    config = {**GPTQ, "sym": False, "checkpoint_format": layout}
    assert read(tmp_path, config, packing.gptq(symmetric=False, v2=layout == "gptq_v2")).format == "int8"


def test_zero_points_of_zero_survive_the_borrow_of_gptq(tmp_path):
    layer = packing.gptq(symmetric=False, v2=True)
    layer.tensors["qzeros"] = layer.tensors["qzeros"] - 0x11111111  # as GPTQModel goes from gptq_v2 to gptq
    read(tmp_path, GPTQ, layer)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_act_order(tmp_path, symmetric):
    layer = packing.gptq(act_order=True, symmetric=symmetric)
    weight = read(tmp_path, {**GPTQ, "desc_act": True}, layer)
    assert weight.format == ("int4" if symmetric else "int8")
    assert torch.equal(layer.about["group_of"][weight.permutation], torch.arange(K) // GROUP)
    # What a layer does: gather its input, multiply by groups that lie together.
    x = torch.randn(3, K)
    blocks = weight.unpacked().float().view(N, -1, GROUP) * weight.scale.float()[..., None]
    torch.testing.assert_close(x[:, weight.permutation] @ blocks.view(N, K).T, x @ layer.weight.T)


def test_gptq_of_8_bits(tmp_path):
    weight = read(tmp_path, {**GPTQ, "bits": 8}, packing.gptq(bits=8))
    assert (weight.format, weight.values.dtype) == ("int8", torch.int8)


def test_gptq_of_mixed_bits(tmp_path):
    """GPTQModel's ``dynamic``: the tensors say how many bits a layer has."""
    four, eight = packing.gptq(), packing.gptq(bits=8)
    linears = read_quantized(write(tmp_path, GPTQ, {"a": four.tensors, "b": eight.tensors})).linears
    assert [linears[name].format for name in "ab"] == ["int4", "int8"]
    assert torch.equal(linears["b"].dequantize(), eight.weight)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_packed_compressed_tensors(tmp_path, bits, symmetric, act_order):
    config = compressed({**INT4, "num_bits": bits, "symmetric": symmetric}, format="pack-quantized")
    weight = read(tmp_path, config, packing.packed(bits, symmetric, act_order))
    assert weight.format == ("int4" if symmetric and bits == 4 else "int8")
    assert (weight.permutation is not None) == act_order


def test_8_bits_with_zero_points_that_fit(tmp_path):
    layer = packing.packed(bits=8)
    zeros = torch.full((N, K // GROUP), 128)
    zeros[0] = 127
    layer.tensors["weight_zero_point"] = packing.into_words(zeros.T, 8).T
    layer.tensors["weight_packed"] = packing.into_words(torch.full((N, K), 200), 8)
    layer.weight = packing.grouped(
        torch.full((N, K), 200), zeros, layer.tensors["weight_scale"], torch.arange(K) // GROUP
    )
    config = compressed({**INT4, "num_bits": 8, "symmetric": False}, format="pack-quantized")
    assert read(tmp_path / "fits", config, layer).format == "int8"
    layer.tensors["weight_packed"] = packing.into_words(torch.full((N, K), 255), 8)
    refused(tmp_path / "not", config, layer, "beyond INT8")


def test_columns_that_were_never_reordered(tmp_path):
    layer = packing.packed()
    layer.tensors["weight_g_idx"] = torch.full((K,), -1)
    assert read(tmp_path, compressed(INT4, format="pack-quantized"), layer).permutation is None
