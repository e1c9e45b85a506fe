"""The reference model: a checkpoint loaded by transformers itself, without the loader of a compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tt_edge.compile.checkpoint.model import TORCH_DTYPES, class_of, explained
from tt_edge.compile.parity.references.decompress import Decompressor, library_version
from tt_edge.compile.parity.references.dequantize import dequantized
from tt_edge.compile.seq2seq.captioner import as_encoder_decoder
from tt_edge.compile.vision.adapters.own import own_architecture
from tt_edge.compile.vision.families import is_encoder_decoder, is_vision_language
from tt_edge.compile.vision.padded.phi4 import see_both_ways
from tt_edge.config import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.checkpoint import Checkpoint


def load_reference(checkpoint: Checkpoint, precision: Precision) -> PreTrainedModel:
    """The model by ``from_pretrained``, in ``precision``, in evaluation mode, on the CPU.

    A quantized checkpoint's layers are ``nn.Linear`` with dequantized weights, rounded to ``precision``; inputs that are
    quantized with a calibrated range are rounded as the checkpoint's format says. compressed-tensors' own library does this
    for its checkpoints where it is installed, ``dequantized`` otherwise. What transformers does not have uses this
    package's classes. ``tt_edge_yardstick`` of the model says in words what it is. Raises ``InvalidInputError`` for a checkpoint
    that does not load.
    """
    if (name := own_architecture(checkpoint.settings)) is not None:
        model = checkpoint.load(precision)
        model.tt_edge_yardstick = f"{name} of tt-edge, which transformers does not have"
        return model
    with explained(checkpoint):
        checkpoint.fetch_weights()
        load = _full_precision if checkpoint.quantization is None else _dense
        model = load(checkpoint, precision)
    see_both_ways(model)
    return as_encoder_decoder(model.eval().requires_grad_(False))


def exact_reference(checkpoint: Checkpoint, model: PreTrainedModel, precision: Precision) -> PreTrainedModel | None:
    """The ground truth for ``model`` of ``load_reference``: float32, with weights rounded to ``precision`` unless they are
    quantized. ``None`` if that is ``model.float()``: a checkpoint in full precision, or computed in float32."""
    if precision is Precision.FP32 or checkpoint.quantization is None:
        return None
    truth, quantized = load_reference(checkpoint, Precision.FP32), model.tt_edge_dense_layers
    for name, parameter in truth.named_parameters():
        if name.removesuffix(".weight") not in quantized:
            parameter.data = parameter.to(TORCH_DTYPES[precision]).float()
    return truth


def _auto_class(checkpoint: Checkpoint) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if (config := _config(checkpoint)).is_encoder_decoder:  # whose model has a class of its own
        return class_of(config)
    images = is_vision_language(config) and type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if images else AutoModelForCausalLM


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    config._attn_implementation = None  # so that a config that requests flash-attn loads without it
    return config


def _full_precision(checkpoint: Checkpoint, precision: Precision) -> PreTrainedModel:
    model: PreTrainedModel = _auto_class(checkpoint).from_pretrained(
        checkpoint.folder, config=_config(checkpoint), dtype=TORCH_DTYPES[precision], trust_remote_code=False
    )
    model.tt_edge_yardstick = _loaded_by()
    return model


def _loaded_by() -> str:
    return f"the checkpoint as transformers {metadata.version('transformers')} loads it"


def _dense(checkpoint: Checkpoint, precision: Precision) -> PreTrainedModel:
    from transformers import GenerationConfig

    from tt_edge.compile.checkpoint.load_quantized import names_in, without_quantization

    assert checkpoint.quantization is not None
    found = checkpoint.quantization
    library = Decompressor(found.config) if found.method == "compressed-tensors" and library_version() else None
    layers, tensors = dequantized(checkpoint, None if library is None else library.layer)
    config = without_quantization(_config(checkpoint))
    tensors |= {f"{name}.weight": layer.weight for name, layer in layers.items()}
    model: PreTrainedModel = class_of(config).from_pretrained(
        None, config=config, dtype=TORCH_DTYPES[precision], state_dict=tensors
    )
    names = names_in(model, layers, None)
    for name, layer in layers.items():
        if layer.prepare is not None:
            model.get_submodule(names[name]).register_forward_pre_hook(_Prepare(layer.prepare))
    model.tt_edge_dense_layers = frozenset(names.values())
    by = "a second implementation of the format" if library is None else str(library)
    model.tt_edge_yardstick = f"{_loaded_by()}, its weights dequantized by {by}"
    if checkpoint.has("generation_config.json"):
        model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
    return model


class _Prepare:
    """A hook that prepares (rounds) a layer's input, in the input's own type."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        self._prepare = prepare

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return self._prepare(args[0]).to(args[0].dtype)


@contextmanager
def clean_generation(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, ``generate()`` is plain greedy search: the checkpoint's generation settings are ignored."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=None, pad_token_id=0, do_sample=False, num_beams=1
    )
    try:
        yield
    finally:
        model.generation_config = own


def growing_cache(model: PreTrainedModel) -> dict[str, Any]:
    """For ``generate()`` of an encoder-decoder: a cache of as many layers as the decoder has.

    transformers' own has as many as T5's encoder, and fails where the decoder has more.
    """
    if not is_encoder_decoder(model.config):
        return {}
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


@torch.no_grad()
def greedy(model: PreTrainedModel, inputs: dict[str, Tensor], new_tokens: int) -> tuple[list[int], list[Tensor]]:
    """The new tokens of greedy ``generate()`` with the checkpoint's own settings, and the scores ``[V]`` that chose each."""
    own = model.generation_config
    pad = own.pad_token_id if own.pad_token_id is not None else 0  # one row needs no padding
    out = model.generate(
        **inputs,
        **growing_cache(model),
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = [step[0].float() for step in out.scores]
    tokens: list[int] = out.sequences[0, -len(scores) :].tolist()
    return tokens, scores
