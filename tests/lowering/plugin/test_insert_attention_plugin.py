"""The plugin pass: the graph before and after, the same numbers, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import canonical, context, ops, sharing_module
from tt_edge.compile.interface import input_spec
from tt_edge.config import Precision
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.plugin.insert_attention_plugin import InsertAttentionPlugin
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS, PAGE_TOKENS

HQ, HKV, D, CAPACITY = 4, 2, 64, 64
VERSIONS = list(GENERATIONS)


class Attend(torch.nn.Module):
    """Projections already made: x is ``[B, S, (Hq + 2 Hkv) D]``; the result is ``[B, S, Hq D]``."""

    def __init__(
        self, rotary=32, interleaved=False, scale=0.125, rounded=None, keys_turn=True, head_size=D, **attention
    ):
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(rotary // 2) / (rotary // 2)))
        self.interleaved, self.scale, self.rounded, self.attention = interleaved, scale, rounded, attention
        self.keys_turn, self.head_size = keys_turn, head_size

    def forward(self, input_ids, position_ids, x):
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos() * 1.1, angles.sin() * 1.1
        if self.rounded:
            cos, sin = cos.to(self.rounded), sin.to(self.rounded)
        size = self.head_size
        parts = x.split([HQ * size, HKV * size, HKV * size], dim=-1)
        q, k, v = (part.unflatten(2, (-1, size)).transpose(1, 2) for part in parts)
        rotary = torch.ops.tt_edge.rotary_embedding
        q = rotary(q, cos, sin, self.interleaved)
        k = rotary(k, cos, sin, self.interleaved) if self.keys_turn else k
        out = torch.ops.tt_edge.attention(q, k, v, self.scale, **self.attention)
        return out.transpose(1, 2).flatten(2)


def exported(dtype=torch.float32, **settings):
    model = Attend(**settings)
    b, s = torch.export.Dim("b"), torch.export.Dim("s")
    x = torch.randn(2, 5, (HQ + 2 * HKV) * model.head_size, dtype=dtype)
    args = (torch.zeros(2, 5, dtype=torch.int64), torch.arange(5).expand(2, 5), x)
    program = torch.export.export(model, args, dynamic_shapes=({0: b, 1: s},) * 3)
    module = program.module(check_guards=False)
    return canonical(torch.fx.GraphModule(module, module.graph)), model


def plugin(version, precision=Precision.FP32, **settings):
    return context(backend="plugin", plugin_contract=version, precision=precision, max_seq_len=CAPACITY, **settings)


def lowered(version, **settings):
    module, model = exported(**settings)
    ctx = plugin(version)
    record = InsertAttentionPlugin()(module, ctx)
    module.recompile()
    assert record.matches == 1
    return module, model, ctx


def feeds(module, version, x, past, cache):
    """What a session gives the lowered graph, by input name."""
    batch, width = x.shape[:2]
    plain, decode = not any(past), any(past) and width == 1

    def ints(values):
        return torch.tensor(values, dtype=torch.int32)

    pages = ints([[[2 * row], [2 * row + 2 * batch]] for row in range(batch)])  # every second page of 2 * batch
    named = {
        "input_ids": torch.zeros(batch, width, dtype=torch.int64),
        "position_ids": torch.tensor(past)[:, None] + torch.arange(width),
        "x": x,
        "context_lengths": ints([p + 1 for p in past] if decode else [width] * batch),
        "kvcache_start_index": ints([] if plain else past),
        "kv_page_table": pages,
        "query_lengths": ints([width] * batch),
        "past_lengths": ints(past),
        "query_start_offsets": ints([row * width for row in range(batch + 1)]),
        "attention_sequence_lengths": ints([p + width for p in past]),
        "execution_phase_marker": ints([0] * (3 if decode else 1)),
        "context_sequence_count_carrier": ints([0] * (0 if decode else batch)),
        "past_key_values_0": cache,
    }
    return [named[node.target] for node in module.graph.find_nodes(op="placeholder")]


def empty_cache(version, batch, dtype=torch.float32):
    if GENERATIONS[version].paged:
        return torch.full((2, 2 * batch, PAGE_TOKENS, HKV, D), 1e4, dtype=dtype)
    return torch.full((batch, 2, HKV, CAPACITY, D), 1e4, dtype=dtype)


@pytest.mark.parametrize("scale", [0.125, 0.3])
@pytest.mark.parametrize("version", VERSIONS)
def test_prefill_chunk_and_decode_equal_the_exported_graph(version, scale):
    module, model, _ = lowered(version, scale=scale)
    torch.manual_seed(0)
    whole = torch.randn(2, 12, (HQ + 2 * HKV) * D)
    want = model(torch.zeros(2, 12, dtype=torch.int64), torch.arange(12).expand(2, 12), whole)
    cache, start, got = empty_cache(version, 2), 0, []
    for width in (6, 4, 1, 1):
        out, cache = module(*feeds(module, version, whole[:, start : start + width], [start] * 2, cache))
        got.append(out)
        start += width
    torch.testing.assert_close(torch.cat(got, dim=1), want)


@pytest.mark.parametrize("version", VERSIONS)
def test_rotations_and_attention_become_one_operator(version):
    module, _, ctx = lowered(version)
    counts = ops(module)
    assert counts["tt_edge.attention_plugin.default"] == 1
    assert not {"tt_edge.attention.default", "tt_edge.rotary_embedding.default"} & set(counts)
    assert "aten.cos.default" not in counts
    assert ctx.kv_cache == [("past_key_values_0", "present_key_values_0")]
    joined = 1 if GENERATIONS[version].packed else 0
    assert counts["aten.cat.default"] == joined


@pytest.mark.parametrize("version", VERSIONS)
def test_inputs_are_the_contracts(version):
    module, _, _ = lowered(version)
    generation = GENERATIONS[version]
    (node,) = [n for n in module.graph.nodes if n.target is torch.ops.tt_edge.attention_plugin.default]
    named = dict(zip(generation.input_names, node.args[0], strict=True))
    graph_inputs = {name for name, n in named.items() if n.op == "placeholder"}
    integers = {o.name for o in generation.inputs if o.dtype == "int32"}
    assert graph_inputs == {CACHE, *integers}
    assert [n.target for n in module.graph.find_nodes(op="placeholder")][3:] == [
        *(name for name in generation.input_names if name in integers), "past_key_values_0"
    ]  # fmt: skip
    assert named[CACHE].target == "past_key_values_0"
    for name in integers:
        assert named[name].meta["val"].dtype == torch.int32
    specs = [input_spec(n) for n in module.graph.find_nodes(op="placeholder")[3:]]
    symbols = {symbol for spec in specs for symbol in spec.symbols}
    extra = {"batch+1", "phase", "contexts"} if generation.ragged else {"starts"}
    if version == "tt-edge":
        extra = set()
    assert symbols == {"batch", *extra}


def test_a_pool_has_pages_for_the_largest_batch():
    module, _, ctx = lowered("0.10")
    shapes = {spec.name: spec.shape for spec in map(input_spec, module.graph.find_nodes(op="placeholder")[3:])}
    assert ctx.config.limits.max_batch == 4
    assert shapes["past_key_values_0"] == (2, 4, PAGE_TOKENS, HKV, D)
    assert shapes["kv_page_table"] == ("batch", 2, 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_is_the_graphs_own_and_float32(version):
    """Cosines that the model rounds to float16 are not rounded for the plugin."""
    module, model, _ = lowered(version, dtype=torch.float16, rounded=torch.float16)
    angles = torch.arange(CAPACITY)[:, None] * model.inv_freq
    want = torch.cat([angles.cos() * 1.1, angles.sin() * 1.1], dim=-1)
    table = module.rope_rotary_cos_sin
    assert table.dtype == torch.float32
    assert table.shape == ((CAPACITY, 32) if GENERATIONS[version].ragged else (1, CAPACITY, 32))
    torch.testing.assert_close(table.reshape(want.shape), want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("window", "kept"), [(3, 3), (CAPACITY, -1), (0, -1)], ids=["short", "as long as the cache", "none"]
)
def test_sliding_window(window, kept):
    module, _, _ = lowered("0.11", sliding_window=window)
    (node,) = [n for n in module.graph.nodes if n.target is torch.ops.tt_edge.attention_plugin.default]
    assert node.args[6] == kept


@pytest.mark.parametrize(
    ("version", "settings", "words"),
    [
        ("0.11", {"softcap": 50.0}, "softcap 50"),
        ("0.11", {"causal": False}, "non-causal"),
        ("0.11", {"sinks": True}, "attention sinks"),
        ("0.11", {"interleaved": True}, "neighbours"),
        ("0.11", {"keys_turn": False}, "without rotary embedding"),
        ("0.10", {"head_size": 32, "rotary": 32}, "head_size 32 is not supported by"),
        ("0.4", {"sliding_window": 3}, "sliding window of 3 tokens"),
    ],
)  # fmt: skip
def test_what_the_plugin_lacks_is_refused_by_name(version, settings, words):
    if settings.pop("sinks", False):
        settings["sinks"] = torch.zeros(HQ)
    module, _ = exported(**settings)
    with pytest.raises(
        UnsupportedModelError,
        match=f"{words}.*AttentionPlugin {version}.*--backend native",
    ):
        InsertAttentionPlugin()(module, plugin(version))


@pytest.mark.parametrize("head_size", [64, 80, 96])
def test_softcap_sinks_and_head_sizes_of_our_own_plugin(head_size):
    """What NVIDIA's libraries refuse: prefill, a chunk and decode compute what the exported graph does."""
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0])
    module, model = exported(head_size=head_size, softcap=2.0, sinks=sinks, sliding_window=7)
    assert InsertAttentionPlugin()(module, plugin("tt-edge")).matches == 1
    module.recompile()
    torch.manual_seed(0)
    whole = torch.randn(2, 12, (HQ + 2 * HKV) * head_size)
    want = model(torch.zeros(2, 12, dtype=torch.int64), torch.arange(12).expand(2, 12), whole)
    cache, start, got = torch.full((2, 2, HKV, CAPACITY, head_size), 1e4), 0, []
    for width in (6, 5, 1):
        out, cache = module(*feeds(module, "tt-edge", whole[:, start : start + width], [start] * 2, cache))
        got.append(out)
        start += width
    torch.testing.assert_close(torch.cat(got, dim=1), want)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head_size": 32, "rotary": 32}, r"head_size 32 is not supported by .* \(64, 80, 96, 128, 256\)"),
        ({"rotary": 24}, "rotates 24 elements of a head, no multiple of 16"),
        ({"causal": False}, "non-causal"),
    ],
)
def test_what_our_own_plugin_lacks(settings, words):
    module, _ = exported(**settings)
    with pytest.raises(UnsupportedModelError, match=f"{words}.*use --backend native"):
        InsertAttentionPlugin()(module, plugin("tt-edge"))


def test_layers_that_share_keys_and_values_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"1 layers attend to the keys and values of others, .*0\.11.*native or sdpa"
    ):
        InsertAttentionPlugin()(sharing_module(), context(backend="plugin", layers=2))


def test_bf16_is_refused():
    module, _ = exported()
    with pytest.raises(UnsupportedModelError, match=r"precision bf16.*use --backend native"):
        InsertAttentionPlugin()(module, plugin("0.11", Precision.BF16))


def test_a_missing_attention_is_fatal():
    module, _ = exported()
    ctx = plugin("0.11")
    ctx.decoder_layers = 2
    with pytest.raises(LoweringError, match=r"matched once, not 2 times \(decoder layers: 2\)"):
        InsertAttentionPlugin()(module, ctx)
