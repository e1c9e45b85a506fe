"""Eagle 2: the architecture beside transformers' parts, and checkpoints of its layouts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.internvl.modeling_internvl import InternVLModel

from tests.models.tiny_vlms import IMAGE, tiny_vlm
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.vision.adapters.eagle2 import pixel_shuffle
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError


def checkpoint(folder, layout="eagle_2_5_vl", *, tied=False, **changed):
    """A folder as NVIDIA publishes them: an older transformers' names, a head on the tower, its own ``model_type``."""
    model = tiny_vlm("eagle2")
    vision, text = (getattr(model.config, part).to_dict() for part in ("vision_config", "text_config"))
    state = {}
    for name, tensor in model.state_dict().items():
        state[name.replace("vision_model.", "vision_model.vision_model.", 1)] = tensor.contiguous()
    full = SiglipVisionModel(SiglipVisionConfig(**{**vision, "vision_use_head": True}))
    state |= {f"vision_model.vision_model.{k}": v for k, v in full.state_dict().items() if k.startswith("head.")}
    if tied:
        del state["language_model.lm_head.weight"]
        text["tie_word_embeddings"] = True
    settings = {
        "model_type": layout,
        "architectures": ["Eagle2ForConditionalGeneration"],
        "auto_map": {"AutoModel": "modeling_eagle.Eagle2"},
        "vision_config": {**vision, "_attn_implementation": "flash_attention_2"},
        "llm_config" if layout == "eagle_chat" else "text_config": {**text, "architectures": ["Qwen2ForCausalLM"]},
        "select_layer": -2,
        "downsample_ratio": 0.5,
        "image_token_index": IMAGE,
        **changed,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def inputs(tiles=2):
    ids = torch.tensor([[5, 6, *[IMAGE] * (4 * tiles), 7, 8]])
    return {"input_ids": ids, "pixel_values": torch.randn(tiles, 3, 28, 28, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("side", [2, 4])
def test_pixel_shuffle_is_internvls(side):
    states = torch.randn(3, 64, 5)
    want = InternVLModel.pixel_shuffle(None, states.reshape(3, 8, 8, 5), 1 / side)
    assert torch.equal(pixel_shuffle(states, side), want.reshape(3, -1, 5 * side * side))


def test_the_model_is_its_parts():
    """SigLIP's hidden states, shuffled and projected, in the places of the image token."""
    model, given = tiny_vlm("eagle2"), inputs()
    states = model.vision_model(given["pixel_values"], output_hidden_states=True).hidden_states[-2]
    shuffled = InternVLModel.pixel_shuffle(None, states.contiguous().reshape(2, 4, 4, -1), 0.5).reshape(2, 4, -1)
    norm, first, act, second = model.mlp1
    features = second(act(first(norm(shuffled)))).reshape(8, -1)
    embeds = model.language_model.get_input_embeddings()(given["input_ids"])
    embeds[0, 2:10] = features
    want = model.language_model(inputs_embeds=embeds).logits
    assert torch.allclose(model(**given).logits, want, atol=1e-6)


@pytest.mark.parametrize("layout", ["eagle_2_5_vl", "eagle_chat"])
def test_a_checkpoint_is_loaded(tmp_path, layout):
    model = checkpoint(tmp_path / "eagle", layout)
    loaded = load_model(tmp_path / "eagle", Precision.FP32)
    assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)
    attended = {"attention_mask": torch.ones_like(inputs()["input_ids"])}
    new = loaded.generate(**inputs(), **attended, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    ids = inputs()["input_ids"]
    for _ in range(5):  # without a cache
        logits = model(input_ids=ids, pixel_values=inputs()["pixel_values"]).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(new, ids)


def test_tied_embeddings(tmp_path):
    checkpoint(tmp_path / "eagle", tied=True)
    loaded = load_model(tmp_path / "eagle", Precision.FP32)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_an_image_token_that_only_the_tokenizer_names(tmp_path):
    checkpoint(tmp_path / "eagle", image_token_index=None)
    with pytest.raises(InvalidInputError, match="has no image_token_index, and no token <IMG_CONTEXT>"):
        load_model(tmp_path / "eagle", Precision.FP32)
    tokens = {"added_tokens": [{"id": 300, "content": "<IMG_CONTEXT>"}]}
    (tmp_path / "eagle" / "tokenizer.json").write_text(json.dumps(tokens))
    assert load_model(tmp_path / "eagle", Precision.FP32).config.image_token_id == 300


def test_what_is_not_supported(tmp_path):
    checkpoint(tmp_path / "mob", vision_config={"model_type": "MOB"})
    with pytest.raises(UnsupportedModelError, match="vision tower 'MOB' is not supported; SigLIP's is"):
        load_model(tmp_path / "mob", Precision.FP32)
    checkpoint(tmp_path / "forced", force_image_size=448)
    with pytest.raises(UnsupportedModelError, match="force_image_size 448 and a tower for 28 is not supported"):
        load_model(tmp_path / "forced", Precision.FP32)


def test_weights_of_other_shapes(tmp_path):
    checkpoint(tmp_path / "eagle", downsample_ratio=0.25)
    with pytest.raises(InvalidInputError, match=r"weight mlp1.0.bias is \[128\], and config.json makes it \[512\]"):
        load_model(tmp_path / "eagle", Precision.FP32)


def test_it_is_saved_and_loaded_again(tmp_path):
    model = tiny_vlm("eagle2")
    model.save_pretrained(tmp_path / "own")
    loaded = load_model(tmp_path / "own", Precision.FP32)
    assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)
