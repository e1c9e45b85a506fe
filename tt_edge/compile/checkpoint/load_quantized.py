"""Loading a quantized checkpoint: its linear layers stay quantized, everything else is loaded in the chosen precision.

transformers' own loader assigns every tensor, so its rules for names, ties and types apply here, too. It gets the tensors of
the memory-mapped files, and a quantizer that inserts a ``QuantizedLinear`` for each quantized layer of the checkpoint. No
weight is ever held in full precision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from tt_edge.compile.checkpoint.checkpoint import Checkpoint

_METHOD = "tt_edge"


def load_quantized(
    checkpoint: Checkpoint,
    model_class: Any,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    key_mapping: Mapping[str, str] | None = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with ``QuantizedLinear`` layers, and transformers' loading information.

    ``dtype`` is that of what is not quantized; ``key_mapping`` renames tensors as ``from_pretrained``'s does. Raises
    ``InvalidInputError`` for a damaged checkpoint and ``UnsupportedModelError`` for one that cannot be read.
    """
    from transformers import GenerationConfig

    stored = read_quantized(checkpoint.folder)
    layers = {name: QuantizedLinear(stored.linears[name]) for name in stored.linears}
    tensors: dict[str, Tensor] = dict(stored.plain_tensors())
    for name, layer in layers.items():
        tensors |= {f"{name}.{field}": tensor for field, tensor in layer.named_buffers()}
    model, found = model_class.from_pretrained(
        None,
        config=without_quantization(config),
        dtype=dtype,
        state_dict=tensors,
        quantization_config=_Layers(layers, tensors, key_mapping),
        key_mapping=key_mapping,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model.hf_quantizer.remove_quantization_config(model)
    if checkpoint.has("generation_config.json"):
        model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
    return model, found


def without_quantization(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of ``config``, and of its parts, that says nothing about quantization."""
    plain = copy.deepcopy(config)
    parts = [plain, *(value for value in vars(plain).values() if hasattr(value, "to_dict"))]
    for part in parts:
        for name in ("quantization_config", "compression_config"):
            if name in vars(part):
                delattr(part, name)
    return plain


class _Layers(QuantizationConfigMixin):  # type: ignore[misc]
    """The input of ``_Quantizer``: the layers by their names in the checkpoint, and the tensors to be loaded."""

    def __init__(
        self, layers: Mapping[str, QuantizedLinear], tensors: dict[str, Tensor], key_mapping: Mapping[str, str] | None
    ) -> None:
        self.quant_method = _METHOD
        self.layers, self.tensors, self.key_mapping = layers, tensors, key_mapping

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": _METHOD}


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):  # type: ignore[misc]
    """Puts quantized layers into the model before transformers loads their tensors."""

    quantization_config: _Layers

    def is_serializable(self, *_: Any) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        given = self.quantization_config
        names = names_in(model, given.layers, given.key_mapping)
        for stored, layer in given.layers.items():
            name, bias = names[stored], f"{stored}.bias"
            linear = _linear(model, name)
            _check_size(name, layer, linear)
            if linear.bias is None and bias in given.tensors and not given.tensors[bias].any():
                del given.tensors[bias]  # AutoGPTQ stores zeros for biases that the model does not have
            owner, _, last = name.rpartition(".")
            layer.bias = None if linear.bias is None else linear.bias.detach()  # without memory yet
            setattr(model.get_submodule(owner), last, layer)
            model.all_tied_weights_keys.pop(f"{name}.weight", None)  # a quantized head is its own


def names_in(
    model: PreTrainedModel, layers: Mapping[str, Any], key_mapping: Mapping[str, str] | None
) -> dict[str, str]:
    """The model's names of the checkpoint's ``layers``, by transformers' renaming rules."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model, key_mapping, None)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    own = model.state_dict()

    def renamed(key: str) -> str:
        name, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, own)
        if name not in own and key in own:
            return key
        return str(name)

    return {layer: renamed(f"{layer}.weight").removesuffix(".weight") for layer in layers}


def _linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        linear = model.get_submodule(name)
    except AttributeError:
        linear = None
    if not isinstance(linear, nn.Linear):
        raise UnsupportedModelError(
            f"the checkpoint has a quantized layer {name}, which {type(model).__name__} has no linear layer for; "
            "use the full-precision checkpoint with --quant"
        )
    return linear


def _check_size(name: str, stored: QuantizedLinear | QuantizedWeight, linear: nn.Linear) -> None:
    if (stored.out_features, stored.in_features) != (linear.out_features, linear.in_features):
        raise InvalidInputError(
            f"layer {name} is {stored.out_features} x {stored.in_features}, and config.json makes it "
            f"{linear.out_features} x {linear.in_features}; download the checkpoint again"
        )


def quantized_layers(model: nn.Module) -> list[QuantizedLinear]:
    """The model's quantized linear layers, in order."""
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def parameter_count(model: nn.Module) -> int:
    """The number of parameters of a model; quantized layers count their unquantized parameters."""
    quantized = sum(
        layer.in_features * layer.out_features + (0 if layer.bias is None else layer.bias.numel())
        for layer in quantized_layers(model)
    )
    return sum(p.numel() for p in model.parameters()) + quantized
