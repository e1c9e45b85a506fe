from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.lowering.helpers import canonical, ops, run
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.vision.insert_vision_attention import InsertVisionAttention


def exported(module: nn.Module, **inputs: torch.Tensor):
    dims = {name: {0: torch.export.Dim("units")} for name in inputs}
    found = torch.export.export(module, (), kwargs=inputs, dynamic_shapes=dims).module(check_guards=False)
    return canonical(torch.fx.GraphModule(found, found.graph))


class Segments(nn.Module):
    """Two layers over the same segments, of all tokens or of windows of four."""

    def __init__(self, windowed: bool) -> None:
        super().__init__()
        self.windowed = windowed

    def forward(self, x, ids):  # x [units, 4, 2 * D], ids [units, 4]
        heads = x.flatten(0, 1).unflatten(-1, (2, -1))
        heads = heads.transpose(0, 1)[None]
        segments = ids if self.windowed else ids.flatten()
        for _ in range(2):
            heads = torch.ops.tt_edge.segment_attention(heads, heads * 0.5, heads + 1.0, segments, 0.2)
        return heads


@pytest.mark.parametrize("windowed", [False, True])
def test_segments_become_one_mask_for_all_layers(windowed):
    torch.manual_seed(0)
    x = torch.randn(6, 4, 2 * 8)
    ids = torch.tensor([0, 0, 1, 1, 1, 2], dtype=torch.int32)[:, None].expand(-1, 4).contiguous()
    module = exported(Segments(windowed), x=x, ids=ids)
    want = Segments(windowed)(x, ids)
    assert run(InsertVisionAttention(), module).matches == 2
    found = ops(module)
    assert found["tt_edge.masked_attention.default"] == 2
    assert found["aten.eq.Tensor"] == 1
    assert "tt_edge.segment_attention.default" not in found
    torch.testing.assert_close(module(x, ids)[0], want)


class Tiles(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.settings = {"causal": False, **settings}

    def forward(self, x):
        return torch.ops.tt_edge.attention(x, x * 0.5, x + 1.0, 0.2, **self.settings)


def test_attention_to_all_keys_needs_no_mask():
    x = torch.randn(3, 2, 5, 8)
    module = exported(Tiles(), x=x)
    want = module(x)[0]
    assert run(InsertVisionAttention(), module).matches == 1
    assert ops(module)["tt_edge.full_attention.default"] == 1
    assert "tt_edge.attention.default" not in ops(module)
    torch.testing.assert_close(module(x)[0], want)


@pytest.mark.parametrize("settings", [{"causal": True}, {"sliding_window": 2}, {"softcap": 5.0}])
def test_what_would_be_computed_without_its_limits_is_refused(settings):
    module = exported(Tiles(**settings), x=torch.randn(3, 2, 5, 8))
    with pytest.raises(UnsupportedModelError, match="causal, windowed, capped or with sinks"):
        run(InsertVisionAttention(), module)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_that_a_tower_calls_itself(scale):
    """timm's, with one head of keys and values; with a mask it stays as it is."""
    attention = torch.nn.functional.scaled_dot_product_attention

    class Attend(nn.Module):
        def forward(self, x):  # [units, 4, 5, 8]
            plain = attention(x, x[:, :1], x[:, :1] * 2, scale=scale)
            return plain + attention(x, x, x, attn_mask=x[:1, :1, :, :5] > 0)

    torch.manual_seed(0)
    x = torch.randn(6, 4, 5, 8)
    module = exported(Attend(), x=x)
    want = Attend()(x)
    assert run(InsertVisionAttention(), module).matches == 1
    found = ops(module)
    assert found["tt_edge.full_attention.default"] == found["aten.scaled_dot_product_attention.default"] == 1
    torch.testing.assert_close(module(x)[0], want)
