"""Checkpoint folders of tiny vision-language models, with tokenizer, chat template and processor. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models.tiny_vlms import IMAGE, VIDEO, VISION_END, VISION_START, tiny_vlm
from tt_edge.compile.files import HostFiles
from tt_edge.compile.vision.processing.images import prepare_images

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_QWEN_TOKENS = {
    IMAGE: "<|image_pad|>",
    VIDEO: "<|video_pad|>",
    VISION_START: "<|vision_start|>",
    VISION_END: "<|vision_end|>",
}
_TILED_TOKENS = {IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>", VISION_START: "<img>", VISION_END: "</img>"}
_SPLIT_TOKENS = {
    IMAGE: "<image>",
    VISION_START: "<fake_token_around_image>",
    VISION_END: "<global-img>",
    304: "<end_of_utterance>",
    **{305 + i: f"<row_{i // 4 + 1}_col_{i % 4 + 1}>" for i in range(15)},
}
#: Special tokens by family, and what stands for an image in a chat.
TOKENS = {
    "qwen2_vl": _QWEN_TOKENS,
    "qwen2_5_vl": _QWEN_TOKENS,
    "qwen3_vl": _QWEN_TOKENS,
    "llava": {IMAGE: "<image>"},
    "blip-2": {IMAGE: "<image>"},
    "internvl": _TILED_TOKENS,
    "eagle2": _TILED_TOKENS,
}
#: Likewise of families that are found.
FOUND_TOKENS = {
    "vipllava": {IMAGE: "<image>"},
    "llava_next": {IMAGE: "<image>"},
    "llava_onevision": {IMAGE: "<image>", VIDEO: "<video>"},
    "idefics3": _SPLIT_TOKENS,
    "smolvlm": _SPLIT_TOKENS,
    "gemma3": {IMAGE: "<image_soft_token>", VISION_START: "<start_of_image>", VISION_END: "<end_of_image>"},
    "paligemma": {IMAGE: "<image>"},
    "paligemma2": {IMAGE: "<image>"},
}
PLACEHOLDERS = {
    **dict.fromkeys(QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
    "llava": "<image>",
    "internvl": "<IMG_CONTEXT>",
    **dict.fromkeys(
        ("vipllava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "paligemma", "paligemma2"), "<image>"
    ),
    "gemma3": "<start_of_image>",
}
VOCABULARY = 320
#: How SmolVLM's checkpoints say which frames are taken.
SAMPLING = {"max_frames": 6, "fps": 2, "video_size": {"longest_edge": 56}}


def chat_template(family: str) -> str:
    """Roles, the images of a message in their places, texts."""
    image = PLACEHOLDERS.get(family, "<image-{{ ns.count }}>")
    video = "<|vision_start|><|video_pad|><|vision_end|>" if family in QWEN else "<video>"
    return (
        "{% set ns = namespace(count=0) %}{% for m in messages %}[{{ m.role }}]"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{% if p.type == 'image' %}{% set ns.count = ns.count + 1 %}"
        + image
        + "{% elif p.type == 'video' %}"
        + video
        + "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
        "{% endfor %}[assistant]"
    )


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Bytes, and the family's special tokens where ``tests.models.tiny_vlms`` has them; a text begins with ``<s>``."""
    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<unused{i}>" for i in range(len(names), VOCABULARY)]
    for index, name in (TOKENS | FOUND_TOKENS)[family].items():
        names[index] = name
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True) for name in ("<pad>", "<s>", "</s>", *(TOKENS | FOUND_TOKENS)[family].values())]
    )
    extra: dict[str, Any] = {}
    if family == "gemma3":
        names = {"boi_token": VISION_START, "eoi_token": VISION_END, "image_token": IMAGE}
        extra = {
            "extra_special_tokens": {name: (TOKENS | FOUND_TOKENS)[family][index] for name, index in names.items()}
        }
    if family in ("internvl", "eagle2"):
        extra = {
            "extra_special_tokens": {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            }
        }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **extra
    )


def make_processor(family: str, tokenizer: PreTrainedTokenizerFast):
    """transformers' processor of the family; ``None`` of Eagle 2, which has its own."""
    if family in QWEN:
        patch = 16 if family == "qwen3_vl" else 14
        size = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 12 * (2 * patch) ** 2}
        images = transformers.Qwen2VLImageProcessor(patch_size=patch, size=size)
        make_video = transformers.Qwen3VLVideoProcessor if family == "qwen3_vl" else transformers.Qwen2VLVideoProcessor
        videos = make_video(patch_size=patch, size=size, cap_pixels_per_frame=False)
        name = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[
            family
        ]
        return getattr(transformers, name)(images, tokenizer, videos)
    if family == "llava":
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        return transformers.LlavaProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    if family == "internvl":
        images = transformers.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=3)
        return transformers.InternVLProcessor(
            images,
            tokenizer,
            transformers.InternVLVideoProcessor(size={"height": 28, "width": 28}),
            image_seq_length=4,
        )
    if family == "blip-2":
        images = transformers.BlipImageProcessor(size={"height": 28, "width": 28})
        return transformers.Blip2Processor(images, tokenizer, num_query_tokens=5)
    small = {"height": 28, "width": 28}
    if family == "vipllava":
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=small)
        return transformers.LlavaProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    resolutions = [[28, 56], [56, 28], [56, 56], [84, 28]]
    if family == "llava_next":
        images = transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size=small, image_grid_pinpoints=resolutions
        )
        return transformers.LlavaNextProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    if family == "llava_onevision":
        images = transformers.LlavaOnevisionImageProcessor(size=small, image_grid_pinpoints=resolutions)
        return transformers.LlavaOnevisionProcessor(
            images,
            tokenizer,
            transformers.LlavaOnevisionVideoProcessor(size=small),
            num_image_tokens=4,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_2",
        )
    if family in ("idefics3", "smolvlm"):
        make = transformers.Idefics3ImageProcessor if family == "idefics3" else transformers.SmolVLMImageProcessor
        images = make(size={"longest_edge": 84}, max_image_size={"longest_edge": 28})
        if family == "idefics3":
            return transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
        videos = transformers.SmolVLMVideoProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}, video_sampling=SAMPLING
        )
        return transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4)
    if family == "gemma3":
        images = transformers.Gemma3ImageProcessor(size=small)
        return transformers.Gemma3Processor(images, tokenizer, image_seq_length=4)
    if family in ("paligemma", "paligemma2"):
        images = transformers.SiglipImageProcessor(size=small)
        images.image_seq_length = 16
        return transformers.PaliGemmaProcessor(images, tokenizer)
    return None


def write_checkpoint(family: str, folder: Path, **sizes: Any) -> Path:
    """Weights, tokenizer, chat template (BLIP-2 has none) and processor, as the family's checkpoints have them.

    ``sizes`` are those of ``tiny_vlm``.
    """
    tiny_vlm(family, **sizes).save_pretrained(folder)
    tokenizer = make_tokenizer(family)
    processor = make_processor(family, tokenizer)
    if processor is None:
        tokenizer.save_pretrained(folder)
        settings = {"size": {"height": 28, "width": 28}, "max_dynamic_tiles": 3, "use_thumbnail": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        processor.save_pretrained(folder)
    if family != "blip-2":
        (folder / "chat_template.jinja").write_text(chat_template(family))
    return folder


def files_of(model: Any, folder: Path) -> HostFiles:
    """The files that a bundle of the checkpoint in ``folder`` gets, with what a compile finds of its images."""
    files = HostFiles.of_folder(folder)
    prepare_images(model, str(folder), files)
    return files
