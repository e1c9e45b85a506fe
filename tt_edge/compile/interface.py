"""Derive the I/O contract of a lowered graph from its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import GraphModule, Node

from tt_edge.config import CompileConfig
from tt_edge.config.limits import Limits
from tt_edge.contract import (
    BATCH,
    ONE_PROFILE,
    SEQUENCE,
    TOP_OUTPUTS,
    TWO_PROFILES,
    Dim,
    IOContract,
    KVPair,
    Subsampling,
    TensorSpec,
    VisionGeometry,
    engine_input,
)
from tt_edge.contract.symbols import FEATURE_ROWS
from tt_edge.dtypes import DType
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import output_values, value


def read_contract(
    module: GraphModule,
    outputs: Sequence[str],
    limits: Limits,
    *,
    kv_cache: Sequence[tuple[str, str]] = (),
    kv_in_place: bool = True,
    single_profile: bool = False,
    geometry: VisionGeometry | None = None,
    subsampling: Subsampling | None = None,
    refused_ids: tuple[int, ...] = (),
) -> IOContract:
    """The contract of a lowered part. ``outputs`` name its outputs; unused inputs are removed from the graph.

    ``kv_cache`` names the input and the output of every cache tensor. Raises ``LoweringError`` for an input that
    ``tt_edge.contract.inputs`` does not list, or whose dtype or shape differs from the entry there.
    """
    for node in module.graph.find_nodes(op="placeholder"):
        if not node.users:  # e.g. the positions of a model without position embeddings
            module.graph.erase_node(node)
    placeholders = module.graph.find_nodes(op="placeholder")
    inputs = tuple(input_spec(node) for node in placeholders)
    # Other symbols have no size of their own in the graph: their placeholders share the batch's.
    symbols = {
        size.node.expr: symbol
        for node, spec in zip(placeholders, inputs, strict=True)
        for size, symbol in zip(value(node).shape, spec.shape, strict=True)
        if symbol in (BATCH, SEQUENCE, FEATURE_ROWS.name)
    }
    return IOContract(
        inputs=inputs,
        outputs=tuple(
            _output_spec(name, node, symbols) for name, node in zip(outputs, output_values(module.graph), strict=True)
        ),
        limits=limits,
        phases=ONE_PROFILE if single_profile or not kv_cache else TWO_PROFILES,
        kv_cache=tuple(KVPair(past, present) for past, present in kv_cache),
        kv_in_place=kv_in_place,
        geometry=geometry,
        subsampling=subsampling,
        refused_ids=refused_ids,
    )


def top_outputs(config: CompileConfig) -> tuple[str, ...]:
    """The outputs that ``SelectTopLogits`` adds, in order."""
    return () if config.network.top_logits is None else TOP_OUTPUTS


def input_spec(node: Node) -> TensorSpec:
    """A graph input with the symbols that the registry has for it. Raises ``LoweringError`` as ``read_contract`` does."""
    name, fake = str(node.target), value(node)
    entry, dtype = engine_input(name), _dtype(node)
    if entry is None:
        raise LoweringError(f"the graph has an input {name!r} that tt_edge.contract.inputs does not list; add it there")
    if entry.dtype is not None and entry.dtype is not dtype:
        raise LoweringError(f"the graph's input {name!r} is {dtype}, and tt_edge.contract.inputs says {entry.dtype}")
    shape: list[Dim] = []
    for size, symbol in zip(fake.shape, entry.symbols(len(fake.shape)), strict=True):
        if isinstance(size, int):
            shape.append(size)
        elif symbol is not None:
            shape.append(symbol)
        else:
            raise LoweringError(
                f"the graph's input {name!r} has a dynamic dimension {len(shape)}, for which tt_edge.contract.inputs names no "
                "symbol; add it there"
            )
    return TensorSpec(name, dtype, tuple(shape))


def _output_spec(name: str, node: Node, symbols: dict[Any, str]) -> TensorSpec:
    entry, sizes = engine_input(name), value(node).shape
    made = entry.produced if entry is not None and entry.produced else (None,) * len(sizes)
    shape = tuple(
        size if isinstance(size, int) else symbol.name if symbol is not None else symbols[size.node.expr]
        for size, symbol in zip(sizes, made, strict=True)
    )
    return TensorSpec(name, _dtype(node), shape)


def _dtype(node: Node) -> DType:
    return DType(str(value(node).dtype).removeprefix("torch."))
