"""Running a part without state between calls, such as a vision tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from tt_edge.contract import Feeds, IOContract
from tt_edge.folder import CheckedFile
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.runtime.engine.engine_runner import EngineRunner
from tt_edge.tensorrt_api import TensorRT


class FeedForward(ABC):
    """A part that is called with all inputs and returns all outputs. One call at a time."""

    def __init__(self, contract: IOContract) -> None:
        self.contract = contract

    @abstractmethod
    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The contract's outputs by name; the next call may overwrite them."""

    def close(self) -> None:  # noqa: B027 (an evaluator holds no device memory)
        """Release all resources. Closing twice is harmless."""


class ReferenceFeedForward(FeedForward):
    """Evaluates the captured network in NumPy."""

    def __init__(self, network: Network, contract: IOContract) -> None:
        super().__init__(contract)
        self._evaluator = ReferenceEvaluator(network)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._evaluator.run(feeds)


class TensorRTFeedForward(FeedForward):
    """Executes an engine file on the current GPU. Raises like ``EngineRunner``."""

    def __init__(
        self,
        engine_file: CheckedFile,
        contract: IOContract,
        tensorrt: TensorRT,
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        holds_host_code: bool = False,
    ) -> None:
        super().__init__(contract)
        self._runner = EngineRunner(engine_file, contract, tensorrt, weights=weights, holds_host_code=holds_host_code)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        runner = self._runner
        (context,) = runner.contexts
        staged = runner.stage(feeds)
        for name, array in feeds.items():
            runner.set_shape(context, name, array.shape)
        sizes = self.contract.output_sizes({name: array.shape for name, array in feeds.items()})
        results = {spec.name: runner.result(spec.name, **sizes) for spec in self.contract.outputs}
        runner.queue(context, staged, results, "the call")
        runner.stream.synchronize()
        return results

    def close(self) -> None:
        self._runner.close()
