"""A Qwen2.5-VL small enough for a repository: its configuration, tokenizer and processor, with random weights."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from examples.road_scenes.questions import ASKED, TEXT_ASKED, _examples, answer, two_pictures

PATCH, MERGE, TEMPORAL = 14, 2, 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as Qwen2.5-VL takes
VOCABULARY = 512  # rows of the embedding; the tokenizer may find fewer words than that
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": TEMPORAL,
    "min_pixels": 16 * 28 * 28,
    "max_pixels": 64 * 28 * 28,
    "size": {"shortest_edge": 16 * 28 * 28, "longest_edge": 64 * 28 * 28},
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens, trained on questions and answers of the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [part for example in islice(_examples("train", 0), 9000) for part in (example.question, example.answer)]
    tokenizer.train_from_iterator([*texts, *["user\n", "assistant\n"] * 9000], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens=list(SPECIAL[1:2] + SPECIAL[3:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Random weights. The first and third vision layer attend in windows of 8 by 8 patches, the others to the whole image."""
    token = tokenizer.convert_tokens_to_ids
    ends = {"bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|im_end|>"), "pad_token_id": 0}
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": VOCABULARY,
                "hidden_size": 256,
                "intermediate_size": 384,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
                "tie_word_embeddings": True,
                **ends,
            },
            vision_config={
                "depth": 4,
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_heads": 4,
                "out_hidden_size": 256,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": TEMPORAL,
                "window_size": 112,
                "fullatt_block_indexes": [1, 3],
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
            **ends,
        )
    )
    model.generation_config.update(**ends, do_sample=False)
    return model


def conversation(rng: random.Random, scenes: list[Any], image_tokens: int) -> str:
    """A chat of two to four turns about zero, one or two images of ``image_tokens`` tokens each, as templated text."""
    picture = "<|vision_start|>" + "<|image_pad|>" * image_tokens + "<|vision_end|>"
    if len(scenes) == 1:
        kinds = rng.sample(list(ASKED), 4)
        turns = [(rng.choice(ASKED[kind]), answer(kind, scenes[0])) for kind in kinds]
    elif scenes:
        turns = [two_pictures(rng, *scenes) for _ in range(3)]
    else:
        turns = [rng.choice(TEXT_ASKED) for _ in range(2)]
    begin = picture * len(scenes)
    text = ""
    for question, reply in turns:
        text += f"<|im_start|>user\n{begin}{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>\n"
        begin = ""
    return text
