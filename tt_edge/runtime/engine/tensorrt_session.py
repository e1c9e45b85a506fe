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
    BATCH,
    CONTEXT_PROFILE,
    GENERATION_PROFILE,
    GENERATION_TOKENS,
    Feeds,
    IOContract,
    Shape,
)
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.engine_runner import EngineRunner
from tt_edge.runtime.engine.kv_rows import Bytes, Region
from tt_edge.runtime.engine.session import Session
from tt_edge.tensorrt_api import Flavour, TensorRT

_LOGGER = logging.getLogger("tt_edge.tensorrt")

#: Bytes. TensorRT does not say how tensors must be aligned; what ``cudaMalloc`` guarantees is enough.
_ALIGNMENT = 256

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Everything that a step needs is allocated once (``EngineRunner``). If the contract says that the cache is updated in
    place, each cache input and its output are bound to one address; otherwise to two, which change places for the slots of a step
    after it. A step of slots from the n-th on is bound to the cache at the n-th slot's offset. The host waits for the stream
    once per step, for the logits. When a decode step repeats the slots and shapes of the previous decode step, it is captured
    in a CUDA graph, including copies, which is launched as a whole from then on.

    docs/laptop_to_thor.md says what has been executed where.
    """

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
        self._swapped = np.zeros(contract.max_batch, np.bool_)  # of each slot: its past is in the second buffer
        self._runner = EngineRunner(engine_file, contract, tensorrt, weights=weights, holds_host_code=holds_host_code)
        self._profiles = [_Profile(context) for context in self._runner.contexts]

    @property
    def word(self) -> str:
        tensorrt = self._runner.tensorrt
        flavour = _NAMES.get(tensorrt.flavour, str(tensorrt.flavour))
        return f"executed by {flavour} {tensorrt.version} on {cuda.device_name()}"

    def close(self) -> None:
        for profile in self._profiles:
            profile.drop_graph()
        self._profiles.clear()
        self._runner.close()

    def _allocate(self, batch: int) -> None:
        """The buffers hold the largest batch, and smaller batches use its first slots."""
        self._swapped[:] = False

    def _buffer_of(self, slot: int) -> int:
        return int(self._swapped[slot])

    @property
    def starts_anywhere(self) -> bool:
        """Whether every slot's part of a cache that is updated in place has an address that TensorRT takes."""
        return not self.contract.kv_in_place or all(
            self._slot_bytes(pair.past) % _ALIGNMENT == 0 for pair in self.contract.kv_cache
        )

    def _slot_bytes(self, name: str) -> int:
        """Bytes from one slot's part of the cache tensor to the next one's; 0 for a pool of pages, which has no such parts."""
        spec = self.contract.input(name)
        return spec.dtype.nbytes(math.prod(spec.resolve(batch=1))) if spec.shape[0] == BATCH else 0

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        generation = width <= GENERATION_TOKENS and len(self._profiles) > 1
        profile = self._profiles[GENERATION_PROFILE if generation else CONTEXT_PROFILE]
        runner = self._runner
        staged = runner.stage(feeds)
        logits = runner.result("logits", batch=batch, sequence=width)
        shapes = {name: array.shape for name, array in feeds.items()}
        binding = (shapes, rows.start, bool(self._swapped[rows.start]))
        repeats = profile.binding == binding
        if not repeats:
            profile.drop_graph()
            profile.binding = None
            self._bind(profile, shapes, batch, binding[1:])
            profile.binding = binding

        def queue() -> None:
            runner.queue(profile.context, staged, {"logits": logits}, f"{batch} rows of {width} tokens")

        # TensorRT prepares for new shapes in the first step that has them, which must be outside a graph.
        if repeats and generation and self._repeatable:
            self._launch(profile, queue)
        else:
            queue()
        runner.stream.synchronize()
        if not self.contract.kv_in_place:
            self._swapped[rows] ^= True
        return logits

    @property
    def _repeatable(self) -> bool:
        """Whether steps with the same shapes can replay one graph: no changing addresses, no values read on the host."""
        return self.contract.kv_in_place and not self.contract.in_lockstep

    def _launch(self, profile: _Profile, queue: Callable[[], None]) -> None:
        if profile.graph is None and profile.capturable:
            try:
                profile.graph = self._runner.stream.capture(queue)
            except EngineError as error:
                profile.capturable = False
                _LOGGER.info("decode steps are not captured in a CUDA graph: %s", error)
        if profile.graph is None:
            queue()
        else:
            profile.graph.launch(self._runner.stream)

    def _bind(self, profile: _Profile, shapes: dict[str, Shape], batch: int, place: tuple[int, bool]) -> None:
        """Set the shapes of a step, and bind the part of the cache that holds its slots."""
        context = profile.context
        for spec in self.contract.inputs:
            shape = shapes.get(spec.name) or spec.resolve(batch=batch)  # a cache is not fed
            self._runner.set_shape(context, spec.name, shape)
        if profile.place == place:
            return
        profile.place = None
        first, swapped = place
        for pair in self.contract.kv_cache:
            offset = first * self._slot_bytes(pair.past)
            read, write = (pair.present, pair.past) if swapped else (pair.past, pair.present)
            for name, buffer in ((pair.past, read), (pair.present, write)):
                self._runner.bind(context, name, self._runner.device[buffer].address + offset)
        profile.place = place

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        runs = rows.view(np.uint8).reshape(1, 1, -1)
        offset = first * rows[:1].nbytes
        self._runner.device[name].copy_runs_from(runs, offset, runs.nbytes, self._runner.stream)
        self._runner.stream.synchronize()

    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        data = np.empty((region.runs, length, region.token_bytes), np.uint8)
        self._past_buffer(name, region).copy_runs_to(data, region.offset, region.pitch, self._runner.stream)
        self._runner.stream.synchronize()
        return data

    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        data = np.ascontiguousarray(data)
        self._past_buffer(name, region).copy_runs_from(data, region.offset, region.pitch, self._runner.stream)
        self._runner.stream.synchronize()

    def _past_buffer(self, name: str, region: Region) -> cuda.Buffer:
        """The buffer of the cache that the next step of the region's slot reads."""
        if not self.contract.kv_in_place and self._swapped[region.offset // (region.runs * region.pitch)]:
            name = next(pair.present for pair in self.contract.kv_cache if pair.past == name)
        return self._runner.device[name]


@dataclass
class _Profile:
    """An optimization profile's execution context, its bindings, and the graph of a step with these bindings."""

    context: Any
    #: Of the last step: shapes of the inputs, the first slot, and whether the two cache buffers were swapped for its slots.
    binding: tuple[dict[str, Shape], int, bool] | None = None
    #: The first slot, and whether buffers are swapped, that the cache's addresses are bound for; ``None``: not known.
    place: tuple[int, bool] | None = (0, False)
    graph: cuda.Graph | None = None
    capturable: bool = True

    def drop_graph(self) -> None:
        if self.graph is not None:
            graph, self.graph = self.graph, None
            graph.close()
