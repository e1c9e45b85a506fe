"""The masks that a model asks for decide what its attention sees; nothing else does."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, masking_utils

from tests.models.tiny_models import tiny_model
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.export.masks import JoinedVisibility, Visibility, visible_masks
from tt_edge.compile.export.semantics import ATTENTION_NAME, _attention_function
from tt_edge.config import CompileConfig
from tt_edge.errors import UnsupportedModelError


def asked(make, /, settings=None, **arguments):
    """What ``make``, one of transformers' mask functions, gives to the semantic attention."""
    config = LlamaConfig(**{"sliding_window": 8, "attention_chunk_size": 8, **(settings or {})})
    config._attn_implementation = ATTENTION_NAME
    with visible_masks(ATTENTION_NAME):
        return make(config, torch.zeros(2, 5, 16), None, None, **arguments)


def test_causal_and_sliding_masks_are_recognised():
    assert asked(masking_utils.create_causal_mask) == Visibility(True)
    assert asked(masking_utils.create_sliding_window_causal_mask) == Visibility(True, 8)
    assert asked(masking_utils.create_sliding_window_causal_mask, {"sliding_window": 4096}) == Visibility(True, 4096)
    assert asked(masking_utils.create_bidirectional_mask) == Visibility(False)
    unnamed = asked(masking_utils.create_causal_mask, and_mask_function=lambda b, h, q, k: k > q - 4096)
    assert unnamed == Visibility(True, 4096)


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_windows_on_both_sides(size):
    """T5Gemma's, and T5Gemma 2's, of which half is on each side."""
    from transformers.models.t5gemma2.modeling_t5gemma2 import sliding_window_mask_function

    both = masking_utils.create_bidirectional_sliding_window_mask
    assert asked(both, {"sliding_window": size}) == Visibility(False, size + 1, size)
    halves = sliding_window_mask_function(size, is_causal=False)
    wanted = Visibility(size == 1, (size + 1) // 2, size // 2)  # a token that sees only itself sees nothing that comes
    assert asked(masking_utils.create_bidirectional_mask, and_mask_function=halves) == wanted


def test_masks_side_by_side():
    own, all_of_it = Visibility(True, 8), Visibility(False)
    assert torch.cat([own, all_of_it], dim=-1) == JoinedVisibility(own)
    for joined in ([all_of_it, own], [own, torch.ones(2)], [own, all_of_it, all_of_it]):
        with pytest.raises(UnsupportedModelError, match="computes its own attention mask by cat"):
            torch.cat(joined, dim=-1)


def test_positions_that_start_again_are_not_taken_for_documents():
    positions = torch.tensor([[0, 1, 2, 0, 1]] * 2)
    assert asked(masking_utils.create_causal_mask, position_ids=positions) == Visibility(True)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (masking_utils.create_chunked_causal_mask, {}),
        (masking_utils.create_causal_mask, {"or_mask_function": lambda b, h, q, k: k < 4}),
        (masking_utils.create_causal_mask, {"and_mask_function": lambda b, h, q, k: k > 0}),
        (masking_utils.create_sliding_window_causal_mask, {"or_mask_function": lambda b, h, q, k: k < 1}),
        (masking_utils.create_causal_mask, {"block_sequence_ids": torch.zeros(2, 5, dtype=torch.int64)}),
        (masking_utils.create_bidirectional_mask, {"and_mask_function": lambda b, h, q, k: (k - q).abs() % 2 == 0}),
    ],
    ids=["chunks", "prefix", "no first token", "first token", "blocks", "every second"],
)
def test_any_other_mask_is_refused(make, arguments):
    with pytest.raises(UnsupportedModelError, match=r"mask.* is neither causal nor a sliding window"):
        asked(make, **arguments)


def test_attention_follows_the_mask_not_the_hint_beside_it():
    """PyTorch's attention ignores ``sliding_window``; a module that forgets to pass it still slides."""
    query = torch.randn(1, 2, 20, 8)
    key, value = torch.randn(2, 1, 2, 20, 8)
    module = torch.nn.Module()
    for mask, hint in ((Visibility(True, 3), None), (Visibility(True), 3)):
        got, _ = _attention_function(module, query, key, value, mask, sliding_window=hint)
        want = torch.ops.tt_edge.attention(query, key, value, 8**-0.5, True, mask.window)
        torch.testing.assert_close(got, want.transpose(1, 2))


def test_swaps_are_undone():
    before = (
        dict(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping),
        masking_utils.find_packed_sequence_indices,
    )
    DecoderCompiler(tiny_model("mistral"), CompileConfig.of(max_input_len=64, max_seq_len=64)).export()
    mapping = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    assert (dict(mapping), masking_utils.find_packed_sequence_indices) == before


@pytest.mark.parametrize("backend", ["native", "sdpa", "plugin"])
def test_a_decoder_that_sees_what_comes_is_refused(backend):
    config = CompileConfig.of(max_input_len=64, max_seq_len=64, backend=backend)
    with pytest.raises(UnsupportedModelError, match="non-causal attention"):
        DecoderCompiler(tiny_model("gemma3", use_bidirectional_attention=True, head_dim=64), config).compile()
