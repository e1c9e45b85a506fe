"""Quantized checkpoints of the hub: every value, scale and order comes back exactly, and what cannot be read is refused."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Qwen2Config

from tests.compile import quantized_checkpoints as packing
from tests.compile.quantized_checkpoints import GROUP, LAYER, K, N, write
from tt_edge.compile.prequantized import KVScales, check_not_quantized, detect, read_quantized
from tt_edge.errors import InvalidInputError, UnsupportedModelError

AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "desc_act": False,
    "sym": True,
    "checkpoint_format": "gptq",
}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}


def compressed(weights, inputs=None, **more):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"], **more}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def only(folder):
    checkpoint = read_quantized(folder)
    assert list(checkpoint.linears) == [LAYER]
    return checkpoint.linears[LAYER]


def read(folder, config, layer):
    """The layer's weight, as read; it must dequantize to exactly what was packed."""
    weight = only(write(folder, config, {LAYER: layer.tensors}))
    assert (weight.out_features, weight.in_features) == (N, K)
    assert torch.equal(weight.dequantize(), layer.weight)
    return weight


def refused(folder, config, layer, message, error=UnsupportedModelError):
    write(folder, config, {LAYER: layer.tensors})
    with pytest.raises(error, match=message) as caught:
        _ = read_quantized(folder).linears[LAYER]
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestIntegers:
    """AWQ, GPTQ and packed compressed-tensors: integers with a scale and a zero point a group."""

    SYMMETRIC = N * K // 2 + N * (K // GROUP) * 2  # bytes of INT4 with fp16 scales

    def test_awq_without_shift_is_int4(self, tmp_path):
        weight = read(tmp_path, AWQ, packing.awq(zeros=torch.full((N, K // GROUP), 8)))
        assert (weight.format, weight.group_size, weight.nbytes) == ("int4", GROUP, self.SYMMETRIC)
        assert (weight.unpacked().min(), weight.unpacked().max()) == (-8, 7)

    def test_awq_with_zero_points_is_int8_with_the_same_groups(self, tmp_path):
        weight = read(tmp_path, AWQ, packing.awq())
        assert (weight.format, weight.group_size, weight.values.dtype) == ("int8", GROUP, torch.int8)
        assert weight.scale.dtype == torch.float16

    @pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
    def test_gptq(self, tmp_path, layout):
        weight = read(tmp_path, {**GPTQ, "checkpoint_format": layout}, packing.gptq(v2=layout == "gptq_v2"))
        assert (weight.format, weight.nbytes, weight.permutation) == ("int4", self.SYMMETRIC, None)

    @pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
    def test_gptq_with_zero_points(self, tmp_path, layout):
        config = {**GPTQ, "sym": False, "checkpoint_format": layout}
        assert read(tmp_path, config, packing.gptq(symmetric=False, v2=layout == "gptq_v2")).format == "int8"

    def test_zero_points_of_zero_survive_the_borrow_of_gptq(self, tmp_path):
        layer = packing.gptq(symmetric=False, v2=True)
        layer.tensors["qzeros"] = layer.tensors["qzeros"] - 0x11111111  # as GPTQModel goes from gptq_v2 to gptq
        read(tmp_path, GPTQ, layer)

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_gptq_act_order(self, tmp_path, symmetric):
        layer = packing.gptq(act_order=True, symmetric=symmetric)
        weight = read(tmp_path, {**GPTQ, "desc_act": True}, layer)
        assert weight.format == ("int4" if symmetric else "int8")
        assert torch.equal(layer.about["group_of"][weight.permutation], torch.arange(K) // GROUP)
        # What a layer does: gather its input, multiply by groups that lie together.
        x = torch.randn(3, K)
        blocks = weight.unpacked().float().view(N, -1, GROUP) * weight.scale.float()[..., None]
        torch.testing.assert_close(x[:, weight.permutation] @ blocks.view(N, K).T, x @ layer.weight.T)

    def test_gptq_of_8_bits(self, tmp_path):
        weight = read(tmp_path, {**GPTQ, "bits": 8}, packing.gptq(bits=8))
        assert (weight.format, weight.values.dtype) == ("int8", torch.int8)

    def test_gptq_of_mixed_bits(self, tmp_path):
        """GPTQModel's ``dynamic``: the tensors say how many bits a layer has."""
        four, eight = packing.gptq(), packing.gptq(bits=8)
        linears = read_quantized(write(tmp_path, GPTQ, {"a": four.tensors, "b": eight.tensors})).linears
        assert [linears[name].format for name in "ab"] == ["int4", "int8"]
        assert torch.equal(linears["b"].dequantize(), eight.weight)

    @pytest.mark.parametrize("act_order", [False, True])
    @pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
    def test_packed_compressed_tensors(self, tmp_path, bits, symmetric, act_order):
        config = compressed({**INT4, "num_bits": bits, "symmetric": symmetric}, format="pack-quantized")
        weight = read(tmp_path, config, packing.packed(bits, symmetric, act_order))
        assert weight.format == ("int4" if symmetric and bits == 4 else "int8")
        assert (weight.permutation is not None) == act_order

    def test_8_bits_with_zero_points_that_fit(self, tmp_path):
        layer = packing.packed(bits=8)
        zeros = torch.full((N, K // GROUP), 128)
        zeros[0] = 127
        layer.tensors["weight_zero_point"] = packing.into_words(zeros.T, 8).T
        layer.tensors["weight_packed"] = packing.into_words(torch.full((N, K), 200), 8)
        layer.weight = packing.grouped(
            torch.full((N, K), 200), zeros, layer.tensors["weight_scale"], torch.arange(K) // GROUP
        )
        config = compressed({**INT4, "num_bits": 8, "symmetric": False}, format="pack-quantized")
        assert read(tmp_path / "fits", config, layer).format == "int8"
        layer.tensors["weight_packed"] = packing.into_words(torch.full((N, K), 255), 8)
        refused(tmp_path / "not", config, layer, "beyond INT8")

    def test_columns_that_were_never_reordered(self, tmp_path):
        layer = packing.packed()
        layer.tensors["weight_g_idx"] = torch.full((K,), -1)
        assert read(tmp_path, compressed(INT4, format="pack-quantized"), layer).permutation is None


class TestFloats:
    """FP8 and NVFP4, and INT8 that is not packed."""

    @pytest.mark.parametrize("shape", [(), (1,), (N, 1)])
    def test_fp8_of_compressed_tensors(self, tmp_path, shape):
        layer = packing.fp8(packing.random_scales(*shape, dtype=torch.bfloat16))
        weight = read(tmp_path, compressed(FP8, {**FP8, "strategy": "token", "dynamic": True}), layer)
        assert (weight.format, weight.input_scale, weight.dynamic_input) == ("fp8", None, True)
        assert tuple(weight.scale.shape) == (N if shape == (N, 1) else 1,)

    def test_fp8_with_static_activations(self, tmp_path):
        layer = packing.fp8(torch.tensor([0.5]), input_scale=torch.tensor([0.25]))
        weight = read(tmp_path, compressed(FP8, {**FP8, "strategy": "tensor"}, format="float-quantized"), layer)
        assert (weight.input_scale, weight.dynamic_input) == (torch.tensor(0.25), False)

    def test_int8_of_compressed_tensors(self, tmp_path):
        values, scale = packing.random_codes(256).sub(128).to(torch.int8), packing.random_scales(N, 1)
        layer = packing.Layer(values.float() * scale.float(), {"weight": values, "weight_scale": scale})
        ints = {**FP8, "type": "int"}
        weight = read(tmp_path, compressed(ints, {**ints, "strategy": "token", "dynamic": True}), layer)
        assert (weight.format, weight.group_size, weight.dynamic_input) == ("int8", None, True)

    @pytest.mark.parametrize("inputs", [None, {**NVFP4, "dynamic": "local"}])
    def test_nvfp4_of_compressed_tensors(self, tmp_path, inputs):
        codes, blocks, true = packing.nvfp4(1 / 1024)
        tensors = {"weight_packed": codes, "weight_scale": blocks, "weight_global_scale": torch.tensor([1024.0])}
        if inputs:
            tensors["input_global_scale"] = torch.tensor([64.0])
        config = compressed(NVFP4, inputs, format="nvfp4-pack-quantized")
        weight = read(tmp_path, config, packing.Layer(true, tensors))
        assert (weight.format, weight.group_size, weight.nbytes) == (
            "nvfp4",
            16,
            N * K // 2 + N * K // 16 + (8 if inputs else 4),
        )
        assert (weight.dynamic_input, weight.input_scale) == ((True, torch.tensor(1 / 64)) if inputs else (False, None))

    @pytest.mark.parametrize("algorithm", ["NVFP4", "W4A16_NVFP4"])
    def test_nvfp4_of_modelopt(self, tmp_path, algorithm):
        codes, blocks, true = packing.nvfp4(0.003)
        tensors = {"weight": codes, "weight_scale": blocks, "weight_scale_2": torch.tensor(0.003)}
        if algorithm == "NVFP4":
            tensors["input_scale"] = torch.tensor(0.01)
        weight = read(tmp_path, {"quant_method": "modelopt", "quant_algo": algorithm}, packing.Layer(true, tensors))
        assert weight.dynamic_input == (weight.input_scale is not None) == (algorithm == "NVFP4")

    def test_the_first_group_that_names_a_layer_counts(self, tmp_path):
        """One checkpoint with FP8 attention and INT4 for the rest, as its groups say."""
        config = compressed(INT4, format="mixed-precision")
        config["config_groups"]["group_1"] = {
            "targets": ["re:.*self_attn.*"],
            "weights": FP8,
            "input_activations": None,
        }
        layers = {"l.self_attn.q_proj": packing.fp8(torch.ones(N, 1)).tensors, LAYER: packing.packed().tensors}
        linears = read_quantized(write(tmp_path, config, layers)).linears
        assert {name: weight.format for name, weight in linears.items()} == {"l.self_attn.q_proj": "fp8", LAYER: "int4"}

    def test_mixed_precision_of_modelopt(self, tmp_path):
        codes, blocks, _ = packing.nvfp4(1.0)
        four = {
            "weight": codes,
            "weight_scale": blocks,
            "weight_scale_2": torch.tensor(1.0),
            "input_scale": torch.tensor(1.0),
        }
        eight = packing.fp8(torch.tensor(1.0), input_scale=torch.tensor(1.0)).tensors
        algorithms = {"a": {"quant_algo": "NVFP4", "group_size": 16}, "b": {"quant_algo": "FP8"}}
        config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": algorithms}
        linears = read_quantized(write(tmp_path, config, {"a": four, "b": eight})).linears
        assert [linears[name].format for name in "ab"] == ["nvfp4", "fp8"]


class TestFolder:
    """What the folder holds besides the layers."""

    @pytest.mark.parametrize("shards", [1, 3])
    def test_everything_else_stays_as_it_is(self, tmp_path, shards):
        layers = {LAYER: packing.awq().tensors, "other": packing.awq().tensors}
        checkpoint = read_quantized(write(tmp_path, AWQ, layers, shards))
        plain = dict(checkpoint.plain_tensors())
        assert plain.keys() == {"model.embed_tokens.weight", f"{LAYER}.bias", "lm_head.weight"}
        assert set(checkpoint.linears) == {LAYER, "other"}
        assert checkpoint.linears["other"].in_features == K

    def test_a_file_with_a_name_of_its_own(self, tmp_path):
        write(tmp_path, GPTQ, {LAYER: packing.gptq().tensors})
        (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-128g.safetensors")
        assert only(tmp_path).format == "int4"

    @pytest.mark.parametrize(
        "names", [("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"), ("k_proj.output_scale",) * 2]
    )
    def test_scales_of_the_kv_cache(self, tmp_path, names):
        k, v = names[0], names[1].replace("k_proj.o", "v_proj.o")
        tensors = {k: torch.tensor([0.5]), v: torch.tensor(0.25)}
        layers = {LAYER: packing.fp8(torch.ones(1)).tensors, "model.layers.0.self_attn": tensors}
        config = compressed(FP8, kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False})
        checkpoint = read_quantized(write(tmp_path, config, layers))
        assert checkpoint.kv_scales == {"model.layers.0.self_attn": KVScales(k=0.5, v=0.25)}
        assert not any("self_attn" in name for name, _ in checkpoint.plain_tensors())
        assert list(checkpoint.linears) == [LAYER]

    def test_a_layer_is_read_when_it_is_asked_for(self, tmp_path):
        damaged = {"qweight": torch.zeros(1, 1)}
        linears = read_quantized(write(tmp_path, AWQ, {"bad": damaged, LAYER: packing.awq().tensors})).linears
        assert (linears[LAYER].format, len(linears), "bad" in linears) == ("int8", 2, True)


class TestDetect:
    def test_from_folder_mapping_and_configuration(self, tmp_path):
        found = detect(write(tmp_path, AWQ, {LAYER: packing.awq().tensors}))
        assert (found.method, str(found)) == ("awq", f"awq (4 bits, groups of {GROUP})")
        assert detect({"quantization_config": AWQ}) == detect({"text_config": {"quantization_config": AWQ}}) == found
        assert detect(Qwen2Config(quantization_config=AWQ)) == found

    def test_modelopt_by_its_own_file(self, tmp_path):
        layer = packing.fp8(torch.tensor(0.5), input_scale=torch.tensor(1.0))
        write(tmp_path, {}, {LAYER: layer.tensors})
        content = {
            "producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        }
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
        assert str(detect(tmp_path)) == "modelopt (FP8)"
        assert detect(tmp_path).fp8_kv_cache
        assert only(tmp_path).format == "fp8"

    def test_an_ordinary_checkpoint(self, tmp_path):
        assert detect(write(tmp_path, {}, {})) is detect({"model_type": "qwen2"}) is None
        check_not_quantized(tmp_path, "fp8")
        with pytest.raises(InvalidInputError, match="is not quantized"):
            read_quantized(tmp_path)

    def test_quantizing_twice_is_refused(self, tmp_path):
        write(tmp_path, AWQ, {})
        with pytest.raises(InvalidInputError, match=r"is quantized already, as awq .*leave out --quant fp8"):
            check_not_quantized(tmp_path, "fp8")

    def test_settings_that_are_no_object(self):
        with pytest.raises(InvalidInputError, match=r"quantization_config of config.json is 'awq'"):
            detect({"quantization_config": "awq"})

    def test_not_json(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(InvalidInputError, match="not valid JSON"):
            detect(tmp_path)


class TestRefused:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"quant_method": "bitsandbytes", "load_in_4bit": True},
                "bitsandbytes, which is not read; use one of awq, gptq",
            ),
            ({**AWQ, "bits": 3}, "AWQ with 3 bits"),
            ({**AWQ, "version": "gemv"}, "gemv layout"),
            ({**AWQ, "group_size": -1}, "group_size -1"),
            ({**GPTQ, "bits": 3}, "GPTQ with 3 bits"),
            ({**GPTQ, "group_size": -1}, "group_size -1"),
            ({**GPTQ, "checkpoint_format": "marlin"}, "marlin layout"),
            (compressed({**INT4, "num_bits": 3}), "3 bits"),
            (compressed({**INT4, "strategy": "channel", "group_size": -1}), "group_size -1"),
            (compressed({**FP8, "strategy": "block"}), "by block"),
            (compressed(INT4, format="marlin-24"), "format marlin-24"),
            (compressed(INT4, sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask sparsity"),
            (compressed(INT4, transform_config={"config_groups": {"u": {}}}), "transforms"),
            ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "algorithm W4A8_AWQ"),
            (
                {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
                "KV cache scheme NVFP4",
            ),
        ],
    )
    def test_formats(self, tmp_path, config, message):
        write(tmp_path, config, {})
        with pytest.raises(UnsupportedModelError, match=message):
            read_quantized(tmp_path)

    def test_a_layer_of_3_bits_among_others(self, tmp_path):
        layer = packing.gptq()
        layer.tensors["qzeros"] = torch.zeros(K // GROUP, 2, dtype=torch.int32)
        assert LAYER in refused(tmp_path, GPTQ, layer, r"2\.67 bits is not read")

    @pytest.mark.parametrize("config", [AWQ, GPTQ, compressed(INT4)])
    def test_features_that_groups_do_not_divide(self, tmp_path, config):
        make = {"awq": packing.awq, "gptq": packing.gptq, "compressed-tensors": packing.packed}[config["quant_method"]]
        layer = make()
        layer.tensors.pop("g_idx", None)
        config = json.loads(json.dumps(config).replace(f'"group_size": {GROUP}', '"group_size": 24'))
        refused(tmp_path, config, layer, f"{K} input features are not 4 groups of group_size 24; use")

    def test_groups_of_different_sizes(self, tmp_path):
        layer = packing.gptq()
        layer.tensors["g_idx"][0] = 3
        refused(tmp_path, GPTQ, layer, "in groups of 15 to 17")

    def test_weights_and_activations_of_different_types(self, tmp_path):
        config = compressed(INT4, {**FP8, "dynamic": True, "strategy": "token"})
        refused(tmp_path, config, packing.packed(), "activations of 8 bits .float. with weights of 4 bits .int.")

    def test_a_tensor_that_nothing_here_reads(self, tmp_path):
        layer = packing.fp8(torch.tensor(1.0), input_scale=torch.tensor(1.0), svdquant_lora_a=torch.ones(2, K))
        refused(tmp_path, {"quant_method": "modelopt", "quant_algo": "FP8"}, layer, "svdquant_lora_a is not read")


class TestDamaged:
    def refused(self, folder, config, layer, message):
        refused(folder, config, layer, message, InvalidInputError)

    def test_missing_tensor(self, tmp_path):
        layer = packing.awq()
        del layer.tensors["scales"]
        self.refused(tmp_path, AWQ, layer, f"layer {LAYER}: tensor 'scales' is missing")

    def test_shapes_that_do_not_fit(self, tmp_path):
        layer = packing.awq()
        layer.tensors["qzeros"] = layer.tensors["qzeros"][:, 1:]
        self.refused(tmp_path, AWQ, layer, "do not fit together")

    def test_a_scale_for_the_wrong_number_of_channels(self, tmp_path):
        self.refused(
            tmp_path,
            compressed(FP8),
            packing.Layer(None, {**packing.fp8(torch.ones(1)).tensors, "weight_scale": torch.ones(5)}),
            "shape .5.",
        )

    def test_scales_of_another_shape(self, tmp_path):
        layer = packing.gptq()
        layer.tensors["scales"] = torch.ones(N)
        self.refused(tmp_path, GPTQ, layer, f"layer {LAYER}: its tensors do not fit together")

    def test_zero_points_that_the_configuration_promises(self, tmp_path):
        self.refused(
            tmp_path, compressed({**INT4, "symmetric": False}), packing.packed(), "'weight_zero_point' is missing"
        )

    def test_groups_that_are_not_there(self, tmp_path):
        layer = packing.gptq()
        layer.tensors["g_idx"][0] = 9
        self.refused(tmp_path, GPTQ, layer, "does not put 64 input features into 4 groups")

    def test_an_order_of_other_columns(self, tmp_path):
        layer = packing.gptq()
        layer.tensors["g_idx"] = layer.tensors["g_idx"][:-GROUP]
        self.refused(tmp_path, GPTQ, layer, "does not put 64 input features into 4 groups")

    def test_a_weight_saved_uncompressed(self, tmp_path):
        layer = packing.fp8(torch.ones(1))
        layer.tensors["weight"] = layer.tensors["weight"].half()
        self.refused(tmp_path, compressed(FP8), layer, "float16 beside a scale")

    def test_a_quantized_weight_without_scale(self, tmp_path):
        layer = packing.fp8(torch.ones(1))
        del layer.tensors["weight_scale"]
        checkpoint = read_quantized(write(tmp_path, compressed(FP8), {LAYER: layer.tensors}))
        with pytest.raises(InvalidInputError, match="its scale is missing"):
            list(checkpoint.plain_tensors())

    def test_no_folder(self, tmp_path):
        with pytest.raises(InvalidInputError, match="is no folder"):
            read_quantized(tmp_path / "not there")

    def test_no_weights(self, tmp_path):
        write(tmp_path, AWQ, {}, shards=2)
        next(tmp_path.glob("*.safetensors")).unlink()
        with pytest.raises(InvalidInputError, match="does not open"):
            read_quantized(tmp_path)
        (tmp_path / "model.safetensors.index.json").unlink()
        next(tmp_path.glob("*.safetensors")).unlink()
        with pytest.raises(InvalidInputError, match="0 safetensors files"):
            read_quantized(tmp_path)
