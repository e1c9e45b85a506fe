"""The reference evaluator: what a captured network computes, in NumPy, layer by layer. Torch-free."""

from tt_edge.network.reference import (  # noqa: F401  (imported to register their kernels)
    attention,
    convolution,
    decoder,
    elementwise,
    indexing,
    linear,
    plugins,
    quantization,
    reductions,
    resize,
    shape_ops,
    slicing,
)
from tt_edge.network.reference.evaluator import Observer, ReferenceEvaluator
from tt_edge.network.reference.registry import KERNELS, kernel

__all__ = ["KERNELS", "Observer", "ReferenceEvaluator", "kernel"]
