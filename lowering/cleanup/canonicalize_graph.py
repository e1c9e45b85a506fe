"""Remove operators without effect that export leaves in the graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    aten,
    calls,
    emit,
    output_values,
    replace,
    set_outputs,
    value,
)

_ASSERTIONS = (
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
_IDENTITIES = (
    aten.alias.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.detach_.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
)
#: These have no effect on integers, and TensorRT refuses them for integers.
_ROUNDINGS = (aten.floor.default, aten.ceil.default, aten.trunc.default, aten.round.default)
#: Pointwise operators whose integer inputs must not be converted to floats.
_CONVERTING = (aten._to_copy.default, aten.where.self)
_CONVERSIONS = (aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.type_as.default)


class CanonicalizeGraph(LoweringPass):
    """Remove assertions, identities, roundings of integers and full slices; give every type conversion the same form, and
    make PyTorch's implicit conversions of integers explicit.

    Before::

        1. a = aten.to.dtype(x, float32)       x is float32 already
        2. b = aten.to.dtype(a, float16)
        3. c = aten.slice(b, 1, 0, INT64_MAX)   (and what is written to all of it: slice_scatter)
        4. aten._assert_tensor_metadata(c)
        5. d = aten.div(position_ids, 64)

    After::

        1. b = aten._to_copy(x, dtype=float16)
        2. p = aten._to_copy(position_ids, dtype=float32)
        3. d = aten.div(p, 64)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, *_ASSERTIONS):
            graph.erase_node(node)
            matches += 1
        for node in list(graph.nodes):
            # The exporter's check of its inputs; the engine contract replaces it.
            if node.op == "call_module" and node.target == "_guards_fn":
                graph.erase_node(node)
        for node in calls(graph, *_IDENTITIES):
            replace(node, _source(node))
            matches += 1
        for node in calls(graph, *_ROUNDINGS):
            if not value(_source(node)).dtype.is_floating_point:
                replace(node, _source(node))
                matches += 1
        for node in list(graph.nodes):
            if _promotes_integers(node):
                matches += _cast_integers(node)
        for node in calls(graph, aten.slice.Tensor):
            if _is_full_slice(node.args[2:]):
                replace(node, _source(node))
            matches += 1
        for node in calls(graph, aten.slice_scatter.default):
            if _is_full_slice(node.args[3:]):
                replace(node, node.args[1])  # type: ignore[arg-type]
                matches += 1
        for node in calls(graph, *_CONVERSIONS):
            converted = _source(node)
            if value(converted).dtype != value(node).dtype:
                with graph.inserting_before(node):
                    converted = emit(graph, aten._to_copy.default, converted, dtype=value(node).dtype, like=node)
            replace(node, converted)
            matches += 1
        # Plain positional inputs and a flat tuple of outputs, instead of the exporter's pytree.
        outputs = output_values(graph)
        graph.set_codegen(CodeGen())
        set_outputs(graph, outputs)
        return matches


def _source(node: Node) -> Node:
    source: Any = node.args[0]
    return source  # type: ignore[no-any-return]


def _promotes_integers(node: Node) -> bool:
    """Whether a pointwise operator converts integers to floats, which PyTorch does implicitly and TensorRT does not."""
    if node.op != "call_function" or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return False
    result = value(node)
    return isinstance(result, torch.Tensor) and result.dtype.is_floating_point and node.target not in _CONVERTING


def _cast_integers(node: Node) -> int:
    """Convert the integer inputs of ``node`` to the type of its result; returns how many there were."""
    integers = [arg for arg in node.all_input_nodes if _is_integer(value(arg))]
    for arg in integers:
        with node.graph.inserting_before(node):
            converted = emit(node.graph, aten._to_copy.default, arg, dtype=value(node).dtype, origin=node)
        node.replace_input_with(arg, converted)
    return len(integers)


def _is_integer(found: Any) -> bool:
    is_tensor = isinstance(found, torch.Tensor)
    return is_tensor and not (found.dtype.is_floating_point or found.dtype is torch.bool)


def _is_full_slice(bounds: Sequence[Any]) -> bool:
    given: list[Any] = [*bounds, *[None, None, 1][len(bounds) :]]
    start, stop, step = given
    unbounded = stop is None or (isinstance(stop, int) and stop >= sys.maxsize)
    return bool(start in (None, 0) and unbounded and step == 1)
