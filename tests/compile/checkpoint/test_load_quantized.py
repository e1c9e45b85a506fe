"""Quantized checkpoints of every format, from the folder to a network: the numbers of the weights that they stand for."""

from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import write_model
from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.checkpoint.load_quantized import parameter_count, quantized_layers
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import EngineError, InvalidInputError, UnsupportedModelError
from tt_edge.network.build import build_engine

GROUP = 32


def compressed(weights, inputs=None, **more):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"], **more}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
FP8_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "checkpoint_format": "gptq"}
BLOCK = [48, 32]
FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": BLOCK}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}


def symmetric_awq(n, k):
    return packing.awq(torch.full((n, k // GROUP), 8), n=n, k=k)


def channel_fp8(n, k):
    return packing.fp8(packing.random_scales(n, 1, dtype=torch.float32) * 0.05, n=n, k=k)


def block_fp8(name, size=BLOCK):
    """Blocks that divide neither rows nor columns, too."""

    def make(n, k):
        blocks = packing.random_scales(-(-n // size[0]), -(-k // size[1]), dtype=torch.float32) * 0.05
        whole = torch.kron(blocks, torch.ones(size))[:n, :k]
        layer = packing.fp8(whole, n=n, k=k)
        return packing.Layer(layer.weight, {"weight": layer.tensors["weight"], name: blocks})

    return make


def modelopt_fp8(n, k):
    return packing.fp8(torch.tensor(0.003), n=n, k=k, input_scale=torch.tensor(0.05))


def modelopt_nvfp4(n, k):
    codes, blocks, weight = packing.nvfp4(0.001, n=n, k=k)
    tensors = {"weight": codes, "weight_scale": blocks, "weight_scale_2": torch.tensor(0.001)}
    return packing.Layer(weight, {**tensors, "input_scale": torch.tensor(0.004)})


#: Configuration, how a layer is made, the format it is read into, bytes an element, and a target that has the type.
CASES = {
    "awq": (AWQ, lambda n, k: packing.awq(n=n, k=k), "int8", 1, "sm86"),
    "awq-symmetric": (AWQ, symmetric_awq, "int4", 0.5, "sm86"),
    "gptq": (GPTQ, lambda n, k: packing.gptq(n=n, k=k), "int4", 0.5, "sm86"),
    "gptq-act-order": ({**GPTQ, "desc_act": True}, lambda n, k: packing.gptq(act_order=True, n=n, k=k), "int4", 0.5, "sm86"),
    "gptq-8-bits": ({**GPTQ, "bits": 8}, lambda n, k: packing.gptq(bits=8, n=n, k=k), "int8", 1, "sm86"),
    "w4a16": (compressed(INT4, format="pack-quantized"), lambda n, k: packing.packed(n=n, k=k), "int4", 0.5, "sm86"),
    "fp8-channels": (compressed(FP8, FP8_TOKENS, format="float-quantized"), channel_fp8, "fp8", 1, "sm89"),
    "fp8-blocks": (FP8_BLOCKS, block_fp8("weight_scale_inv"), "fp8", 1, "sm89"),
    "compressed-fp8-blocks": (
        compressed(FP8 | {"strategy": "block", "block_structure": BLOCK}, FP8_TOKENS, format="float-quantized"),
        block_fp8("weight_scale"), "fp8", 1, "sm89",
    ),
    "modelopt-fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, modelopt_fp8, "fp8", 1, "sm89"),
    "modelopt-nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, modelopt_nvfp4, "nvfp4", 0.5, "sm120",
    ),
}  # fmt: skip
#: Their inputs stay in the model's precision, so the model with the weights they stand for is what they must equal.
WEIGHT_ONLY = [name for name in CASES if not name.startswith("modelopt")]


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)


def checkpoint(folder, case, **settings):
    """A folder, and the model that it stands for."""
    config, make, *_ = CASES[case]
    model = tiny_model("qwen2", **settings)
    write_model(folder, model, config, make)
    return model


@pytest.mark.parametrize("case", CASES)
def test_layers_stay_quantized(tmp_path, case):
    truth = checkpoint(tmp_path, case)
    model = load_model(tmp_path, Precision.FP32)
    layers = quantized_layers(model)
    assert len(layers) == 2 * 7
    assert {str(layer.format) for layer in layers} == {CASES[case][2]}
    elements = sum(layer.in_features * layer.out_features for layer in layers)
    assert sum(layer.values.nbytes for layer in layers) == CASES[case][3] * elements
    assert parameter_count(model) == parameter_count(truth)
    assert layers[0].bias is not None  # Qwen2 has some


@pytest.mark.parametrize("case", WEIGHT_ONLY)
def test_logits_are_those_of_the_weights_they_stand_for(tmp_path, case):
    truth, ids = checkpoint(tmp_path, case), torch.arange(3, 40)[None]
    ours, theirs = load_model(tmp_path, Precision.FP32)(ids).logits, truth(ids).logits
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_fp8_blocks_are_what_transformers_makes_of_them(tmp_path, monkeypatch):
    """Its dequantization runs on a CPU, for blocks that divide the weights."""
    size = [16, 32]
    monkeypatch.setitem(
        CASES,
        "whole",
        ({**FP8_BLOCKS, "weight_block_size": size}, block_fp8("weight_scale_inv", size), "fp8", 1, "sm89"),
    )
    checkpoint(tmp_path, "whole")
    settings, ids = FineGrainedFP8Config(dequantize=True, weight_block_size=size), torch.arange(3, 40)[None]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=settings)
    wanted = theirs(ids).logits
    assert (load_model(tmp_path, Precision.FP32)(ids).logits - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("case", CASES)
def test_bundle(tmp_path, case):
    """Compiled with an engine, verified against the checkpoint, and no larger than its types."""
    (tmp_path / "model").mkdir()
    checkpoint(tmp_path / "model", case)
    config = CompileConfig.of(precision="fp16", max_batch=2, max_input_len=64, max_seq_len=128, single_profile=True)
    target = EngineTarget((CASES[case][4],))
    report = compile_checkpoint(str(tmp_path / "model"), tmp_path / "out.ttedge", config, target, progress=False)
    assert report.quantized == {CASES[case][2]: 14}
    bundle = Bundle.open(tmp_path / "out.ttedge")
    assert bundle.manifest.model.quantization.startswith(CASES[case][0]["quant_method"])
    parity = verify_bundle(bundle, tmp_path / "model", new_tokens=8)
    assert parity.passed, parity.render()
    kinds = {"int4": "INT4", "int8": "INT8", "fp8": "FP8", "nvfp4": "FP4"}
    network = bundle.network()
    constants = [t for layer in network.layers if layer.kind == "CONSTANT" for t in layer.outputs]
    stored = [t for t in constants if network.tensors[t].dtype.name == kinds[CASES[case][2]]]
    assert len(stored) >= 14


def test_the_target_must_have_the_type(tmp_path):
    checkpoint(tmp_path, "modelopt-fp8")
    with pytest.raises(EngineError, match="fp8 needs compute capability sm89 or later, not sm86"):
        compile_checkpoint(
            str(tmp_path), tmp_path / "out.ttedge", CompileConfig.of(max_seq_len=64, max_input_len=64), EngineTarget(("sm86",)),
            progress=False,
        )  # fmt: skip
    assert not (tmp_path / "out.ttedge").exists()


def test_quantizing_twice_is_refused(tmp_path, capsys):
    checkpoint(tmp_path, "awq")
    assert main(["compile", str(tmp_path), "-o", str(tmp_path / "out.ttedge"), "--quant", "fp8"]) != 0
    error = capsys.readouterr().err
    assert "is quantized already, as awq (4 bits, groups of 32)" in error
    assert not (tmp_path / "out.ttedge").exists()


def test_inspect_names_the_quantization(tmp_path, capsys):
    checkpoint(tmp_path, "gptq")
    config = CompileConfig.of(max_seq_len=64, max_input_len=64)
    compile_checkpoint(str(tmp_path), tmp_path / "out.ttedge", config, EngineTarget(), progress=False)
    assert main(["inspect", str(tmp_path / "out.ttedge")]) == 0
    page = capsys.readouterr().out
    assert "the checkpoint's own quantization: gptq (4 bits, groups of 32)" in page
    assert "int4 " in page


def edited(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


class TestDamage:
    def refused(self, folder, error, message):
        with pytest.raises(error, match=message) as caught:
            load_model(folder, Precision.FP16)
        assert "\n" not in str(caught.value)

    def test_missing_weight(self, tmp_path):
        checkpoint(tmp_path, "gptq")
        edited(tmp_path, lambda t: t.pop("model.norm.weight"))
        self.refused(tmp_path, InvalidInputError, r"weight model\.norm\.weight is missing \(1 in all\)")

    def test_missing_layer(self, tmp_path):
        checkpoint(tmp_path, "gptq")
        edited(tmp_path, lambda t: [t.pop(n) for n in list(t) if "layers.1.mlp.up_proj" in n])
        self.refused(tmp_path, InvalidInputError, r"weight model\.layers\.1\.mlp\.up_proj\.weight is missing")

    def test_unknown_tensor(self, tmp_path):
        checkpoint(tmp_path, "gptq")
        edited(tmp_path, lambda t: t.update({"model.layers.0.extra": torch.ones(3)}))
        self.refused(
            tmp_path, UnsupportedModelError, r"tensor model\.layers\.0\.extra, for which the model has no place"
        )

    def test_layer_that_the_model_lacks(self, tmp_path):
        checkpoint(tmp_path, "gptq")
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1, "layer_types": None}))
        self.refused(tmp_path, UnsupportedModelError, r"model\.layers\.1\.")

    def test_other_width(self, tmp_path):
        checkpoint(tmp_path, "gptq")
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(settings | {"intermediate_size": 128}))
        self.refused(tmp_path, InvalidInputError, r"down_proj is 64 x 96, and config\.json makes it 64 x 128")


def test_tied_head(tmp_path):
    checkpoint(tmp_path, "gptq", tie_word_embeddings=True)
    model = load_model(tmp_path, Precision.FP32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(("backend", "cache"), [("sdpa", "static_v2"), ("native", None)])
def test_asymmetric_awq_on_every_backend(tensorrt, tmp_path, backend, cache):
    """INT8 with a scale a group: its layers build, on the backends that run everywhere."""
    checkpoint(tmp_path, "awq")
    converted = compiled(load_model(tmp_path, Precision.FP16), Precision.FP16, backend=backend, cache=cache)
    file = io.BytesIO()
    assert build_engine(tensorrt, converted.network, converted.contract.profiles(), "sm89", file).bytes
