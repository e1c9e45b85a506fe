"""Running a bundle's vision network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from tt_edge import cuda
from tt_edge.folder import CheckedFile
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.runtime.engine.tensorrt_engine import TensorRTEngine
from tt_edge.runtime.multimodal.vision_inputs import VisionInputs
from tt_edge.tensorrt_api import TensorRT
from tt_edge.vision_contract import VisionContract


class VisionSession(ABC):
    """One call at a time: inputs of ``vision_inputs.vision_inputs`` in, tables of features out."""

    def __init__(self, contract: VisionContract) -> None:
        self.contract = contract

    @abstractmethod
    def run(self, feeds: VisionInputs) -> dict[str, np.ndarray]:
        """The contract's outputs by name, ``[rows, hidden]``; the next call may write over them."""

    def close(self) -> None:  # noqa: B027 (an evaluator holds no device memory)
        """Release what the session holds. Closing twice is harmless."""


class ReferenceVision(VisionSession):
    """Evaluates the captured network in NumPy."""

    def __init__(self, network: Network, contract: VisionContract) -> None:
        super().__init__(contract)
        self._evaluator = ReferenceEvaluator(network)

    def run(self, feeds: VisionInputs) -> dict[str, np.ndarray]:
        return self._evaluator.run(feeds)


class TensorRTVision(VisionSession):
    """Executes an engine file on the current GPU, with memory for its largest call. Raises as ``TensorRTEngine`` does."""

    def __init__(
        self,
        engine_file: CheckedFile,
        contract: VisionContract,
        tensorrt: TensorRT,
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        holds_host_code: bool = False,
    ) -> None:
        super().__init__(contract)
        self._engine: TensorRTEngine | None = None
        self._device: dict[str, cuda.Buffer] = {}
        self._host: dict[str, cuda.HostBuffer] = {}
        self._stream = cuda.Stream()
        try:
            engine = self._engine = TensorRTEngine(
                engine_file, contract, tensorrt, weights=weights, holds_host_code=holds_host_code
            )
            (self._context,) = engine.make_contexts(self._stream)
            for spec in (*contract.inputs, *contract.outputs):
                nbytes = spec.dtype.nbytes(math.prod(spec.resolve(**contract.largest)))
                self._device[spec.name] = cuda.Buffer(nbytes)
                self._host[spec.name] = cuda.HostBuffer(nbytes)
                accepted = self._context.set_tensor_address(spec.name, self._device[spec.name].address)
                engine.require(accepted, f"the address of {spec.name}")
        except BaseException:
            self.close()
            raise

    def run(self, feeds: VisionInputs) -> dict[str, np.ndarray]:
        engine = self._engine
        assert engine is not None
        for name, array in feeds.items():
            staged = self._host[name].view(array.shape, array.dtype)
            staged[...] = array
            self._device[name].copy_from(staged, self._stream)
            engine.require(self._context.set_input_shape(name, array.shape), f"shape {array.shape} for {name}")
        engine.require(self._context.execute_async_v3(self._stream.handle), "the vision step")
        units = len(next(iter(feeds.values())))
        sizes = {"rows": units * self.contract.geometry.tokens_a_unit}
        results = {}
        for spec in self.contract.outputs:
            results[spec.name] = self._host[spec.name].view(spec.resolve(**sizes), spec.dtype.numpy)
            self._device[spec.name].copy_to(results[spec.name], self._stream)
        self._stream.synchronize()
        return results

    def close(self) -> None:
        self._context = None
        if self._engine is not None:
            self._engine.close()
        for buffer in self._device.values():
            buffer.close()
        for staging in self._host.values():
            staging.close()
        self._device, self._host = {}, {}
        self._stream.close()
