"""Loading the model of an opened checkpoint by transformers' rules; errors are explained in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tt_edge.compile.checkpoint.load_quantized import load_quantized
from tt_edge.compile.checkpoint.places import check_places, missing_weights
from tt_edge.compile.checkpoint.prequantized.shards import check_full_precision
from tt_edge.compile.checkpoint.silence import silent_transformers
from tt_edge.compile.checkpoint.sizes import check_sizes, check_tokens, leaves
from tt_edge.compile.checkpoint.vision_settings import check_vision_sizes
from tt_edge.compile.overflow import check_weights
from tt_edge.compile.seq2seq.captioner import as_encoder_decoder, check_captions
from tt_edge.compile.vision.adapters.eagle2 import (
    KEY_MAPPING,
    Eagle2Config,
    Eagle2ForConditionalGeneration,
    eagle2_config_of,
    is_eagle2,
)
from tt_edge.compile.vision.families import is_vision_language
from tt_edge.compile.vision.padded.phi4 import see_both_ways
from tt_edge.compile.vision.processing.known_prompts import KNOWN_PROMPTS
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, MissingDependencyError, TTEdgeError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from tt_edge.compile.checkpoint.checkpoint import Checkpoint

TORCH_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def load_checkpoint(checkpoint: Checkpoint, precision: Precision) -> PreTrainedModel:
    """The model of a checkpoint; see ``load_model``."""
    with explained(checkpoint):
        config, dtype = checkpoint.config, TORCH_DTYPES[precision]
        model_class, folder = class_of(config), checkpoint.fetch_weights()
        key_mapping = KEY_MAPPING if isinstance(config, Eagle2Config) else None
        if checkpoint.quantization is not None:
            return checked(checkpoint, *load_quantized(checkpoint, model_class, config, dtype, key_mapping))
        check_full_precision(folder)
        # The attention implementation does not matter: export routes it through its own operator.
        model, found = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            key_mapping=key_mapping,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
        return as_encoder_decoder(checked(checkpoint, model, found))


def load_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """transformers' configuration of a checkpoint, or Eagle 2's of this package."""
    from transformers import AutoConfig

    settings = checkpoint.settings
    check_captions(settings)
    if is_eagle2(settings) or settings.get("model_type") in KNOWN_PROMPTS:
        check_vision_sizes(checkpoint.source, settings)
    check_sizes(checkpoint.source, settings)
    check_tokens(checkpoint.source, checkpoint.generation_settings)
    if is_eagle2(settings):
        with explained(checkpoint):
            config: PreTrainedConfig = eagle2_config_of(settings, checkpoint.folder)
    else:
        check_known(checkpoint)
        with explained(checkpoint):
            config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    token = getattr(getattr(config, "vision_config", None), "image_token_id", None)
    if isinstance(token, int) and getattr(config, "image_token_id", None) is None:  # Phi-4, whose tower is asked for it
        config.image_token_id = token
    config._attn_implementation = None  # of all parts: one that asks for flash-attn loads where it is not installed
    return config


def check_known(checkpoint: Checkpoint) -> None:
    """Raise ``UnsupportedModelError`` for a model whose code is the checkpoint's own: it is never run."""
    from transformers import CONFIG_MAPPING

    model_type = checkpoint.settings.get("model_type")
    if model_type is not None and model_type not in CONFIG_MAPPING:
        own = " and brings code of its own, which is never run" if checkpoint.settings.get("auto_map") else ""
        raise UnsupportedModelError(
            f"checkpoint {checkpoint.source} is of model type {model_type!r}, which is not in transformers{own}; give a checkpoint "
            "in the transformers format"
        )


def class_of(config: PreTrainedConfig) -> Any:
    """The model class of ``config``. Raises ``UnsupportedModelError`` for one that is no language model."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq
    from transformers.models.auto.auto_factory import _get_model_class

    if isinstance(config, Eagle2Config):
        return Eagle2ForConditionalGeneration
    autos = (*_vision_models(config), AutoModelForCausalLM)
    if config.is_encoder_decoder:  # many have a class that is only their decoder, too
        autos = (AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, *_page_models(config))
    for auto in autos:
        if type(config) in auto._model_mapping:
            return _get_model_class(config, auto._model_mapping)
    raise UnsupportedModelError(
        f"model type {config.model_type!r} is neither a causal language model nor an encoder-decoder in transformers, nor a "
        "vision-language model; tt-edge compiles these"
    )


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn transformers' exceptions into one-line errors, and silence its output: its warnings are errors here."""
    try:
        with silent_transformers():
            yield
    except TTEdgeError:
        raise
    except ImportError as error:  # transformers' classes name the library that they need
        how = "pip install 'tt-edge[timm]'" if "timm" in str(error) else "install it"
        why = _first_line(error).split(" You can install")[0].rstrip(".")
        raise MissingDependencyError(f"checkpoint {checkpoint.source} does not load: {why}; {how}") from error
    except KeyError as error:  # such as the name of an activation that transformers does not have
        key = error.args[0] if error.args else None
        found = leaves(checkpoint.settings)
        named = [name for name, value in found if type(value) is type(key) and value == key]
        if len(named) > 1 and not isinstance(key, str):  # a number that others are, too
            named = [name for name in named if name.endswith("_type")] or named
        why = f"{named[0]} of config.json is {error}, which transformers does not have" if named else _first_line(error)
        raise _does_not_load(checkpoint.source, why) from error
    except (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        # Values of config.json that nothing has checked end in any of these; --debug shows where.
        raise _does_not_load(checkpoint.source, error) from error
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "huggingface_hub")):
            raise _does_not_load(checkpoint.source, error) from error
        raise


def checked(checkpoint: Checkpoint, model: PreTrainedModel, found: Mapping[str, Any]) -> PreTrainedModel:
    """``model`` in evaluation mode. Raises ``InvalidInputError`` for weights that were not there, or of other shapes."""
    # transformers would go on with random numbers in place of these.
    if missing := found["missing_keys"]:
        raise missing_weights(checkpoint, missing, found["unexpected_keys"])
    if mismatched := sorted(found["mismatched_keys"]):
        key, stored, expected = mismatched[0]
        raise _does_not_load(
            checkpoint.source, f"weight {key} is {list(stored)}, and config.json makes it {list(expected)}"
        )
    check_places(checkpoint, model, found["unexpected_keys"])
    check_weights(model)
    see_both_ways(model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(head, "weight", None) is not embeddings.weight:
        model.config.tie_word_embeddings = False  # transformers does not tie weights that are stored and differ
    return model.eval().requires_grad_(False)


def _vision_models(config: Any) -> list[Any]:
    """transformers' mapping of vision-language models, for one of these."""
    from transformers import AutoModelForImageTextToText

    return [AutoModelForImageTextToText] if is_vision_language(config) else []


def _page_models(config: Any) -> list[Any]:
    """transformers' mapping of encoder-decoders that read pages, or an image and a text."""
    from transformers import AutoModelForImageTextToText

    reads = config.model_type in ("vision-encoder-decoder", "florence2", "blip-2")
    return [AutoModelForImageTextToText] if reads else []


def _does_not_load(name: str, reason: BaseException | str) -> InvalidInputError:
    why = reason if isinstance(reason, str) else _first_line(reason)
    return InvalidInputError(f"checkpoint {name} does not load: {why.rstrip('.')}; download it again")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
