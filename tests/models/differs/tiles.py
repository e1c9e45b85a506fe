"""Model types whose tower takes images, or tiles of them, of one size."""

from __future__ import annotations

import string

from tests.models.differs.base import GRIDS, IMAGE, PATCH, SIDE, SQUARE, VOCABULARY, Differs


def _letters(number: int) -> str:
    """A number as Chameleon's names of image tokens write it."""
    return "".join(string.ascii_uppercase[int(digit)] for digit in str(number))


_LARGER_GRIDS = [[2 * height, 2 * width] for height, width in GRIDS]
_ROWS_AND_COLUMNS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
_KOSMOS = {"embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4}
TILES: dict[str, Differs] = {
    "blip": Differs(config={"text_config.encoder_hidden_size": 32}),
    "instructblip": Differs(
        config={"qformer_config.encoder_hidden_size": 32, "text_config.word_embed_proj_dim": 64}, named=False
    ),
    "idefics2": Differs(
        made={
            "text_config": {"model_type": "mistral", "hidden_size": 64},
            "perceiver_config": {
                "resampler_n_latents": 5,
                "resampler_depth": 2,
                "resampler_n_heads": 4,
                "resampler_head_dim": 16,
            },
        },
        words=("<fake_token_around_image>",),
        named=False,
        processor={"image_seq_len": 5},
        image={"size": {"shortest_edge": 14, "longest_edge": 56}, "do_image_splitting": True, "patch_size": None},
    ),
    "kosmos-2": Differs(
        config={
            **{f"text_config.{key}": size for key, size in _KOSMOS.items()},
            "text_config.vocab_size": VOCABULARY + 20,
            "text_config.pad_token_id": 0,
        },
        processor={"num_patch_index_tokens": 4},
        processor_class="Kosmos2Processor",
        image_processor="CLIPImageProcessor",
        image={"size": {"shortest_edge": SIDE}, "crop_size": SQUARE},
        words=("</s>",),
        roles={"unk_token": "</s>"},  # the ids that follow are words'
    ),
    "kosmos-2.5": Differs(
        config={
            **{f"text_config.{key}": size for key, size in _KOSMOS.items()},
            "text_config.pad_token_id": 0,
            "latent_query_num": 6,
            "vision_config.patch_embed_hidden_size": 3 * PATCH**2,
        },
        processor={"num_image_tokens": 6},
        image={"patch_size": {"height": PATCH, "width": PATCH}},
        processor_class="Kosmos2_5Processor",
        image_processor="Kosmos2_5ImageProcessor",
    ),
    "chameleon": Differs(
        config={
            "vocabulary_map": {"<image>": IMAGE, **{f"IMGIMG{_letters(i)}Z": 350 + i for i in range(40)}},
            "vq_config.num_embeddings": 40,
            "vq_config.base_channels": 32,
            "vq_config.latent_channels": 32,
            "vq_config.resolution": 16,
            "vq_config.channel_multiplier": [1, 1, 2],
            "vq_config.num_res_blocks": 1,
        },
        image={"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
        processor={"image_seq_length": 16},
        words=("<sep>",),
        roles={"sep_token": "<sep>"},
    ),
    "emu3": Differs(
        made={
            "vocabulary_map": {
                "<image>": IMAGE,
                "<|extra_200|>": 349,
                **{f"<|visual token {i:06}|>": 350 + i for i in range(32)},
            },
            "vq_config": {"codebook_size": 32, "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1},
        },
    ),
    "step3p7": Differs(config={"vision_config.intermediate_size": 186}),
    "glm5_next": Differs(config={"text_config.num_key_value_heads": 4}),
    "aya_vision": Differs(
        processor={"patch_size": PATCH, "img_size": SIDE, "downsample_factor": 2},
        words=("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
        token="<|IMG_PATCH|>",
        image={"max_patches": 4},
    ),
    "cohere2_vision": Differs(image={"patch_size": 2, "max_patches": 3}),
    "qianfan_ocr": Differs(token="<context>", image={"max_patches": 3}),
    "deepseek_vl_hybrid": Differs(
        config={
            "high_res_vision_config.image_size": 2 * SIDE,
            "high_res_vision_config.num_hidden_layers": 3,
            "high_res_vision_config.global_attn_indexes": [1, 2],
            "high_res_vision_config.window_size": 3,
        },
        image={"high_res_size": {"height": 2 * SIDE, "width": 2 * SIDE}},
    ),
    "granite4_vision": Differs(
        config={
            "vision_config.hidden_size": 64,
            "vision_config.image_size": 2 * SIDE,
            "vision_config.num_hidden_layers": 3,
            "qformer_config.hidden_size": 64,
            "qformer_config.encoder_hidden_size": 64,
            "qformer_config.num_attention_heads": 1,
            "downsample_rate": "2/4",
            "deepstack_layer_map": [[-3, 2], [-1, 0]],
            "spatial_target_layers": [1, 3, 4, 5],
            "text_config.num_hidden_layers": 6,
            "text_config.embedding_multiplier": 12.0,
            "text_config.logits_scaling": 8.0,
            "text_config.residual_multiplier": 0.22,
            "text_config.attention_multiplier": 0.125,
            "image_grid_pinpoints": _LARGER_GRIDS,
        },
        processor={
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "downsample_rate": "2/4",
        },
        image={
            "size": {"shortest_edge": 2 * SIDE},
            "crop_size": {"height": 2 * SIDE, "width": 2 * SIDE},
            "image_grid_pinpoints": _LARGER_GRIDS,
        },
    ),
    "granite_docling": Differs(
        words=("<fake_token_around_image>", "<global-img>", *_ROWS_AND_COLUMNS),
        config={
            "vision_config.image_size": 2 * SIDE,
            "vision_config.num_hidden_layers": 4,
            "vision_config.deepstack_visual_indexes": [0, 1, 3],
            "text_config.num_hidden_layers": 4,
        },
        image={"size": {"height": 2 * SIDE, "width": 2 * SIDE}, "max_patches": 6},
    ),
    "ovis2": Differs(
        config={"visual_indicator_token_ids": ("<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>")},
        words=("<IMG_ATOM>", "<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>"),
        token="<IMG_ATOM>",
        image={"max_patches": 3},
    ),
    "janus": Differs(config={"vision_config.projection_dim": 64}),
    "got_ocr2": Differs(
        words=("<imgpad>",),
        token="<imgpad>",
        config={"vision_config.image_size": 128, "vision_config.patch_size": 2},
        image={"size": {"height": 128, "width": 128}},
    ),
    "pp_chart2table": Differs(config={"vision_config.image_size": 56}, image={"size": {"height": 56, "width": 56}}),
    "video_llava": Differs(image={"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}),
    "llava_next_video": Differs(
        config={"image_grid_pinpoints": GRIDS},
        processor={"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llama4": Differs(
        words=(
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        token="<|patch|>",
        processor={"patch_size": PATCH},
        image={"max_patches": 4},
        config={"vision_config.intermediate_size": 128},
    ),
}
