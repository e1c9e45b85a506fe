"""Small checkpoints that once went wrong, one test a kind; the truth is transformers' own load, or arithmetic."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.test_load_quantized import CASES, GROUP, checkpoint
from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.references.loading import load_reference
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError

IDS = torch.arange(3, 40)[None]


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)


@pytest.fixture
def plain(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def settings(folder, **changes):
    data = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def refused(folder, message, error=InvalidInputError):
    with pytest.raises(error, match=message) as caught:
        load_model(folder, Precision.FP32)
    assert "\n" not in str(caught.value)
    assert "download it again" not in str(caught.value)


def close(ours, theirs):
    a, b = ours(IDS).logits, theirs(IDS).logits
    return bool((a - b).norm() < 1e-5 * b.norm())


@pytest.mark.parametrize("case", ["fp8-channels", "gptq", None])
def test_a_head_that_is_stored_and_differs_is_not_tied(tmp_path, case):
    """Row 1: transformers ties only what is equal."""
    if case is None:
        tiny_model("qwen2", tie_word_embeddings=True).save_pretrained(tmp_path)
    else:
        checkpoint(tmp_path, case, tie_word_embeddings=True)
    head = torch.randn(320, 64)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": head}))
    ours, theirs = load_model(tmp_path, Precision.FP32), load_reference(Checkpoint.open(tmp_path), Precision.FP32)
    assert torch.equal(ours.lm_head.weight, head)
    assert torch.equal(theirs.lm_head.weight, head)
    assert not ours.config.tie_word_embeddings
    assert close(ours, theirs)


def test_an_equal_head_is_tied_and_so_is_one_stored_alone(tmp_path):
    model = tiny_model("qwen2", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    weight = model.lm_head.weight.detach().clone()
    edit(tmp_path, lambda t: t.update({"lm_head.weight": weight}))
    loaded = load_model(tmp_path, Precision.FP32)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.config.tie_word_embeddings
    edit(tmp_path, lambda t: t.pop("model.embed_tokens.weight"))
    loaded = load_model(tmp_path, Precision.FP32)
    assert torch.equal(loaded.model.embed_tokens.weight, weight)


def test_fp8_weights_without_their_configuration(tmp_path):
    """Row 2a: block scales have no place, and the values mean nothing without them."""
    checkpoint(tmp_path, "fp8-channels")
    settings(tmp_path, quantization_config=None)
    refused(
        tmp_path, r"has model\.layers\.\S+\.weight in F8_E4M3, a quantized weight, and its config\.json has no quantiz"
    )


@pytest.mark.parametrize(
    "name",
    [
        "q_proj.weight_scale_inv",
        "q_proj.input_quantizer._amax",
        "o_proj.input_quantizer._pre_quant_scale",
        "q_proj.qzeros",
    ],
)
def test_tensors_of_quantization_without_a_place(plain, name):
    """Rows 2a and 2b: tensors that modelopt, DeepSeek and GPTQ store beside weights in full precision."""
    edit(plain, lambda t: t.update({f"model.layers.0.self_attn.{name}": torch.ones(2)}))
    refused(
        plain, rf"tensor model\.layers\.0\.self_attn\.{name}, for which the model has no place", UnsupportedModelError
    )


def test_a_tensor_inside_a_layer_without_a_place(plain):
    edit(plain, lambda t: t.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(16)}))
    refused(
        plain, r"q_norm\.weight, for which the model has no place in model\.layers\.1\.self_attn", UnsupportedModelError
    )


def test_parts_that_the_model_does_not_have_are_named(plain, caplog):
    """A value head and layers for multi-token prediction change nothing about the text."""
    extra = {"v_head.summary.weight": torch.ones(2), "model.layers.2.mlp.up_proj.weight": torch.ones(2, 2)}
    edit(plain, lambda t: t.update(extra))
    with caplog.at_level(logging.WARNING, "tt_edge"):
        ours = load_model(plain, Precision.FP32)
    assert "tensor model.layers.2.mlp.up_proj.weight" in caplog.text
    assert "(2 such in all)" in caplog.text
    assert close(ours, AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32))


def test_the_older_name_of_the_settings(tmp_path):
    truth = checkpoint(tmp_path, "fp8-channels")
    data = json.loads((tmp_path / "config.json").read_text())
    found = {k: v for k, v in data["quantization_config"].items() if k != "quant_method"}
    settings(tmp_path, quantization_config=None, compression_config=found)
    assert Checkpoint.open(tmp_path).quantization.method == "compressed-tensors"
    assert close(load_model(tmp_path, Precision.FP32), truth)


@pytest.mark.parametrize("quantized", [True, False])
def test_model_safetensors_goes_before_an_index(tmp_path, quantized):
    """Row 3: transformers' order of files."""
    old, new = tmp_path / "old", tmp_path / "new"
    if quantized:
        for folder in (old, new):
            folder.mkdir()
            truth = checkpoint(folder, "gptq")
        edit(old, lambda t: [tensor.mul_(2) for name, tensor in t.items() if name.endswith("scales")])
    else:
        truth = tiny_model("llama")
        truth.save_pretrained(new)
        truth.save_pretrained(old)
        edit(old, lambda t: [tensor.mul_(2) for tensor in t.values()])
    shutil.copy(old / "model.safetensors", new / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(old / "model.safetensors"), "model-00001-of-00001.safetensors")
    (new / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert close(load_model(new, Precision.FP32), truth)
    assert close(load_reference(Checkpoint.open(new), Precision.FP32), truth)


def test_code_of_a_checkpoint_is_never_run(plain, monkeypatch, tmp_path):
    """Row 4: not of a model, a tokenizer or a processor, whatever is answered on stdin."""
    import io
    import sys

    ran = tmp_path / "ran"
    (plain / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedConfig, PreTrainedTokenizerFast\n"
        "class C(PreTrainedConfig):\n    model_type = 'own'\nclass T(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings(plain, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 100))
    refused(plain, r"of model type 'own', which is not in transformers and brings code of its own, which is never run",
            UnsupportedModelError)  # fmt: skip
    (plain / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", "own.T"]}})
    )
    (plain / "vocab.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"the tokenizer of .* does not load"):
        _ = Checkpoint.open(plain).tokenizer
    assert not ran.exists()


def test_peft(plain):
    """Row 8: an adapter, without and with its model, and weights with PEFT's names."""
    edit(plain, lambda t: t.update({f"base_model.model.{name}": t.pop(name) for name in list(t)}))
    refused(plain, r"have PEFT's prefix base_model\.model\.; merge the adapter .* merge_and_unload\(\)")
    (plain / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    refused(plain, r"holds a PEFT adapter of org/base; merge it with merge_and_unload\(\)")
    (plain / "config.json").unlink()
    refused(plain, r"holds a PEFT adapter of org/base")


def test_an_adapter_of_images(plain):
    """Phi-4-multimodal's, which transformers does not load by itself either."""
    (plain / "vision-lora").mkdir()
    (plain / "vision-lora" / "adapter_config.json").write_text("{}")
    refused(
        plain, r"has its adapter for images apart, in vision-lora, .*subfolder='vision-lora'\)\.merge_and_unload\(\)"
    )


def test_gguf(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused(
        tmp_path,
        r"has no config\.json but GGUF files, which are not read; give the checkpoint that they were made from",
    )


def test_an_uncompressed_pack_quantized_checkpoint(tmp_path):
    """Weights in full precision beside the scales of the format."""
    checkpoint(tmp_path, "w4a16")

    def uncompress(tensors):
        for name in [name for name in tensors if name.endswith("weight_packed")]:
            layer = name.removesuffix("_packed")
            n, k = tensors.pop(f"{layer}_shape").tolist()
            del tensors[name]
            tensors[layer] = torch.randn(n, k)

    edit(tmp_path, uncompress)
    refused(tmp_path, r"weight is float32 beside a scale: saved uncompressed; save it with save_compressed=True")


def test_a_quantized_bin(tmp_path):
    checkpoint(tmp_path, "gptq")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, r"is quantized and has its weights as \.bin files, .*save it as safetensors")


@pytest.mark.parametrize("case", ["gptq", "awq", "w4a16"])
def test_zero_biases_of_layers_that_have_none(tmp_path, case):
    """Row 11: AutoGPTQ stores a bias for every layer."""
    truth = checkpoint(tmp_path, case)
    layer = "model.layers.0.mlp.up_proj"
    edit(tmp_path, lambda t: t.update({f"{layer}.bias": torch.zeros(truth.get_submodule(layer).out_features)}))
    assert close(load_model(tmp_path, Precision.FP32), truth)
    edit(tmp_path, lambda t: t[f"{layer}.bias"].add_(1))
    refused(tmp_path, rf"tensor {layer}\.bias, for which the model has no place", UnsupportedModelError)


def test_every_format_has_a_case():
    assert {CASES[case][0]["quant_method"] for case in CASES} == {
        "awq",
        "gptq",
        "compressed-tensors",
        "modelopt",
        "fp8",
    }


def test_layers_that_share_keys_and_values(tmp_path):
    """Gemma 4's E models: no projections, and no caches, in the layers that take them from earlier ones."""
    tiny_model("gemma4").save_pretrained(tmp_path)
    limits = CompileConfig.of(precision="fp32", max_input_len=32, max_seq_len=64)
    compile_checkpoint(str(tmp_path), tmp_path / "out.ttedge", limits, EngineTarget(()), progress=False)
    bundle = Bundle.open(tmp_path / "out.ttedge")
    assert len(bundle.manifest.contract.kv_cache) == 2 * 2
    found = verify_bundle(bundle, tmp_path, new_tokens=4)
    assert found.passed, found.render()
