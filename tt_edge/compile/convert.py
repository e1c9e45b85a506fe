"""From a lowered graph to a captured TensorRT network, with torch_tensorrt's converters, with or without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch.fx import GraphModule

from tt_edge.compile.gpuless import torch_tensorrt_on_this_host
from tt_edge.contract import ShapeRange, TensorSpec
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import Converters
from tt_edge.network.capture import capture
from tt_edge.network.ir import Network
from tt_edge.network.plugins import recording
from tt_edge.tensorrt_api import TensorRT

_SETTINGS = {"immutable_weights": True}


def converters() -> Converters:
    """The operators that ``convert_graph`` has converters for; a graph's ``LoweringContext`` needs them.

    The first call imports torch_tensorrt, which takes about a second.
    """
    with torch_tensorrt_on_this_host():
        from torch_tensorrt.dynamo._settings import CompilationSettings
        from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_CONVERTERS
        from torch_tensorrt.dynamo.lowering import get_decompositions

        import tt_edge.plugins.converters.edgellm
        import tt_edge.plugins.converters.native
        import tt_edge.plugins.converters.quantization
        import tt_edge.plugins.converters.sdpa  # noqa: F401  (registers the converters, as do the three above)

        DYNAMO_CONVERTERS.set_compilation_settings(CompilationSettings(**_SETTINGS))
        return Converters(lambda node: DYNAMO_CONVERTERS.get(node) is not None, get_decompositions(False, False))


def convert_graph(
    module: GraphModule,
    inputs: Sequence[tuple[TensorSpec, ShapeRange]],
    outputs: Sequence[str],
    name: str,
) -> Network:
    """Convert any lowered graph to a captured network, whose weights keep their memory alive.

    The graph must have been lowered with ``converters()``. ``inputs`` describe its placeholders in order, ``outputs`` name
    its results. torch_tensorrt's interpreter walks the graph and calls its converters and ours; the steps after network
    construction (building, deserializing) are not used, because they need a GPU. Raises ``LoweringError`` when an operator
    has no converter or TensorRT refuses a layer.
    """
    with torch_tensorrt_on_this_host() as torch_tensorrt, torch.no_grad():
        from torch_tensorrt.dynamo._settings import CompilationSettings
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter

        tensorrt = _bound_tensorrt()
        with patch.object(_TRTInterpreter, "TRT_LOGGER", tensorrt.logger):  # TensorRT has room for one logger only
            interpreter = _TRTInterpreter.TRTInterpreter(
                module,
                [_input(torch_tensorrt, spec, shapes) for spec, shapes in inputs],
                compilation_settings=CompilationSettings(**_SETTINGS),
                input_binding_names=[spec.name for spec, _ in inputs],
                output_binding_names=list(outputs),
            )
        try:
            with recording() as plugins:
                interpreter._construct_trt_network_def()
        except Exception as error:
            node = interpreter._cur_node_name
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LoweringError(
                f"TensorRT has no form for node {node}: {reason}; run with --debug for where"
            ) from error
        owner = (module, interpreter.ctx.cpu_weights_reference_holder, interpreter)
        return capture(tensorrt, interpreter.ctx.net, name, plugins, owner)


def _input(torch_tensorrt: ModuleType, spec: TensorSpec, shapes: ShapeRange) -> Any:
    dtype = getattr(torch, spec.dtype.value)
    if all(isinstance(size, int) for size in spec.shape):
        return torch_tensorrt.Input(shape=spec.shape, dtype=dtype, name=spec.name)
    return torch_tensorrt.Input(
        min_shape=shapes.min, opt_shape=shapes.opt, max_shape=shapes.max, dtype=dtype, name=spec.name
    )


def _bound_tensorrt() -> TensorRT:
    """The TensorRT package that torch_tensorrt is built on."""
    from torch_tensorrt._features import ENABLED_FEATURES

    from tt_edge.tensorrt_api import Flavour, load

    return load(Flavour.RTX if ENABLED_FEATURES.tensorrt_rtx else Flavour.STANDARD)
