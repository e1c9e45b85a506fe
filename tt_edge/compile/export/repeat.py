"""Tracing one layer of each kind, and repeating it in the exported graph for the layers that are equal to it.

The model's own loop over its layers runs as it is, so it decides which layers run, in what order and with which
arguments. Only the first layer of each kind is traced; a later one leaves a mark, which is then replaced by a copy of the
first one's nodes with its own weights. Two layers are of one kind only if all of this holds:

* their modules are equal but for the values of parameters and buffers, and for ``layer_idx``;
* they are called with the same arguments (the same tensors, equal settings), but for the hidden states, whose shape,
  strides and type are equal;
* the first one did not look at its ``layer_idx`` while it was traced, and set no attribute;
* its nodes use no tensor that is neither its weight nor an argument: that could be another one for another layer.

What is not known to be equal is traced. ``RepetitionError`` says that the whole module has to be traced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import count
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from tt_edge.compile.export.masks import Visibility

#: The attribute in which transformers' layers hold their number; nothing but a cache, which is not traced, needs it.
_INDEX = "layer_idx"
#: State of every module that says nothing about what it computes.
_MODULE_STATE = frozenset(nn.Module().__dict__) | {_INDEX}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class RepetitionError(Exception):
    """A layer that was taken for one of its kind is not; the whole module has to be traced."""


@torch.library.custom_op("tt_edge::layer_mark", mutates_args=())
def layer_mark(hidden: Tensor, role: str, number: int, arguments: Sequence[Tensor]) -> Tensor:
    """Marks in a traced graph: where the traced call ``number`` begins or ends, or instead of copy ``number`` (``again``).

    ``arguments`` are the call's other tensors, where it begins.
    """
    return hidden.clone()


@layer_mark.register_fake
def _(hidden: Tensor, role: str, number: int, arguments: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(hidden)


def _unusable(*_: Any) -> Any:
    raise RepetitionError(f"a layer computes with its {_INDEX}")


# fmt: off
_OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "or", "xor"
)
_USES = (
    "index", "int", "float", "round", "bool", "hash", "str", "repr", "format", "call", "getitem", "neg", "pos", "abs", "invert",
    "eq", "ne", "lt", "le", "gt", "ge", *(side + name for name in _OPERATORS for side in ("", "r")),
)
# fmt: on
#: In place of ``layer_idx``: any use of it is an error, and so is ``isinstance``.
_Unusable = type("_Unusable", (), {f"__{use}__": _unusable for use in _USES} | {"__class__": property(_unusable)})


@contextmanager
def _without_index(module: nn.Module) -> Iterator[None]:
    """Within the block, ``layer_idx`` of ``module`` and its parts cannot be used. Other attributes that are set stay."""
    states = [part.__dict__ for part in module.modules() if _INDEX in part.__dict__]
    before = [state[_INDEX] for state in states]
    try:
        for state in states:
            state[_INDEX] = _Unusable()
        yield
    finally:
        for state, index in zip(states, before, strict=True):
            state[_INDEX] = index


@dataclass
class _Layer:
    """A module of the list ``owner``. ``path`` is its name in the traced module."""

    module: nn.Module
    path: str
    owner: str

    def tensors(self) -> list[Tensor]:
        """Its parameters and buffers, in the order of their names."""
        parameters = self.module.named_parameters(remove_duplicate=False)
        named = dict(parameters) | dict(self.module.named_buffers(remove_duplicate=False))
        return [named[name] for name in sorted(named)]


@dataclass
class _Traced:
    """A call that was traced as the first of its kind; ``result`` makes its return value from hidden states."""

    layer: _Layer
    number: int
    call: _Call  # kept alive: tensors are compared by identity
    result: Callable[[Tensor], Any] | None = None


class RepeatedLayers:
    """The layers of a module that may be repeated. Within ``marking``, the module's layers are traced once for each kind."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = _layers_of(module)
        self._by_state = {id(layer.module.__dict__): layer for layer in self.layers}
        self._firsts: dict[Any, list[_Traced]] = {}
        self._copies: list[tuple[_Traced, _Layer]] = []
        self._calls = count()
        self._is_inside = False

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Within the block, calls of the layers leave marks."""
        with ExitStack() as stack:
            for kind in {type(layer.module) for layer in self.layers}:
                stack.enter_context(patch.object(kind, "forward", self._forward(kind.forward)))
            yield

    def _forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # The exporter calls a proxy of the module, which has the module's own state.
            layer = None if self._is_inside else self._by_state.get(id(module.__dict__))
            call = None if layer is None else _Call.of(args, kwargs)
            kind = None if layer is None else _kind(layer.module)  # now: the model may have changed it in its forward
            if layer is None or call is None or kind is None:
                return original(module, *args, **kwargs)
            firsts = self._firsts.setdefault((layer.owner, kind), [])
            first = next((first for first in firsts if call.equals(first.call)), None)
            if first is None:
                first = _Traced(layer, next(self._calls), call)
                firsts.append(first)
                return self._trace(first, kind, original, module)
            if first.result is None:
                return original(module, *args, **kwargs)
            self._copies.append((first, layer))
            return first.result(torch.ops.tt_edge.layer_mark(call.hidden, "again", len(self._copies) - 1, []))

        return forward

    def _trace(self, first: _Traced, kind: Any, original: Callable[..., Any], module: nn.Module) -> Any:
        """Call the first layer of ``kind`` between marks, without its number."""
        number, call = first.number, first.call
        with _without_index(first.layer.module), patch.object(self, "_is_inside", True):
            hidden = torch.ops.tt_edge.layer_mark(call.hidden, "begin", number, call.tensors())
            args, kwargs = call.arguments_with(hidden)
            returned = original(module, *args, **kwargs)
        is_tuple = type(returned) is tuple and returned
        made, rest = (returned[0], returned[1:]) if is_tuple else (returned, ())
        if (
            not isinstance(made, Tensor)
            or any(other is not None for other in rest)
            or _form(made) != _form(call.hidden)
            or _kind(first.layer.module) != kind
        ):
            return returned  # it returns more than hidden states, or keeps something for later: each layer is traced
        first.result = (lambda new: (new, *rest)) if is_tuple else (lambda new: new)
        return first.result(torch.ops.tt_edge.layer_mark(made, "end", number, []))

    def expand(self, module: GraphModule) -> None:
        """Replace the marks in the graph by copies of the layers that were traced.

        Raises ``RepetitionError`` for a graph in which they cannot be copied; it is then unusable.
        """
        marks = [n for n in module.graph.nodes if n.target is torch.ops.tt_edge.layer_mark.default]
        if not marks:
            return
        bodies = _bodies(module.graph, marks)
        weights = {_storage(_tensor(module, node)): node for node in module.graph.find_nodes(op="get_attr")}
        for mark in marks:
            _, role, number, _ = mark.args
            if role == "again":
                first, layer = self._copies[number]
                own: dict[Node | None, Node | None] = {}
                for old, new in zip(first.layer.tensors(), layer.tensors(), strict=True):
                    node = weights.get(_storage(new))
                    if own.setdefault(weights.get(_storage(old)), node) is not node:
                        raise RepetitionError("weights that are one tensor in a layer are two in another")
                _copy(module.graph, bodies[first.number], mark, own, (first.layer.path, layer.path))
        for mark in marks:
            if mark.args[1] != "again":
                mark.replace_all_uses_with(mark.args[0])
                module.graph.erase_node(mark)


@dataclass
class _Call:
    """The arguments of a layer's call: hidden states, and the others."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_named: bool  # hidden_states=…

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        """``None`` for a call that has no hidden states first, or an argument that two calls cannot be compared in."""
        rest, is_named = dict(kwargs), not args
        hidden = rest.pop("hidden_states", None) if is_named else args[0]
        if not isinstance(hidden, Tensor) or not all(map(_is_plain, (*args[1:], *rest.values()))):
            return None
        return cls(hidden, args[1:], rest, is_named)

    def arguments_with(self, hidden: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.is_named:
            return (), {"hidden_states": hidden, **self.kwargs}
        return (hidden, *self.args), self.kwargs

    def tensors(self) -> list[Tensor]:
        """The tensors among the other arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def equals(self, other: _Call) -> bool:
        return (
            self.is_named == other.is_named
            and _form(self.hidden) == _form(other.hidden)
            and self.kwargs.keys() == other.kwargs.keys()
            and _same(self.args, other.args)
            and all(_same(self.kwargs[name], other.kwargs[name]) for name in self.kwargs)
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(
        value, Tensor | bool | int | float | str | Visibility | torch.dtype | torch.device
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _form(tensor: Tensor) -> tuple[str, ...]:
    """Shape, strides and type; sizes as text, because comparing symbols would constrain them."""
    return str(tuple(tensor.shape)), str(tuple(tensor.stride())), str(tensor.dtype), str(tensor.device)


def _layers_of(module: nn.Module) -> list[_Layer]:
    """The modules of the outermost lists that are equal to another one of their list."""
    found: list[_Layer] = []
    lists: list[str] = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in lists):
            continue
        lists.append(path)
        kinds = [_kind(layer) for layer in part]
        equal = Counter(kinds)
        for i, (layer, kind) in enumerate(zip(part, kinds, strict=True)):
            if kind is not None and equal[kind] > 1:
                found.append(_Layer(layer, f"{path}.{i}", path))
    return found


def _kind(module: nn.Module) -> tuple[Any, ...] | None:
    """What ``module`` computes, apart from the values of weights; equal for equal modules. ``None`` if that is not known."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return None
    state = {name: _constant(value) for name, value in module.__dict__.items() if name not in _MODULE_STATE}
    children = {name: None if child is None else _kind(child) for name, child in module._modules.items()}
    if None in state.values() or any(children[name] is None and module._modules[name] is not None for name in children):
        return None
    weights = [
        (name, None if weight is None else (type(weight), *_form(weight)))
        for name, weight in (*module._parameters.items(), *module._buffers.items())
    ]
    return type(module), module.training, tuple(sorted(state.items())), tuple(weights), tuple(children.items())


def _constant(value: Any) -> tuple[Any, ...] | None:
    """A setting of a module, in a form that is equal for equal values; ``None`` for one that a layer may change."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device | Enum):
        return type(value).__name__, value
    if isinstance(value, tuple):
        items = tuple(map(_constant, value))
        return None if None in items else ("tuple", items)
    if isinstance(value, partial):
        keywords = tuple(value.keywords.items())
        return _constant(("partial", value.func, value.args, keywords))
    if isinstance(value, PreTrainedConfig | FunctionType | BuiltinFunctionType | type):
        return "object", _Identity(value)  # one object, of all layers
    return None


class _Identity:
    """Equal for one object only, which it keeps alive: another one never gets its ``id``."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def check_writes(graph: Graph) -> None:
    """Raise ``RepetitionError`` if something is written to after the first mark: an argument of two equal calls may differ."""
    is_marked = False
    for node in graph.nodes:
        is_marked |= node.target is torch.ops.tt_edge.layer_mark.default
        if is_marked and mutates(node):
            raise RepetitionError(f"{node.name} writes to its arguments")


def mutates(node: Node) -> bool:
    """Whether ``node`` writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), *_form(tensor)


def _tensor(module: GraphModule, node: Node) -> Tensor:
    tensor: Tensor = attrgetter(str(node.target))(module)
    return tensor


def _bodies(graph: Graph, marks: Sequence[Node]) -> dict[int, tuple[Node, list[Node], Node]]:
    """By layer: the mark of its beginning, the nodes up to its end, and the mark there."""
    begins = {mark.args[2]: mark for mark in marks if mark.args[1] == "begin"}
    bodies: dict[Any, tuple[Node, list[Node], Node]] = {}
    for end in (mark for mark in marks if mark.args[1] == "end"):
        begin, body = begins[end.args[2]], []
        node = begin.next
        while node is not end:
            if node.op != "call_function" or "unbacked_bindings" in node.meta:
                raise RepetitionError(f"a layer has {node.format_node()}, which cannot be repeated")
            body.append(node)
            node = node.next
        bodies[end.args[2]] = begin, body, end
    return bodies


def _copy(
    graph: Graph,
    body: tuple[Node, list[Node], Node],
    mark: Node,
    weights: Mapping[Node | None, Node | None],
    paths: tuple[str, str],
) -> None:
    """Put a copy of ``body`` in the place of ``mark``, with other ``weights`` and another path of the layer."""
    begin, nodes, end = body
    arguments: list[Node] = list(begin.args[3])  # type: ignore[arg-type]
    own = {begin, *nodes, *arguments, *weights}
    if any(weights.get(argument, argument) is not argument for argument in arguments):
        raise RepetitionError("a layer's weight is an argument of the others")
    for node in (*nodes, end):
        if strange := [n for n in node.all_input_nodes if n not in own and isinstance(n.meta.get("val"), Tensor)]:
            raise RepetitionError(f"a layer uses {strange[0]}, which is neither its weight nor an argument")
    copies: dict[Node, Node] = {begin: mark.args[0]}  # type: ignore[dict-item]

    def copied(node: Node) -> Node:
        if node in weights:
            own = weights[node]
            if own is None:
                raise RepetitionError(f"a weight like {node.target} is not in the graph")
            return own
        return copies.get(node, node)

    with graph.inserting_before(mark):
        for node in nodes:
            if isinstance(node.meta.get("val"), torch.SymInt) and copies.keys().isdisjoint(node.all_input_nodes):
                continue  # a size, which the exporter computes once
            copy = copies[node] = graph.node_copy(node, copied)
            copy.meta["nn_module_stack"] = {
                key.replace(*paths): (path.replace(*paths, 1) if path.startswith(paths[0]) else path, kind)
                for key, (path, kind) in node.meta.get("nn_module_stack", {}).items()
            }
    mark.replace_all_uses_with(copied(end.args[0]))  # type: ignore[arg-type]
    graph.erase_node(mark)
