"""Loading an engine file with TensorRT: adding weights, checking it, and creating its execution contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import IOContract, Shape, TensorSpec
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
        self._check(file.name)
        if weights is not None:
            self._refit(file.name, weights)

    def _check(self, name: str) -> None:
        """Raise ``EngineError`` unless the engine's inputs and outputs have the contract's names, types and fixed sizes.

        Buffers are allocated by the contract, and TensorRT reads and writes them by the engine: it checks no sizes.
        """
        engine, specs = self._engine, {spec.name: spec for spec in (*self.contract.inputs, *self.contract.outputs)}
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != specs.keys():
            raise EngineError(
                f"{name} has other inputs and outputs than the bundle's contract "
                f"({', '.join(sorted(names ^ specs.keys()))}); compile the model again"
            )
        for tensor, spec in specs.items():
            kind, shape = engine.get_tensor_dtype(tensor).name, tuple(engine.get_tensor_shape(tensor))
            if DTYPES.get(kind) is not spec.dtype or not _fits(shape, spec):
                raise EngineError(
                    f"{name} has {tensor} as {kind} {list(shape)}, and the bundle's contract as {spec.dtype} "
                    f"{list(spec.shape)}; compile the model again"
                )

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


def _fits(shape: Shape, spec: TensorSpec) -> bool:
    """Whether ``shape``, with -1 for sizes that vary, has the dimensions of ``spec``, and its sizes where both fix one."""
    return len(shape) == len(spec.shape) and all(
        isinstance(wanted, str) or size in (-1, wanted) for size, wanted in zip(shape, spec.shape, strict=True)
    )
