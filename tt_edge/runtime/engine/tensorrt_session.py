"""Running an engine with TensorRT."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import (
    BATCH,
    CONTEXT_PROFILE,
    GENERATION_PROFILE,
    GENERATION_TOKENS,
    LOG_SUM_EXP,
    TOP_IDS,
    TOP_LOGITS,
    TOP_OUTPUTS,
    Feeds,
    IOContract,
    Shape,
)
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.block import ALIGNMENT
from tt_edge.runtime.engine.device_arrays import DeviceArray
from tt_edge.runtime.engine.engine_runner import EngineRunner
from tt_edge.runtime.engine.kv_rows import Bytes, Region
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.top_logits import RowLogits, TopBatch
from tt_edge.tensorrt_api import Flavour, TensorRT

_LOGGER = logging.getLogger("tt_edge.tensorrt")

_NAMES = {Flavour.STANDARD: "TensorRT", Flavour.RTX: "TensorRT-RTX"}


class TensorRTSession(Session):
    """Executes an engine file on the current GPU.

    Everything that a step needs is allocated once (``EngineRunner``). Of a network that selects the largest logits, a step
    copies only these, and all logits stay on the device, where ``TopLogits.whole`` finds them. If the contract says that the
    cache is updated in place, each cache input and its output are bound to one address; otherwise to two, which change places
    for the slots of a step after it. A step of slots from the n-th on is bound to the cache at the n-th slot's offset. The host
    waits for the stream once per step, for the logits. When a decode step repeats the slots and shapes of the previous decode
    steps, it is captured in a CUDA graph, including copies, which is launched as a whole from then on: one graph, or one for
    each order of two cache buffers that change places. Graphs need a cache whose length is not read by the host
    (``IOContract.in_lockstep``).

    docs/tutorials/laptop_to_thor.md says what has been executed where.
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
        self._profiles = [_Profile(index, context) for index, context in enumerate(self._runner.contexts)]

    @property
    def word(self) -> str:
        tensorrt = self._runner.tensorrt
        flavour = _NAMES.get(tensorrt.flavour, str(tensorrt.flavour))
        return f"executed by {flavour} {tensorrt.version} on {cuda.device_name()}"

    def time_layers(self) -> list[dict[str, float]]:
        """Milliseconds of each layer by name for each optimization profile, summed up over all steps from now on.

        Steps are slower from now on: they wait for the engine, and none is captured in a CUDA graph.
        """
        for profile in self._profiles:
            profile.drop_graphs()
            profile.capturable = False
        return [self._runner.time_layers(context) for context in self._runner.contexts]

    def close(self) -> None:
        for profile in self._profiles:
            profile.drop_graphs()
        self._profiles.clear()
        self._runner.close()

    def _allocate(self, batch: int) -> None:
        """The buffers hold the largest batch, and smaller batches use its first slots."""
        self._swapped[:] = False

    def _buffer_of(self, slot: int) -> int:
        return int(self._swapped[slot])

    @cached_property
    def starts_anywhere(self) -> bool:
        """Whether every slot's part of a cache that is updated in place, and of sources, has an address that TensorRT takes."""
        bound = [pair.past for pair in self.contract.kv_cache if self.contract.kv_in_place]
        bound += [spec.name for spec in self.contract.cross]
        return all(self._slot_bytes(name) % ALIGNMENT == 0 for name in bound)

    def _slot_bytes(self, name: str) -> int:
        """Bytes from one slot's part of the tensor to the next one's; 0 for a pool of pages, which has no such parts."""
        spec = self.contract.input(name)
        return spec.dtype.nbytes(math.prod(spec.resolve(batch=1))) if spec.shape[0] == BATCH else 0

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        profile = self._run(feeds, rows)
        logits = profile.results.get("logits")
        return logits if logits is not None else self._whole(profile.batch)

    def _execute_rows(self, feeds: Feeds, rows: slice) -> Sequence[RowLogits]:
        results = self._run(feeds, rows).results
        if TOP_LOGITS not in results:
            return list(results["logits"])
        values, ids, totals = results[TOP_LOGITS], results[TOP_IDS], results[LOG_SUM_EXP].tolist()
        return TopBatch(values, ids, totals, self.contract.vocab_size, self._whole_row).rows()

    def _whole(self, batch: int) -> np.ndarray:
        """The last step's logits of the whole vocabulary, where a step copies only the largest."""
        logits = self._runner.result("logits", batch=batch)
        self._runner.device["logits"].copy_to(logits, self._runner.stream)
        self._runner.stream.synchronize()
        return logits

    def _whole_row(self, row: int) -> np.ndarray:
        logits: np.ndarray = self._runner.result("logits", batch=row + 1)[row]
        self._runner.device["logits"].copy_to(logits, self._runner.stream, row * logits.nbytes)
        self._runner.stream.synchronize()
        return logits

    def _run(self, feeds: Feeds, rows: slice) -> _Profile:
        """Run the network; returns the profile, which has the results."""
        batch, width = feeds["input_ids"].shape
        generation = width <= GENERATION_TOKENS and len(self._profiles) > 1
        profile = self._profiles[GENERATION_PROFILE if generation else CONTEXT_PROFILE]
        runner, first = self._runner, rows.start
        swapped = bool(self._swapped[first])
        shapes = {name: array.shape for name, array in feeds.items()}
        if profile.slots != (shapes, first):
            profile.drop_graphs()
            profile.slots = None
            self._set_shapes(profile, shapes, batch)
            profile.staged = runner.staging(profile.index, shapes)
            names = TOP_OUTPUTS if self.contract.top_count else ("logits",)
            profile.results = {name: runner.result(name, batch=batch, sequence=width) for name in names}
            profile.slots, profile.batch = (shapes, first), batch
        staged = profile.staged
        for name, array in feeds.items():
            staged[name][...] = array

        if generation and swapped in profile.prepared and not self.contract.in_lockstep:
            self._launch(profile, (first, swapped))
        else:
            self._bind(profile, (first, swapped))
            self._queue(profile)
            profile.prepared.add(swapped)
        runner.stream.synchronize()
        if not self.contract.kv_in_place:
            self._swapped[rows] ^= True
        return profile

    def _queue(self, profile: _Profile) -> None:
        what = f"{profile.batch} rows of {profile.staged['input_ids'].shape[1]} tokens"
        self._runner.queue(profile.index, profile.staged, profile.results, what)

    def _launch(self, profile: _Profile, place: tuple[int, bool]) -> None:
        _, swapped = place
        if swapped not in profile.graphs:
            self._bind(profile, place)
            if profile.capturable:
                try:
                    profile.graphs[swapped] = self._runner.stream.capture(partial(self._queue, profile))
                except EngineError as error:
                    profile.capturable = False
                    _LOGGER.info("decode steps are not captured in a CUDA graph: %s", error)
        if swapped in profile.graphs:
            profile.graphs[swapped].launch(self._runner.stream)
        else:
            self._queue(profile)

    def _set_shapes(self, profile: _Profile, shapes: dict[str, Shape], batch: int) -> None:
        for spec in self.contract.inputs:
            shape = shapes.get(spec.name) or spec.resolve(batch=batch)  # a cache is not fed
            self._runner.set_shape(profile.context, spec.name, shape)

    def _bind(self, profile: _Profile, place: tuple[int, bool]) -> None:
        """Bind the part of the cache that begins at a slot, with the two buffers swapped or not."""
        if profile.place == place:
            return
        profile.place = None
        first, swapped = place
        for pair in self.contract.kv_cache:
            offset = first * self._slot_bytes(pair.past)
            read, write = (pair.present, pair.past) if swapped else (pair.past, pair.present)
            for name, buffer in ((pair.past, read), (pair.present, write)):
                self._runner.bind(profile.context, name, self._runner.device[buffer].address + offset)
        for spec in self.contract.cross:
            offset = first * self._slot_bytes(spec.name)
            self._runner.bind(profile.context, spec.name, self._runner.device[spec.name].address + offset)
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

    def _copy_row(self, name: str, region: Region, source: DeviceArray, length: int) -> None:
        """From the memory that the encoder wrote, on the device."""
        _, places, size = source.shape
        step = source.dtype.itemsize * size
        self._runner.device[name].copy_runs_within_device(
            source.buffer, places * step, length * step, region.runs, region.offset, region.pitch, self._runner.stream
        )
        self._runner.stream.synchronize()

    def _past_buffer(self, name: str, region: Region) -> cuda.Buffer:
        """The buffer of the cache that the next step of the region's slot reads."""
        is_cache = name in self.contract.cache_names  # and not of a source
        if is_cache and not self.contract.kv_in_place and self._swapped[region.offset // (region.runs * region.pitch)]:
            name = next(pair.present for pair in self.contract.kv_cache if pair.past == name)
        return self._runner.device[name]


@dataclass
class _Profile:
    """An optimization profile's execution context, its bindings, and the graphs of steps with these bindings."""

    index: int
    context: Any
    #: Of the last step: shapes of the inputs, and the first slot.
    slots: tuple[dict[str, Shape], int] | None = None
    #: The first slot, and whether buffers are swapped, that the cache's addresses are bound for; ``None``: not known.
    place: tuple[int, bool] | None = (0, False)
    #: Whether buffers were swapped, in steps of ``slots`` that ran outside a graph: TensorRT prepares for new shapes in the first
    #: step that has them, so only a later one can be captured.
    prepared: set[bool] = field(default_factory=set)
    #: Graphs of a step of ``slots``, by whether buffers are swapped.
    graphs: dict[bool, cuda.Graph] = field(default_factory=dict)
    capturable: bool = True
    #: Page-locked memory of the inputs and outputs of steps of ``slots``, and their batch.
    staged: Feeds = field(default_factory=dict)
    results: Feeds = field(default_factory=dict)
    batch: int = 0

    def drop_graphs(self) -> None:
        """Release the graphs of other shapes or slots."""
        self.prepared.clear()
        while self.graphs:
            self.graphs.popitem()[1].close()
