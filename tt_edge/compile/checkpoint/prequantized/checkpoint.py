"""Reading a quantized checkpoint's folder, one layer at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.awq import AwqReader
from tt_edge.compile.checkpoint.prequantized.compressed_tensors import CompressedTensorsReader
from tt_edge.compile.checkpoint.prequantized.detect import Config, QuantizedFormat, detect
from tt_edge.compile.checkpoint.prequantized.fp8_blocks import Fp8BlockReader
from tt_edge.compile.checkpoint.prequantized.gptq import GptqReader
from tt_edge.compile.checkpoint.prequantized.modelopt import ModeloptReader
from tt_edge.compile.checkpoint.prequantized.reader import LinearReader
from tt_edge.compile.checkpoint.prequantized.shards import Shards
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight
from tt_edge.errors import InvalidInputError, TTEdgeError, UnsupportedModelError

_READERS: dict[str, Callable[[Config], LinearReader]] = {
    "awq": AwqReader,
    "gptq": GptqReader,
    "compressed-tensors": CompressedTensorsReader,
    "fp8": Fp8BlockReader,
    "modelopt": ModeloptReader,
}
#: A module with one of these tensors is a quantized layer.
_MARKS = frozenset({"qweight", "weight_packed", "weight_scale", "weight_scale_inv"})
#: Where formats put the KV cache's scales, below the attention module.
_KV_SCALES = (
    re.compile(r"(?P<attention>.+?)(\.[kv]_proj)?\.(?P<which>[kv])_scale"),
    re.compile(r"(?P<attention>.+?)\.(?P<which>[kv])_proj\.output_scale"),  # older compressed-tensors
)
_QUANTIZED_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int32)


@dataclass(frozen=True)
class KVScales:
    """Scales of one layer's FP8 KV cache: an element is ``e4m3 * scale``. A layer without scales has 1."""

    k: float = 1.0
    v: float = 1.0


class QuantizedCheckpoint:
    """An opened quantized checkpoint. Tensors are read on access and not cached."""

    def __init__(self, format: QuantizedFormat, reader: LinearReader, shards: Shards) -> None:
        self.format = format
        self._shards = shards
        modules: dict[str, dict[str, str]] = {}  # module -> last part of a tensor's name -> tensor's name
        for name in shards:
            module, _, last = name.rpartition(".")
            modules.setdefault(module, {})[last] = name
        scales = {name: found for name in shards if (found := _kv_scale(name))}
        layers = {
            module: {last: name for last, name in names.items() if last != "bias" and name not in scales}
            for module, names in modules.items()
            if _MARKS & names.keys()
        }
        self._own = {name for names in layers.values() for name in names.values()} | scales.keys()
        self.linears: Mapping[str, QuantizedWeight] = _Linears(layers, reader, shards)
        """Weights of the quantized layers by module, such as ``model.layers.0.mlp.up_proj``. Each access reads one; tensors
        that need no conversion alias the mapped file."""
        self.kv_scales: Mapping[str, KVScales] = MappingProxyType(self._read_kv_scales(scales))
        """KV cache scales by attention module, such as ``model.layers.0.self_attn``. Empty unless ``format.fp8_kv_cache``."""

    def plain_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of everything else, in the checkpoint's types: embeddings, norms, biases, unquantized layers.

        Raises ``InvalidInputError`` for a quantized weight without its scale.
        """
        for name in self._shards:
            if name in self._own:
                continue
            tensor = self._shards[name]
            if name.endswith(".weight") and tensor.dtype in _QUANTIZED_TYPES:
                raise InvalidInputError(
                    f"{name} is {str(tensor.dtype).removeprefix('torch.')}, and its scale is missing; download the checkpoint again"
                )
            yield name, tensor

    def _read_kv_scales(self, names: Mapping[str, tuple[str, str]]) -> dict[str, KVScales]:
        if not self.format.fp8_kv_cache:
            return {}
        found: dict[str, dict[str, float]] = {}
        for name, (attention, which) in names.items():
            scale = self._shards[name]
            if scale.numel() != 1:
                raise UnsupportedModelError(
                    f"{name} has {scale.numel()} scales, and an FP8 KV cache has one; export it with a scale per tensor"
                )
            found.setdefault(attention, {})[which] = float(scale)
        return {attention: KVScales(**scales) for attention, scales in found.items()}


class _Linears(Mapping[str, QuantizedWeight]):
    def __init__(self, layers: Mapping[str, Mapping[str, str]], reader: LinearReader, shards: Shards) -> None:
        self._layers, self._reader, self._shards = layers, reader, shards

    def __getitem__(self, layer: str) -> QuantizedWeight:
        names = self._layers[layer]
        try:
            if unknown := sorted(names.keys() - self._reader.tensors):
                raise UnsupportedModelError(
                    f"tensor {unknown[0]} is not read, and without it the layer would differ; use another export of the model"
                )
            return self._reader.read(layer, {last: self._shards[name] for last, name in names.items()})
        except KeyError as error:
            raise InvalidInputError(
                f"layer {layer}: tensor {error} is missing; download the checkpoint again"
            ) from error
        except (IndexError, RuntimeError, ValueError) as error:  # tensors with shapes that the format does not have
            reason = str(error).splitlines()[0]
            raise InvalidInputError(
                f"layer {layer}: its tensors do not fit together ({reason}); download the checkpoint again"
            ) from error
        except TTEdgeError as error:
            raise type(error)(f"layer {layer}: {error}") from error

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def read_quantized(folder: str | os.PathLike[str]) -> QuantizedCheckpoint:
    """Open the quantized checkpoint in ``folder``.

    Raises ``InvalidInputError`` if it is not quantized or is damaged, ``UnsupportedModelError`` for an unsupported format.
    """
    if not Path(folder).is_dir():
        raise InvalidInputError(f"checkpoint {os.fspath(folder)} is no folder; give the one that holds config.json")
    found = detect(folder)
    if found is None:
        raise InvalidInputError(f"checkpoint {os.fspath(folder)} is not quantized; load it without read_quantized")
    if (reader := _READERS.get(found.method)) is None:
        raise UnsupportedModelError(
            f"checkpoint {os.fspath(folder)} is quantized with {found.method}, which is not read; use one of "
            f"{', '.join(_READERS)}, or the full-precision checkpoint with --quant"
        )
    return QuantizedCheckpoint(found, reader(found.config), Shards(Path(folder)))


def _kv_scale(name: str) -> tuple[str, str] | None:
    """The attention module of a KV cache scale, and ``k`` or ``v``; ``None`` for any other tensor."""
    found = next(filter(None, (pattern.fullmatch(name) for pattern in _KV_SCALES)), None)
    return (found["attention"], found["which"]) if found else None
