"""ViTAttentionPlugin: its operator beside PyTorch's attention, its reference evaluation, its contract."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import tt_edge.plugins.ops.vit_attention_plugin  # noqa: F401  (defines the operator)
from tests.compile.vision.test_vision_network import compiled
from tests.network.reference.building import NetworkBuilder
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.network.plugins import plugin_attributes
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.plugins.edgellm import formats, vit_contract
from tt_edge.plugins.edgellm.library import check_fields

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
OFFSETS = {"one": [0, 33], "three": [0, 5, 6, 33], "an empty one": [0, 12, 12, 33], "less than all": [0, 20]}


def operands(dtype=torch.float32, tokens=33, heads=3, size=80, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, heads, size, generator=generator).to(dtype).to(device) for _ in range(3)]


def by_sdpa(q, k, v, offsets, scale):
    out = torch.zeros_like(q)
    for first, end in pairwise(offsets):
        if end > first:
            part = (t[first:end].transpose(0, 1)[None] for t in (q, k, v))
            out[first:end] = scaled_dot_product_attention(*part, scale=scale)[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
def test_the_operator(device, dtype, offsets):
    q, k, v = operands(dtype, device=device)
    given = torch.tensor(offsets, dtype=torch.int32, device=device)
    carrier = torch.zeros(33, dtype=torch.int32, device=device)
    got = torch.ops.tt_edge.vit_attention_plugin(q, k, v, given, carrier, 0.1)
    exact = by_sdpa(q.float(), k.float(), v.float(), offsets, 0.1)
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), exact, rtol=0, atol=2e-3 if dtype is torch.float16 else 1e-5)


def test_the_operator_is_well_made():
    q, k, v = operands()
    arguments = (q, k, v, torch.tensor([0, 9, 33], dtype=torch.int32), torch.zeros(33, dtype=torch.int32), 0.1)
    torch.library.opcheck(torch.ops.tt_edge.vit_attention_plugin, arguments)


def evaluator(dtype=DType.FLOAT32, heads=3, size=80):
    fields = vit_contract.field_values(heads, size, 0.1)
    attributes = plugin_attributes(
        vit_contract.NAME, vit_contract.VERSION, vit_contract.NAMESPACE, vit_contract.SINCE, fields
    )
    builder = NetworkBuilder()
    names = [builder.input(o.name, o.dtype or dtype, (-1,) * len(o.shape)) for o in vit_contract.INPUTS]
    result = builder.layer("PLUGIN_V3", names, dtype, (-1, heads, size), **attributes)
    return ReferenceEvaluator(builder.output(result))


def evaluated(run, q, k, v, offsets, longest=33):
    feeds = dict(zip("qkv", (t.numpy() for t in (q, k, v)), strict=True))
    feeds |= {"cu_seqlens": np.array(offsets, np.int32), "max_seqlen_carrier": np.zeros(longest, np.int32)}
    (result,) = run.run(feeds).values()
    return result


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
def test_the_evaluation(offsets):
    q, k, v = operands()
    got = evaluated(evaluator(), q, k, v, offsets)
    assert np.abs(got - by_sdpa(q, k, v, offsets, 0.1).numpy()).max() < 1e-5


def test_the_evaluation_in_half_precision():
    q, k, v = operands(torch.float16)
    got = evaluated(evaluator(DType.FLOAT16), q, k, v, [0, 9, 33])
    assert got.dtype == np.float16
    exact = by_sdpa(q.float(), k.float(), v.float(), [0, 9, 33], 0.1).numpy()
    assert np.abs(got - exact).max() < 2e-3


@pytest.mark.parametrize(
    ("offsets", "longest", "message"),
    [
        ([0, 40], 40, r"is given the offsets \[0, 40\] for 33 tokens"),
        ([0, 9, 4], 33, r"is given the offsets \[0, 9, 4\]"),
        ([1, 33], 33, r"is given the offsets \[1, 33\]"),
        ([0, 20, 33], 19, "is given a segment of 20 tokens, and told of 19 at most"),
    ],
)
def test_operands_that_make_no_sense(offsets, longest, message):
    with pytest.raises(InvalidInputError, match=message):
        evaluated(evaluator(), *operands(), offsets, longest)


def creator(*names):
    return SimpleNamespace(field_names=[SimpleNamespace(name=name) for name in names])


@pytest.mark.parametrize("fields", vit_contract.FIELDS, ids=["0.9.1", "0.11"])
def test_known_creators(fields):
    check_fields(creator(*fields), vit_contract.NAME)
    assert set(vit_contract.field_values(16, 80, 0.1)) <= fields


def test_an_unknown_creator():
    with pytest.raises(
        EngineError, match=r"ViTAttentionPlugin has the fields head_size, magic, not .*--vision-attention native"
    ):
        check_fields(creator("magic", "head_size"), vit_contract.NAME)


def test_the_questions_are_a_compiled_profile():
    """What a library is asked is what an engine of these limits would ask."""
    contract = compiled("qwen2_vl", "fp16", "plugin")[2]
    from dataclasses import replace

    limits = replace(contract.limits, max_image_tokens=1024, min_image_tokens=4)
    (profile,) = replace(contract, limits=limits).profiles()
    ranges = formats.TOWER_PROFILES["vision"]
    for operand in vit_contract.INPUTS[3:]:
        _, *bounds = formats.shapes_of(operand, ranges, formats.TOWER_HEADS)
        assert tuple(bounds) == (profile[operand.name].min, profile[operand.name].opt, profile[operand.name].max)
    patches = profile["patches"]
    assert ranges["tokens"] == tuple(shape[0] * shape[1] for shape in (patches.min, patches.opt, patches.max))
