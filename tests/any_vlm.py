"""Checkpoints of any vision-language model of transformers, made tiny from its class's own defaults. Needs torch.

Sizes in a configuration are shrunk by their names, token ids are set to those of a tokenizer of bytes that has every special token
which its processor asks for, and the processor is the one that transformers has for the model type. What differs is in ``DIFFERS``.
"""

from __future__ import annotations

import inspect
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tests.tiny_vlms import draw_weights

VOCABULARY, SIDE, PATCH = 400, 28, 7
_IMAGE = 300
_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 1024, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "moe_num_experts": 4, "moe_intermediate_size": 32, "intermediate_size_mlp": 96,
    "num_experts_per_tok": 2, "sliding_window": 64, "attention_chunk_size": 1024, "n_group": 1, "topk_group": 1,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 16, "image_size": SIDE, "patch_size": PATCH, "depth": 2, "embed_dim": 32, "num_heads": 2, "out_hidden_size": 64,
    "vision_output_dim": 64, "projection_dim": 32, "output_channels": 32, "mlp_dim": 48, "num_position_embeddings": 64,
    "projector_input_dim": 64, "projector_output_dim": 64,
}  # fmt: skip
#: Special tokens that processors ask for by name, beside those of ``Differs.words``.
_WORDS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<audio>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "img_line_break_token": "<newline>",
    "image_boundary_token": "<boundary>",
    "image_start_token": "<image_start>",
    "image_end_token": "<image_end>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<context>",
    "vision_bos_token": "<vision_start>",
    "vision_eos_token": "<vision_end>",
    "image_break_token": "<break>",
    "audio_bos_token": "<audio_start>",
    "audio_eos_token": "<audio_end>",
}
#: Arguments of processors that say how many tokens an image, or a tile of it, has.
_COUNTS = ("image_seq_length", "image_seq_len", "num_image_tokens", "num_query_tokens")


@dataclass(frozen=True)
class Differs:
    """What a model type has otherwise: settings of its configuration (``a.b`` of a part; words mean their ids), of its
    processor and image processor, special tokens by the names that the tokenizer has for them, and which of these is an image's.
    ``named``: the tokenizer itself has names for the processor's tokens; ``roles`` are more of its special tokens."""

    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    token: str = "<image>"
    image_processor: str | None = None
    processor_class: str | None = None
    named: bool = True
    roles: dict[str, str] = field(default_factory=dict)


def _letters(number: int) -> str:
    """A number as Chameleon's names of image tokens write it."""
    return "".join(string.ascii_uppercase[int(digit)] for digit in str(number))


_SQUARE = {"height": SIDE, "width": SIDE}
_GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
_KOSMOS = {"embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4}
_WINDOWS = {"vision_config.window_size": 8 * PATCH, "vision_config.fullatt_block_indexes": [1]}
DIFFERS: dict[str, Differs] = {
    "blip": Differs(config={"text_config.encoder_hidden_size": 32}),
    "instructblip": Differs(
        config={"qformer_config.encoder_hidden_size": 32, "text_config.word_embed_proj_dim": 64}, named=False
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
        image={"size": {"shortest_edge": SIDE}, "crop_size": _SQUARE},
        words=("</s>",),
        roles={"unk_token": "</s>"},  # the ids that follow are words'
    ),
    "kosmos-2.5": Differs(
        config={f"text_config.{key}": size for key, size in _KOSMOS.items()},
        processor_class="Kosmos2_5Processor",
        image_processor="Kosmos2_5ImageProcessor",
    ),
    "chameleon": Differs(
        config={
            "vocabulary_map": {"<image>": _IMAGE, **{f"IMGIMG{_letters(i)}Z": 350 + i for i in range(40)}},
            "vq_config.num_embeddings": 40,
            "vq_config.base_channels": 32,
            "vq_config.latent_channels": 32,
            "vq_config.resolution": 64,
        },
        image={"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        processor={"image_seq_length": 16},
        words=("<sep>",),
        roles={"sep_token": "<sep>"},
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
    "video_llava": Differs(image={"size": {"shortest_edge": SIDE}, "crop_size": _SQUARE}),
    "llava_next_video": Differs(
        config={"image_grid_pinpoints": _GRIDS},
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
    "cosmos3_edge": Differs(config={"text_config.rope_parameters": _MROPE}),
    "cosmos3_omni": Differs(
        processor_class="Qwen3VLProcessor",
        image_processor="Qwen2VLImageProcessor",
        config={
            "vision_config.deepstack_visual_indexes": [0, 1],
            "text_config.rope_parameters": {**_MROPE, "mrope_interleaved": True},
        },
    ),
    "ernie4_5_vl_moe": Differs(config={"text_config.rope_parameters": {**_MROPE, "mrope_section": [3, 3, 2]}}),
    "glm4v": Differs(config={"text_config.rope_parameters": _MROPE}),
    "glm46v": Differs(config={"text_config.rope_parameters": _MROPE}),
    "glm_ocr": Differs(
        processor_class="Glm46VProcessor",
        image_processor="Glm46VImageProcessor",
        config={"text_config.rope_parameters": _MROPE},
    ),
    "glmga": Differs(
        processor_class="Glm46VProcessor",
        image_processor="GlmgaImageProcessor",
        config={"text_config.rope_parameters": _MROPE},
    ),
    "glm4v_moe": Differs(processor_class="Glm4vProcessor", image_processor="Glm4vImageProcessor"),
    "hunyuan_vl": Differs(
        config={
            "text_config.rope_parameters": {**_MROPE, "mrope_section": [2, 2, 2, 2]},
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
    "qwen2_5_omni_thinker": Differs(
        processor_class="Qwen2_5OmniProcessor",
        image_processor="Qwen2VLImageProcessor",
        config={"text_config.rope_parameters": _MROPE, "vision_start_token_id": "<vision_start>", **_WINDOWS},
    ),
    "exaone4_5": Differs(config={"vision_config.num_key_value_heads": 1, **_WINDOWS}),
    "hyperclovax_vision_v2": Differs(config=_WINDOWS),
    "mllama": Differs(
        words=("<|image|>",),
        token="<|image|>",
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
    "perception_lm": Differs(image={"tile_size": SIDE, "max_num_tiles": 3}, processor={"patch_size": PATCH}),
}


def candidates() -> dict[str, str]:
    """Class names by model type, of every class that transformers maps for images and text to text."""
    found = {
        name: class_name
        for name, class_name in dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES).items()
        if name in CONFIG_MAPPING and name != "vision-encoder-decoder"
    }
    del found["shieldgemma2"]  # Gemma 3 by another name
    return found


def tiny_config(name: str) -> PreTrainedConfig:
    """The default configuration of a model type with small sizes."""
    config = getattr(transformers, candidates()[name]).config_class()
    _shrink(config, _TEXT)
    differs, words = DIFFERS.get(name, Differs()), words_of(name)
    for path, value in differs.config.items():
        part: Any = config
        *parts, last = path.split(".")
        for each in parts:
            part = getattr(part, each)
        if isinstance(value, tuple):
            value = [words.index(word) + _IMAGE for word in value]
        setattr(part, last, words.index(value) + _IMAGE if value in words else value)
    for part in (config, config.get_text_config()):
        for key in list(vars(part)):
            if key in ("image_token_id", "image_token_index", "img_context_token_id"):
                setattr(part, key, words.index(differs.token) + _IMAGE)
            elif key in ("video_token_id", "video_token_index") and isinstance(getattr(part, key), int):
                setattr(part, key, words.index("<video>") + _IMAGE)
            elif key.endswith(("_token_id", "_token_index")) and isinstance(value := getattr(part, key), int):
                setattr(part, key, min(value, VOCABULARY - 1))
    return config


def words_of(name: str) -> list[str]:
    """The special tokens of a model type's tokenizer, in the order of their ids."""
    return list(dict.fromkeys((*_WORDS.values(), *DIFFERS.get(name, Differs()).words)))


def tiny_model(name: str, seed: int = 0) -> Any:
    """The model with random weights, in fp32 and evaluation mode."""
    torch.manual_seed(seed)
    return draw_weights(getattr(transformers, candidates()[name])(tiny_config(name)))


def _shrink(config: Any, sizes: dict[str, Any]) -> None:
    for key, value in sizes.items():
        given = vars(config).get(key)
        if type(given) is int or (key.endswith("_token_id") and key in vars(config)):
            setattr(config, key, value)
    kinds = vars(config).get("layer_types")
    if isinstance(kinds, list) and kinds:
        config.layer_types = [kinds[0], kinds[-1]]
    for key in ("no_rope_layers", "mlp_layer_types"):
        if isinstance(given := vars(config).get(key), list) and given:
            setattr(config, key, [given[0], given[-1]])
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        rope["mrope_section"] = [2, 3, 3]
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value, _TOWER if any(word in key for word in ("vis", "image", "vq")) else _TEXT)


def tiny_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Bytes, and the special tokens of ``words_of``; a text begins with ``<s>``."""
    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<unused{i}>" for i in range(len(names), _IMAGE)]
    names += words_of(name)
    names += [f"<unused{i}>" for i in range(len(names), VOCABULARY)]
    tokenizer = Tokenizer(models.BPE({each: i for i, each in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<pad>", "<s>", "</s>", *words_of(name))
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=dict(_WORDS) if DIFFERS.get(name, Differs()).named else {},
        **DIFFERS.get(name, Differs()).roles,
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, pieces of words, ``[CLS]`` and ``[SEP]`` around a text."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "this", "the", "?", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {f"{role}_token": word for role, word in zip(("pad", "unk", "cls", "sep"), words, strict=False)}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny_processor(name: str, tokens: int) -> Any:
    """transformers' processor of the model type, for images of ``tokens`` features each."""
    differs = DIFFERS.get(name, Differs())
    tokenizer = tiny_tokenizer(name)
    class_name = differs.processor_class or PROCESSOR_MAPPING_NAMES[name]
    maker = getattr(transformers, class_name)
    given: dict[str, Any] = {"tokenizer": tokenizer}
    accepted = inspect.signature(maker.__init__).parameters
    images = differs.image_processor or _named(IMAGE_PROCESSOR_MAPPING_NAMES.get(name))
    if images is None:
        raise ValueError(f"transformers has no image processor for {name}")
    given["image_processor"] = small_image_processor(images, differs.image)
    given |= {key: bert_tokenizer() for key in accepted if key.endswith("_tokenizer")}
    if "video_processor" in accepted:
        videos = _named(VIDEO_PROCESSOR_MAPPING_NAMES.get(name)) or images.replace("Image", "Video")
        given["video_processor"] = getattr(transformers, videos)() if hasattr(transformers, videos) else None
    if "feature_extractor" in accepted:
        given["feature_extractor"] = transformers.WhisperFeatureExtractor()
    given |= {key: tokens for key in _COUNTS if key in accepted}
    if "patch_size" in accepted:
        given["patch_size"] = PATCH
    return maker(**{**given, **differs.processor})


def small_image_processor(class_name: str, settings: dict[str, Any]) -> Any:
    """An image processor of transformers with small sizes."""
    maker = getattr(transformers, class_name)
    size: Any = getattr(maker, "size", None) or {}
    given: dict[str, Any] = {}
    if set(size) == {"height", "width"}:
        given["size"] = _SQUARE
    elif set(size) == {"shortest_edge", "longest_edge"}:
        token = (2 * PATCH) ** 2
        given |= {"size": {"shortest_edge": 4 * token, "longest_edge": 24 * token}, "patch_size": PATCH}
    elif set(size) == {"shortest_edge"}:
        given |= {"size": {"shortest_edge": SIDE}, "crop_size": _SQUARE}
    if hasattr(maker, "image_grid_pinpoints"):
        given["image_grid_pinpoints"] = _GRIDS
    return maker(**{**given, **settings})


def _named(entry: Any) -> str | None:
    if isinstance(entry, dict):
        return entry.get("torchvision") or entry.get("pil")
    return entry


def tokens_of(model: Any) -> int:
    """Features of a tile."""
    from tt_edge.compile.vision.tower import TileTower

    try:
        with torch.no_grad():
            tower = TileTower(model, (SIDE, SIDE))
            (found,) = tower(**tower.example(1, torch.float32))
    except Exception:  # takes other inputs: its processor counts without being told
        return 4
    return int(found.shape[-2])


def write_any(name: str, folder: Path) -> None:
    """A checkpoint of the model type."""
    model = tiny_model(name)
    processor = tiny_processor(name, tokens_of(model))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
