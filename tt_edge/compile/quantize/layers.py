"""Replacing a model's linear layers by quantized ones, each released before the next is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel

from tt_edge.compile.memory import release_memory
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat
from tt_edge.compile.seq2seq.image_text import decoder_of, text_model
from tt_edge.compile.vision.families import VLMFamily, family_of
from tt_edge.config.quantization import LayerPlace, QuantConfig, QuantFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.number_formats import FP4_MAX, FP8_MAX, INT4_MAX, INT8_MAX, NVFP4_BLOCK
from tt_edge.plugins.ops.number_formats import e2m1_codes, pack_nibbles

#: A linear layer with fewer features in or out has nothing to gain, and fits no group of INT4 or NVFP4 (Gemma 3n mixes its four
#: states by such layers).
_FEW = 16


@dataclass(frozen=True)
class Statistics:
    """Calibration statistics of one linear layer. Tensors are on the CPU."""

    #: ``[]`` fp32: the largest magnitude of the input, after ``pre_quant_scale``. ``None`` where only weights are quantized.
    input_amax: Tensor | None = None
    #: ``[K]`` in the model's type: the input is multiplied by it, the weight divided (AWQ, SmoothQuant).
    pre_quant_scale: Tensor | None = None


def layers_to_quantize(model: nn.Module, recipe: QuantConfig) -> dict[str, QuantFormat]:
    """Names of the linear layers that ``recipe`` quantizes, in the model's order, and their formats.

    Of a vision-language model those of the vision part only where ``recipe.vision`` says so.
    Raises ``UnsupportedModelError`` if there is none, or none in the tower that ``recipe.vision`` is for, and
    ``InvalidInputError`` for a width that a format does not support.
    """
    found = {}
    placed = list(placed_layers(model))
    if recipe.vision is not None and all(place is not LayerPlace.TOWER for _, _, place in placed):
        raise UnsupportedModelError(
            f"{type(model).__name__}'s vision network has no blocks of linear layers, which --quant-vision quantizes; omit it"
        )
    for name, module, place in placed:
        format = recipe.format_of(name, place)
        if format is not None:
            _check_width(name, module.in_features, format, recipe.group_size)
            found[name] = format
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no linear layer that the recipe quantizes (GPT-2's are none); "
            "omit --quant, or check the patterns of --quant-layers"
        )
    return found


def placed_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear, LayerPlace]]:
    """Name, module and place of each linear layer of ``model``, in its order.

    A vision tower's blocks are the repeated modules that have attention. What is applied once is a projector: it is a small part
    of the work, and its error is in every feature (docs/how_to/vision.md has the measurement).
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    family: VLMFamily | None = None
    language: tuple[str, ...] = ("",)
    if isinstance(model, PreTrainedModel) and model.config.is_encoder_decoder:
        language = _halves(model, head)
    elif isinstance(model, PreTrainedModel) and (family := family_of(model)) is not None:
        language = (f"{family.decoder}.", family.head)
    blocks = () if family is None else tuple(f"{name}." for name in _attention_blocks(model, language))
    for name, module in model.named_modules():
        # torch's own multi-head attention reads its projection's weight without calling it.
        if not isinstance(module, nn.Linear) or isinstance(module, NonDynamicallyQuantizableLinear):
            continue
        if name.startswith(language):
            few = min(module.in_features, module.out_features) < _FEW
            within = LayerPlace.COEFFICIENTS if few else LayerPlace.LANGUAGE
            yield name, module, LayerPlace.HEAD if module is head else within
        else:
            yield name, module, LayerPlace.TOWER if name.startswith(blocks) else LayerPlace.PROJECTOR


def _halves(model: PreTrainedModel, head: nn.Module | None) -> tuple[str, ...]:
    """Beginnings of the names of what is in the encoder, the decoder and the head of an encoder-decoder."""
    inner = text_model(model)
    halves = [module for module in (inner.get_encoder(), decoder_of(inner)) if module is not None]
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(f"{names[id(half)]}." for half in halves) + (() if head is None else (names[id(head)],))


def _attention_blocks(model: nn.Module, language: tuple[str, ...]) -> Iterator[str]:
    """Names of the elements of module lists outside of the ``language`` part in which there is attention, a Q-Former's excepted."""
    for name, modules in model.named_modules():
        if isinstance(modules, nn.ModuleList) and not name.startswith(language) and "qformer" not in name:
            for index, block in enumerate(modules):
                if any("Attention" in type(module).__name__ for module in block.modules()):
                    yield f"{name}.{index}"


def _check_width(name: str, width: int, format: QuantFormat, group_size: int) -> None:
    group = {QuantFormat.NVFP4: NVFP4_BLOCK, QuantFormat.INT4_AWQ: group_size, QuantFormat.INT4_WO: group_size}
    size = group.get(format, 1)
    if width % size:
        raise InvalidInputError(
            f"layer {name} has {width} input features, which is no multiple of {format}'s groups of {size}; give a smaller "
            f"--quant-group-size, or exclude the layer with --quant-layers '{name}=none'"
        )


def quantize_model(
    model: nn.Module,
    recipe: QuantConfig,
    statistics: Mapping[str, Statistics],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, QuantFormat]:
    """Replace the layers that ``recipe`` names, in place; returns their formats.

    ``statistics`` are keyed by layer name; formats that need none may be missing. If a weight is shared with another
    module (a tied head), that module keeps the original weight.
    """
    layers = layers_to_quantize(model, recipe)
    for done, (name, format) in enumerate(layers.items()):
        parent, _, last = name.rpartition(".")
        owner = model.get_submodule(parent)
        linear = getattr(owner, last)
        weight = quantize_weight(linear.weight.detach(), format, statistics.get(name, Statistics()), recipe.group_size)
        setattr(owner, last, QuantizedLinear(weight, linear.bias))
        del linear
        release_memory()
        if progress is not None:
            progress(done + 1, len(layers))
    return layers


def quantize_weight(
    weight: Tensor, format: QuantFormat, statistics: Statistics, group_size: int = 128
) -> QuantizedWeight:
    """Quantize ``weight`` ``[N, K]`` to ``format``, with scales that the weight's type represents exactly.

    Ranges are the largest magnitudes, as modelopt's ``max`` calibration has them.
    """
    matrix = weight.float()
    smoothing = statistics.pre_quant_scale
    if smoothing is not None:
        matrix = matrix / smoothing.float()
    amax = statistics.input_amax
    if format.needs_data and format is not QuantFormat.INT4_AWQ and amax is None:
        raise ValueError(f"{format} needs the range of the input")
    if format in (QuantFormat.INT4_AWQ, QuantFormat.INT4_WO):
        blocks = matrix.view(len(matrix), -1, group_size)
        scale = _stored(blocks.abs().amax(-1) / INT4_MAX, weight.dtype)
        codes = (blocks / scale.float()[..., None]).round_().clamp_(-INT4_MAX - 1, INT4_MAX)
        packed = pack_nibbles(codes.to(torch.int8).view_as(matrix))
        return QuantizedWeight(WeightFormat.INT4, packed, scale, pre_quant_scale=smoothing)
    if format is QuantFormat.NVFP4:
        assert amax is not None
        blocks = matrix.view(len(matrix), -1, NVFP4_BLOCK)
        outer = _stored(matrix.abs().amax() / (FP4_MAX * FP8_MAX), weight.dtype).float()
        inner = (blocks.abs().amax(-1) / FP4_MAX / outer).clamp_(max=FP8_MAX).to(torch.float8_e4m3fn)
        factor = (inner.float() * outer)[..., None]
        scaled = torch.where(factor > 0, blocks / factor, 0.0)
        packed = pack_nibbles(e2m1_codes(scaled).view_as(matrix))
        return QuantizedWeight(
            WeightFormat.NVFP4,
            packed,
            inner,
            global_scale=outer,
            input_scale=_stored(amax.float() / (FP4_MAX * FP8_MAX), weight.dtype).float(),
            dynamic_input=True,
        )
    if format is QuantFormat.FP8:
        assert amax is not None
        scale = _stored(matrix.abs().amax().reshape(1) / FP8_MAX, weight.dtype)
        values = (matrix / scale.float()).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        input_scale = _stored(amax.float() / FP8_MAX, weight.dtype).float()
        return QuantizedWeight(WeightFormat.FP8, values, scale, input_scale=input_scale)
    scale = _stored(matrix.abs().amax(-1) / INT8_MAX, weight.dtype)
    values = (matrix / scale.float()[:, None]).round_().clamp_(-INT8_MAX - 1, INT8_MAX).to(torch.int8)
    return QuantizedWeight(
        WeightFormat.INT8,
        values,
        scale,
        input_scale=None if amax is None else _stored(amax.float() / INT8_MAX, weight.dtype).float(),
        pre_quant_scale=smoothing,
    )


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``scale`` in ``dtype``; 1 where it is zero (a channel of zeros), to avoid dividing by zero."""
    stored = scale.to(dtype)
    return torch.where(stored > 0, stored, torch.ones_like(stored))
