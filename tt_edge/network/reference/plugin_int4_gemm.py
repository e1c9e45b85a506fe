"""The computation of NVIDIA's Int4GroupwiseGemmPlugin."""

from __future__ import annotations

import numpy as np

from tt_edge.errors import UnsupportedModelError
from tt_edge.network.plugins import plugin_fields
from tt_edge.network.reference.registry import BoundLayer, Compute
from tt_edge.plugins.edgellm.int4_packing import FIELDS, GROUP_SIZE, dequantize


def int4_groupwise_gemm(layer: BoundLayer) -> Compute:
    """Input 0 ``[B, S, K]`` by the transposed weight of inputs 1 and 2 (``plugins/edgellm/int4_packing.py``)."""
    fields = {name: int(value[0]) for name, (_, value) in plugin_fields(layer.layer).items()}
    rows, columns, group = (fields.get(name, 0) for name in FIELDS)
    if group != GROUP_SIZE:
        raise UnsupportedModelError(f"{layer} has group_size {group}; the plugin supports only {GROUP_SIZE}")
    read, write = layer.reader(0), layer.writer()
    weight, scales = layer.constant(1), layer.constant(2)
    known: np.ndarray | None = None
    if weight is not None and scales is not None and layer.store.reserve(rows * columns * 4):
        known = dequantize(weight, scales)

    def compute(x: np.ndarray, weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
        matrix = dequantize(weight, scales) if known is None else known
        return write(np.dot(read(x).reshape(-1, columns), matrix.T)).reshape(*x.shape[:-1], rows)

    return compute
