"""BLIP, which writes captions, as the encoder-decoder that it is: transformers' class for it is none by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.seq2seq.prompt import PROMPT_FOLLOWS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MODEL_TYPE, _CLASS = "blip", "BlipForConditionalGeneration"


def check_captions(settings: Mapping[str, Any]) -> None:
    """Raise ``UnsupportedModelError`` for BLIP's checkpoints for other tasks, whose weights have a captioner's among them."""
    named = settings.get("architectures") or [_CLASS]
    if settings.get("model_type") == _MODEL_TYPE and _CLASS not in named:
        raise UnsupportedModelError(
            f"{named[0]} is no {_CLASS}, and of BLIP tt-edge compiles this one, which writes captions; give such a checkpoint"
        )


def as_encoder_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """``model``; of BLIP its parts, joined by transformers' class for an encoder of images and a decoder of text.

    What BLIP's ``generate()`` adds is in the generation settings: the first token, the last one, and that a prompt follows the
    first token.
    """
    if type(model).__name__ != _CLASS:
        return model
    from transformers import GenerationConfig, VisionEncoderDecoderConfig

    from tt_edge.compile.seq2seq.blip import BlipCaptioner  # its base class takes time to import

    vision, text = model.vision_model, model.text_decoder
    own = text.config
    own.cross_attention_hidden_size = own.encoder_hidden_size  # so that nothing is put between the parts
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision.config, own)
    config._name_or_path = model.config._name_or_path
    joined = BlipCaptioner(config, vision, text)
    joined.generation_config = GenerationConfig(
        decoder_start_token_id=own.bos_token_id,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.sep_token_id,
        pad_token_id=own.pad_token_id,
        **{PROMPT_FOLLOWS: True},
    )
    return joined.eval().requires_grad_(False)
