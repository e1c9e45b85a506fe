"""The layout of NVIDIA's C++ runtime: its inputs and outputs, its files, and the numbers as its runtime would feed them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from examples.tiny_checkpoint import make_checkpoint
from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.compile.edge_llm_layout import edge_llm_files
from tt_edge.compile.files import HostFiles
from tt_edge.config import CompileConfig, Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.runtime.engine.reference_session import ReferenceSession

SIZES = {"llama": {"head_dim": 64}, "qwen3": {"head_dim": 64}, "qwen2": {"hidden_size": 256}}
LAYOUT = {"backend": "plugin", "layout": "edge-llm"}


def files(model, **limits):
    config = CompileConfig.of(**LAYOUT, **{"max_batch": 2, "max_input_len": 64, "max_seq_len": 128, **limits})
    return dict(edge_llm_files(model, config, HostFiles()))


def rope_table(config, capacity):
    """Cosines and sines by position, as the runtime makes them from config.json."""
    dim = int(config["head_dim"] * config["partial_rotary_factor"])
    angles = np.arange(capacity)[:, None] / config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    return np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(np.float32)[None]


@pytest.mark.parametrize("family", SIZES)
def test_fed_as_the_runtime_feeds_it_gives_the_tokens_of_generate(family, tmp_path):
    model = tiny_model(family, **SIZES[family])
    written = files(model)
    config = json.loads(written["config.json"])
    (tmp_path / "embedding.safetensors").write_bytes(written["embedding.safetensors"])
    embedding = load_file(tmp_path / "embedding.safetensors")["embedding"]
    converted = compiled(model, **LAYOUT)
    contract, evaluator = converted.contract, ReferenceEvaluator(converted.network)
    past = {p.past: np.zeros(contract.input(p.past).resolve(batch=1), np.float32) for p in contract.kv_cache}
    rope = rope_table(config, contract.max_seq_len)

    def step(ids, start):
        feeds = {
            "inputs_embeds": embedding[np.array([ids])],
            "context_lengths": np.array([len(ids) if start is None else start + len(ids)], np.int32),
            "last_token_ids": np.array([[len(ids) - 1]]),
            "kvcache_start_index": np.zeros(0, np.int32) if start is None else np.array([start], np.int32),
            "rope_rotary_cos_sin": rope,
            **past,
        }
        out = evaluator.run(feeds)
        for pair in contract.kv_cache:
            past[pair.past] = out[pair.present]
        return int(out["logits"][0].argmax())

    prompt = [5, 9, 200, 31, 77, 12, 8]
    tokens = [step(prompt, None)]
    while len(tokens) < 24:
        tokens.append(step(tokens[-1:], len(prompt) + len(tokens) - 1))
    ids = torch.tensor([prompt])
    want = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None
    )
    assert tokens == want[0, len(prompt) :].tolist()


def test_inputs_outputs_and_profiles():
    model = tiny_model("llama", dtype=torch.float16, head_dim=64)
    contract = compiled(model, Precision.FP16, max_batch=2, **LAYOUT).contract
    shapes = {t.name: (t.dtype.value, t.shape) for t in (*contract.inputs, *contract.outputs)}
    assert shapes == {
        "inputs_embeds": ("float16", ("batch", "sequence", 64)),
        "context_lengths": ("int32", ("batch",)),
        "last_token_ids": ("int64", ("batch", 1)),
        "kvcache_start_index": ("int32", ("starts",)),
        "rope_rotary_cos_sin": ("float32", (1, 128, 64)),
        **{
            f"{when}_key_values_{i}": ("float16", ("batch", 2, 2, 128, 64))
            for when in ("past", "present")
            for i in (0, 1)
        },
        "logits": ("float32", ("batch", 320)),
    }
    context, generation = contract.profiles()
    assert context["kvcache_start_index"].min == (0,)
    assert context["inputs_embeds"].max == (2, 64, 64)
    assert generation["inputs_embeds"].opt == (1, 1, 64)
    with pytest.raises(InvalidInputError, match="laid out for NVIDIA's Edge-LLM runtime"):
        ReferenceSession(compiled(model, Precision.FP16, **LAYOUT).network, contract)


def test_files(tmp_path):
    make_checkpoint(tmp_path / "tiny", steps=0)
    out = tmp_path / "out"
    arguments = ["--backend", "plugin", "--layout", "edge-llm", "--max-batch", "2", "--max-seq-len", "256"]
    assert main(["compile", str(tmp_path / "tiny"), "-o", str(out), *arguments]) == 0
    assert Bundle.open(out).verify() == []
    config = json.loads((out / "config.json").read_text())
    assert config["builder_config"] == {"max_batch_size": 2, "max_input_len": 256, "max_kv_cache_capacity": 256}
    assert (config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 64)
    assert (config["kv_cache_dtype"], config["vocab_size"]) == ("fp16", 435)
    assert load_file(out / "embedding.safetensors")["embedding"].dtype == np.float16
    chat = json.loads((out / "processed_chat_template.json").read_text())
    assert chat["roles"] == {r: {"prefix": f"<|{r}|>", "suffix": "<|end|>"} for r in ("system", "user", "assistant")}
    assert chat["generation_prompt"] == "<|assistant|>"
    assert {"tokenizer.json", "tokenizer_config.json"} <= {p.name for p in out.iterdir()}


def test_rope_that_the_runtime_computes_otherwise_is_refused():
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(UnsupportedModelError, match="RoPE type 'linear' is not computed by Edge-LLM's runtime"):
        files(tiny_model("llama", head_dim=64, rope_parameters=rope))


def test_two_rope_bases_are_refused():
    with pytest.raises(UnsupportedModelError, match="several RoPE bases"):
        compiled(tiny_model("gemma3", head_dim=64), **LAYOUT)


@pytest.mark.parametrize(
    "settings", [{"backend": "native"}, {"backend": "plugin", "plugin_contract": "0.11"}], ids=["native", "0.11"]
)
def test_only_with_the_contract_that_the_runtime_has(settings):
    with pytest.raises(InvalidInputError, match=r"layout edge-llm is of backend plugin with contract 0\.9\.1"):
        CompileConfig.of(layout="edge-llm", **settings)
