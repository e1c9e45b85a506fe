"""Graphs as text, and dumps of the graph before and after each pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, Node

from tt_edge.errors import InvalidInputError


class GraphDump:
    """Writes the graph before and after every pass that changed it, into one folder.

    Pass 3, ``fold_constants``, gives ``03-fold_constants.before.txt`` and ``03-fold_constants.after.txt``. A pass that raises
    leaves ``.before.txt`` and, as far as it came, ``.failed.txt``.
    """

    def __init__(self, folder: Path) -> None:
        self.check(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._number = folder, 0

    @staticmethod
    def check(folder: Path) -> None:
        """Raise ``InvalidInputError`` unless ``folder`` is missing or empty: old files would be mistaken for new ones."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInputError(f"{folder} is not an empty folder; name a new or empty one for the graphs")

    @contextmanager
    def around(self, name: str, graph: Graph) -> Iterator[None]:
        """Write ``graph`` before and after the block, which runs the pass ``name``."""
        self._number += 1
        before = render_graph(graph)
        try:
            yield
        except Exception:
            self._write(name, before=before, failed=render_graph(graph))
            raise
        after = render_graph(graph)
        if after != before:
            self._write(name, before=before, after=after)

    def _write(self, name: str, **texts: str) -> None:
        for kind, text in texts.items():
            (self._folder / f"{self._number:02}-{name}.{kind}.txt").write_text(text, "utf-8")


def render_graph(graph: Graph) -> str:
    """One line per node, in order: name, dtype and shape, the call, and the module of the model that it came from.

    For example ``mul: float32[s0, 4, s1, 8] = aten.mul.Tensor(query, 0.25)  # layers.0.self_attn``.
    """
    return "".join(f"{_line(node)}\n" for node in graph.nodes)


def module_path(node: Node) -> str:
    """The innermost module of the model that made ``node``, such as ``layers.0.self_attn``; empty if that is unknown."""
    stack: Any = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return str(paths[-1]).removeprefix("model.") if paths else ""


def _line(node: Node) -> str:
    if node.op == "output":
        return f"return {_text(node.args[0])}"
    if node.op == "placeholder":
        what = "input"
    elif node.op == "get_attr":
        what = f"constant {node.target}"
    else:
        arguments = [_text(argument) for argument in node.args]
        arguments += [f"{key}={_text(argument)}" for key, argument in node.kwargs.items()]
        what = f"{_target(node)}({', '.join(arguments)})"
    origin = module_path(node) if node.op == "call_function" else ""
    return f"{node.name}: {_type(node.meta.get('val'))} = {what}" + (f"  # {origin}" if origin else "")


def _target(node: Node) -> str:
    return (
        str(node.target)
        if isinstance(node.target, str | torch._ops.OpOverload)
        else getattr(node.target, "__name__", "?")
    )


def _type(val: Any) -> str:
    if isinstance(val, torch.Tensor):
        return f"{_text(val.dtype)}[{', '.join(map(str, val.shape))}]"
    if isinstance(val, tuple | list):
        return f"({', '.join(map(_type, val))})"
    return "?" if val is None else type(val).__name__


def _text(argument: Any) -> str:
    if isinstance(argument, Node):
        return argument.name
    if isinstance(argument, list | tuple):
        opening, closing = "[]" if isinstance(argument, list) else "()"
        return f"{opening}{', '.join(map(_text, argument))}{closing}"
    return str(argument).removeprefix("torch.")
