"""Quantizing a model: modelopt calibrates, then the linear layers are replaced by ``QuantizedLinear``, one at a time::

statistics = calibrate(model, recipe, batches)    # from modelopt, a few numbers per layer
quantize_model(model, recipe, statistics)
"""

from tt_edge.compile.quantize.calibrate import STATISTICS_FILE, calibrate, from_bytes, to_bytes
from tt_edge.compile.quantize.data import CalibrationData, load_batches
from tt_edge.compile.quantize.layers import Statistics, layers_to_quantize, quantize_model

__all__ = [
    "STATISTICS_FILE",
    "CalibrationData",
    "Statistics",
    "calibrate",
    "from_bytes",
    "layers_to_quantize",
    "load_batches",
    "quantize_model",
    "to_bytes",
]
