"""A loaded engine with its stream, buffers and execution contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import TOP_OUTPUTS, FedBy, Feeds, IOContract, Shape, fed_by, is_shape_tensor
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.block import Block
from tt_edge.runtime.engine.tensorrt_engine import TensorRTEngine
from tt_edge.tensorrt_api import TensorRT


class EngineRunner:
    """Runs an engine on the current GPU: shared by ``TensorRTSession`` and ``TensorRTFeedForward``.

    Everything that a call needs is allocated once, at the contract's largest sizes: for each optimization profile an execution
    context and a block of the inputs that are fed in every call, device buffers, page-locked host buffers, and one block of memory
    for the activations of all contexts. An output that updates a cache in place is bound to the address of its input. Everything
    is queued on one stream.

    Raises ``EngineError`` like ``TensorRTEngine``.
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
        self.contract, self.tensorrt = contract, tensorrt
        self.contexts: list[Any] = []
        self.device: dict[str, cuda.Buffer] = {}
        self._host: dict[str, cuda.HostBuffer] = {}
        self._inputs: list[Block] = []  # of each profile
        self._top: Block | None = None
        self._engine: TensorRTEngine | None = None
        self.stream = cuda.Stream()
        try:
            self._engine = TensorRTEngine(
                engine_file, contract, tensorrt, weights=weights, holds_host_code=holds_host_code
            )
            self._allocate()
            self.contexts = self._engine.make_contexts(self.stream)
            for context, block in zip(self.contexts, self._inputs, strict=True):
                for spec in (*contract.inputs, *contract.outputs):
                    self.bind(context, spec.name, self._address(spec.name, block))
            self.stream.synchronize()
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> None:
        contract = self.contract
        largest = contract.largest
        presents = {pair.present: pair.past for pair in contract.kv_cache}
        shared = presents if contract.kv_in_place else {}
        on_device = (FedBy.CACHE, FedBy.TABLE, FedBy.CROSS)
        stays = {spec.name for spec in contract.inputs if fed_by(spec.name) in on_device}
        fed = [spec for spec in contract.inputs if spec.name not in stays and not is_shape_tensor(spec.name)]
        for ranges in contract.profiles():
            sizes = {spec.name: spec.dtype.nbytes(math.prod(ranges[spec.name].max)) for spec in fed}
            self._inputs.append(Block(sizes, self.stream))
        if contract.top_count:
            top = (contract.output(name) for name in TOP_OUTPUTS)
            sizes = {spec.name: spec.dtype.nbytes(math.prod(spec.resolve(**largest))) for spec in top}
            self._top = Block(sizes, self.stream)
        for spec in (*contract.inputs, *contract.outputs):
            if spec in fed or (self._top is not None and spec.name in self._top):
                continue
            nbytes = spec.dtype.nbytes(math.prod(spec.resolve(**largest)))
            if spec.name not in stays and spec.name not in presents:
                self._host[spec.name] = cuda.HostBuffer(nbytes)
            if spec.name not in shared and not is_shape_tensor(spec.name):
                self.device[spec.name] = cuda.Buffer(nbytes)
                # Once: a NaN in an unwritten place of the cache would survive multiplication by an attention weight of 0.
                self.device[spec.name].fill_zero(self.stream)
        for present, past in shared.items():
            self.device[present] = self.device[past]

    def _address(self, name: str, inputs: Block) -> int:
        """Where a context whose fed inputs are ``inputs`` finds a tensor."""
        if name in inputs:
            return inputs.address(name)
        if self._top is not None and name in self._top:
            return self._top.address(name)
        # TensorRT reads shape tensors on the host.
        return self._host[name].address if is_shape_tensor(name) else self.device[name].address

    def staging(self, profile: int, shapes: Mapping[str, Shape]) -> Feeds:
        """Page-locked memory for the inputs of a call with these shapes, by name."""
        block, views = self._inputs[profile], {}
        for name, shape in shapes.items():
            dtype = self.contract.input(name).dtype.numpy
            inside = name in block
            views[name] = block.view(name, shape, dtype) if inside else self._host[name].view(shape, dtype)
        return views

    def result(self, name: str, **sizes: int) -> np.ndarray:
        """Page-locked memory for an output, shaped by the given sizes of the symbolic dimensions."""
        spec = self.contract.output(name)
        shape, dtype = spec.resolve(**sizes), spec.dtype.numpy
        if self._top is not None and name in self._top:
            return self._top.view(name, shape, dtype)
        return self._host[name].view(shape, dtype)

    def set_shape(self, context: Any, name: str, shape: Shape) -> None:
        self.require(context.set_input_shape(name, shape), f"shape {shape} for {name}")

    def bind(self, context: Any, name: str, address: int) -> None:
        self.require(context.set_tensor_address(name, address), f"the address of {name}")

    def queue(self, profile: int, staged: Feeds, results: Feeds, what: str) -> None:
        """Queue a call: staged inputs to the device, the engine, outputs back. ``what`` names it for errors."""
        block = self._inputs[profile]
        block.to_device({name: array for name, array in staged.items() if name in block}, self.stream)
        self.require(self.contexts[profile].execute_async_v3(self.stream.handle), what)
        top = {name: array for name, array in results.items() if self._top is not None and name in self._top}
        if self._top is not None and top:
            self._top.to_host(top, self.stream)
        for name, array in results.items():
            if name not in top:
                self.device[name].copy_to(array, self.stream)

    def time_layers(self, context: Any) -> dict[str, float]:
        """Milliseconds of each layer by name, summed up from now on for all calls of ``context``, which wait for the engine.

        Such calls cannot be captured in a CUDA graph. There is no way back: open another runner for calls at full speed.
        """
        times: dict[str, float] = {}

        class Profiler(self.tensorrt.module.IProfiler):  # type: ignore[misc, name-defined]
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name] = times.get(layer_name, 0.0) + ms

        context.profiler = Profiler()  # the binding keeps it
        return times

    def require(self, accepted: bool, what: str) -> None:
        """Raise ``EngineError`` unless TensorRT ``accepted`` ``what``."""
        assert self._engine is not None
        self._engine.require(accepted, what)

    def close(self) -> None:
        """Release the engine and all memory. Closing twice is harmless."""
        self.contexts.clear()  # before their engine
        if self._engine is not None:
            self._engine.close()
        for buffer in set(self.device.values()):  # a cache that is updated in place has two names
            buffer.close()
        for staging in self._host.values():
            staging.close()
        for block in (*self._inputs, *([self._top] if self._top is not None else [])):
            block.close()
        self.device, self._host, self._inputs, self._top = {}, {}, [], None
        self.stream.close()
