"""Which tensors of a network can be looked at, what each depends on, and where decoder layers end. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tt_edge.dtypes import DType
from tt_edge.network.ir import Layer, Network

_FLOATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)

_INTEGERS = (DType.INT64, DType.INT32, DType.BOOL)

#: Layers whose outputs are not marked: a cache is bound to its input's address; and a dequantized operand that is an output
#: is computed apart from the product, which undoes the very fusion that a quantized model is built for.
_UNMARKED = frozenset({"KV_CACHE_UPDATE", "DEQUANTIZE", "CONSTANT"})

#: The number of a block in a module's path, as in ``model.layers.3.mlp`` or ``visual.blocks.11.attn``.
_BLOCK = re.compile(r"(?:^|[.\[])(?:\w*layers|h|blocks?)\.(\d+)(?=[./\]])")


@dataclass
class Graph:
    """Tensors that can be marked as outputs, in execution order, and their ancestors among each other.

    Sets of tensors are integers: bit ``i`` stands for ``markable[i]``. ``ancestors`` has for every tensor of the network the
    markable tensors that it depends on, itself included.
    """

    network: Network
    markable: list[str] = field(default_factory=list)
    bits: dict[str, int] = field(default_factory=dict)
    ancestors: dict[str, int] = field(default_factory=dict)
    producers: dict[str, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        constant: set[str] = set()
        outputs = set(self.network.outputs)
        for layer in self.network.layers:
            inputs = [name for name in layer.inputs if name is not None]
            is_constant = layer.kind == "CONSTANT" or (bool(inputs) and all(name in constant for name in inputs))
            before = 0
            for name in inputs:
                before |= self.ancestors.get(name, 0)
            for name in layer.outputs:
                self.producers[name] = layer
                self.ancestors[name] = before
                if is_constant:
                    constant.add(name)
                elif self._can_be_marked(layer, name) or name in outputs:
                    self.bits[name] = 1 << len(self.markable)
                    self.markable.append(name)
                    self.ancestors[name] |= self.bits[name]

    def _can_be_marked(self, layer: Layer, name: str) -> bool:
        tensor = self.network.tensors[name]
        return tensor.dtype in _FLOATS and layer.kind not in _UNMARKED and bool(tensor.shape)

    def set_of(self, names: Iterable[str]) -> int:
        """The set of ``names``."""
        found = 0
        for name in names:
            found |= self.bits[name]
        return found

    def names(self, chosen: int) -> list[str]:
        """The tensors of a set, in execution order."""
        return [name for name in self.markable if self.bits[name] & chosen]

    def boundaries(self) -> list[str]:
        """The last tensor of every block of the model (a decoder layer) that something behind the block reads."""
        blocks = {layer.name: _block(layer.name) for layer in self.network.layers}
        readers: dict[str, set[int | None]] = {}
        for layer in self.network.layers:
            for name in layer.inputs:
                if name is not None:
                    readers.setdefault(name, set()).add(blocks[layer.name])
        last: dict[int, str] = {}
        for name in self.markable:
            block = blocks[self.producers[name].name]
            if block is not None and readers.get(name, set()) - {block}:
                last[block] = name
        return [name for name in self.markable if name in last.values()]

    def segment(self, output: str, known: int) -> list[Layer]:
        """The layers that compute ``output`` from constants, inputs and the tensors of ``known``, in execution order.

        Integers and truth values (positions, lengths, masks) count as known: no debugging engine shows them.
        """
        wanted, found = [output], set()
        while wanted:
            layer = self.producers.get(wanted.pop())
            if layer is None or layer.kind == "CONSTANT" or id(layer) in found:
                continue
            if all(self.network.tensors[name].dtype in _INTEGERS for name in layer.outputs):
                continue
            found.add(id(layer))
            wanted += [name for name in layer.inputs if name is not None and not self.bits.get(name, 0) & known]
        return [layer for layer in self.network.layers if id(layer) in found]


def _block(name: str) -> int | None:
    found = _BLOCK.search(name)
    return int(found[1]) if found else None


def with_outputs(network: Network, marked: Iterable[str]) -> Network:
    """``network`` with more outputs; layers, tensors and weights are shared."""
    more = [name for name in marked if name not in network.outputs]
    return Network(
        network.name, network.inputs, [*network.outputs, *more], network.tensors, network.layers, network.weights
    )
