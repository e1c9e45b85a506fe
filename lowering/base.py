"""The base of all lowering passes: the interface, the record of a pass, and helpers to edit graphs."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines the tt_edge operators)
from tt_edge.config import CompileConfig
from tt_edge.errors import LoweringError
from tt_edge.lowering.dump import GraphDump

aten = torch.ops.aten
Operator = Callable[..., Any]


@dataclass(frozen=True)
class Converters:
    """The capabilities of the conversion after lowering.

    ``supports`` says whether a call has a converter to TensorRT layers. ``decompositions`` express operators by others, as
    in ``torch._decomp``.
    """

    supports: Callable[[Node], bool]
    decompositions: Mapping[Any, Callable[..., Any]]


@dataclass
class LoweringContext:
    """The input of passes apart from the graph, and their output for the engine contract.

    ``decoder_layers`` is the number of attention layers in the model's configuration. ``kv_cache`` collects the placeholder
    and output name of every cache tensor, K then V, layer by layer. ``kv_scales`` are the scales of an FP8 cache, layer by
    layer: for queries, keys and values. ``converters`` are those of the conversion that follows; without them, nothing is
    decomposed for it. ``blocks``: some tokens of a prompt see each other in both directions, which an input says;
    ``window_blocks``: in the layers with a sliding window only.
    """

    config: CompileConfig
    decoder_layers: int
    kv_cache: list[tuple[str, str]] = field(default_factory=list)
    kv_scales: Sequence[tuple[float, float, float]] = ()
    converters: Converters | None = None
    blocks: bool = False
    window_blocks: bool = False


@dataclass(frozen=True)
class Expectation:
    """The number of matches that a pass must have, and the reason: ``Expectation(2, "2 decoder layers")``."""

    matches: int
    reason: str

    @classmethod
    def one_per_decoder_layer(cls, context: LoweringContext) -> Expectation:
        return cls(context.decoder_layers, f"decoder layers: {context.decoder_layers}")


@dataclass(frozen=True)
class PassRecord:
    """The result of one pass: its matches, its duration, and the number of operator nodes afterwards."""

    name: str
    matches: int
    seconds: float
    nodes: int


class LoweringPass(ABC):
    """One rewrite of a graph.

    A subclass holds only its rewrite. Match counts, timing, graph dumps and the removal of dead code are here, once.
    ``name`` is the class name in snake case, and also the file's name: ``FuseRmsNorm`` is ``fuse_rms_norm``.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @abstractmethod
    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        """Edit ``module.graph`` in place; return the number of matches."""

    def expected(self, context: LoweringContext) -> Expectation | None:
        """The required number of matches; ``None`` if any number is valid."""
        return None

    def __call__(self, module: GraphModule, context: LoweringContext, dump: GraphDump | None = None) -> PassRecord:
        """Run the pass; ``dump`` writes the graph before and after it.

        Raises ``LoweringError`` if the number of matches is not the expected one.
        """
        with dump.around(self.name, module.graph) if dump is not None else nullcontext():
            start = time.perf_counter()
            matches = self.rewrite(module, context)
            self._check(matches, self.expected(context))
            module.graph.eliminate_dead_code()
            module.graph.lint()
            seconds = time.perf_counter() - start
        nodes = sum(node.op == "call_function" for node in module.graph.nodes)
        return PassRecord(self.name, matches, seconds, nodes)

    def _check(self, matches: int, expected: Expectation | None) -> None:
        if expected is not None and matches != expected.matches:
            raise LoweringError(
                f"pass {self.name} matched {_times(matches)}, not {_times(expected.matches)} ({expected.reason}); "
                "the compiled model would be wrong, so nothing was written: please report the model type"
            )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def calls(graph: Graph, *targets: Operator) -> Iterator[Node]:
    """The nodes that call one of ``targets``, in order; safe against edits while iterating."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in targets:
            yield node


def value(node: Any) -> Any:
    """The fake tensor (shape and dtype) of ``node``; a plain argument is returned unchanged."""
    if not isinstance(node, Node):
        return node
    try:
        return node.meta["val"]
    except KeyError:
        raise LoweringError(f"node {node.name} carries no shape; a pass that added it must give one") from None


def shape(node: Node) -> tuple[Any, ...]:
    """The shape of a node's value: ints, and symbols for dynamic dimensions."""
    return tuple(value(node).shape)


def fake_mode(graph: Graph) -> FakeTensorMode:
    """The fake tensor mode that the graph was exported under."""
    for node in graph.nodes:
        if isinstance(val := node.meta.get("val"), FakeTensor):
            return val.fake_mode
    raise LoweringError("the graph carries no shapes; export the model with torch.export first")


def emit(
    graph: Graph, target: Operator, *args: Any, like: Node | None = None, origin: Node | None = None, **kwargs: Any
) -> Node:
    """Add a call at the graph's insertion point.

    Its shape and dtype are those of ``like``, or inferred by the operator's fake kernel. Its module of the model, which
    names the network's layer, is taken from ``origin``, or from ``like``.
    """
    node = graph.create_node("call_function", target, args, kwargs)
    origin = origin or like
    if origin is not None and (stack := origin.meta.get("nn_module_stack")):
        node.meta["nn_module_stack"] = dict(stack)  # a copy: naming layers consumes it
    if like is None:
        infer(node)
    else:
        node.meta["val"] = like.meta["val"]
    return node


def replace(node: Node, by: Node) -> None:
    """Replace ``node`` by ``by`` in all its users, and erase ``node``.

    If ``by`` has no module of the model recorded, it gets that of ``node``.
    """
    if by.op == "call_function" and (stack := node.meta.get("nn_module_stack")):
        by.meta.setdefault("nn_module_stack", dict(stack))
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def infer(node: Node) -> None:
    """Set a call's shape and dtype from its arguments' (again, after they changed)."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
    mode = fake_mode(node.graph)
    # Sizes that depend on data (a cache's prefix) are new symbols; no exporter is waiting to bind them.
    fresh = nullcontext() if mode.shape_env is None else mode.shape_env.ignore_fresh_unbacked_symbols()
    with mode, fresh:
        node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]


def add_placeholder(graph: Graph, name: str, sizes: Sequence[Any], dtype: torch.dtype) -> Node:
    """Add a graph input after the existing ones."""
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        node = graph.placeholder(name)
    with fake_mode(graph):
        node.meta["val"] = torch.empty(tuple(sizes), dtype=dtype)
    return node


def placeholder(graph: Graph, name: str) -> Node:
    """The graph input called ``name``."""
    node: Node | None = next((n for n in graph.find_nodes(op="placeholder") if n.target == name), None)
    if node is None:
        raise LoweringError(f"the graph has no input {name!r}")
    return node


def add_constant(module: GraphModule, name: str, tensor: torch.Tensor) -> Node:
    """Register ``tensor`` on the module and add the node that reads it, at the graph's insertion point.

    Views share storage with their base tensor, so reshaping a weight this way copies nothing.
    """
    unique, number = name, 0
    while hasattr(module, unique):
        number += 1
        unique = f"{name}_{number}"
    module.register_buffer(unique, tensor, persistent=False)
    node = module.graph.get_attr(unique)
    node.meta["val"] = fake_mode(module.graph).from_tensor(tensor, static_shapes=True)
    return node


def constant_of(module: GraphModule, node: Any) -> torch.Tensor | None:
    """The tensor behind a ``get_attr`` node, or ``None`` for any other."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    owner: Any = module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    return owner.detach() if isinstance(owner, torch.Tensor) else None


def output_values(graph: Graph) -> list[Node]:
    """The nodes that the graph returns."""
    (returned,) = graph.output_node().args
    values: Any = returned if isinstance(returned, tuple | list) else [returned]
    return list(values)


def set_outputs(graph: Graph, nodes: Sequence[Node]) -> None:
    """Make the graph return ``nodes`` as a flat tuple."""
    graph.output_node().args = (tuple(nodes),)
