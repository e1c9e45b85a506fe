"""ViTAttentionPlugin in place of attention among segments, windows and tiles: the graph before and after, and the numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tests.lowering.helpers import canonical, context, ops
from tt_edge.compile.interface import input_spec
from tt_edge.contract import IMAGE_TOKENS, TILES, VisionGeometry
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.plugin.insert_vit_attention_plugin import InsertVitAttentionPlugin

GRID = VisionGeometry("toy", IMAGE_TOKENS, 1, merge_size=2, window_tokens=2, ragged=True)
TILED = VisionGeometry("toy", TILES, 5, tile_size=(28, 28), ragged=True)
SCALE = 0.2


def exported(module: nn.Module, **inputs: Tensor) -> GraphModule:
    units = torch.export.Dim("units")
    shapes = {name: {0: units} for name in inputs}
    program = torch.export.export(module, (), kwargs=inputs, dynamic_shapes=shapes, strict=False)
    found = program.module(check_guards=False)
    return canonical(GraphModule(found, found.graph))


def lowered(module: GraphModule, geometry: VisionGeometry, **config) -> tuple[GraphModule, int, dict]:
    where = context(0, **config)
    before = set(module.graph.find_nodes(op="placeholder"))
    matches = InsertVitAttentionPlugin(geometry)(module, where).matches
    module.recompile()
    added = [node for node in module.graph.find_nodes(op="placeholder") if node not in before]
    return module, matches, {spec.name: spec.shape for spec in map(input_spec, added)}


class Grid(nn.Module):
    """A layer over segments, one over windows, and a second one over segments."""

    def forward(self, x: Tensor, segment_ids: Tensor, window_ids: Tensor) -> Tensor:  # x [units, 4, H * D]
        heads = x.flatten(0, 1).unflatten(-1, (2, -1)).transpose(0, 1)[None]  # [1, H, N, D]
        for ids in (segment_ids, window_ids, segment_ids):
            heads = torch.ops.tt_edge.segment_attention(heads, heads * 0.5, heads + 1.0, ids.flatten(), SCALE)
        return heads


def test_segments_and_windows():
    torch.manual_seed(0)
    x = torch.randn(7, 4, 2 * 64)
    segments = torch.tensor([0, 0, 0, 1, 1, 1, 1], dtype=torch.int32)[:, None].expand(-1, 4).contiguous()
    windows = torch.tensor([0, 0, 1, 2, 2, 3, 3], dtype=torch.int32)[:, None].expand(-1, 4).contiguous()
    module = exported(Grid(), x=x, segment_ids=segments, window_ids=windows)
    assert ops(module)["tt_edge.segment_attention.default"] == 3
    want = module(x=x, segment_ids=segments, window_ids=windows)
    module, matches, shapes = lowered(module, GRID)
    assert matches == 3
    assert ops(module)["tt_edge.vit_attention_plugin.default"] == 3
    assert "tt_edge.segment_attention.default" not in ops(module)
    names = [str(n.target) for n in module.graph.find_nodes(op="placeholder")]
    assert sorted(names) == sorted(["x", "segment_ids", "window_ids", *shapes])
    assert not any(n.users for n in module.graph.find_nodes(op="placeholder") if str(n.target).endswith("_ids"))
    assert shapes == {
        "cu_seqlens": ("segments+1",),
        "max_seqlen_carrier": ("longest",),
        "cu_window_seqlens": ("windows+1",),
    }
    given = {
        "cu_seqlens": torch.tensor([0, 12, 28], dtype=torch.int32),
        "max_seqlen_carrier": torch.zeros(16, dtype=torch.int32),
        "cu_window_seqlens": torch.tensor([0, 8, 12, 20, 28], dtype=torch.int32),
    }
    got = module(*[{"x": x, "segment_ids": segments, "window_ids": windows, **given}[name] for name in names])
    torch.testing.assert_close(got, want)


class Tiles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # [tiles, 2, 5, 64]
        out = torch.ops.tt_edge.attention(x, x * 0.5, x + 1.0, SCALE, False)
        fewer = out[:, :, :3]
        out = torch.ops.tt_edge.attention(fewer, x, x, SCALE, False)  # as the Q-Former looks at the tower
        return torch.ops.tt_edge.attention(out, out, out, SCALE, False)


def test_tiles_and_attention_to_other_keys():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 5, 64)
    module = exported(Tiles(), x=x)
    want = module(x=x)
    module, matches, shapes = lowered(module, TILED)
    assert (matches, shapes) == (2, {"cu_tiles": ("tiles+1",)})
    found = ops(module)
    assert found["tt_edge.vit_attention_plugin.default"] == 2
    assert found["tt_edge.full_attention.default"] == 1, "the plugin has as many keys as queries"
    carriers = [n for n in module.graph.nodes if n.op == "get_attr" and "carrier" in str(n.target)]
    assert sorted(len(getattr(module, str(n.target))) for n in carriers) == [3, 5]
    got = module(x, torch.arange(5, dtype=torch.int32))
    torch.testing.assert_close(got, want)


class Windows(nn.Module):
    """A layer over tiles, and one over four windows of each, as Granite 4 Vision's projectors have them."""

    def forward(self, x: Tensor) -> Tensor:  # [tiles, 2, 8, 64]
        out = torch.ops.tt_edge.attention(x, x * 0.5, x + 1.0, SCALE, False)
        windows = out.unflatten(2, (4, 2)).transpose(1, 2).flatten(0, 1)  # [tiles * 4, 2, 2, 64]
        return torch.ops.tt_edge.attention(windows, windows * 0.5, windows, SCALE, False)


def test_windows_of_tiles():
    """Their offsets are not those of the tiles, so that they are left to TensorRT."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 64)
    module = exported(Windows(), x=x)
    want = module(x=x)
    module, matches, shapes = lowered(module, TILED)
    assert (matches, shapes) == (1, {"cu_tiles": ("tiles+1",)})
    assert ops(module)["tt_edge.full_attention.default"] == 1
    torch.testing.assert_close(module(x, torch.arange(4, dtype=torch.int32)), want)


class OneHead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.tt_edge.attention(x, x, x, SCALE, False)


class Causal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.tt_edge.attention(x, x, x, SCALE, True)


class CrossAlone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.tt_edge.attention(x[:, :, :2], x, x, SCALE, False)


@pytest.mark.parametrize(
    ("module", "size", "config", "message"),
    [
        (
            OneHead,
            48,
            {},
            r"head_size 48 is not supported by ViTAttentionPlugin \(64, 72, 80, 128\); use --vision-attention",
        ),
        (OneHead, 64, {"precision": "bf16"}, "ViTAttentionPlugin has no bf16; give --precision fp16"),
        (Causal, 64, {}, "the vision tower has attention that is causal, windowed, capped or with sinks"),
        (CrossAlone, 64, {}, "no attention that ViTAttentionPlugin computes; use --vision-attention native"),
    ],
)
def test_what_it_cannot_say(module, size, config, message):
    """And the graph is as it was."""
    x = torch.randn(4, 2, 5, size)
    graph = exported(module(), x=x)
    before = ops(graph)
    with pytest.raises(UnsupportedModelError, match=message):
        lowered(graph, TILED, **config)
    assert ops(graph) == before


class SharedKeys(nn.Module):
    """Two heads of queries that share one of keys and values, as EXAONE 4.5's tower has them."""

    def forward(self, x: Tensor, segment_ids: Tensor) -> Tensor:
        heads = x.flatten(0, 1).unflatten(-1, (2, -1)).transpose(0, 1)[None]
        return torch.ops.tt_edge.segment_attention(heads, heads[:, :1], heads[:, :1], segment_ids.flatten(), SCALE)


def test_heads_that_share_keys_are_refused():
    x, segments = torch.zeros(3, 4, 2 * 64), torch.zeros(3, 4, dtype=torch.int32)
    module = exported(SharedKeys(), x=x, segment_ids=segments)
    with pytest.raises(
        UnsupportedModelError, match=r"2 heads of queries and 1 of keys, .* use --vision-attention native"
    ):
        lowered(module, GRID)
