"""Attention as one plugin layer: RoPE, KV cache and attention together."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.attention_plugin  # noqa: F401  (defines the operator)
from tt_edge.config import Layout, Precision
from tt_edge.contract import Dim
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.attention_call import AttentionCall
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_constant,
    add_placeholder,
    aten,
    emit,
    output_values,
    placeholder,
    replace,
    set_outputs,
    shape,
    value,
)
from tt_edge.lowering.decoder.tabulate_rotary import tabulate
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS, NAME, OWN_CONTRACT, pages_per_row

ops = torch.ops.tt_edge


class InsertAttentionPlugin(LoweringPass):
    """Replace every attention, with its rotations, by ``tt_edge.attention_plugin``.

    Before::

        1. q, k = tt_edge.rotary_embedding(x, cos, sin), tt_edge.rotary_embedding(y, cos, sin)
        2. out = tt_edge.attention(q, k, v, scale)

    After, with ``CompileConfig.plugin_contract`` 0.4 or 0.10::

        1. qkv = aten.cat([x, y, v], -1)                                             [B, S, (Hq + 2 Hkv) D]
        2. out, cache = tt_edge.attention_plugin([qkv, past_key_values_0, context_lengths, rope, kvcache_start_index], …)

    tt-edge's own takes ``[qkv, past_key_values_0, past_lengths, query_lengths, rope]``, and the layer's sinks if it has some. 0.9.1
    takes x, y and v separately. 0.11 takes the tokens of all slots in one dimension, and the table row of each
    token::

        1. rows = aten.reshape(aten.embedding(rope, position_ids), [-1, R])           once for all layers
        2. out, cache = tt_edge.attention_plugin([aten.reshape(qkv, [-1, …]), past_key_values_0, query_lengths, rows, …], …)

    There, the padding of a batch slot counts as tokens: it follows the slot's valid tokens, which never see it, and the next
    call overwrites it, as in the other backends. ``rope`` is float32, from the exported graph's own cosines and sines before
    they are rounded to the model's type. ``past_key_values_i`` is an input and ``present_key_values_i`` an output; both must
    be bound to one address.

    The plugins compute in float16, tt-edge's also in bfloat16. Float32 graphs are lowered too, for parity checks with the
    reference evaluator, but not for deployment (``tt_edge.compile.job``).
    """

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation.one_per_decoder_layer(context)

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = AttentionCall.all_in(graph)
        if not attentions:
            return 0
        if sharing := len(attentions) - len({call.stored for call in attentions}):
            raise UnsupportedModelError(
                f"{sharing} layers attend to the keys and values of others, which {_who(context)} does not support here; use "
                "--backend native or sdpa"
            )
        layers = [_Layer.of(call, context) for call in attentions]  # all are checked before anything changes
        if context.kv_scales and len(context.kv_scales) != len(layers):
            raise LoweringError(f"{len(context.kv_scales)} layers have scales of an FP8 KV cache, of {len(layers)}")
        inputs = _Inputs(module, context)
        presents = []
        for index, (call, layer) in enumerate(zip(attentions, layers, strict=True)):
            with graph.inserting_before(call.node):
                out, present = _emit(graph, call.node, layer, inputs, index)
            presents.append(present)
            replace(call.node, out)
        set_outputs(graph, [*output_values(graph), *presents])
        return len(attentions)


@dataclass(frozen=True)
class _Layer:
    """One attention: its operands before rotation, ``[B, H, S, D]``, and the plugin's parameters for it."""

    operands: tuple[Node, Node, Node]
    cos: Node
    sin: Node
    heads: tuple[int, int, int]
    head_size: int
    scale: float
    window: int | None
    softcap: float
    sinks: Node | None

    @classmethod
    def of(cls, call: AttentionCall, context: LoweringContext) -> _Layer:
        """Read an attention. Raises ``UnsupportedModelError`` if the plugin cannot express it."""
        query, key, val = call.query, call.key, call.value
        generation = GENERATIONS[str(context.config.attention.plugin_contract)]
        head_size, window = int(shape(query)[3]), call.window_within(context.config.limits.max_seq_len)
        who, own = _who(context), GENERATIONS[OWN_CONTRACT]
        otherwise = "use --backend native"
        only_own = call.softcap is not None or call.sinks is not None or head_size in own.head_sizes[1:3]
        if generation is not own and only_own:
            otherwise = f"use --plugin-contract {OWN_CONTRACT} or --backend native"
        if head_size not in generation.head_sizes:
            sizes = ", ".join(map(str, generation.head_sizes))
            raise UnsupportedModelError(f"head_size {head_size} is not supported by {who} ({sizes}); {otherwise}")
        refusals = {
            "the model has non-causal attention": not call.causal,
            f"the model bounds attention scores (softcap {call.softcap or 0:g})": call.softcap is not None
            and not generation.has_softcap,
            "the model has position biases in attention": call.bias is not None,
            "the model has attention sinks": call.sinks is not None and generation.sinks is None,
            f"a sliding window of {window} tokens": window is not None and not generation.has_sliding_window,
            "precision bf16": context.config.network.precision is Precision.BF16 and not generation.has_bf16,
            "attention without rotary embedding": any(not _is_rotation(t) for t in (query, key)),
        }
        for what, refused in refusals.items():
            if refused:
                raise UnsupportedModelError(f"{what}, which {who} does not support; {otherwise}")
        rotations = [_rotation(query), _rotation(key)]
        (x, cos, sin, interleaved), (y, *same) = rotations
        if interleaved or same != [cos, sin, interleaved]:
            raise UnsupportedModelError(
                f"the model rotates neighbours, or queries and keys differently, which {who} does not support; "
                "use --backend native"
            )
        rotary_dim = int(shape(cos)[-1])
        if rotary_dim % generation.rotary_step:
            raise UnsupportedModelError(
                f"the model rotates {rotary_dim} elements of a head, no multiple of {generation.rotary_step}, which {who} does not "
                "support; use --backend native"
            )
        heads = tuple(int(shape(t)[1]) for t in (query, key, val))
        softcap = call.softcap or 0.0
        return cls((x, y, val), cos, sin, heads, head_size, call.scale, window, softcap, call.sinks)  # type: ignore[arg-type]


def _who(context: LoweringContext) -> str:
    """What an error calls the plugin."""
    contract = str(context.config.attention.plugin_contract)
    return f"the plugin of contract {contract}" if contract == OWN_CONTRACT else f"{NAME} {contract}"


def _is_rotation(node: Node) -> bool:
    return node.target is ops.rotary_embedding.default


def _rotation(node: Node) -> tuple[Any, ...]:
    """Operand, cosines, sines, and whether neighbours are paired."""
    return (*node.args, *(False,)[len(node.args) - 3 :])


class _Inputs:
    """The plugin's inputs other than activations: those that all layers share, and each layer's cache."""

    def __init__(self, module: GraphModule, context: LoweringContext) -> None:
        self.module, self.graph, self.context = module, module.graph, context
        self.generation = GENERATIONS[str(context.config.attention.plugin_contract)]
        self.tokens, self.positions = (placeholder(module.graph, name) for name in ("input_ids", "position_ids"))
        self.ropes: dict[tuple[Node, Node], Node] = {}
        self.shared = {
            operand.name: self._placeholder(operand.name, tuple(self._dim(size) for size in operand.shape), torch.int32)
            for operand in self.generation.inputs
            if operand.dtype is not None and not operand.dtype.is_floating
        }

    def _dim(self, size: Dim) -> Dim:
        """Convert a size of the plugin's contract to one of the engine's."""
        config = self.context.config
        pages = pages_per_row(config.limits.max_seq_len)
        known = {
            "capacity": config.limits.max_seq_len,
            "pages_per_row": pages,
            "pages": config.limits.max_batch * pages,
        }
        return known.get(size, size) if isinstance(size, str) else size

    def _placeholder(self, name: str, dims: tuple[Dim, ...], dtype: torch.dtype) -> Node:
        batch = shape(self.tokens)[0]
        # Symbols other than the batch cannot be derived from the tokens' shape; tt_edge.contract.inputs has their names.
        return add_placeholder(self.graph, name, [d if isinstance(d, int) else batch for d in dims], dtype)

    def cache(self, index: int, layer: _Layer, dtype: torch.dtype) -> Node:
        dtype = torch.float8_e4m3fn if self.context.kv_scales else dtype
        operand = next(o for o in self.generation.inputs if o.name == CACHE)
        sizes = {"kv_heads": layer.heads[1], "head_size": layer.head_size}
        dims = tuple(sizes.get(size, self._dim(size)) if isinstance(size, str) else size for size in operand.shape)
        names = f"past_key_values_{index}", f"present_key_values_{index}"
        self.context.kv_cache.append(names)
        return self._placeholder(names[0], dims, dtype)

    def rope(self, layer: _Layer) -> Node:
        """The table ``[1, capacity, R]``; for 0.11 its rows for this call's tokens, ``[T, R]``."""
        key = layer.cos, layer.sin
        if key not in self.ropes and self.context.config.network.layout is Layout.EDGE_LLM:
            self.ropes[key] = self._rope_input(layer)
        if key not in self.ropes:
            halves = [tabulate(self.module, _unrounded(angle), self.context.config.limits.max_seq_len) for angle in key]
            table = torch.cat([half.rows for half in halves], dim=-1).float()
            ragged, axes = self.generation.ragged, halves[0].axes
            if axes is not None and not ragged:
                raise UnsupportedModelError(
                    f"AttentionPlugin {self.generation.version} looks up rotary rows by a token's place in the cache, and the "
                    "model's positions are those of M-RoPE; give --plugin-contract 0.11 or --backend native"
                )
            with self.graph.inserting_before(layer.cos):
                node = add_constant(self.module, "rope_rotary_cos_sin", table if ragged else table[None])
                if ragged:
                    lookup, more = (aten.embedding.default, []) if axes is None else (ops.axis_rows.default, [axes * 2])
                    rows = emit(self.graph, lookup, node, self.positions, *more)
                    node = emit(self.graph, aten.reshape.default, rows, [-1, table.shape[1]])
            self.ropes[key] = node
        return self.ropes[key]

    def _rope_input(self, layer: _Layer) -> Node:
        """The table as an engine input: NVIDIA's runtime makes it from config.json."""
        if self.ropes:
            raise UnsupportedModelError("the model has several RoPE bases, and Edge-LLM's runtime one; omit --layout")
        operand = next(o for o in self.generation.inputs if o.name == "rope_rotary_cos_sin")
        rotary_dim = int(shape(layer.cos)[-1])
        dims = tuple(rotary_dim if size == "rotary_dim" else self._dim(size) for size in operand.shape)
        return self._placeholder(operand.name, dims, torch.float32)


def _unrounded(angle: Node) -> Node:
    """Cosines or sines before the model rounds them to its own type: the plugin's table is float32."""
    while angle.target is aten._to_copy.default:
        source: Any = angle.args[0]
        if value(source).dtype is not torch.float32:
            break
        angle = source
    return angle


def _emit(graph: Graph, node: Node, layer: _Layer, inputs: _Inputs, index: int) -> tuple[Node, Node]:
    """Add the plugin call that replaces ``node``; returns attention ``[B, Hq, S, D]``, and the cache."""
    generation, size, scale = inputs.generation, layer.head_size, layer.scale

    def add(target: Any, *args: Any, **kwargs: Any) -> Node:
        return emit(graph, target, *args, origin=node, **kwargs)

    q, k, v = (_joined_heads(operand, add) for operand in layer.operands)
    if not generation.has_attention_scale and (factor := scale * size**0.5) != 1.0:
        q, scale = (
            add(aten.mul.Tensor, q, factor),
            size**-0.5,
        )  # RoPE is linear, so scaling q before it scales the scores
    activations = {"q": q, "k": k, "v": v}
    if generation.packed:
        packed = add(aten.cat.default, [q, k, v], -1)
        width = int(shape(packed)[-1])
        activations = {"qkv": add(aten.reshape.default, packed, [-1, width]) if generation.ragged else packed}
    named = {
        **inputs.shared,
        **activations,
        CACHE: inputs.cache(index, layer, value(q).dtype),
        "rope_rotary_cos_sin": inputs.rope(layer),
    }
    arguments = [named[name] for name in generation.input_names]
    if layer.sinks is not None:
        arguments.append(add(aten._to_copy.default, layer.sinks, dtype=torch.float32))
    settings: list[Any] = [generation.version, layer.heads[0], layer.heads[1], size, scale, layer.window or -1]
    if inputs.context.kv_scales or layer.softcap:
        settings.append(list(inputs.context.kv_scales[index]) if inputs.context.kv_scales else None)
    if layer.softcap:
        settings.append(layer.softcap)
    both = add(ops.attention_plugin.default, arguments, *settings)
    out, present = (add(operator.getitem, both, result) for result in (0, 1))
    if generation.ragged:
        batch, sequence = (add(aten.sym_size.int, inputs.tokens, dim) for dim in (0, 1))
        out = add(aten.view.default, out, [batch, sequence, layer.heads[0], size])
    return add(aten.transpose.int, out, 1, 2), present


def _joined_heads(operand: Node, add: Any) -> Node:
    """``[B, H, S, D]`` as ``[B, S, H · D]``; without new operators if the model computed it from that form."""
    heads, size = (int(shape(operand)[dim]) for dim in (1, 3))
    swaps = operand.target is aten.transpose.int and {d % 4 for d in operand.args[1:3]} == {1, 2}  # type: ignore[operator,union-attr]
    apart: Any = operand.args[0] if swaps else add(aten.transpose.int, operand, 1, 2)
    source: Any = apart.args[0] if apart.target in (aten.view.default, aten.reshape.default) else None
    if source is not None and len(shape(source)) == 3 and shape(source)[2] == heads * size:
        return source  # type: ignore[no-any-return]
    return add(aten.flatten.using_ints, apart, 2, 3)  # type: ignore[no-any-return]
