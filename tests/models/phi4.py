"""Checkpoints of Phi-4-multimodal, made tiny. Needs torch.

transformers has it among the causal language models, so it is not one of ``tests.models.any_vlm``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalImageProcessor,
    Phi4MultimodalProcessor,
)

from tests.models.any_vlm import tiny_tokenizer, words_of
from tests.models.differs import IMAGE
from tests.models.tiny_vlms import draw_weights

#: Pixels of a tile and of a patch: 32 by 32 patches a tile, which its processor counts on.
SIDE, PATCH = 64, 2
_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 400, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
_AUDIO = {"num_blocks": 1, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 32}


def write_phi4(folder: Path, **vision: object) -> Path:
    """A checkpoint with random weights; ``vision`` are settings of its tower."""
    words = words_of("phi4_multimodal")
    ids = {kind: IMAGE + words.index(f"<{kind}>") for kind in ("image", "audio")}
    sides = {"image_size": SIDE, "crop_size": SIDE, "patch_size": PATCH, "num_hidden_layers": 3}
    torch.manual_seed(0)
    config = Phi4MultimodalConfig(
        **_TEXT,
        vision_config={**_TOWER, **sides, "image_token_id": ids["image"], **vision},
        audio_config={**_TOWER, **_AUDIO, "audio_token_id": ids["audio"]},
    )
    draw_weights(Phi4MultimodalForCausalLM(config)).save_pretrained(folder)
    images = Phi4MultimodalImageProcessor(size={"height": SIDE, "width": SIDE}, patch_size=PATCH, dynamic_hd=4)
    tokenizer = tiny_tokenizer("phi4_multimodal")
    Phi4MultimodalProcessor(images, Phi4MultimodalFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
