"""Which layers of a model are equal, and which of their calls: all that ``repeat`` takes for known about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from tt_edge.compile.export.layer_copies import RepetitionError, form
from tt_edge.compile.export.masks import Visibility

#: The attribute in which transformers' layers hold their number; nothing but a cache, which is not traced, needs it.
_INDEX = "layer_idx"
#: State of every module that says nothing about what it computes.
_MODULE_STATE = frozenset(nn.Module().__dict__) | {_INDEX}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


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
def without_index(module: nn.Module) -> Iterator[None]:
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
class RepeatedLayer:
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
class LayerCall:
    """The arguments of a layer's call: hidden states, and the others."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_named: bool  # hidden_states=…

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
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

    def equals(self, other: LayerCall) -> bool:
        return (
            self.is_named == other.is_named
            and form(self.hidden) == form(other.hidden)
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


def layers_of(module: nn.Module) -> list[RepeatedLayer]:
    """The modules of the outermost lists that are equal to another one of their list, and that have parts."""
    found: list[RepeatedLayer] = []
    lists: list[str] = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in lists):
            continue
        lists.append(path)
        kinds = [kind_of(layer) for layer in part]
        equal = Counter(kinds)
        for i, (layer, kind) in enumerate(zip(part, kinds, strict=True)):
            if kind is not None and equal[kind] > 1 and layer._modules:
                found.append(RepeatedLayer(layer, f"{path}.{i}", path))
    return found


def kind_of(module: nn.Module) -> tuple[Any, ...] | None:
    """What ``module`` computes, apart from the values of weights; equal for equal modules. ``None`` if that is not known."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return None
    state = {name: _constant(value) for name, value in module.__dict__.items() if name not in _MODULE_STATE}
    children = {name: None if child is None else kind_of(child) for name, child in module._modules.items()}
    if None in state.values() or any(children[name] is None and module._modules[name] is not None for name in children):
        return None
    weights = [
        (name, None if weight is None else (type(weight), *form(weight)))
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
