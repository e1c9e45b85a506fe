"""Cosmos-Reason 1 and 2: local folders as these checkpoints are laid out, taken as the Qwen-VL models that they are.

The layouts are those of transformers 4 (texts' settings beside the tower's, ``visual.`` and ``model.`` for the parts) and 5.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.models.tiny_vlms import tiny_vlm
from tests.models.vlm_checkpoints import make_processor, make_tokenizer
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.files import HostFiles
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.config import Precision
from tt_edge.contract import WINDOWS


def write_reason_1(folder):
    """nvidia/Cosmos-Reason1-7B: Qwen2.5-VL of transformers 4."""
    model = tiny_vlm("qwen2_5_vl")
    config = json.loads(model.config.to_json_string(use_diff=False))
    text, vision = config.pop("text_config"), config.pop("vision_config")
    rope = text.pop("rope_parameters")
    config |= {
        **text, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "vision_config": vision,
        "rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    renamed = {}
    for name, tensor in model.state_dict().items():
        old = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        renamed[old] = tensor.contiguous()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "min_pixels": 3136, "max_pixels": 12544, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2_5_VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    make_tokenizer("qwen2_5_vl").save_pretrained(folder)
    return model


def write_reason_2(folder):
    """nvidia/Cosmos-Reason2-8B: Qwen3-VL."""
    model = tiny_vlm("qwen3_vl")
    model.save_pretrained(folder)
    make_processor("qwen3_vl", make_tokenizer("qwen3_vl")).save_pretrained(folder)
    return model


@pytest.mark.parametrize(("write", "kind"), [(write_reason_1, "Qwen2_5_VL"), (write_reason_2, "Qwen3VL")])
def test_a_local_folder(write, kind, tmp_path):
    """Every weight is where it belongs, and images are prepared by its settings."""
    folder = tmp_path / f"nvidia_Cosmos-{write.__name__}"
    folder.mkdir()
    written = write(folder)
    model = load_model(folder, Precision.FP32)
    assert type(model).__name__ == f"{kind}ForConditionalGeneration"
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), written.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    assert model.config.get_text_config().rope_parameters["mrope_section"] == [2, 3, 3]
    files = HostFiles({path.name: path.read_bytes() for path in folder.glob("*.json")})
    seen = prepare_images(model, str(folder), files)
    assert (family_of(model).tower, family_of(model).position_axes) == ("grid", 3)
    assert (seen.geometry.unit == WINDOWS) == (kind == "Qwen2_5_VL")
    assert files.has("image_prompt.json")
