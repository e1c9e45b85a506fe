"""Traced graphs that several tests use in one process: equal models with equal limits are traced once.

What is traced does not depend on the backend. Tests of tracing itself do without.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from unittest.mock import patch

import pytest
from torch.fx import GraphModule

from tests.compile.compiled_once import model_digest
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.part import PartCompiler
from tt_edge.compile.vision.network import TowerCompiler

#: Graphs of the latest models, and what tracing found out about each.
_EXPORTED: OrderedDict[str, tuple[GraphModule, dict[str, Any]]] = OrderedDict()
_KEPT = 16


def exported_once(export: Callable[[Any], GraphModule]) -> Callable[[Any], GraphModule]:
    """``export`` of a part's compiler, which traces what it has traced before no second time."""

    @wraps(export)
    def wrapper(compiler: PartCompiler) -> GraphModule:
        key = _key(compiler)
        if key not in _EXPORTED:
            module = export(compiler)
            _EXPORTED[key] = module, {"blocks": compiler.blocks, "window_blocks": compiler.window_blocks}
            if len(_EXPORTED) > _KEPT:
                _EXPORTED.popitem(last=False)
        module, found = _EXPORTED[key]
        vars(compiler).update(found)
        copied = copy.deepcopy(module)  # passes change it
        for node in copied.graph.nodes:  # copies share it, and torch_tensorrt's converters take modules out of it
            if "nn_module_stack" in node.meta:
                node.meta["nn_module_stack"] = dict(node.meta["nn_module_stack"])
        return copied

    return wrapper


def _key(compiler: PartCompiler) -> str:
    digest = model_digest(compiler.model)
    tower = getattr(compiler, "tower", None)
    plain = [(k, v) for k, v in vars(tower).items() if isinstance(v, str | int | float | tuple)] if tower else []
    for text in (type(compiler), type(tower), plain, getattr(compiler, "geometry", None), compiler.config.limits):
        digest.update(f"{text!r}\0".encode())
    return digest.hexdigest()


@pytest.fixture
def traced_once() -> Iterator[None]:
    """Decoders and towers are traced once for all tests of a module that use it."""
    with (
        patch.object(DecoderCompiler, "export", exported_once(DecoderCompiler.export)),
        patch.object(TowerCompiler, "export", exported_once(TowerCompiler.export)),
    ):
        yield
