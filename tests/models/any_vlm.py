"""Checkpoints of any vision-language model of transformers, made tiny from its class's own defaults. Needs torch.

Sizes in a configuration are shrunk by their names, token ids are set to those of a tokenizer of bytes that has every special token
which its processor asks for, and the processor is the one that transformers has for the model type. What differs is in
``tests/models/vlm_differs.py``.
"""

from __future__ import annotations

import copy
import inspect
import string
from collections.abc import Mapping
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

from tests.models.differs import DIFFERS, GRIDS, IMAGE, PATCH, SIDE, SQUARE, VOCABULARY, Differs
from tests.models.tiny_vlms import draw_weights

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
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
    "audio_bos_token": "<audio_start>",
    "audio_eos_token": "<audio_end>",
    "image_wrapper_token": "<wrapper>",
    "eof_token": "<eof>",
    "eol_token": "<eol>",
}
#: Arguments of processors that say how many tokens an image, or a tile of it, has.
_COUNTS = ("image_seq_length", "image_seq_len", "num_image_tokens", "num_query_tokens")


def candidates() -> dict[str, str]:
    """Class names by model type, of every class that transformers maps for images and text to text."""
    found = {
        name: class_name
        for name, class_name in dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES).items()
        if name in CONFIG_MAPPING and name != "vision-encoder-decoder"
    }
    del found["shieldgemma2"]  # Gemma 3 by another name
    return found


def class_of(name: str) -> Any:
    """The class of a model type, or of a variant of one."""
    return getattr(transformers, candidates()[DIFFERS.get(name, Differs()).like or name])


def tiny_config(name: str) -> PreTrainedConfig:
    """The default configuration of a model type with small sizes."""
    differs, words = DIFFERS.get(name, Differs()), words_of(name)
    config = class_of(name).config_class(**copy.deepcopy(differs.made))
    _shrink(config, _TEXT)
    for path, value in differs.config.items():
        part: Any = config
        *parts, last = path.split(".")
        for each in parts:
            part = getattr(part, each)
        if isinstance(value, tuple):
            value = [words.index(word) + IMAGE for word in value]
        setattr(part, last, words.index(value) + IMAGE if value in words else value)
    for part in (config, config.get_text_config()):
        for key in list(vars(part)):
            if key in ("image_token_id", "image_token_index", "img_context_token_id"):
                setattr(part, key, words.index(differs.token) + IMAGE)
            elif key in ("video_token_id", "video_token_index") and isinstance(getattr(part, key), int):
                setattr(
                    part,
                    key,
                    words.index(next((w for w in ("<|video|>", "<|VIDEO_PAD|>") if w in words), "<video>")) + IMAGE,
                )
            elif key.endswith(("_token_id", "_token_index")) and isinstance(value := getattr(part, key), int):
                setattr(part, key, min(value, VOCABULARY - 1))
    return config


def words_of(name: str) -> list[str]:
    """The special tokens of a model type's tokenizer, in the order of their ids."""
    return list(dict.fromkeys((*_WORDS.values(), *DIFFERS.get(name, Differs()).words)))


def tiny_model(name: str, seed: int = 0) -> Any:
    """The model with random weights, in fp32 and evaluation mode."""
    torch.manual_seed(seed)
    return draw_weights(class_of(name)(tiny_config(name)))


def _shrink(config: Any, sizes: dict[str, Any]) -> None:
    for key, value in sizes.items():
        given = vars(config).get(key)
        if type(given) is int or (key.endswith("_token_id") and key in vars(config)):
            setattr(config, key, value)
    kinds = vars(config).get("layer_types")
    if isinstance(kinds, list) and kinds:
        config.layer_types = [kinds[0], kinds[-1]]
    for key in ("no_rope_layers", "mlp_layer_types", "layer_rope_theta"):
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
    names += [f"<unused{i}>" for i in range(len(names), IMAGE)]
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
    tokenizer, kind = tiny_tokenizer(name), differs.like or name
    class_name = differs.processor_class or PROCESSOR_MAPPING_NAMES[kind]
    maker = getattr(transformers, class_name)
    given: dict[str, Any] = {"tokenizer": tokenizer}
    accepted = inspect.signature(maker.__init__).parameters
    images = differs.image_processor or _named(IMAGE_PROCESSOR_MAPPING_NAMES.get(kind))
    if images is None:
        raise ValueError(f"transformers has no image processor for {name}")
    given["image_processor"] = small_image_processor(images, differs.image)
    given |= {key: bert_tokenizer() for key in accepted if key.endswith("_tokenizer")}
    if "video_processor" in accepted:
        videos = differs.video_processor or _named(VIDEO_PROCESSOR_MAPPING_NAMES.get(kind))
        videos = videos or images.replace("Image", "Video")
        known = hasattr(transformers, videos)
        given["video_processor"] = small_video_processor(videos, given["image_processor"]) if known else None
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
        given["size"] = SQUARE
    elif set(size) == {"shortest_edge", "longest_edge"}:
        token = (2 * PATCH) ** 2
        given |= {"size": {"shortest_edge": 4 * token, "longest_edge": 24 * token}, "patch_size": PATCH}
    elif set(size) == {"shortest_edge"}:
        given |= {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    if hasattr(maker, "image_grid_pinpoints"):
        given["image_grid_pinpoints"] = GRIDS
    return maker(**{**given, **settings})


def small_video_processor(class_name: str, images: Any) -> Any:
    """A video processor of transformers with the sizes of the image processor ``images``."""
    maker = getattr(transformers, class_name)
    size: Any = getattr(maker, "size", None) or {}
    names = ("size", "patch_size", "max_image_size", "max_soft_tokens", "pooling_kernel_size", "crop_size")
    given = {name: getattr(images, name) for name in names if hasattr(maker, name) and getattr(images, name, None)}
    if hasattr(images, "tile_size"):
        given["size"] = {"height": images.tile_size, "width": images.tile_size}
    if set(size) == {"shortest_edge", "longest_edge"}:
        token = (2 * PATCH) ** 2
        given |= {"size": {"shortest_edge": 4 * 2 * token, "longest_edge": 16 * 2 * token}}
    sizes = {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}
    sizes = {
        name: {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value
        for name, value in sizes.items()
    }
    return maker(**sizes)


def _named(entry: Any) -> str | None:
    if isinstance(entry, dict):
        return entry.get("torchvision") or entry.get("pil")
    return entry


def tokens_of(model: Any) -> int:
    """Features of a tile."""
    from tt_edge.compile.vision.features import frame_rows, learned_tokens
    from tt_edge.compile.vision.tower import TileTower

    high_res = getattr(getattr(model.config, "high_res_vision_config", None), "image_size", None)
    try:
        tower = TileTower(model, *((side, side) for side in (_side(model), high_res) if isinstance(side, int)))
        with torch.no_grad():
            found = tower(**tower.example(1, torch.float32))[0]
    except Exception:  # takes other inputs: its processor counts without being told
        return 4
    return len(found) - len(learned_tokens(model)) - frame_rows(model)[0]


def _side(model: Any) -> int:
    side = getattr(getattr(model.config, "vision_config", None), "image_size", SIDE)
    return side if isinstance(side, int) else SIDE


def write_any(name: str, folder: Path) -> None:
    """A checkpoint of the model type."""
    model = tiny_model(name)
    processor = tiny_processor(name, tokens_of(model))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
