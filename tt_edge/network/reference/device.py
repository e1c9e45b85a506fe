"""Evaluating on a GPU: which tensors are CuPy's arrays there, and which stay NumPy's.

The kernels are written with NumPy's functions, which hand CuPy's arrays to CuPy. Numbers of the model (floating-point and 8-bit
tensors) are on the device. Integers and booleans (token ids, positions, lengths, shapes, masks) stay in host memory, where
kernels read them as Python's numbers; a layer that computes with both gets copies of them on the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import EngineError, MissingDependencyError, UnsupportedModelError, one_line
from tt_edge.network.ir import Layer, Network

_ON_HOST = (DType.INT64, DType.INT32, DType.BOOL)
_ON_DEVICE = (DType.FLOAT32, DType.FLOAT16, DType.INT8, DType.UINT8)

#: Inputs that kernels read as Python's numbers, by layer kind: from this one on.
_PARAMETERS = {
    "ATTENTION": 4,
    "CUMULATIVE": 1,
    "FILL": 0,
    "KV_CACHE_UPDATE": 2,
    "ONE_HOT": 0,
    "RESIZE": 1,
    "SHUFFLE": 1,
    "SLICE": 1,
    "SQUEEZE": 1,
    "TOPK": 1,
    "UNSQUEEZE": 1,
}


def cupy() -> Any:
    """The ``cupy`` module. Raises ``MissingDependencyError`` without the package, and ``EngineError`` without a GPU."""
    try:
        module = importlib.import_module("cupy")
    except ImportError as error:
        raise MissingDependencyError(
            f"--device cuda needs CuPy ({one_line(error)}); install tt-edge[cupy], or omit --device"
        ) from error
    try:
        module.cuda.runtime.getDevice()
        module.zeros(1)
    except Exception as error:  # CuPy's own classes, for a missing driver, GPU or library
        raise EngineError(
            f"CuPy {module.__version__} finds no usable GPU ({one_line(error)}); install an NVIDIA driver, or omit --device"
        ) from error
    return module


def check(network: Network) -> None:
    """Raise ``UnsupportedModelError`` for a tensor of a type that CuPy does not have."""
    strange = next((t for t in network.tensors.values() if t.dtype not in (*_ON_HOST, *_ON_DEVICE)), None)
    if strange is not None:
        raise UnsupportedModelError(
            f"{strange.name!r} is {strange.dtype}, which CuPy lacks; omit --device, or compile with --precision fp16 or fp32"
        )


def free_memory(arrays: Any) -> int:
    """Bytes of device memory that are free."""
    free, _ = arrays.cuda.runtime.memGetInfo()
    return int(free)


def to_host(value: Any) -> np.ndarray:
    """``value`` as a NumPy array; one that is NumPy's already passes uncopied."""
    return value if isinstance(value, np.ndarray) else np.asarray(value.get() if hasattr(value, "get") else value)


def placed(value: Any, dtype: DType, arrays: Any) -> Any:
    """``value`` where a tensor of ``dtype`` belongs."""
    if dtype in _ON_HOST:
        return to_host(value)
    return value if isinstance(value, arrays.ndarray) else arrays.asarray(value)


def on_device(compute: Callable[..., Any], layer: Layer, network: Network, arrays: Any) -> Callable[..., Any]:
    """``compute``, the function of ``layer``, for values that are where they belong; so is its result."""
    outputs = [network.tensors[name].dtype for name in layer.outputs]
    inputs = [None if name is None else network.tensors[name].dtype for name in layer.inputs]
    mixed = any(dtype in _ON_DEVICE for dtype in (*inputs, *outputs))
    limit = _PARAMETERS.get(layer.kind, len(inputs))
    copied = {index for index, dtype in enumerate(inputs[:limit]) if mixed and dtype in _ON_HOST}

    def run(*values: Any) -> Any:
        given = [
            arrays.asarray(value) if index in copied and value is not None else value
            for index, value in enumerate(values)
        ]
        result = compute(*given)
        if isinstance(result, tuple):
            return tuple(placed(one, dtype, arrays) for one, dtype in zip(result, outputs, strict=True))
        return placed(result, outputs[0], arrays)

    return run
