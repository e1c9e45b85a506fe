"""compressed-tensors, as llm-compressor writes it.

``config_groups`` say how modules are quantized; the group with the most specific target applies. By format, a layer has

* ``pack-quantized``: ``weight_packed`` ``[N, K*bits/32]`` int32, consecutive input features in a word, values plus 8 or 128;
  ``weight_scale`` ``[N, K/group]``, ``weight_shape`` ``[2]``, with zero points ``weight_zero_point`` ``[N*bits/32, K/group]``,
  with act-order ``weight_g_idx`` ``[K]``;
* ``float-quantized``, ``int-quantized``, ``naive-quantized``: ``weight`` ``[N, K]`` E4M3 or int8, ``weight_scale`` ``[1]``,
  ``[N, 1]``, ``[N, K/group]``, or one for each block of ``block_structure``, with static activations ``input_scale`` ``[1]``;
* ``nvfp4-pack-quantized``: ``weight_packed`` ``[N, K/2]`` uint8, ``weight_scale`` ``[N, K/16]`` E4M3, ``weight_global_scale``
  ``[1]``, and with quantized activations ``input_global_scale`` ``[1]``. Both are divisors; in other formats they are factors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.detect import Config
from tt_edge.compile.checkpoint.prequantized.fp8_blocks import block_size, in_groups
from tt_edge.compile.checkpoint.prequantized.reader import (
    LinearReader,
    check_group_size,
    check_groups,
    group_order,
    integer_weight,
    word_bytes,
)
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.plugins.ops.number_formats import unpack_nibbles

_FORMATS = (
    "pack-quantized",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mixed-precision",
)
#: Supported strategies (which elements share a scale), by type and bits of the weights.
_STRATEGIES = {
    "int 4": ("group",),
    "int 8": ("tensor", "channel", "group"),
    "float 8": ("tensor", "channel", "block"),
    "float 4": ("tensor_group",),
}


#: Targets that mean every linear layer.
_CLASSES = ("Linear", "Module")


class CompressedTensorsReader(LinearReader):
    """Reads the layers of the config groups of one checkpoint."""

    tensors = frozenset(
        {"weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"}
        | {"weight_global_scale", "input_scale", "input_global_scale"}
    )

    def __init__(self, config: Config) -> None:
        self._groups: list[Config] = list((config.get("config_groups") or {}).values())
        for format_ in (config.get("format"), *(group.get("format") for group in self._groups)):
            if format_ is not None and format_ not in _FORMATS:
                raise UnsupportedModelError(
                    f"compressed-tensors format {format_} is not read; use one of {', '.join(_FORMATS)}"
                )
        sparsity = (config.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense" or config.get("transform_config"):
            raise UnsupportedModelError(
                f"compressed-tensors with {'transforms' if sparsity == 'dense' else f'{sparsity} sparsity'} is not read; "
                "use a checkpoint with quantization only"
            )
        for group in self._groups:
            _check_weights(group.get("weights") or {})

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """See ``LinearReader.read``."""
        _check_compressed(tensors)
        group = self._group_of(layer)
        weights, inputs = group["weights"], group.get("input_activations")
        same = ("num_bits", "type")
        if inputs and any(inputs.get(key) != weights.get(key) for key in same):
            raise UnsupportedModelError(
                f"activations of {inputs.get('num_bits')} bits ({inputs.get('type')}) with weights of {weights['num_bits']} bits "
                f"({weights['type']}) are not read; use a checkpoint with both the same, or with only weights quantized"
            )
        if weights["type"] == "int" and "weight_packed" in tensors:
            if inputs:
                raise UnsupportedModelError("packed weights with quantized activations are not read; use int-quantized")
            return _packed(weights, tensors)
        if weights["num_bits"] == 4:
            return _nvfp4(bool(inputs), tensors)
        return _one_byte(weights, inputs, tensors)

    def _group_of(self, layer: str) -> Config:
        """The group whose target is the most specific, as the format's library decides: a name, a pattern, then a class; of
        several of one kind, the first in alphabetical order."""
        group_of = {target: group for group in self._groups for target in group.get("targets", ())}
        targets = sorted(group_of, key=lambda target: (target.startswith("re:"), target))
        found = next((target for target in targets if _names(target, layer)), None)
        found = found or next((target for target in _CLASSES if target in group_of), None)
        if found is None:
            raise InvalidInputError("no config group of quantization_config targets it; download the checkpoint again")
        return group_of[found]


def _check_compressed(tensors: Mapping[str, Tensor]) -> None:
    """Raise ``InvalidInputError`` for a layer that was saved with its weight in full precision."""
    weight = tensors.get("weight")
    if weight is not None and weight.dtype not in (torch.float8_e4m3fn, torch.int8):
        raise InvalidInputError(
            f"its weight is {str(weight.dtype).removeprefix('torch.')} beside a scale: saved uncompressed; save it with "
            "save_compressed=True"
        )


def _names(target: str, layer: str) -> bool:
    return bool(re.match(target[3:], layer)) if target.startswith("re:") else target == layer


def _check_weights(weights: Config) -> None:
    strategy, kind, bits = _strategy(weights), weights.get("type"), weights.get("num_bits")
    if (kind, bits) == ("int", 4):
        check_group_size(weights.get("group_size"))
    if strategy not in _STRATEGIES.get(f"{kind} {bits}", ()):
        raise UnsupportedModelError(
            f"compressed-tensors weights of {bits} bits ({kind}) by {strategy} are not read; use INT4 by group, INT8, "
            "FP8 by tensor, channel or block, or NVFP4"
        )


def _strategy(weights: Config) -> str:
    if (strategy := weights.get("strategy")) is not None:
        return str(strategy)
    group_size = weights.get("group_size")
    return "tensor" if group_size is None else "group" if group_size > 0 else "channel"


def _packed(weights: Config, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
    bits, scale = weights["num_bits"], tensors["weight_scale"]
    n, k = tensors["weight_shape"].tolist()
    codes = word_bytes(tensors["weight_packed"])[:, : k * bits // 8]
    if _strategy(weights) == "tensor":
        scale = scale.reshape(1, 1).expand(n, 1)
    order, group_of = None, tensors.get("weight_g_idx")
    if group_of is not None and (group_of >= 0).all():  # -1 says that columns are in order
        order = group_order(group_of, k, scale.shape[1])
    if order is None:
        check_groups(k, scale.shape[1], weights["group_size"] if _strategy(weights) == "group" else k)
    symmetric = weights.get("symmetric", True)
    stored = tensors.get("weight_zero_point") if symmetric else tensors["weight_zero_point"]
    if stored is None:
        zero_points = torch.full(scale.shape, 1 << (bits - 1), dtype=torch.uint8)
    elif stored.dtype == torch.int32:
        zero_points = word_bytes(stored.T)
        zero_points = (unpack_nibbles(zero_points) if bits == 4 else zero_points)[:, :n].T
    else:
        zero_points = stored.to(torch.int16) + (1 << (bits - 1))
    return integer_weight(bits, codes, zero_points, scale, order)


def _nvfp4(quantized_input: bool, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
    input_scale = tensors["input_global_scale"].float().reciprocal().reshape(()) if quantized_input else None
    return QuantizedWeight(
        WeightFormat.NVFP4,
        tensors["weight_packed"],
        tensors["weight_scale"],
        global_scale=tensors["weight_global_scale"].float().reciprocal().reshape(()),
        input_scale=input_scale,
        dynamic_input=quantized_input,
    )


def _one_byte(weights: Config, inputs: Config | None, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
    weight, scale = tensors["weight"], tensors["weight_scale"]
    dynamic = bool(inputs and inputs.get("dynamic"))
    if inputs and not inputs.get("symmetric", True):
        raise UnsupportedModelError("activations with zero points are not read; use a checkpoint with symmetric ones")
    if "weight_zero_point" in tensors and tensors["weight_zero_point"].any():
        raise UnsupportedModelError(
            "8-bit weights with zero points are not read; use a checkpoint quantized symmetrically"
        )
    if _strategy(weights) == "block":
        scale = in_groups(scale, weight, block_size(weights.get("block_structure")))
    return QuantizedWeight(
        WeightFormat.INT8 if weight.dtype == torch.int8 else WeightFormat.FP8,
        weight,
        scale.flatten() if scale.ndim < 2 or scale.shape[1] == 1 else scale,
        input_scale=tensors["input_scale"].float().reshape(()) if inputs and not dynamic else None,
        dynamic_input=dynamic,
    )
