"""The dequantized weights of a quantized checkpoint, computed directly from its files.

This is the reference for ``compile/checkpoint/prequantized``, so it shares no code with it: each format is implemented
again, value by value, in float32. It is simple, and needs the memory of the model in full precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tt_edge.compile.checkpoint.hub import shard_names
from tt_edge.errors import UnsupportedModelError
from tt_edge.plugins.ops.quantization import fake_quantize, fake_quantize_nvfp4

if TYPE_CHECKING:
    from tt_edge.compile.checkpoint import Checkpoint

_Tensors = Mapping[str, Tensor]
_MARKS = {"qweight", "weight_packed", "weight_scale", "weight_scale_inv"}
_KV_SCALE = re.compile(r"\.[kv]_scale$|\.[kv]_proj\.output_scale$")
_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
#: Field ``i`` of a word holds output feature ``_AWQ_ORDER[i]`` of eight.
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class DenseLayer:
    """The weight ``[N, K]`` float32 of a layer, and the function applied to its input ``[..., K]`` first (``None``: none)."""

    weight: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None


def dequantized(
    checkpoint: Checkpoint, library: Callable[[str, _Tensors], DenseLayer | None] | None = None
) -> tuple[dict[str, DenseLayer], dict[str, Tensor]]:
    """The quantized layers by module name, and all other tensors.

    ``library`` reads a module from its tensors with the format's own library, or returns ``None`` for one that it does not
    read. Raises ``UnsupportedModelError`` for another format.
    """
    found = checkpoint.quantization
    assert found is not None
    formats = {"awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed, "modelopt": _modelopt, "fp8": _fp8}
    read = formats.get(found.method)
    if read is None:
        raise UnsupportedModelError(
            f"checkpoint {checkpoint.source} is quantized with {found.method}, which is not read; use the full-precision one"
        )
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _stored(checkpoint.folder).items():
        if not _KV_SCALE.search(name):
            module, _, last = name.rpartition(".")
            modules.setdefault(module, {})[last] = tensor
    layers: dict[str, DenseLayer] = {}
    others: dict[str, Tensor] = {}
    for module, tensors in modules.items():
        quantized = bool(_MARKS & tensors.keys())
        if quantized:
            layer = library(module, tensors) if library is not None else None
            layers[module] = layer or read(module, tensors, found.config)
        kept = ["bias"] if quantized else list(tensors)
        others |= {f"{module}.{last}".lstrip("."): tensors[last] for last in kept if last in tensors}
    return layers, others


def _stored(folder: Path) -> dict[str, Tensor]:
    """All tensors, from the files that transformers would load."""
    if (folder / "model.safetensors").is_file():
        return dict(load_file(folder / "model.safetensors"))
    index = folder / "model.safetensors.index.json"
    names = shard_names(index) if index.is_file() else [file.name for file in folder.glob("*.safetensors")]
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}


def _fields(words: Tensor, bits: int, dim: int) -> Tensor:
    """Unpack int32 words into unsigned fields along ``dim``, the lowest bits first."""
    shifts = torch.arange(0, 32, bits)
    fields = (words.long().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return fields.movedim(-1, dim + 1).flatten(dim, dim + 1)


def _per_column(groups: Tensor, columns: int) -> Tensor:
    """Expand ``[N, G]``, ``[N]`` or ``[]`` to ``[N, columns]``."""
    if groups.ndim < 2:
        return groups.reshape(-1, 1)
    return groups.repeat_interleave(columns // groups.shape[1], 1)


def _awq(_: str, tensors: _Tensors, config: Mapping[str, Any]) -> DenseLayer:
    def features(words: Tensor) -> Tensor:
        fields = _fields(words, 4, 1)
        ordered = torch.empty_like(fields)
        for place, feature in enumerate(_AWQ_ORDER):
            ordered[:, feature::8] = fields[:, place::8]
        return ordered.T

    codes, zeros, scales = features(tensors["qweight"]), features(tensors["qzeros"]), tensors["scales"].float().T
    k = codes.shape[1]
    return DenseLayer((codes - _per_column(zeros, k)) * _per_column(scales, k))


def _gptq(_: str, tensors: _Tensors, config: Mapping[str, Any]) -> DenseLayer:
    scales = tensors["scales"].float()  # [G, N]
    bits = tensors["qzeros"].shape[1] * 32 // scales.shape[1]
    words = tensors["qzeros"].long() & 0xFFFFFFFF
    if str(config.get("checkpoint_format") or config.get("format") or "gptq").lower() == "gptq":
        words = words + sum(1 << place for place in range(0, 32, bits))
    codes, zeros = _fields(tensors["qweight"], bits, 0), _fields(words, bits, 1)  # [K, N], [G, N]
    k = codes.shape[0]
    group_of = tensors.get("g_idx")
    group_of = torch.arange(k) // (k // len(scales)) if group_of is None else group_of.long()
    return DenseLayer(((codes - zeros[group_of]) * scales[group_of]).T.contiguous())


def _fp8(_: str, tensors: _Tensors, config: Mapping[str, Any]) -> DenseLayer:
    return DenseLayer(_by_blocks(tensors["weight"], tensors["weight_scale_inv"], config.get("weight_block_size")))


def _by_blocks(stored: Tensor, scale: Tensor, sizes: Any) -> Tensor:
    weight = stored.float()
    if scale.numel() == 1:
        return weight * scale.float().reshape(())
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            weight[i * sizes[0] : (i + 1) * sizes[0], j * sizes[1] : (j + 1) * sizes[1]] *= scale[i, j].float()
    return weight


def _compressed(module: str, tensors: _Tensors, config: Mapping[str, Any]) -> DenseLayer:
    group = _group_of(module, list(config["config_groups"].values()))
    weights, inputs = group["weights"], group.get("input_activations")
    scale = tensors["weight_scale"].float()
    if weights["num_bits"] == 4 and weights["type"] == "float":
        blocks = scale / tensors["weight_global_scale"].float()
        prepare = None
        if inputs:
            outer = 1 / tensors["input_global_scale"].float().reshape(())
            prepare = lambda x: fake_quantize_nvfp4(x, outer)  # noqa: E731
        return DenseLayer(_e2m1(tensors["weight_packed"], blocks), prepare)
    if "weight_packed" in tensors:
        bits, (n, k) = weights["num_bits"], tensors["weight_shape"].tolist()
        codes = _fields(tensors["weight_packed"], bits, 1)[:, :k] - (1 << bits - 1)
        zeros = tensors.get("weight_zero_point")
        if zeros is not None and zeros.dtype == torch.int32:
            zeros = _fields(zeros, bits, 0)[:n] - (1 << bits - 1)
        group_of = tensors.get("weight_g_idx")
        if group_of is not None and (group_of >= 0).all():
            scale, zeros = scale[:, group_of.long()], None if zeros is None else zeros[:, group_of.long()]
        offset = 0 if zeros is None or weights.get("symmetric", True) else _per_column(zeros, k)
        return DenseLayer((codes - offset) * _per_column(scale, k))
    if weights.get("strategy") == "block":
        dense = _by_blocks(tensors["weight"], scale, weights["block_structure"])
    else:
        dense = tensors["weight"].float() * _per_column(scale, tensors["weight"].shape[1])
    if not inputs or inputs.get("dynamic"):  # dynamic ranges: TensorRT computes these layers in half precision
        return DenseLayer(dense)
    kind, given = "fp8" if weights["type"] == "float" else "int8", tensors["input_scale"].float().reshape(())
    return DenseLayer(dense, lambda x: fake_quantize(x, given, kind))


def _group_of(module: str, groups: list[Any]) -> Any:
    """By name, then by pattern, then by class, each in alphabetical order."""
    ranked: list[tuple[int, str, Any]] = []
    for group in groups:
        for target in group.get("targets", ()):
            if target == module:
                ranked.append((0, target, group))
            elif target.startswith("re:") and re.match(target[3:], module):
                ranked.append((1, target, group))
            elif target in ("Linear", "Module"):
                ranked.append((2, target, group))
    return min(ranked, key=lambda entry: entry[:2])[2]


def _modelopt(module: str, tensors: _Tensors, config: Mapping[str, Any]) -> DenseLayer:
    settings = config["quantized_layers"][module] if config["quant_algo"] == "MIXED_PRECISION" else config
    algorithm, scale = settings["quant_algo"], tensors["weight_scale"].float()
    stored, quantize = tensors["weight"], None
    given = tensors["input_scale"].float().reshape(()) if "input_scale" in tensors else None
    if "NVFP4" in algorithm:
        weight = _e2m1(stored, scale * tensors["weight_scale_2"].float())
        if given is not None and not algorithm.startswith("W4A16"):
            quantize = lambda x: fake_quantize_nvfp4(x, given)  # noqa: E731
    elif algorithm == "W4A16_AWQ":
        nibbles = torch.stack((stored & 0xF, stored >> 4), 1).flatten(0, 1).long()
        signed = torch.where(nibbles > 7, nibbles - 16, nibbles)
        weight = signed * _per_column(scale, signed.shape[1])
    else:
        weight = stored.float() * _per_column(scale, stored.shape[1])
        if given is not None and algorithm in ("FP8", "W8A8_SQ_PER_CHANNEL"):
            kind = "fp8" if algorithm == "FP8" else "int8"
            quantize = lambda x: fake_quantize(x, given, kind)  # noqa: E731
    smoothing = tensors.get("pre_quant_scale")
    if smoothing is None:
        return DenseLayer(weight, quantize)

    def prepare(x: Tensor) -> Tensor:
        x = x * smoothing.to(x.dtype)
        return x if quantize is None else quantize(x)

    return DenseLayer(weight, prepare)


def _e2m1(packed: Tensor, blocks: Tensor) -> Tensor:
    """Dequantize ``packed`` ``[N, K/2]`` uint8, the even column in the low nibble, with scales ``blocks`` ``[N, K/16]``."""
    values = _E2M1[torch.stack((packed & 0xF, packed >> 4), -1).flatten(1).long()]
    return values * _per_column(blocks, values.shape[1])
