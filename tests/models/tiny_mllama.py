"""A tiny Llama 3.2 Vision of transformers' own classes, with tokenizer, chat template and processor. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)

from tests.models.tiny_vlms import draw_weights

#: As of the real one: the image token is behind the vocabulary that has logits.
VOCABULARY = IMAGE = 320
SIDE, TILES = 28, 4
_CHAT = (
    "<s>{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<|image|>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}[assistant]"
)


def tiny_mllama(dtype: torch.dtype = torch.float32, **vision: Any) -> MllamaForConditionalGeneration:
    """Layers with cross-attention in the middle, a tower with global layers, and gates that are far from closed."""
    torch.manual_seed(0)
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 2,
            "intermediate_layers_indices": [0, 2], "vision_output_dim": 96, "image_size": SIDE, "patch_size": 7, **vision,
        },
        text_config={
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "cross_attention_layers": [1, 3],
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=IMAGE,
    )  # fmt: skip
    model = draw_weights(MllamaForConditionalGeneration(config), dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() == 1 and "gate" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def mllama_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes; a text begins with ``<s>``, which its processor writes, and the tokenizer once more, as Llama 3's do."""
    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<unused{i}>" for i in range(len(names), VOCABULARY)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate([*names, "<|image|>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "<s>", "</s>", "<|image|>")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=_CHAT
    )


def write_mllama(folder: Path, **vision: Any) -> Path:
    """A checkpoint of ``tiny_mllama``."""
    tiny_mllama(**vision).save_pretrained(folder)
    images = MllamaImageProcessor(size={"height": SIDE, "width": SIDE}, max_image_tiles=TILES)
    MllamaProcessor(images, mllama_tokenizer(), chat_template=_CHAT).save_pretrained(folder)
    return folder
