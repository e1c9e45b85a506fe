"""Running an engine with TensorRT."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.feeds import Feeds
from tt_edge.runtime.engine.kv_rows import Bytes, Region
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.tensorrt_engine import TensorRTEngine
from tt_edge.tensorrt_api import Flavour, TensorRT

_LOGGER = logging.getLogger("tt_edge.tensorrt")

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Everything that a step needs is allocated once, at the contract's largest sizes: device buffers, page-locked host
    buffers, one piece of memory for the activations of all execution contexts, of which there is one for each
    optimization profile. Each cache input and its output are bound to one address where the contract says that the cache
    is updated in place; otherwise to two, which change places after every step. Everything is queued on one stream, which
    is waited for once a step, for the logits. A decode step that repeats the shapes of the step before is captured in a
    CUDA graph, copies included, and launched as a whole from then on.

    What has been executed where: docs/laptop_to_thor.md.
    """

    def __init__(
        self,
        engine_file: CheckedFile,
        contract: EngineContract,
        tensorrt: TensorRT,
        *,
        weights: Mapping[str, np.ndarray] | None = None,
        holds_host_code: bool = False,
    ) -> None:
        super().__init__(contract)
        self._tensorrt = tensorrt
        self._engine: TensorRTEngine | None = None
        self._profiles: list[_Profile] = []
        self._device: dict[str, cuda.Buffer] = {}
        self._host: dict[str, cuda.HostBuffer] = {}
        self._swapped = False
        self._stream = cuda.Stream()
        try:
            self._engine = TensorRTEngine(
                engine_file, contract, tensorrt, weights=weights, holds_host_code=holds_host_code
            )
            self._allocate_buffers()
            self._profiles = [_Profile(context) for context in self._engine.make_contexts(self._stream)]
            for profile in self._profiles:
                self._bind_addresses(profile.context)
            self._stream.synchronize()
        except BaseException:
            self.close()
            raise

    @property
    def word(self) -> str:
        flavour = _NAMES.get(self._tensorrt.flavour, str(self._tensorrt.flavour))
        return f"executed by {flavour} {self._tensorrt.version} on {cuda.device_name()}"

    def close(self) -> None:
        """Release the engine and all memory. Closing twice is harmless."""
        for profile in self._profiles:
            profile.drop_graph()
        self._profiles.clear()  # and with them the contexts, before their engine
        if self._engine is not None:
            self._engine.close()
        for buffer in set(self._device.values()):  # a cache that is updated in place is there under two names
            buffer.close()
        for staging in self._host.values():
            staging.close()
        self._device, self._host = {}, {}
        self._stream.close()

    def _allocate_buffers(self) -> None:
        contract = self.contract
        largest = contract.largest
        caches = {name for pair in contract.kv_cache for name in (pair.past, pair.present)}
        # An output that updates a cache in place has no memory of its own.
        shared = {pair.present: pair.past for pair in contract.kv_cache if contract.kv_in_place}
        for spec in (*contract.inputs, *contract.outputs):
            nbytes = spec.dtype.nbytes(math.prod(spec.resolve(**largest)))
            if spec.name not in caches:
                self._host[spec.name] = cuda.HostBuffer(nbytes)
            if spec.name not in shared and spec.name not in SHAPE_TENSORS:
                self._device[spec.name] = cuda.Buffer(nbytes)
                # Once: a NaN in an unwritten place of the cache would survive a product with a weight of 0.
                self._device[spec.name].fill_zero(self._stream)
        for present, past in shared.items():
            self._device[present] = self._device[past]

    def _bind_addresses(self, context: Any) -> None:
        for spec in (*self.contract.inputs, *self.contract.outputs):
            # TensorRT reads shape tensors on the host.
            buffer = self._host[spec.name] if spec.name in SHAPE_TENSORS else self._device[spec.name]
            self._require(context.set_tensor_address(spec.name, buffer.address), f"the address of {spec.name}")

    def _allocate(self, batch: int) -> None:
        """Nothing: the buffers hold the largest batch, and its first rows serve a smaller one."""

    def _advance(self) -> None:
        self._swapped = not self._swapped and not self.contract.kv_in_place

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        generation = width <= GENERATION_TOKENS and len(self._profiles) > 1
        profile = self._profiles[GENERATION_PROFILE if generation else CONTEXT_PROFILE]
        staged = {name: self._host[name].view(array.shape, array.dtype) for name, array in feeds.items()}
        for name, array in feeds.items():
            staged[name][...] = array
        spec = self.contract.output("logits")
        logits = self._host["logits"].view(spec.resolve(batch=batch, sequence=width), spec.dtype.numpy)
        shapes = {name: array.shape for name, array in feeds.items()}
        binding = (shapes, rows.start, self._swapped)
        repeats = profile.binding == binding
        if not repeats:
            profile.drop_graph()
            profile.binding = None
            self._bind(profile.context, shapes, batch, rows.start)
            profile.binding = binding

        def queue() -> None:
            for name, array in staged.items():
                if name in self._device:
                    self._device[name].copy_from(array, self._stream)
            accepted = profile.context.execute_async_v3(self._stream.handle)
            self._require(accepted, f"{batch} rows of {width} tokens")
            self._device["logits"].copy_to(logits, self._stream)

        # TensorRT settles what depends on new shapes in the first step that has them, outside a graph.
        if repeats and generation and self._repeatable:
            self._launch(profile, queue)
        else:
            queue()
        self._stream.synchronize()
        return logits

    @property
    def _repeatable(self) -> bool:
        """Whether steps with the same shapes are the same work: no addresses that move, no values read on the host."""
        return self.contract.kv_in_place and not self.contract.in_lockstep

    def _launch(self, profile: _Profile, queue: Callable[[], None]) -> None:
        if profile.graph is None and profile.capturable:
            try:
                profile.graph = self._stream.capture(queue)
            except EngineError as error:
                profile.capturable = False
                _LOGGER.info("decode steps are not captured in a CUDA graph: %s", error)
        if profile.graph is None:
            queue()
        else:
            profile.graph.launch(self._stream)

    def _bind(self, context: Any, shapes: dict[str, Shape], batch: int, first_row: int) -> None:
        """Give ``context`` the shapes of a step and the part of the cache that holds its rows."""
        for spec in self.contract.inputs:
            shape = shapes.get(spec.name) or spec.resolve(batch=batch)  # a cache is not fed
            self._require(context.set_input_shape(spec.name, shape), f"shape {shape} for {spec.name}")
        if self.contract.kv_in_place:
            return  # all rows, at the addresses that the context has
        for pair in self.contract.kv_cache:
            spec = self.contract.input(pair.past)
            offset = first_row * spec.dtype.nbytes(math.prod(spec.resolve(batch=1)))
            read, write = (pair.present, pair.past) if self._swapped else (pair.past, pair.present)
            for name, buffer in ((pair.past, read), (pair.present, write)):
                address = self._device[buffer].address + offset
                self._require(context.set_tensor_address(name, address), f"the address of {name}")

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        runs = rows.view(np.uint8).reshape(1, 1, -1)
        offset = first * rows[:1].nbytes
        self._device[name].copy_runs_from(runs, offset, runs.nbytes, self._stream)
        self._stream.synchronize()

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
        return self._device[present if self._swapped else name]

    def _require(self, accepted: bool, what: str) -> None:
        assert self._engine is not None
        self._engine.require(accepted, what)


@dataclass
class _Profile:
    """An optimization profile's execution context, what it is bound to, and the graph of a step so bound."""

    context: Any
    #: Shapes of what is fed, the first of the cache's rows, and whether its two halves have changed places.
    binding: tuple[dict[str, Shape], int, bool] | None = None
    graph: cuda.Graph | None = None
    capturable: bool = True

    def drop_graph(self) -> None:
        if self.graph is not None:
            graph, self.graph = self.graph, None
            graph.close()
