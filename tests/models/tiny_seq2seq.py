"""Tiny encoder-decoders of the real transformers classes, with random weights, and checkpoints of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 99

_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    "initializer_factor": 2.0,
}  # fmt: skip
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 96, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 2, "init_std": 0.3,
}  # fmt: skip

_WHISPER = {
    **_BART, "num_mel_bins": 16, "max_source_positions": 50, "max_target_positions": 96, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip

#: Configuration and model class, and settings.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5),
    "flan_t5": ("T5Config", "T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", {**_T5, "tie_word_embeddings": False}),
    "umt5": ("UMT5Config", "UMT5ForConditionalGeneration", _T5),
    "bart": ("BartConfig", "BartForConditionalGeneration", _BART),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", {**_BART, "scale_embedding": True}),
    "marian": ("MarianConfig", "MarianMTModel", _BART),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", _BART),
    "m2m_100": ("M2M100Config", "M2M100ForConditionalGeneration", _BART),
    "blenderbot": ("BlenderbotConfig", "BlenderbotForConditionalGeneration", _BART),
    "blenderbot_small": ("BlenderbotSmallConfig", "BlenderbotSmallForConditionalGeneration", _BART),
}

_GEMMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 10, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip
#: Whose modules compute in their own ways: attention, windows and softcaps, experts.
FAMILIES |= {
    "fsmt": ("FSMTConfig", "FSMTForConditionalGeneration", {
        **_BART, "langs": ["en", "de"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "num_beams": 1,
    }),
    "switch": ("SwitchTransformersConfig", "SwitchTransformersForConditionalGeneration", {
        **_T5, "num_decoder_layers": 2, "num_experts": 3, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    }),
    "t5gemma": ("T5GemmaConfig", "T5GemmaForConditionalGeneration", {
        "encoder": {**_GEMMA, "attn_logit_softcapping": 2.0}, "decoder": {**_GEMMA, "attn_logit_softcapping": 2.0},
        "decoder_start_token_id": 2,
    }),
}  # fmt: skip


#: The same for speech.
SPEECH = {"whisper": ("WhisperConfig", "WhisperForConditionalGeneration", _WHISPER)}


def tiny_page_reader(kind: str, image_size: int = 32) -> PreTrainedModel:
    """A Swin encoder with an mBART decoder: ``donut`` reads wide pages of 32 x 64 pixels, ``nougat`` square ones.

    ``trocr`` has a ViT and a decoder of its own, which reads lines of text as ``image_size`` x ``image_size`` pixels;
    ``trocr_sinusoidal`` has no learned positions, as its smaller checkpoints.
    """
    torch.manual_seed(0)
    if kind.startswith("trocr"):
        return _tiny_trocr(image_size, learned=kind == "trocr")
    wide = kind == "donut"
    encoder = transformers.DonutSwinConfig(
        image_size=[32, 64] if wide else [56, 56], patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
        window_size=4 if wide else 7, initializer_range=0.3,
    )  # fmt: skip
    decoder = transformers.MBartConfig(vocab_size=VOCABULARY, **_BART)
    return _page_reader(encoder, decoder)


def _tiny_trocr(image_size: int, *, learned: bool) -> PreTrainedModel:
    encoder = transformers.ViTConfig(
        image_size=image_size, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        initializer_range=0.3,
    )  # fmt: skip
    decoder = transformers.TrOCRConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64,
        max_position_embeddings=96, cross_attention_hidden_size=16, init_std=0.3, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        use_learned_position_embeddings=learned, layernorm_embedding=learned, scale_embedding=not learned,
    )  # fmt: skip
    return _page_reader(encoder, decoder)


def _page_reader(encoder: PreTrainedConfig, decoder: PreTrainedConfig) -> PreTrainedModel:
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    model: PreTrainedModel = transformers.VisionEncoderDecoderModel(config).eval()
    settings = model.generation_config
    settings.decoder_start_token_id, settings.pad_token_id, settings.forced_eos_token_id = 2, 1, None
    settings._from_model_config = False
    return model


def tiny_blip() -> PreTrainedModel:
    """BLIP, which writes captions of images of 32 x 32 pixels; its vision tower is wider than its decoder, as in its large one."""
    torch.manual_seed(0)
    vision = {
        "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "initializer_range": 0.3,
    }  # fmt: skip
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "encoder_hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 96, "bos_token_id": 97, "eos_token_id": 2, "sep_token_id": 2,
        "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    model: PreTrainedModel = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(vision_config=vision, text_config=text)
    )
    return model.eval()


def tiny_seq2seq(family: str, dtype: torch.dtype = torch.float32, **overrides: object) -> PreTrainedModel:
    """A model with random weights; every call gives the same."""
    config_class, model_class, settings = (FAMILIES | SPEECH)[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(vocab_size=VOCABULARY, **{**settings, **overrides})
    model: PreTrainedModel = getattr(transformers, model_class)(config).to(dtype).eval()
    if hasattr(model, "final_logits_bias"):  # of trained models it is not zero
        model.final_logits_bias.normal_(std=0.3)
    return model


def save_seq2seq(model: PreTrainedModel, folder: Path, eos: int | None = None) -> Path:
    """``model`` as a checkpoint, with a tokenizer of the words ``w3`` … ``w98`` that adds an end-of-sequence token:
    the model's, or ``eos``."""
    model.save_pretrained(folder)
    eos = model.generation_config.eos_token_id if eos is None else eos
    words = {f"w{i}": i for i in range(VOCABULARY)} | {"</s>": eos}
    del words[f"w{eos}"]
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=f"w{VOCABULARY - 1}"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", eos)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder
