"""Replace the attention of vision towers by ViTAttentionPlugin layers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

import tt_edge.plugins.ops.vit_attention_plugin  # noqa: F401  (defines the operator)
from tt_edge.config import Precision
from tt_edge.contract import CU_TILES, OFFSETS_OF, VisionGeometry
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    add_placeholder,
    aten,
    calls,
    emit,
    replace,
    shape,
)
from tt_edge.lowering.vision.insert_vision_attention import full_attention, unrestricted
from tt_edge.plugins.edgellm.vit_contract import HEAD_SIZES, NAME

ops = torch.ops.tt_edge


class InsertVitAttentionPlugin(LoweringPass):
    """Replace attention within segments by ``tt_edge.vit_attention_plugin``.

    Before::

        1. y = tt_edge.segment_attention(q, k, v, aten.view(segment_ids, [-1]), scale)   on [1, H, N, D]; window_ids likewise
        2. z = tt_edge.attention(q, k, v, scale, causal=False)                           on [tiles, H, L, D]
        3. w = tt_edge.attention(q, k, v, scale, causal=False)                           with other keys than queries, or of
                                                                                         more than tiles (windows of them)

    After, ``q``, ``k``, ``v`` and the results shuffled to ``[T, H, D]`` and back::

        1. y = tt_edge.vit_attention_plugin(q, k, v, cu_seqlens, max_seqlen_carrier, scale)
        2. z = tt_edge.vit_attention_plugin(q, k, v, aten.mul(cu_tiles, L), zeros(L), scale)
        3. w = tt_edge.full_attention(aten.mul(q, scale), k, v)                          TensorRT's own: Q-Formers of
                                                                                         BLIP-2 and Granite 4 Vision

    ``cu_seqlens`` (``cu_window_seqlens`` for windows), ``max_seqlen_carrier`` and ``cu_tiles`` are new inputs; they replace the
    inputs with segment and window ids. A window's size is known, so its carrier is a constant.

    The plugin computes in float16. Float32 graphs are lowered too, for parity checks with the reference evaluator; graphs
    for deployment must be float16 (``tt_edge.compile.job``).
    """

    def __init__(self, geometry: VisionGeometry) -> None:
        self._geometry = geometry

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        attentions = list(calls(module.graph, ops.segment_attention.default, ATTENTION))
        chosen = [node for node in attentions if _is_of_one_length(node) and _is_of_units(node, module)]
        for node in attentions:  # all are checked before anything changes
            if node.target is ATTENTION:
                unrestricted(node)
            if node in chosen:
                _check(node, context)
        if not chosen:
            raise UnsupportedModelError(
                f"the vision tower has no attention that {NAME} computes; use --vision-attention native"
            )
        inputs = _Inputs(module, self._geometry)
        for node in attentions:
            with module.graph.inserting_before(node):
                if node not in chosen:
                    out = full_attention(module.graph, unrestricted(node))
                elif node.target is ops.segment_attention.default:
                    out = _segments(inputs, node)
                else:
                    out = _tiles(inputs, node)
            replace(node, out)
        return len(chosen)


def _is_of_one_length(node: Node) -> bool:
    query, key = (shape(operand) for operand in node.args[:2])  # type: ignore[arg-type]
    return node.target is ops.segment_attention.default or bool(query[1] == key[1] and query[2] == key[2])


def _is_of_units(node: Node, module: GraphModule) -> bool:
    """Whether a call of tiles has as many as the network: the offsets of others are not known."""
    tiles = shape(next(iter(module.graph.find_nodes(op="placeholder"))))[0]
    batch = shape(node.args[0])[0]  # type: ignore[arg-type]
    return node.target is ops.segment_attention.default or statically_known_true(batch == tiles)


def _check(node: Node, context: LoweringContext) -> None:
    query, key = (shape(operand) for operand in node.args[:2])  # type: ignore[arg-type]
    if query[1] != key[1]:
        raise UnsupportedModelError(
            f"the vision tower has {query[1]} heads of queries and {key[1]} of keys, and {NAME} takes as many of both; use "
            "--vision-attention native"
        )
    head_size = int(query[3])
    if head_size not in HEAD_SIZES:
        sizes = ", ".join(map(str, HEAD_SIZES))
        raise UnsupportedModelError(
            f"the vision tower's head_size {head_size} is not supported by {NAME} ({sizes}); use --vision-attention native"
        )
    if context.config.network.precision is Precision.BF16:
        raise UnsupportedModelError(f"{NAME} has no bf16; give --precision fp16, or use --vision-attention native")


class _Inputs:
    """The plugin's inputs other than activations, shared by the layers with the same segments."""

    def __init__(self, module: GraphModule, geometry: VisionGeometry) -> None:
        self.module, self.graph, self._geometry = module, module.graph, geometry
        first = next(iter(module.graph.find_nodes(op="placeholder")))
        self._units = shape(first)[0]
        self._carriers: dict[int, Node] = {}
        self._tiles: dict[int, Node] = {}
        self._added: dict[str, Node] = {}

    def added(self, name: str) -> Node:
        """The input ``name``, a vector."""
        if name not in self._added:
            # Its length cannot be derived from another input; tt_edge.contract.inputs has its name.
            self._added[name] = add_placeholder(self.graph, name, [self._units], torch.int32)
        return self._added[name]

    def segments(self, ids: Node) -> tuple[Node, Node]:
        """Offsets and carrier, which replace the segment or window ids."""
        source = ids
        while source.op != "placeholder":
            (source, *_) = source.all_input_nodes
        name = str(source.target)
        if name == "window_ids":
            return self.added(OFFSETS_OF[name]), self.carrier(self._geometry.window_patches)
        return self.added(OFFSETS_OF[name]), self.added("max_seqlen_carrier")

    def tiles(self, length: int) -> tuple[Node, Node]:
        """Offsets and carrier of tiles of ``length`` tokens."""
        if length not in self._tiles:
            self._tiles[length] = emit(self.graph, aten.mul.Tensor, self.added(CU_TILES), length)
        return self._tiles[length], self.carrier(length)

    def carrier(self, length: int) -> Node:
        """A constant whose length, not its content, is the information."""
        if length not in self._carriers:
            zeros = torch.zeros(length, dtype=torch.int32)
            self._carriers[length] = add_constant(self.module, "max_seqlen_carrier", zeros)
        return self._carriers[length]


def _segments(inputs: _Inputs, node: Node) -> Node:
    """``[1, H, N, D]`` as ``[N, H, D]``, and back."""
    arguments: Any = node.args
    query, key, value, segments, scale = arguments

    def add(target: Any, *args: Any) -> Node:
        return emit(inputs.graph, target, *args, origin=node)

    rows = [add(aten.permute.default, add(aten.squeeze.dim, t, 0), [1, 0, 2]) for t in (query, key, value)]
    out = add(ops.vit_attention_plugin.default, *rows, *inputs.segments(segments), scale)
    return add(aten.unsqueeze.default, add(aten.permute.default, out, [1, 0, 2]), 0)


def _tiles(inputs: _Inputs, node: Node) -> Node:
    """``[tiles, H, L, D]`` as ``[tiles * L, H, D]``, and back."""
    call = unrestricted(node)
    heads, length, size = (int(dim) for dim in shape(call.query)[1:])

    def add(target: Any, *args: Any) -> Node:
        return emit(inputs.graph, target, *args, origin=node)

    apart = [add(aten.permute.default, t, [0, 2, 1, 3]) for t in (call.query, call.key, call.value)]
    rows = [add(aten.reshape.default, t, [-1, heads, size]) for t in apart]
    out = add(ops.vit_attention_plugin.default, *rows, *inputs.tiles(length), call.scale)
    out = add(aten.reshape.default, out, [-1, length, heads, size])
    return add(aten.permute.default, out, [0, 2, 1, 3])
