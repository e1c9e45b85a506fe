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

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Everything that a step needs is allocated once (``EngineRunner``). If the contract says that the cache is updated in
    place, each cache input and its output are bound to one address; otherwise to two, which are swapped after every step. The
    host waits for the stream once per step, for the logits. When a decode step repeats the shapes of the previous step, it is
    captured in a CUDA graph, including copies, which is launched as a whole from then on.

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
        self._swapped = False
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
        """Does nothing: the buffers hold the largest batch, and smaller batches use its first slots."""

    def _advance(self) -> None:
        self._swapped = not self._swapped and not self.contract.kv_in_place

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        generation = width <= GENERATION_TOKENS and len(self._profiles) > 1
        profile = self._profiles[GENERATION_PROFILE if generation else CONTEXT_PROFILE]
        runner = self._runner
        staged = runner.stage(feeds)
        logits = runner.result("logits", batch=batch, sequence=width)
        shapes = {name: array.shape for name, array in feeds.items()}
        binding = (shapes, rows.start, self._swapped)
        repeats = profile.binding == binding
        if not repeats:
            profile.drop_graph()
            profile.binding = None
            self._bind(profile.context, shapes, batch, rows.start)
            profile.binding = binding

        def queue() -> None:
            runner.queue(profile.context, staged, {"logits": logits}, f"{batch} rows of {width} tokens")

        # TensorRT prepares for new shapes in the first step that has them, which must be outside a graph.
        if repeats and generation and self._repeatable:
            self._launch(profile, queue)
        else:
            queue()
        runner.stream.synchronize()
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

    def _bind(self, context: Any, shapes: dict[str, Shape], batch: int, first_row: int) -> None:
        """Set the shapes of a step in ``context``, and bind the part of the cache that holds its slots."""
        for spec in self.contract.inputs:
            shape = shapes.get(spec.name) or spec.resolve(batch=batch)  # a cache is not fed
            self._runner.set_shape(context, spec.name, shape)
        if self.contract.kv_in_place:
            return  # all slots, at addresses that are bound already
        for pair in self.contract.kv_cache:
            spec = self.contract.input(pair.past)
            offset = first_row * spec.dtype.nbytes(math.prod(spec.resolve(batch=1)))
            read, write = (pair.present, pair.past) if self._swapped else (pair.past, pair.present)
            for name, buffer in ((pair.past, read), (pair.present, write)):
                address = self._runner.device[buffer].address + offset
                self._runner.bind(context, name, address)

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        runs = rows.view(np.uint8).reshape(1, 1, -1)
        offset = first * rows[:1].nbytes
        self._runner.device[name].copy_runs_from(runs, offset, runs.nbytes, self._runner.stream)
        self._runner.stream.synchronize()

    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        data = np.empty((region.runs, length, region.token_bytes), np.uint8)
        self._past_buffer(name).copy_runs_to(data, region.offset, region.pitch, self._runner.stream)
        self._runner.stream.synchronize()
        return data

    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        data = np.ascontiguousarray(data)
        self._past_buffer(name).copy_runs_from(data, region.offset, region.pitch, self._runner.stream)
        self._runner.stream.synchronize()

    def _past_buffer(self, name: str) -> cuda.Buffer:
        """The buffer of the cache that the next step reads."""
        present = next(pair.present for pair in self.contract.kv_cache if pair.past == name)
        return self._runner.device[present if self._swapped else name]


@dataclass
class _Profile:
    """An optimization profile's execution context, its bindings, and the graph of a step with these bindings."""

    context: Any
    #: Shapes of the inputs, the first slot in the cache, and whether the two cache buffers are swapped.
    binding: tuple[dict[str, Shape], int, bool] | None = None
    graph: cuda.Graph | None = None
    capturable: bool = True

    def drop_graph(self) -> None:
        if self.graph is not None:
            graph, self.graph = self.graph, None
            graph.close()
