"""Tiny vision-language models of real transformers classes with random weights, for tests. Needs torch."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, Qwen2Config, SiglipVisionConfig

from tt_edge.compile.vision.adapters import eagle2

#: Ids of special tokens in the vocabulary of 320: image placeholder, video placeholder, and what stands around them.
IMAGE, VIDEO, VISION_START, VISION_END = 300, 301, 302, 303

_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


_GEMMAS = {"gemma3": "gemma3_text", "paligemma": "gemma", "paligemma2": "gemma2"}


def _settings(family: str, width: int) -> dict[str, Any]:
    """``width`` is the tower's, of two heads."""
    square = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": width, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        return {"text_config": {**_TEXT, "rope_parameters": {**_MROPE}}, "vision_config": vision, **_QWEN_IDS}
    if family == "qwen2_5_vl":
        vision = {
            "depth": 3,
            "hidden_size": width,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        }
        return {"text_config": {**_TEXT, "rope_parameters": {**_MROPE}}, "vision_config": vision, **_QWEN_IDS}
    if family == "qwen3_vl":
        vision = {
            "depth": 3,
            "hidden_size": width,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        rope = {**_MROPE, "mrope_interleaved": True}
        return {"text_config": {**_TEXT, "head_dim": 16, "rope_parameters": rope}, "vision_config": vision, **_QWEN_IDS}
    if family == "llava":
        return {
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {**square, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14,
                              "num_hidden_layers": 3},
            "image_token_id": IMAGE,
            "image_seq_length": 4,
        }  # fmt: skip
    if family == "internvl":
        return {
            "text_config": {**_TEXT, "model_type": "qwen2"},
            "vision_config": {**square, "image_size": [28, 28], "patch_size": [7, 7]},
            "image_token_id": IMAGE,
            "image_seq_length": 4,
        }
    if family == "blip-2":
        text = {**_TEXT, "model_type": "opt", "ffn_dim": 96, "word_embed_proj_dim": 64}
        for name in ("num_key_value_heads", "intermediate_size", "tie_word_embeddings"):
            text.pop(name)
        return {
            "text_config": text,
            "vision_config": {**square, "image_size": 28, "patch_size": 14},
            "qformer_config": {
                **square,
                "encoder_hidden_size": width,
                "vocab_size": 320,
                "cross_attention_frequency": 1,
            },
            "num_query_tokens": 5,
            "image_token_index": IMAGE,
            "image_token_id": IMAGE,
        }
    if family == "eagle2":
        return {
            "text_config": Qwen2Config(**_TEXT),
            "vision_config": SiglipVisionConfig(**square, image_size=28, patch_size=7, vision_use_head=False),
            "image_token_id": IMAGE,
            "select_layer": -2,
            "max_dynamic_tiles": 4,
        }
    if family in ("llava_next", "llava_onevision", "vipllava"):
        tower = "siglip_vision_model" if family == "llava_onevision" else "clip_vision_model"
        own: dict[str, Any] = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28]]}
        if family == "llava_onevision":
            own |= {
                "vision_aspect_ratio": "anyres_max_2",
                "vision_feature_select_strategy": "full",
                "video_token_id": VIDEO,
            }
        if family == "vipllava":
            own = {"vision_feature_layers": [-2, 1]}
        return {
            "text_config": {**_TEXT, "model_type": "qwen2" if family == "llava_onevision" else "llama"},
            "vision_config": {
                **square,
                "model_type": tower,
                "image_size": 28,
                "patch_size": 14,
                "num_hidden_layers": 3,
            },
            "image_token_id": IMAGE,
            "image_seq_length": 4,
            **own,
        }
    if family in ("idefics3", "smolvlm"):
        return {
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {**square, "image_size": 28, "patch_size": 7},
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "pad_token_id": 0,
        }
    if family in ("gemma3", "paligemma", "paligemma2"):
        text = {**_TEXT, "head_dim": 16}
        if family == "paligemma2":
            text |= {
                "layer_types": ["sliding_attention", "full_attention"],
                "sliding_window": 160,
                "query_pre_attn_scalar": 16,
                "attn_logit_softcapping": 2.0,  # of scores as large as those of random weights
                "final_logit_softcapping": 5.0,
            }
        if family == "gemma3":
            text |= {
                "layer_types": ["sliding_attention", "full_attention"],
                "sliding_window": 8,
                "query_pre_attn_scalar": 16,
            }
        more: dict[str, Any] = {"mm_tokens_per_image": 4} if family == "gemma3" else {"projection_dim": 64}
        return {
            "text_config": {**text, "model_type": _GEMMAS[family], "tie_word_embeddings": True},
            "vision_config": {**square, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 7,
                              "vision_use_head": False},
            "image_token_id": IMAGE,
            **more,
        }  # fmt: skip
    raise KeyError(family)


#: Families by ``model_type``: their classes' names.
VLMS = {
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    "llava": ("LlavaConfig", "LlavaForConditionalGeneration"),
    "internvl": ("InternVLConfig", "InternVLForConditionalGeneration"),
    "blip-2": ("Blip2Config", "Blip2ForConditionalGeneration"),
    "eagle2": ("Eagle2Config", "Eagle2ForConditionalGeneration"),
}
#: Families that are found in the model, without a record of their parts.
FOUND = {
    "llava_next": ("LlavaNextConfig", "LlavaNextForConditionalGeneration"),
    "llava_onevision": ("LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration"),
    "vipllava": ("VipLlavaConfig", "VipLlavaForConditionalGeneration"),
    "idefics3": ("Idefics3Config", "Idefics3ForConditionalGeneration"),
    "smolvlm": ("SmolVLMConfig", "SmolVLMForConditionalGeneration"),
    "gemma3": ("Gemma3Config", "Gemma3ForConditionalGeneration"),
    "paligemma": ("PaliGemmaConfig", "PaliGemmaForConditionalGeneration"),
    "paligemma2": ("PaliGemmaConfig", "PaliGemmaForConditionalGeneration"),
}


def tiny_vlm(
    family: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    heads_of_64: bool = False,
    tower_head: int = 16,
) -> PreTrainedModel:
    """A model of ``family`` in evaluation mode; weights as ``tests.models.tiny_models`` draws them.

    ``heads_of_64``: the language part has heads of 64 elements, AttentionPlugin's smallest. ``tower_head``: size of the vision
    tower's.
    """
    torch.manual_seed(seed)
    config_class, model_class = (VLMS | FOUND)[family]
    settings = _settings(family, 2 * tower_head)
    if heads_of_64:
        settings["text_config"] |= {"hidden_size": 256, **({"head_dim": 64} if family == "qwen3_vl" else {})}
        if "rope_parameters" in settings["text_config"]:
            settings["text_config"]["rope_parameters"] |= {"mrope_section": [8, 12, 12]}
            name = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
            settings["vision_config"][name] = 256
    module = eagle2 if family == "eagle2" else transformers
    config = getattr(module, config_class)(**settings)
    return draw_weights(getattr(module, model_class)(config), dtype)


def draw_weights(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """``model`` in evaluation mode with random weights, as ``tests.models.tiny_models`` draws them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or "ln." in name:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
            else:
                parameter.normal_(0.0, 0.15)
    return model.to(dtype).eval().requires_grad_(False)
