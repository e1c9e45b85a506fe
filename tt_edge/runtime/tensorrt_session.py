"""Running an engine with TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, GENERATION_TOKENS, EngineContract
from tt_edge.errors import EngineError
from tt_edge.runtime.session import Feeds, Session
from tt_edge.tensorrt_api import Flavour, TensorRT

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Two execution contexts, one for each optimization profile, share device buffers that are allocated once at the
    contract's largest sizes; each cache input and its output are bound to one address. Everything is queued on one
    stream, which is waited for once a step.

    No engine has been executed so far: this is written against the Python bindings of TensorRT-RTX 1.6.1, whose
    functions a test checks for existence. What surrounds them (memory, copies, the choice of profile) has run on an
    H100, which TensorRT-RTX does not support, with the reference evaluator in the engine's place.
    """

    def __init__(self, engine_file: Path, contract: EngineContract, tensorrt: TensorRT) -> None:
        super().__init__(contract)
        self._tensorrt = tensorrt
        self._runtime: Any = None
        self._engine: Any = None
        self._contexts: list[Any] = []
        self._shapes: list[tuple[int, int] | None] = [None, None]  # batch and width last given to each context
        self._buffers: dict[str, cuda.Buffer] = {}
        self._stream = cuda.Stream()
        try:
            self._load(engine_file)
            self._allocate_buffers()
            for profile in (CONTEXT_PROFILE, GENERATION_PROFILE):
                self._contexts.append(self._make_context(profile))
            self._stream.synchronize()
        except BaseException:
            self.close()
            raise

    @property
    def word(self) -> str:
        flavour = _NAMES.get(self._tensorrt.flavour, str(self._tensorrt.flavour))
        return f"executed by {flavour} {self._tensorrt.version} on {cuda.device_name()}"

    def close(self) -> None:
        """Release the engine and all device memory. Closing twice is harmless."""
        self._contexts.clear()
        self._engine = self._runtime = None
        buffers = set(self._buffers.values())
        self._buffers = {}
        for buffer in buffers:
            buffer.close()
        self._stream.close()

    def _load(self, engine_file: Path) -> None:
        self._runtime = self._tensorrt.module.Runtime(self._tensorrt.logger)
        # Mapped, not read: an engine is as large as the model's weights.
        self._engine = self._runtime.deserialize_cuda_engine(np.memmap(engine_file, np.uint8, mode="r"))
        if self._engine is None:
            raise EngineError(
                f"TensorRT {self._tensorrt.version} does not load {engine_file.name} on {cuda.device_name()}"
                f"{self._reason()}; build an engine here with --engine local, or use --runtime reference"
            )
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        expected = {spec.name for spec in (*self.contract.inputs, *self.contract.outputs)}
        if names != expected:
            raise EngineError(
                f"{engine_file.name} has other inputs and outputs than the bundle's contract "
                f"({', '.join(sorted(names ^ expected))}); compile the model again"
            )

    def _allocate_buffers(self) -> None:
        contract = self.contract
        largest = {"batch": contract.max_batch, "sequence": contract.max_input_len}
        # An output that updates a cache has no memory of its own.
        shared = {pair.present: pair.past for pair in contract.kv_cache}
        for spec in (*contract.inputs, *contract.outputs):
            if spec.name not in shared:
                count = int(np.prod(spec.resolve(**largest), dtype=np.int64))
                self._buffers[spec.name] = cuda.Buffer(spec.dtype.nbytes(count))
                # Once: a NaN in an unwritten place of the cache would survive a product with a weight of 0.
                self._buffers[spec.name].fill_zero(self._stream)
        for present, past in shared.items():
            self._buffers[present] = self._buffers[past]

    def _make_context(self, profile: int) -> Any:
        # Memory for this profile's activations alone; the other strategies take the largest profile's for each context.
        strategy = self._tensorrt.module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        context = self._engine.create_execution_context(strategy)
        if context is None or not context.set_optimization_profile_async(profile, self._stream.handle):
            raise EngineError(
                f"TensorRT cannot make an execution context for profile {profile}{self._reason()}; "
                "free device memory or compile with a smaller --max-input-len"
            )
        for name, buffer in self._buffers.items():
            self._checked(context.set_tensor_address(name, buffer.address), f"the address of {name}")
        return context

    def _allocate(self, batch: int) -> None:
        """Nothing: the buffers hold the largest batch, and its first rows serve a smaller one."""

    def _execute(self, feeds: Feeds) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        profile = GENERATION_PROFILE if width <= GENERATION_TOKENS else CONTEXT_PROFILE
        context = self._contexts[profile]
        for name, array in feeds.items():
            self._buffers[name].copy_from(array, self._stream)
        if self._shapes[profile] != (batch, width):
            for spec in self.contract.inputs:
                shape = spec.resolve(batch=batch, sequence=width)
                self._checked(context.set_input_shape(spec.name, shape), f"shape {shape} for {spec.name}")
            self._shapes[profile] = (batch, width)
        self._checked(context.execute_async_v3(self._stream.handle), f"{batch} rows of {width} tokens")
        spec = self.contract.output("logits")
        logits = np.empty(spec.resolve(batch=batch, sequence=width), spec.dtype.numpy)
        self._buffers["logits"].copy_to(logits, self._stream)
        self._stream.synchronize()
        return logits

    def _checked(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineError(
                f"TensorRT {self._tensorrt.version} refuses {what}{self._reason()}; compile the model again "
                "for this machine with --engine local, or use --runtime reference"
            )

    def _reason(self) -> str:
        """What TensorRT logged last, on one line and in parentheses, if anything."""
        reason = " ".join(self._tensorrt.log.last_error().split())
        return f" ({reason})" if reason else ""
