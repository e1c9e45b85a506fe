"""Running a part without state between calls, such as a vision tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import Feeds, IOContract
from tt_edge.folder import CheckedFile
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.runtime.engine.device_arrays import DeviceArray, OutputBuffers
from tt_edge.runtime.engine.engine_runner import EngineRunner
from tt_edge.tensorrt_api import TensorRT


class FeedForward(ABC):
    """A part that is called with all inputs and returns all outputs. One call at a time."""

    def __init__(self, contract: IOContract) -> None:
        self.contract = contract

    @abstractmethod
    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The contract's outputs by name; the next call may overwrite them."""

    def keep(self, feeds: Feeds) -> dict[str, np.ndarray | DeviceArray]:
        """As ``run``, of a batch of one: outputs without the batch, which stay as they are. They may be on the device."""
        return {name: array[0].copy() for name, array in self.run(feeds).items()}

    def close(self) -> None:  # noqa: B027 (an evaluator holds no device memory)
        """Release all resources. Closing twice is harmless."""


class ReferenceFeedForward(FeedForward):
    """Evaluates the captured network in NumPy."""

    def __init__(self, network: Network, contract: IOContract, arrays: Any = np) -> None:
        super().__init__(contract)
        self._evaluator = ReferenceEvaluator(network, arrays=arrays)

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

        self._kept = OutputBuffers(contract)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        sizes = self._sizes(feeds)
        results = {spec.name: self._runner.result(spec.name, **sizes) for spec in self.contract.outputs}
        self._call(feeds, self._runner.device, results)
        return results

    def keep(self, feeds: Feeds) -> dict[str, np.ndarray | DeviceArray]:
        """The engine writes them to their own device memory, and nothing is copied to the host, while there is room."""
        lease = self._kept.lease()
        if lease is None:
            return super().keep(feeds)
        self._call(feeds, lease.buffers, {})
        sizes = self._sizes(feeds)
        return {
            spec.name: DeviceArray(lease, spec.name, spec.resolve(**sizes)[1:], spec.dtype.numpy)
            for spec in self.contract.outputs
        }

    def _sizes(self, feeds: Feeds) -> dict[str, int]:
        return self.contract.output_sizes({name: array.shape for name, array in feeds.items()})

    def _call(self, feeds: Feeds, outputs: Mapping[str, cuda.Buffer], results: dict[str, np.ndarray]) -> None:
        """Run the engine with its ``outputs`` there, and copy ``results`` to the host."""
        runner = self._runner
        (context,) = runner.contexts
        shapes = {name: array.shape for name, array in feeds.items()}
        staged = runner.staging(0, shapes)
        for name, array in feeds.items():
            staged[name][...] = array
            runner.set_shape(context, name, array.shape)
        for spec in self.contract.outputs:
            runner.bind(context, spec.name, outputs[spec.name].address)
        runner.queue(0, staged, results, "the call")
        runner.stream.synchronize()

    def close(self) -> None:
        self._kept.close()
        self._runner.close()
