"""Every family on every backend that can express it: tokens equal to ``generate()``, past sliding windows too."""

from __future__ import annotations

import io

import pytest
import torch

from tests.compile.compiling import compiled, shared
from tests.models.tiny_models import FAMILIES, tiny_model, untouched_model
from tt_edge.compile.parity import check_parity
from tt_edge.config import Precision
from tt_edge.errors import UnsupportedModelError
from tt_edge.network.build import build_engine

BACKENDS = [("native", None), ("sdpa", "none"), ("sdpa", "static_v1"), ("sdpa", "static_v2")]


def grouped(families):
    """Tests of a family run one after the other in one process, and share what PyTorch answers."""
    return [pytest.param(family, marks=pytest.mark.xdist_group(f"families-{family}")) for family in families]


@pytest.mark.parametrize(("backend", "cache"), BACKENDS, ids=lambda value: str(value))
@pytest.mark.parametrize("family", grouped(FAMILIES))
def test_greedy_tokens_equal_generate(family, backend, cache):
    """48 tokens after prompts of 48, 9 and 24, in a ragged batch and one by one; windows are 8 tokens."""
    reference = shared(family)
    converted = compiled(reference.model, backend=backend, cache=cache)
    report = check_parity(reference, converted.network, converted.contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0
    if family != "gemma2":  # whose bounded scores are plain layers
        assert converted.network.kinds()["ATTENTION"] == 2
    else:
        assert converted.network.kinds()["SOFTMAX"] == 2


# With heads of 64 elements: the plugin has no smaller ones. test_plugin_backend has the others that it can express.
PLUGIN = ("mistral", "gemma3", "phi3")


@pytest.mark.parametrize("contract", ["0.9.1", "0.11"])
@pytest.mark.parametrize("family", grouped(PLUGIN))
def test_greedy_tokens_equal_generate_with_the_plugin(family, contract):
    reference = shared(family, head_dim=64)
    converted = compiled(reference.model, backend="plugin", plugin_contract=contract)
    report = check_parity(reference, converted.network, converted.contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0
    assert converted.network.kinds()["PLUGIN_V3"] == 2


@pytest.mark.parametrize(
    ("family", "instead"),
    [
        ("gemma2", "--plugin-contract tt-edge or --backend native"),
        ("smollm3", "--backend native"),
        ("gpt2", "--backend native"),
        ("opt", "--backend native"),
    ],
)
def test_what_the_plugin_cannot_express_is_refused(family, instead):
    heads_of_64 = {"gpt2": {"n_embd": 256}, "opt": {"hidden_size": 256, "word_embed_proj_dim": 256}}
    model = tiny_model(family, **heads_of_64.get(family, {"head_dim": 64}))
    with pytest.raises(UnsupportedModelError, match=rf"AttentionPlugin 0\.11 .*use {instead}"):
        compiled(model, backend="plugin")


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("family", grouped(FAMILIES))
def test_half_precision_is_as_near_the_truth_as_pytorch(family, precision):
    model = tiny_model(family, dtype=getattr(torch, precision.dtype.value))
    converted = compiled(model, precision)
    report = check_parity(model, converted.network, converted.contract, precision, new_tokens=16)
    assert report.passed, report.render()


@pytest.mark.parametrize(("backend", "cache"), [("native", None), ("sdpa", "static_v2")], ids=lambda value: str(value))
@pytest.mark.parametrize("family", grouped(FAMILIES))
def test_an_engine_is_built(tensorrt, family, backend, cache):
    """With both profiles in one family; in the others with the wider one, which takes half of the time."""
    converted = compiled(shared(family).model, backend=backend, cache=cache)
    profiles = converted.contract.profiles()[: None if family == "qwen2" else 1]
    file = io.BytesIO()
    assert build_engine(tensorrt, converted.network, profiles, "sm89", file).bytes == file.tell()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        # Llama 3.1's scaling of its frequencies.
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                   "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
        # Attention in every other layer over the whole past, as in Qwen2.5-1M and Gemma.
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
                   "layer_types": ["full_attention", "sliding_attention"]}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 32}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gemma3", {"final_logit_softcapping": 3.0}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ],
    ids=["llama3-rope", "qwen2-windows", "opt-350m", "opt-projection", "gpt2-scaled", "gemma3-cap", "llama-biases"],
)  # fmt: skip
def test_variants(family, settings):
    model = tiny_model(family, **settings)
    converted = compiled(model)
    report = check_parity(model, converted.network, converted.contract, Precision.FP32, new_tokens=16)
    assert report.passed, report.render()


# Models that nobody added. Written against transformers' attention interface, they usually just work.
OTHERS = {
    "Arcee": {},
    "Apertus": {},
    "Cohere": {},
    "Ernie4_5": {},
    "Exaone4": {},
    "GPTBigCode": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "GPTNeoX": {},
    "Gemma": {"head_dim": 16},
    "Glm4": {"head_dim": 16},
    "Granite": {},
    # Scales queries by position, and YaRN: prompts are longer than the length before scaling.
    "Ministral3": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 8,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "Nemotron": {},
    "Olmo2": {},
    "Persimmon": {},
    "Phi": {},
    "SeedOss": {},
    "StableLm": {},
    "Starcoder2": {},
}
REFUSED = {
    "Bloom": "BloomForCausalLM computes attention by itself",
    "DiffLlama": "DiffLlamaForCausalLM has differential attention, two attentions in each layer",
    "Doge": "the model computes its own attention mask",
    "Falcon": "FalconForCausalLM computes attention by itself",
    "GPTJ": "GPTJForCausalLM computes attention by itself",
    "GPTNeo": "GPTNeoForCausalLM computes attention by itself",
    "GptOss": r"mixture of experts \(num_experts 128\)",
    "Mamba": "MambaForCausalLM has linear attention or a state space in place of attention in some layers",
    "Mixtral": r"mixture of experts \(num_experts 8\)",
    "Mpt": "MptForCausalLM computes attention by itself",
}
SMALL = {
    "Doge": {"is_moe": False},
    "GPTJ": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "GPTNeo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "Mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_nobody_added(name):
    model = untouched_model(name, **OTHERS[name])
    converted = compiled(model)
    report = check_parity(model, converted.network, converted.contract, Precision.FP32, new_tokens=16)
    assert report.passed, report.render()
    assert converted.network.kinds()["ATTENTION"] == 2


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_no_backend_can_express(name):
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]) as caught:
        compiled(untouched_model(name, **SMALL.get(name, {})))
    assert "\n" not in str(caught.value)
