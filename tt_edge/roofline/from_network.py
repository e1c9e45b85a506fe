"""The operations of a decoder from its captured network. Torch-free.

Linear layers on one input count as one kernel, as TensorRT makes them. All layers between two products that depend on each
other count as one kernel; layers that only rename or move sizes cost nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tt_edge.contract import IOContract
from tt_edge.dtypes import DType
from tt_edge.errors import UnsupportedModelError
from tt_edge.network.inspection import fixed_tensors
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.roofline.operations import (
    Kind,
    Math,
    Operation,
    attention,
    beside,
    cache_update,
    linear,
    lookup,
    pointwise,
)

# Layers whose numbers are those of their first input, in another form.
_VIEWS = frozenset({"SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY"})
_QUANTIZING = frozenset({"QUANTIZE", "DEQUANTIZE", "DYNAMIC_QUANTIZE"})
_MATH = {
    DType.FLOAT16: Math.FP16,
    DType.BFLOAT16: Math.FP16,
    DType.FP8: Math.FP8,
    DType.INT8: Math.INT8,
    DType.FP4: Math.FP4,
}
_MODULE = re.compile(r"(?:layers\.\d+|embed_tokens|(?<=\.)norm|lm_head)[\w.]*")
_BELOW_BLOCK = re.compile(r"(?!layers\.\d+$)(?:layers|embed_tokens|norm|lm_head)")
#: Input of a decoder that selects the last token; what depends on it has one token per sequence.
_LAST_TOKEN = "last_token_indices"


def decoder_of_network(network: Network, contract: IOContract) -> list[Operation]:
    """The operations of a decoder, in the network's order.

    Raises ``UnsupportedModelError`` for a decoder of another backend than native, and for layers whose cost is not known:
    plugins, products of two activations, and products in float32, in which tensor cores do not multiply.
    """
    if "KV_CACHE_UPDATE" not in network.kinds():
        raise UnsupportedModelError("the network updates no KV cache in place; compile with --backend native")
    return _Reader(network, contract).operations()


@dataclass
class _Group:
    """Layers that are one kernel."""

    layers: list[Layer] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first module that is more than a whole block."""
        names = [_name(layer) for layer in self.layers if layer.kind not in _VIEWS]
        return next((name for name in names if _BELOW_BLOCK.match(name)), names[0])


class _Reader:
    def __init__(self, network: Network, contract: IOContract) -> None:
        self.network = network
        # Inputs of which a step reads a part: that part is counted where it is read.
        self.large = contract.cache_names | {spec.name for spec in contract.feature_tables}
        self.producer = {name: layer for layer in network.layers for name in layer.outputs}
        self.fixed = fixed_tensors(network)
        self.last: set[str] = {_LAST_TOKEN}  # tensors of one token per sequence
        for layer in network.layers:
            names = [name for name in layer.inputs if name is not None]
            if layer.kind != "SHAPE" and self.last.intersection(names):
                self.last.update(layer.outputs)

    def operations(self) -> list[Operation]:
        found: list[tuple[Layer, Operation]] = []
        by_input: dict[tuple[str, DType], int] = {}
        for layer in self.network.layers:
            if layer.outputs[0] in self.fixed:
                continue
            operation = self._operation(layer)
            if operation is None:
                continue
            if operation.kind is Kind.LINEAR:
                x, _ = self._operands(layer)
                key = self._source(x), self._leaves(x)[0].dtype
                if key in by_input:
                    first, before = found[by_input[key]]
                    if before.math is operation.math:
                        found[by_input[key]] = first, beside(before, operation, self._bytes(self._leaves(x)))
                        continue
                by_input[key] = len(found)
            found.append((layer, operation))
        order = {id(layer): index for index, layer in enumerate(self.network.layers)}
        found += self._pointwise()
        return [operation for _, operation in sorted(found, key=lambda each: order[id(each[0])])]

    def _operation(self, layer: Layer) -> Operation | None:
        match layer.kind:
            case "MATRIX_MULTIPLY" if self._is_of_one_token(layer):
                moved = [*(self._tensor(layer, i) for i in range(2)), self.network.tensors[layer.outputs[0]]]
                return pointwise(_name(layer), self._bytes(moved))
            case "MATRIX_MULTIPLY":
                return self._linear(layer)
            case "ATTENTION":
                query, key = self._tensor(layer, 0), self._tensor(layer, 1)
                return attention(
                    _name(layer), query.shape[1], key.shape[1], query.shape[3], _size(query.dtype), _size(key.dtype)
                )
            case "KV_CACHE_UPDATE":
                cache = self._tensor(layer, 0)
                return cache_update(f"{_name(layer)}.kv_cache", cache.shape[1], cache.shape[3], _size(cache.dtype))
            case "GATHER" if self._is_lookup(layer):
                out = self.network.tensors[layer.outputs[0]]
                return lookup(_name(layer), self._numbers(out), _size(out.dtype)) if _real(out.dtype) else None
            case "PLUGIN" | "CONVOLUTION" | "EINSUM":
                raise UnsupportedModelError(
                    f"layer {layer.name!r} is a {layer.kind}, whose cost is not known; compile with --backend native"
                )
        return None

    def _is_of_one_token(self, layer: Layer) -> bool:
        """Whether it multiplies two small matrices of each token (Gemma 3n mixes its states so): moving them is what it costs."""
        operands = [self._tensor(layer, i) for i in range(2)]
        names = {str(name) for name in layer.inputs[:2]}
        return not names & self.fixed and all(size > 0 for each in operands for size in each.shape[-2:])

    def _linear(self, layer: Layer) -> Operation:
        x, weight = self._operands(layer)
        out = self.network.tensors[layer.outputs[0]]
        stored, leaves = self._leaves(weight), self._leaves(x)
        inputs, outputs = self._numbers(self.network.tensors[x]), self._numbers(out)
        # Both sides in one narrow type multiply in it; else the product is in the operands' own type.
        types = {stored[0].dtype, leaves[0].dtype}
        multiplied = types.pop() if len(types) == 1 else self.network.tensors[x].dtype
        if multiplied not in _MATH:
            raise UnsupportedModelError(
                f"layer {layer.name!r} multiplies in {multiplied}, which tensor cores do not; compile with --precision fp16"
            )
        return linear(
            _name(layer),
            inputs,
            outputs,
            weight_bytes=sum(tensor.dtype.nbytes(math.prod(tensor.shape)) for tensor in stored),
            input_bytes=self._bytes(leaves),
            output_bytes=outputs * _size(out.dtype),
            math=_MATH[multiplied],
            last_token=layer.outputs[0] in self.last,
        )

    def _is_lookup(self, layer: Layer) -> bool:
        """Whether it reads rows of a table: embeddings, or image features."""
        return layer.kind == "GATHER" and (layer.inputs[0] in self.fixed or layer.inputs[0] in self.large)

    def _is_bias(self, layer: Layer) -> bool:
        """Whether it adds a constant to a product, which TensorRT does in the product's kernel."""
        if layer.kind != "ELEMENTWISE" or layer.attributes.get("op") != "SUM":
            return False
        moving = [name for name in layer.inputs if name not in self.fixed]
        producer = self.producer.get(self._unshaped(str(moving[0]))) if len(moving) == 1 else None
        return producer is not None and producer.kind == "MATRIX_MULTIPLY"

    def _operands(self, layer: Layer) -> tuple[str, str]:
        """Names of the activation and the weight of a product."""
        first, second = (str(name) for name in layer.inputs[:2])
        if first in self.fixed:
            first, second = second, first
        if second not in self.fixed:
            raise UnsupportedModelError(
                f"layer {layer.name!r} multiplies two activations, whose cost is not known; compile with --backend native"
            )
        return first, second

    def _leaves(self, name: str) -> list[Tensor]:
        """What is read from memory for ``name``: quantized numbers first, then their scales; constants of a weight."""
        producer = self.producer.get(name)
        if producer is not None and (
            producer.kind == "DEQUANTIZE" or (name in self.fixed and producer.kind != "CONSTANT")
        ):
            own = name in self.fixed
            parents = [p for p in producer.inputs if p is not None and (own or p not in self.fixed)]
            return [leaf for parent in parents for leaf in self._leaves(parent)]
        return [self.network.tensors[name]]

    def _source(self, name: str) -> str:
        """The tensor that ``name`` is a quantized or reshaped form of."""
        return self._unshaped(name, _VIEWS | _QUANTIZING)

    def _unshaped(self, name: str, forms: frozenset[str] = _VIEWS) -> str:
        """The tensor that ``name`` is a form of, made by layers of the kinds ``forms``."""
        producer = self.producer.get(name)
        while producer is not None and producer.kind in forms and producer.inputs[0] is not None:
            name = producer.inputs[0]
            producer = self.producer.get(name)
        return name

    def _bytes(self, tensors: list[Tensor]) -> float:
        return sum(self._numbers(tensor) * tensor.dtype.bits / 8 for tensor in tensors)

    def _numbers(self, tensor: Tensor) -> int:
        """Numbers of ``tensor`` per token."""
        return math.prod(size for size in tensor.shape if size > 0)

    def _tensor(self, layer: Layer, index: int) -> Tensor:
        return self.network.tensors[str(layer.inputs[index])]

    # Layers between products

    def _pointwise(self) -> Iterator[tuple[Layer, Operation]]:
        groups = self._groups()
        group_of = {name: group for group in groups for layer in group.layers for name in layer.outputs}
        readers: dict[str, list[Layer]] = {}
        for layer in self.network.layers:
            for name in layer.inputs:
                if name is not None and layer.kind != "SHAPE":
                    readers.setdefault(name, []).append(layer)
        for group in groups:
            if all(layer.kind in _VIEWS or self._is_bias(layer) for layer in group.layers):
                continue
            inside = {id(layer) for layer in group.layers}
            read: dict[tuple[str, DType], float] = {}
            written: dict[tuple[str, DType], float] = {}
            for layer in group.layers:
                for name in layer.inputs:
                    if name is not None and name not in self.fixed and group_of.get(name) is not group:
                        self._count(read, name)
                for name in layer.outputs:
                    outside = [r for r in readers.get(name, []) if id(r) not in inside]
                    if outside or name in self.network.outputs:
                        self._count(written, name)
            total = sum(read.values()) + sum(written.values())
            if total:
                last = all(name in self.last for layer in group.layers for name in layer.outputs)
                yield group.layers[0], pointwise(group.name, total, last)

    def _count(self, counts: dict[tuple[str, DType], float], name: str) -> None:
        """Add the bytes of a tensor of real numbers, once for all its equal copies."""
        tensor = self.network.tensors[name]
        if _real(tensor.dtype) and name not in self.large:
            counts[self._source(name), tensor.dtype] = self._bytes([tensor])

    def _groups(self) -> list[_Group]:
        """Layers that are no products, joined where one reads the other and as many products come before both."""
        depth: dict[str, int] = {}
        group_of: dict[str, _Group] = {}
        groups: list[_Group] = []
        heavy = {"MATRIX_MULTIPLY", "ATTENTION", "KV_CACHE_UPDATE", "DEQUANTIZE"}
        for layer in self.network.layers:
            names = [name for name in layer.inputs if name is not None and name not in self.fixed]
            below = max((depth.get(name, 0) for name in names), default=0)
            product = layer.kind in heavy or self._is_lookup(layer)
            for name in layer.outputs:
                depth[name] = below + int(product)
            if product or layer.outputs[0] in self.fixed or layer.kind == "SHAPE":
                continue
            joined = {id(g): g for name in names if depth.get(name, 0) == below and (g := group_of.get(name))}
            merged, *others = joined.values() or [_Group()]
            for other in others:
                merged.layers += other.layers
                groups.remove(other)
                for member in other.layers:
                    group_of.update(dict.fromkeys(member.outputs, merged))
            if not joined:
                groups.append(merged)
            merged.layers.append(layer)
            group_of.update(dict.fromkeys(layer.outputs, merged))
        return groups


def _real(dtype: DType) -> bool:
    return dtype not in (DType.INT64, DType.INT32, DType.BOOL, DType.UINT8)


def _size(dtype: DType) -> float:
    return dtype.bits / 8


def _name(layer: Layer) -> str:
    """The module that a layer is of, such as ``layers.0.self_attn.q_proj``. torch_tensorrt's names end with it."""
    found = _MODULE.findall(layer.name)
    return str(found[-1]) if found else layer.name
