"""Loading an engine file with TensorRT: adding weights, checking it, and creating its execution contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import IOContract
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.network.capture import DTYPES
from tt_edge.tensorrt_api import TensorRT


class TensorRTEngine:
    """A deserialized engine on the current GPU.

    ``weights`` are added to a stripped engine, by the names that the build gave them. ``holds_host_code`` says that the
    engine contains its own runtime, as version-compatible ones do: TensorRT loads these only if told to. Raises
    ``EngineError`` for an engine that TensorRT refuses or that does not match the contract.
    """

    def __init__(
        self,
        file: CheckedFile,
        contract: IOContract,
        tensorrt: TensorRT,
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        holds_host_code: bool = False,
    ) -> None:
        self.tensorrt, self.contract = tensorrt, contract
        self._memory: cuda.Buffer | None = None
        self._runtime: Any = tensorrt.module.Runtime(tensorrt.logger)
        if holds_host_code:
            self._runtime.engine_host_code_allowed = True
        # Mapped, not read: an engine is as large as the model's weights.
        self._engine: Any = self._runtime.deserialize_cuda_engine(np.frombuffer(file.map(), np.uint8))
        if self._engine is None:
            raise EngineError(
                f"TensorRT {tensorrt.version} does not load {file.name} on {cuda.device_name()}{self.reason()}; "
                "build an engine here with `tt-edge build`, or use --runtime reference"
            )
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        expected = {spec.name for spec in (*contract.inputs, *contract.outputs)}
        if names != expected:
            raise EngineError(
                f"{file.name} has other inputs and outputs than the bundle's contract "
                f"({', '.join(sorted(names ^ expected))}); compile the model again"
            )
        if weights is not None:
            self._refit(file.name, weights)

    def _refit(self, name: str, weights: Mapping[str, np.ndarray]) -> None:
        trt = self.tensorrt.module
        refitter = trt.Refitter(self._engine, self.tensorrt.logger)
        for key in refitter.get_all_weights():
            if key not in weights:
                raise EngineError(f"{name} lacks the weights {key!r}, and so does the bundle; build the engine again")
            array = weights[key]  # memory-mapped, so its address stays valid until the refit is done
            dtype = refitter.get_weights_prototype(key).dtype
            given = trt.Weights(dtype, array.ctypes.data, array.nbytes * 8 // DTYPES[dtype.name].bits)
            self.require(refitter.set_named_weights(key, given), f"the weights {key!r} of {name}")
        self.require(refitter.refit_cuda_engine(), f"the weights of {name}")

    def make_contexts(self, stream: cuda.Stream) -> list[Any]:
        """One execution context for each optimization profile.

        All share one block of device memory for activations: they run one after the other, on one stream.
        """
        trt, profiles = self.tensorrt.module, range(len(self.contract.profiles()))
        sizes = [self._engine.get_device_memory_size_for_profile_v2(profile) for profile in profiles]
        self._memory = memory = cuda.Buffer(max(sizes))
        contexts = []
        for profile in profiles:
            context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is None or not context.set_optimization_profile_async(profile, stream.handle):
                raise EngineError(
                    f"TensorRT cannot make an execution context for profile {profile}{self.reason()}; "
                    "free device memory or compile with a smaller --max-input-len"
                )
            context.set_device_memory(memory.address, memory.nbytes)
            contexts.append(context)
        return contexts

    def require(self, accepted: bool, what: str) -> None:
        """Raise ``EngineError`` unless TensorRT ``accepted`` ``what``."""
        if not accepted:
            raise EngineError(
                f"TensorRT {self.tensorrt.version} refuses {what}{self.reason()}; build an engine here with "
                "`tt-edge build`, or use --runtime reference"
            )

    def reason(self) -> str:
        """TensorRT's last logged error, on one line and in parentheses; empty if there is none."""
        reason = " ".join(self.tensorrt.log.last_error().split())
        return f" ({reason})" if reason else ""

    def close(self) -> None:
        """Release the engine and its memory. Its contexts must be released before."""
        self._engine = self._runtime = None
        if self._memory is not None:
            self._memory.close()
