"""Engines with a fault: the reference evaluator behind the interface that debugging engines have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tests.network.reference.building import DecoderShape, decoder, decoder_feeds, step_feeds
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.reference.compare import own_feeds
from tt_edge.proof.bisect.graph import with_outputs

SHAPE = DecoderShape(layers=4, scale=0.3)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def network_and_feeds(dtype: DType = DType.FLOAT16) -> tuple[Network, dict[str, np.ndarray]]:
    """A decoder of four layers, whose TensorRT layers are named as the exporter names them, and a prefill of two rows."""
    network = decoder(SHAPE, dtype)
    norms = 0
    for layer in network.layers:
        norms += layer.kind == "CAST" and layer.attributes["to_type"] == "float32" and layer.outputs != ["logits"]
        if layer.kind != "CONSTANT" and 0 < norms <= 2 * SHAPE.layers:  # two a block, and one before the head
            layer.name = f"model.model.layers.{(norms - 1) // 2}/{layer.name}"
    return network, {**step_feeds(IDS, 0), **decoder_feeds(SHAPE, dtype, len(IDS))}


def broken(value: np.ndarray) -> np.ndarray:
    """A wrong result of the same type."""
    wide = value.astype(np.float32)
    return (wide * 1.5 + wide.std() + 0.1).astype(value.dtype)


class FaultyEngine:
    """Computes ``layer`` wrongly, unless one of ``fused`` is an output of the engine: then what is fused is not.

    ``refuses`` are tensors with which no engine can be built. ``built`` are the marks of every engine.
    """

    def __init__(
        self,
        network: Network,
        feeds: Mapping[str, np.ndarray],
        layer: str | None,
        fused: Sequence[str] = (),
        refuses: Sequence[str] = (),
    ) -> None:
        self.network, self.feeds, self.layer = network, feeds, layer
        self.fused, self.refuses = set(fused), set(refuses)
        self.built: list[tuple[str, ...]] = []

    def __call__(self, marked: Sequence[str]) -> dict[str, np.ndarray]:
        self.built.append(tuple(marked))
        if self.refuses & set(marked):
            raise EngineError("TensorRT refuses this output")
        evaluator = ReferenceEvaluator(with_outputs(self.network, marked), fold_constants=False)
        if self.layer is not None and not self.fused & set(marked):
            (step,) = (step for step in evaluator._steps if step.layer.name == self.layer)
            compute = step.compute
            step.compute = lambda *inputs: broken(np.asarray(compute(*inputs)))
        return evaluator.run(own_feeds(self.feeds))
