"""Loading a quantized checkpoint: its linear layers stay as they are stored, everything else takes the wanted precision.

The model is made without weights; then tensor after tensor is read from the mapped files and put in its place. No
weight is ever held in full precision.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tt_edge.compile.checkpoint.prequantized import QuantizedCheckpoint, read_quantized
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: Left in old checkpoints by modules that compute it.
_COMPUTED = ("rotary_emb.inv_freq", ".masked_bias", ".attn.bias")


def load_quantized(folder: str | os.PathLike[str], config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of the quantized checkpoint in ``folder``, with ``QuantizedLinear`` layers, in evaluation mode.

    ``config`` is the checkpoint's; ``dtype`` that of what is not quantized. Raises ``InvalidInputError`` for a damaged
    checkpoint and ``UnsupportedModelError`` for one that cannot be read.
    """
    checkpoint = read_quantized(folder)
    model = _without_weights(folder, config, dtype)
    parameters = dict(model.named_parameters())
    plain = _Plain(checkpoint, parameters, dtype, os.fspath(folder))
    for name, tensor in plain.tensors():
        _set(model, name, nn.Parameter(tensor, requires_grad=False))
    for name in checkpoint.linears:
        _replace(model, name, checkpoint)
    model.tie_weights()
    if missing := [name for name, p in model.named_parameters() if p.is_meta]:
        raise InvalidInputError(
            f"checkpoint {os.fspath(folder)} does not load: weight {missing[0]} is missing ({len(missing)} in all); "
            "download it again"
        )
    return model.eval().requires_grad_(False)


def _without_weights(folder: str | os.PathLike[str], config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model with parameters that take no memory; buffers, such as rotary frequencies, are real."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, GenerationConfig

    plain = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(plain, dtype=dtype)
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


class _Plain:
    """What is not quantized, checked against the model's parameters."""

    def __init__(
        self, checkpoint: QuantizedCheckpoint, parameters: dict[str, nn.Parameter], dtype: torch.dtype, folder: str
    ) -> None:
        self.checkpoint, self.parameters, self.dtype, self.folder = checkpoint, parameters, dtype, folder

    def tensors(self) -> Any:
        for name, tensor in self.checkpoint.plain_tensors():
            if name.endswith(_COMPUTED):
                continue
            parameter = self.parameters.get(name)
            if parameter is None:
                raise UnsupportedModelError(
                    f"checkpoint {self.folder} has a tensor {name}, for which the model has no place; "
                    "use the full-precision checkpoint with --quant"
                )
            if parameter.shape != tensor.shape:
                raise InvalidInputError(
                    f"checkpoint {self.folder} does not load: weight {name} is {list(tensor.shape)}, and config.json makes "
                    f"it {list(parameter.shape)}; download it again"
                )
            yield name, self._converted(tensor)

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def _replace(model: nn.Module, name: str, checkpoint: QuantizedCheckpoint) -> None:
    """Put the quantized layer ``name`` in the place of the model's own."""
    owner, _, last = name.rpartition(".")
    try:
        linear = getattr(model.get_submodule(owner), last)
    except AttributeError:
        linear = None
    if not isinstance(linear, nn.Linear):
        raise UnsupportedModelError(
            f"the checkpoint has a quantized layer {name}, which {type(model).__name__} has no linear layer for; "
            "use the full-precision checkpoint with --quant"
        )
    weight = checkpoint.linears[name]
    if (weight.out_features, weight.in_features) != (linear.out_features, linear.in_features):
        raise InvalidInputError(
            f"layer {name} is {weight.out_features} x {weight.in_features}, and config.json makes it "
            f"{linear.out_features} x {linear.in_features}; download the checkpoint again"
        )
    setattr(model.get_submodule(owner), last, QuantizedLinear(weight, linear.bias))


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, parameter)


def quantized_layers(model: nn.Module) -> list[QuantizedLinear]:
    """The model's quantized linear layers, in order."""
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def parameter_count(model: nn.Module) -> int:
    """Parameters of a model, those of quantized layers as many as they stand for."""
    quantized = sum(
        layer.in_features * layer.out_features + (0 if layer.bias is None else layer.bias.numel())
        for layer in quantized_layers(model)
    )
    return sum(p.numel() for p in model.parameters()) + quantized
