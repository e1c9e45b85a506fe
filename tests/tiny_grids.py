"""Tiny vision-language models whose images are grids of any size, of real transformers classes. Needs torch."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.tiny_vlms import IMAGE, VIDEO, VISION_END, VISION_START, draw_weights

_TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 320, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
_HEADS = {**_TEXT, "head_dim": 16}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_INTERLEAVED = {**_HEADS, "rope_parameters": {**_MROPE, "mrope_interleaved": True}}
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
_QWEN_IDS = {**_IDS, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
_GLM_IDS = {
    **_IDS, "image_start_token_id": VISION_START, "image_end_token_id": VISION_END, "video_start_token_id": 304,
    "video_end_token_id": 305,
}  # fmt: skip
_BLOCKS = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
}
_LAYERS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
}  # fmt: skip
_WINDOWS = {**_BLOCKS, "depth": 3, "window_size": 112, "fullatt_block_indexes": [1]}
_TABLE = {**_BLOCKS, "num_position_embeddings": 64}
_DEEP = {**_TABLE, "depth": 3, "deepstack_visual_indexes": [0, 1]}
_GLM = {
    "text_config": {**_TEXT, "rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}},
    "vision_config": {**_BLOCKS, "image_size": 112},
    **_GLM_IDS,
}
_PIXTRAL = {**_LAYERS, "image_size": 112, "model_type": "pixtral"}

#: By ``model_type``: the beginning of the names of its classes, and its configuration.
GRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "cosmos3_edge": (
        "Cosmos3Edge",
        {
            "text_config": {**_HEADS, "rope_parameters": _MROPE},
            "vision_config": {**_LAYERS, "num_patches": 64},
            "projector_hidden_size": 48,
            **_QWEN_IDS,
        },
    ),
    "cosmos3_omni": (
        "Cosmos3Omni",
        {
            "text_config": {**_INTERLEAVED, "model_type": "qwen3_vl_text"},
            "vision_config": {**_DEEP, "model_type": "qwen3_vl_vision"},
            **_QWEN_IDS,
        },
    ),
    "exaone4_5": (
        "Exaone4_5_",
        {
            "text_config": {**_HEADS, "model_type": "exaone4"},
            "vision_config": {**_WINDOWS, "num_heads": 4, "num_key_value_heads": 2},
            **_IDS,
        },
    ),
    "glm4v": ("Glm4v", _GLM),
    "glm46v": ("Glm46V", _GLM),
    "glm_ocr": ("GlmOcr", _GLM),
    "glmga": ("Glmga", _GLM),
    "hyperclovax_vision_v2": (
        "HyperCLOVAXVisionV2",
        {
            "text_config": {**_HEADS, "model_type": "hyperclovax"},
            "vision_config": {**_WINDOWS, "model_type": "qwen2_5_vl_vision"},
            **_IDS,
        },
    ),
    "lighton_ocr": (
        "LightOnOcr",
        {"text_config": {**_HEADS, "model_type": "qwen3"}, "vision_config": _PIXTRAL, "image_token_id": IMAGE},
    ),
    "mistral3": (
        "Mistral3",
        {"text_config": {**_HEADS, "model_type": "mistral"}, "vision_config": _PIXTRAL, "image_token_index": IMAGE},
    ),
    "paddleocr_vl": (
        "PaddleOCRVL",
        {
            "text_config": {**_HEADS, "rope_parameters": _MROPE},
            "vision_config": {**_LAYERS, "image_size": 112},
            **_QWEN_IDS,
        },
    ),
    "qwen2_5_omni_thinker": (
        "Qwen2_5OmniThinker",
        {
            "text_config": {**_TEXT, "rope_parameters": _MROPE},
            "vision_config": _WINDOWS,
            "audio_config": {
                "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "output_dim": 64,
                "num_mel_bins": 16,
            },
            "image_token_index": IMAGE, "video_token_index": VIDEO, "audio_token_index": 306, "audio_start_token_id": 307,
            "audio_end_token_id": 308, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
        },
    ),
    "qwen3_5": (
        "Qwen3_5",
        {
            "text_config": {
                **_INTERLEAVED, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
                "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            },
            "vision_config": _TABLE,
            **_QWEN_IDS,
        },
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        {"text_config": {**_INTERLEAVED, **_MIXTURE}, "vision_config": _DEEP, **_QWEN_IDS},
    ),
    "video_llama_3": (
        "VideoLlama3",
        {"text_config": {**_TEXT, "model_type": "qwen2"}, "vision_config": _LAYERS, **_IDS},
    ),
}  # fmt: skip


def tiny_grid_model(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of ``family`` in evaluation mode, with random weights."""
    torch.manual_seed(0)
    name, settings = GRIDS[family]
    config = getattr(transformers, f"{name}Config")(**copy.deepcopy(settings))
    owner = "Glm46V" if family == "glmga" else name
    return draw_weights(getattr(transformers, f"{owner}ForConditionalGeneration")(config), dtype)
