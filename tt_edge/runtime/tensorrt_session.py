"""Running an engine with TensorRT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import (
    CONTEXT_PROFILE,
    GENERATION_PROFILE,
    GENERATION_TOKENS,
    SHAPE_TENSORS,
    EngineContract,
    Shape,
)
from tt_edge.errors import EngineError
from tt_edge.runtime.feeds import Feeds
from tt_edge.runtime.kv_rows import Bytes, Region
from tt_edge.runtime.session import Session
from tt_edge.tensorrt_api import Flavour, TensorRT

#: Shapes of what is fed, the first of the cache's rows, and whether its two halves have changed places.
_Binding = tuple[dict[str, Shape], int, bool]

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Execution contexts, one for each optimization profile, share device buffers that are allocated once at the contract's
    largest sizes. Each cache input and its output are bound to one address where the contract says that the cache is
    updated in place; otherwise to two, which change places after every step. Everything is queued on one stream, which is
    waited for once a step.

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
        self._bound: list[_Binding | None] = []  # what each context's shapes and addresses are for
        self._buffers: dict[str, cuda.Buffer] = {}
        self._host: dict[str, np.ndarray] = {}
        self._swapped = False
        self._stream = cuda.Stream()
        try:
            self._load(engine_file)
            self._allocate_buffers()
            for profile in range(len(contract.profiles())):
                self._contexts.append(self._make_context(profile))
                self._bound.append(None)
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
        largest = contract.largest
        # An output that updates a cache in place has no memory of its own.
        shared = {pair.present: pair.past for pair in contract.kv_cache if contract.kv_in_place}
        for spec in (*contract.inputs, *contract.outputs):
            if spec.name in SHAPE_TENSORS:  # TensorRT reads these on the host
                self._host[spec.name] = np.zeros(spec.resolve(), spec.dtype.numpy)
            elif spec.name not in shared:
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
        addresses = {name: buffer.address for name, buffer in self._buffers.items()}
        addresses |= {name: array.ctypes.data for name, array in self._host.items()}
        for name, address in addresses.items():
            self._checked(context.set_tensor_address(name, address), f"the address of {name}")
        return context

    def _allocate(self, batch: int) -> None:
        """Nothing: the buffers hold the largest batch, and its first rows serve a smaller one."""

    def _advance(self) -> None:
        self._swapped = not self._swapped and not self.contract.kv_in_place

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        generation = width <= GENERATION_TOKENS and len(self._contexts) > 1
        profile = GENERATION_PROFILE if generation else CONTEXT_PROFILE
        context = self._contexts[profile]
        for name, array in feeds.items():
            if name in self._host:
                self._host[name][...] = array
            else:
                self._buffers[name].copy_from(array, self._stream)
        shapes = {name: array.shape for name, array in feeds.items()}
        if self._bound[profile] != (shapes, rows.start, self._swapped):
            self._bind(context, shapes, batch, rows.start)
            self._bound[profile] = (shapes, rows.start, self._swapped)
        self._checked(context.execute_async_v3(self._stream.handle), f"{batch} rows of {width} tokens")
        spec = self.contract.output("logits")
        logits = np.empty(spec.resolve(batch=batch, sequence=width), spec.dtype.numpy)
        self._buffers["logits"].copy_to(logits, self._stream)
        self._stream.synchronize()
        return logits

    def _bind(self, context: Any, shapes: dict[str, Shape], batch: int, first_row: int) -> None:
        """Give ``context`` the shapes of a step and the part of the cache that holds its rows."""
        for spec in self.contract.inputs:
            shape = shapes.get(spec.name) or spec.resolve(batch=batch)  # a cache is not fed
            self._checked(context.set_input_shape(spec.name, shape), f"shape {shape} for {spec.name}")
        if self.contract.kv_in_place:
            return  # all rows, at the addresses that the context has
        for pair in self.contract.kv_cache:
            spec = self.contract.input(pair.past)
            offset = first_row * spec.dtype.nbytes(math.prod(spec.resolve(batch=1)))
            read, write = (pair.present, pair.past) if self._swapped else (pair.past, pair.present)
            for name, buffer in ((pair.past, read), (pair.present, write)):
                address = self._buffers[buffer].address + offset
                self._checked(context.set_tensor_address(name, address), f"the address of {name}")

    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        data = np.empty((region.runs, length, region.token_bytes), np.uint8)
        self._past_buffer(name).copy_runs_to(data, region.offset, region.pitch, self._stream)
        self._stream.synchronize()
        return data

    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        data = np.ascontiguousarray(data)
        self._past_buffer(name).copy_runs_from(data, region.offset, region.pitch, self._stream)
        self._stream.synchronize()

    def _past_buffer(self, name: str) -> cuda.Buffer:
        """Where the cache that the next step reads lies."""
        present = next(pair.present for pair in self.contract.kv_cache if pair.past == name)
        return self._buffers[present if self._swapped else name]

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
