"""Export and lowering of real modeling code: every RoPE type and head layout, in PyTorch, before TensorRT comes in."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma4 import modeling_gemma4
from transformers.models.llama import modeling_llama

from tests.models.tiny_models import tiny_model
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.export.semantics import _matching_layout, semantic_rotary
from tt_edge.config import CompileConfig
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.pipeline import lower, passes_for

CAPACITY = 96
ROPE = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def lowered(model, capacity=CAPACITY, **config):
    compiler = DecoderCompiler(model, CompileConfig.of(max_batch=4, max_input_len=48, max_seq_len=capacity, **config))
    module = compiler.export()
    context = LoweringContext(compiler.config, compiler.decoder_layers)
    report = lower(module, passes_for(context.config), context)
    return module, report


def largest_difference(model, capacity=CAPACITY):
    """Logits of the lowered graph against HF's: a ragged prefill, then three decode steps."""
    module, _ = lowered(model, capacity)
    torch.manual_seed(1)
    lengths = torch.tensor([40, 7, 23])
    sequences = [torch.randint(3, model.config.vocab_size, (int(n) + 3,)) for n in lengths]
    tokens = torch.zeros(3, 40, dtype=torch.int64)
    for row, (sequence, n) in enumerate(zip(sequences, lengths, strict=True)):
        tokens[row, :n] = sequence[:n]
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (3, config.num_key_value_heads, capacity, head_dim)
    caches = [torch.zeros(shape, dtype=model.dtype) for _ in range(2 * config.num_hidden_layers)]
    worst, past = 0.0, torch.zeros(3, dtype=torch.int32)
    for step in range(4):
        ids = (
            tokens
            if step == 0
            else torch.stack([s[n + step - 1 : n + step] for s, n in zip(sequences, lengths, strict=True)])
        )
        new = lengths if step == 0 else torch.ones(3, dtype=torch.int64)
        positions = past[:, None] + torch.arange(ids.shape[1])
        logits, *caches = module(ids, positions.long(), new - 1, past, *caches)
        past = past + new.int()
        for row, sequence in enumerate(sequences):
            want = model(sequence[None, : past[row]]).logits[0, -1].float()
            worst = max(worst, (logits[row] - want).abs().max().item())
    return worst


@pytest.mark.parametrize("rope", ROPE)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_rope_types_are_the_models_own(family, rope):
    assert largest_difference(tiny_model(family, rope_parameters=ROPE[rope])) < 2e-4


@pytest.mark.parametrize("heads", ["gqa", "mha", "mqa"])
def test_head_layouts(heads):
    assert largest_difference(tiny_model("llama", heads)) < 2e-4


def test_a_wrong_frequency_would_be_seen():
    """Guards the tests above: the random model does react to its positions."""
    model = tiny_model("llama", rope_parameters=ROPE["default"])
    ids = torch.randint(3, 320, (1, 40))
    other = tiny_model("llama", rope_parameters=ROPE["linear"])
    assert (model(ids).logits - other(ids).logits).abs().max() > 0.1


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [4.0 + i for i in range(8)],
            "original_max_position_embeddings": 96,
            "factor": 4.0,
        },
    ],
    ids=["dynamic", "longrope"],
)
def test_length_dependent_rope_is_exact_within_the_original_context_and_refused_beyond(rope):
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=96)
    assert largest_difference(model, capacity=96) < 2e-4
    with pytest.raises(UnsupportedModelError, match=rf"{rope['rope_type']}.*past 96 tokens.*--max-seq-len 96"):
        DecoderCompiler(model, CompileConfig.of(max_input_len=48, max_seq_len=97)).export()


def test_sliding_window_layers_mask_in_the_graph():
    model = tiny_model(
        "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=["full_attention", "sliding_attention"]
    )  # fmt: skip
    module, _ = lowered(model)
    targets = [str(n.target) for n in module.graph.nodes]
    assert targets.count("tt_edge.masked_attention.default") == 1
    assert targets.count("tt_edge.causal_attention.default") == 1
    assert largest_difference(model) < 2e-4


def test_partial_rotary_and_other_layouts_are_recognised():
    def partial(q, k, cos, sin):
        n = cos.shape[-1]
        return tuple(
            torch.cat([modeling_llama.apply_rotary_pos_emb(t[..., :n], t[..., :n], cos, sin)[0], t[..., n:]], -1)
            for t in (q, k)
        )

    def reversed_angles(q, k, cos, sin):
        return modeling_llama.apply_rotary_pos_emb(q, k, cos, -sin)

    assert _matching_layout(modeling_llama.apply_rotary_pos_emb, 16, 16) is False
    assert _matching_layout(partial, 16, 8) is False
    assert _matching_layout(reversed_angles, 16, 16) is None


def test_a_function_that_rotates_one_tensor_is_recognised():
    """Gemma 4's, of tensors whose heads are behind their tokens."""
    assert _matching_layout(modeling_gemma4.apply_rotary_pos_emb, 16, 16) is False
    assert _matching_layout(lambda x, cos, sin: modeling_gemma4.apply_rotary_pos_emb(x, cos, -sin), 16, 16) is None
    _, report = lowered(tiny_model("gemma4"))
    matches = {p.name: p.matches for p in report.passes}
    assert matches["tabulate_rotary"] == 4 + 2  # queries of all layers, keys of those that have some
    assert matches["fuse_rms_norm"] == 4 * 6 + 2 * 2 + 2


def test_swaps_are_undone():
    model = tiny_model("llama")
    original, attention = modeling_llama.apply_rotary_pos_emb, model.config._attn_implementation
    with semantic_rotary(model):
        assert modeling_llama.apply_rotary_pos_emb is not original
    lowered(model)
    assert modeling_llama.apply_rotary_pos_emb is original
    assert model.config._attn_implementation == attention


def test_export_keeps_the_models_weights():
    model = tiny_model("qwen3")
    module, report = lowered(model)
    pointers = {p.data_ptr() for p in model.parameters()}
    assert pointers <= {t.data_ptr() for t in [*module.parameters(), *module.buffers()]}
    matches = {p.name: p.matches for p in report.passes}
    assert matches["insert_kv_cache"] == 2
    assert matches["tabulate_rotary"] == 4
    assert matches["fuse_rms_norm"] == 2 * 4 + 1
