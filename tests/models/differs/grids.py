"""Model types whose tower takes images of any size, and others."""

from __future__ import annotations

from tests.models.differs.base import IMAGE, PATCH, VOCABULARY, Differs

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
_WINDOWS = {"vision_config.window_size": 8 * PATCH, "vision_config.fullatt_block_indexes": [1]}
#: The words of Gemma 4's processors, and its larger models: keys that are values, and images that see each other in windows.
_GEMMA_WORDS = ("<|image|>", "<|audio|>", "<boa>", "<eoa>", "<|video|>")
_GEMMA_TEXT = {
    "use_bidirectional_attention": "vision",
    "attention_k_eq_v": True,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
}
#: Its smaller models: inputs of each layer, and layers that take keys and values of earlier ones.
_GEMMA_E_TEXT = {
    "num_hidden_layers": 3,
    "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "global_head_dim": 32,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
_GEMMA_3N_TEXT = {
    "num_hidden_layers": 3,
    "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "activation_sparsity_pattern": [0.9, 0.0, 0.0],
    "altup_num_inputs": 3,
    "laurel_rank": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": IMAGE,
}
_GLM_WORDS = ("<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_image|>", "<|end_of_image|>")
GRIDS_OF_PATCHES: dict[str, Differs] = {
    "cosmos3_edge": Differs(config={"text_config.rope_parameters": _MROPE}),
    "cosmos3_omni": Differs(
        processor_class="Qwen3VLProcessor",
        image_processor="Qwen2VLImageProcessor",
        config={
            "vision_config.deepstack_visual_indexes": [0, 1],
            "text_config.rope_parameters": {**_MROPE, "mrope_interleaved": True},
        },
    ),
    "cohere_compass": Differs(
        made={
            "text_config": {
                "num_hidden_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"],
                "rope_parameters": {"sliding_attention": _MROPE, "full_attention": None},
            }
        },
        words=("<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>"),
        token="<|IMAGE_PAD|>",
        named=False,
        processor_class="CohereCompassProcessor",
        image_processor="Qwen2VLImageProcessor",
        config={
            "vision_config.deepstack_visual_indexes": [0, 1],
            "vision_start_token_id": "<|VISION_START|>",
            "vision_end_token_id": "<|VISION_END|>",
        },
    ),
    "deepseek_ocr2": Differs(made={"text_config": {"mlp_layer_types": ["dense", "sparse"], "num_hidden_layers": 2}}),
    "diffusion_gemma": Differs(
        made={"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}}
    ),
    "qwen4_exp": Differs(
        made={
            "text_config": {
                "indexer_budget": 16,
                "indexer_compress_ratio": 4,
                "indexer_n_heads": 2,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 256,
            }
        }
    ),
    "ernie4_5_vl_moe": Differs(config={"text_config.rope_parameters": {**_MROPE, "mrope_section": [3, 3, 2]}}),
    "glm4v": Differs(words=_GLM_WORDS, config={"text_config.rope_parameters": _MROPE}),
    "glm46v": Differs(words=_GLM_WORDS, config={"text_config.rope_parameters": _MROPE}),
    "glm_ocr": Differs(
        words=_GLM_WORDS,
        processor_class="Glm46VProcessor",
        image_processor="Glm46VImageProcessor",
        config={"text_config.rope_parameters": _MROPE},
    ),
    "glmga": Differs(
        words=_GLM_WORDS,
        processor_class="Glm46VProcessor",
        image_processor="GlmgaImageProcessor",
        config={"text_config.rope_parameters": _MROPE},
    ),
    "glm4v_moe": Differs(processor_class="Glm4vProcessor", image_processor="Glm4vImageProcessor"),
    "hunyuan_vl": Differs(
        config={
            "text_config.rope_parameters": {
                "rope_type": "dynamic",
                "alpha": 1000.0,
                "factor": 1.0,
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2, 2],
            },
            "text_config.head_dim": 16,
            "vision_config.max_image_size": 4 * PATCH,
            "vision_config.text_hidden_size": 64,
        },
        words=("<boi>", "<eoi>"),
    ),
    "qwen3_vl_moe": Differs(processor_class="Qwen3VLProcessor", image_processor="Qwen2VLImageProcessor"),
    "lighton_ocr": Differs(image={"patch_size": {"height": 2 * PATCH, "width": 2 * PATCH}}),
    "mistral3": Differs(
        processor={
            "spatial_merge_size": 2,
            "image_token": "<image>",
            "image_break_token": "<break>",
            "image_end_token": "<image_end>",
        }
    ),
    "paddleocr_vl": Differs(config={"text_config.rope_parameters": _MROPE}),
    "qwen2_5_omni_thinker": Differs(  # its processor makes frames of 100,000 pixels or more, so patches are large
        processor_class="Qwen2_5OmniProcessor",
        image_processor="Qwen2VLImageProcessor",
        image={"patch_size": 28, "size": {"shortest_edge": 4 * 56 * 56, "longest_edge": 24 * 56 * 56}},
        config={
            "vision_config.patch_size": 28,
            "audio_config.d_model": 32,
            "audio_config.encoder_layers": 1,
            "audio_config.encoder_attention_heads": 2,
            "audio_config.encoder_ffn_dim": 48,
            "audio_config.output_dim": 64,
            "text_config.rope_parameters": _MROPE,
            "vision_start_token_id": "<vision_start>",
            **_WINDOWS,
            "vision_config.window_size": 8 * 28,
        },
    ),
    "exaone4_5": Differs(config={"vision_config.num_key_value_heads": 1, **_WINDOWS}),
    "hyperclovax_vision_v2": Differs(config=_WINDOWS),
    "lfm2_vl": Differs(
        made={"text_config": {"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}}
    ),
    "gemma4": Differs(
        words=_GEMMA_WORDS,
        made={
            "text_config": {**_GEMMA_TEXT, "hidden_size_per_layer_input": 0},
            "vision_config": {"position_embedding_size": 128},
        },
        image={"patch_size": PATCH, "max_soft_tokens": 70},
    ),
    "gemma4_e2b": Differs(
        like="gemma4",
        words=_GEMMA_WORDS,
        made={
            "text_config": _GEMMA_E_TEXT,
            "vision_config": {"position_embedding_size": 128, "use_clipped_linears": True},
            "audio_config": {},
        },
        config={f"text_config.{key}": _GEMMA_E_TEXT[key] for key in ("num_hidden_layers", "layer_types")},
        image={"patch_size": PATCH, "max_soft_tokens": 70},
    ),
    "gemma3n": Differs(  # its tower is timm's, and special tokens are embedded by the tower's embedders
        words=_GEMMA_WORDS,
        made={"text_config": {**_GEMMA_3N_TEXT, "intermediate_size": [96] * 3}},
        config={
            **{f"text_config.{key}": value for key, value in _GEMMA_3N_TEXT.items()},
            "vision_soft_tokens_per_image": 4,
            "vision_config.architecture": "mobilenetv5_base",
            "vision_config.model_args": {"channel_multiplier": 0.125, "msfa_output_resolution": 2},
            "vision_config.hidden_size": 2048,
            "vision_config.vocab_offset": IMAGE,
            "vision_config.vocab_size": 50,
            "audio_config.vocab_offset": IMAGE + 50,
            "audio_config.vocab_size": 50,
            "audio_config.conf_num_hidden_layers": 1,
        },
        image={"size": {"height": 64, "width": 64}},
    ),
    "gemma4_unified": Differs(
        words=_GEMMA_WORDS,
        made={
            "text_config": _GEMMA_TEXT,
            "vision_config": {"mm_embed_dim": 32, "output_proj_dims": 32, "mm_posemb_size": 128},
        },
        image={"patch_size": PATCH, "max_soft_tokens": 70},
    ),
    "muse_glimmer": Differs(
        words=(
            "<|patch|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|video|>",
            "<|vid_start|>",
            "<|vid_end|>",
            "<|vid_frame_separator|>",
        ),
        token="<|patch|>",
        config={
            "vision_config.pos_emb_height": 4,
            "vision_config.pos_emb_width": 4,
            "out_hidden_size": 128,
            "projector_hidden_size": 48,
        },
        image={"patch_size": PATCH, "max_image_tokens": 24},
    ),
    "mllama": Differs(
        image={"max_image_tiles": 4},
        config={
            "text_config.num_hidden_layers": 5,
            "text_config.cross_attention_layers": [1, 3],
            "vision_config.attention_heads": 2,
            "vision_config.num_global_layers": 2,
            "vision_config.num_hidden_layers": 3,
            "vision_config.intermediate_layers_indices": [0, 2],
            "vision_config.vision_output_dim": 96,
        },
    ),
    "fast_vlm": Differs(  # towers of timm have their sizes as arguments
        config={
            "vision_config.model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 2, 2],
                "embed_dims": [16, 16, 32, 32, 32],
            },
            "vision_config.hidden_size": 64,
        },
        processor_class="LlavaProcessor",
        image_processor="CLIPImageProcessor",
        processor={"patch_size": 64, "vision_feature_select_strategy": "full"},
        image={"size": {"shortest_edge": 128}, "crop_size": {"height": 128, "width": 128}},
    ),
    "perception_lm": Differs(
        config={
            "vision_config.architecture": "vit_pe_core_large_patch14_336",
            "vision_config.model_args": {
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "img_size": [56, 56],
                "ref_feat_shape": [4, 4],
                "global_pool": "",
                "init_values": 0.1,
                "use_post_transformer_norm": False,
            },
            "projector_pooling_ratio": 2,
        },
        image={"tile_size": 56, "max_num_tiles": 3},
        processor={"patch_size": 14},
    ),
}
