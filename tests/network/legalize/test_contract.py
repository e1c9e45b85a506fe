"""How many tokens one call takes where attention scores are tensors: 8,192 keys and a batch of 8 stay below 1 GiB."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.models.decoders import compiled
from tests.network.legalize.test_rules import PLAIN, attention
from tests.network.reference.building import NetworkBuilder
from tt_edge.config import Limits
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.contract.geometry import IMAGE_TOKENS, WINDOWS
from tt_edge.dtypes import DType
from tt_edge.network.legalize.contract import SCORES_LIMIT, in_form, limits_in_form, most_image_tokens, widest_call
from tt_edge.network.legalize.legalize import legalize
from tt_edge.tensorrt_features import features_of_release

LIMITS = Limits(max_batch=8, max_input_len=1024, max_seq_len=8192)
#: Query and KV heads of Qwen2.5-0.5B, Llama-3.1-8B and Gemma 2 2B; tokens that one call takes.
SHAPES = [(14, 2, 144), (32, 8, 64), (8, 4, 256)]


def decoder(heads, kv_heads):
    """A network with one attention of so many heads, and a contract of 8,192 keys for a batch of 8."""
    network, _ = attention(PLAIN, heads=(heads, kv_heads), kind="LOWER_RIGHT", lengths=[5, 9]).network()
    return network, replace(compiled()[1], limits=LIMITS)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), SHAPES)
def test_scores_stay_within_the_limit(heads, kv_heads, width):
    network, contract = decoder(heads, kv_heads)
    legal = legalize(network, features_of_release("10.3"))
    assert widest_call(contract, legal.form, network) == width
    limits = limits_in_form(contract, legal.form, network)
    assert in_form(contract, legal.form, limits).max_input_len == limits.max_input_len == width
    softmaxes = [layer for layer in legal.network.layers if layer.kind == "SOFTMAX"]
    assert softmaxes
    for layer in softmaxes:  # float32 scores, and both halves beside them
        shape = legal.network.tensors[layer.inputs[0]].shape
        assert math.prod(shape[1:-2]) * 8 * width * 8192 * (4 + 2 + 2) <= SCORES_LIMIT


@pytest.mark.parametrize(("heads", "kv_heads", "width"), SHAPES)
def test_attention_that_is_captured_as_a_softmax_has_the_same_limit(heads, kv_heads, width):
    """Gemma 2's scores are capped, for which there is no attention layer in any release."""
    network, contract = decoder(heads, kv_heads)
    plain = legalize(network, features_of_release("10.3")).network
    as_captured = legalize(plain, features_of_release("11.4"))
    assert str(as_captured.form) == "as captured"
    assert widest_call(contract, as_captured.form, plain) == width


def test_attention_layers_have_no_limit():
    network, contract = decoder(32, 8)
    for release in ("11.0", "10.16", "10.14"):
        assert widest_call(contract, legalize(network, features_of_release(release)).form, network) == 1024


PATCHES = VisionGeometry("", IMAGE_TOKENS, tokens_a_unit=1, merge_size=2, patch_dim=1176)
WINDOWED = VisionGeometry("", WINDOWS, tokens_a_unit=16, merge_size=2, patch_dim=1176, window_tokens=16)
TILED = VisionGeometry("", TILES, tokens_a_unit=256, tile_size=(448, 448))


@pytest.mark.parametrize(
    ("geometry", "query", "most"),
    [
        (PATCHES, (1, 16, -1, 80), 724),  # Qwen2-VL: all patches of an image attend to each other
        (
            WINDOWED,
            (1, 16, -1, 80),
            360,
        ),  # Qwen2.5-VL: as many windows again are allowed for, which edges leave half empty
        (WINDOWED, (-1, 16, 64, 80), 16384),  # its other layers
        (TILED, (-1, 16, 1025, 64), 7 * 256),  # InternVL: the scores of each tile
    ],
)
def test_calls_of_a_tower_have_a_limit_too(geometry, query, most):
    """16 heads, at most 16,384 image tokens."""
    network = NetworkBuilder()
    q, k, v = (network.input(name, DType.FLOAT16, query) for name in "qkv")
    attention = network.layer("ATTENTION", [q, k, v, None, None, None, None], DType.FLOAT16, query)
    network = network.output(attention)
    limits = Limits(min_image_tokens=512, max_image_tokens=16384, max_seq_len=16384)
    contract = replace(compiled()[1], limits=limits, geometry=geometry, kv_cache=())
    form = legalize(network, features_of_release("10.3")).form
    assert most_image_tokens(contract, form, network) == most
    narrower = limits_in_form(contract, form, network)
    assert (narrower.min_image_tokens, narrower.max_image_tokens) == (min(512, most), most)
    as_captured = legalize(network, features_of_release("10.14")).form
    assert limits_in_form(contract, as_captured, network) == limits
    units = geometry.most_units(most)
    sizes = [units * geometry.patches_a_unit if n == -1 else n for n in query[1:3]]
    assert (units if query[0] == -1 else 1) * math.prod(sizes) * sizes[1] * 8 <= SCORES_LIMIT
