"""The overhead of a decode step: host time of a session's step with an engine that does almost nothing.

    python benchmarks/decode_overhead.py [--vocabulary 151936] [--steps 500]

Needs a GPU and cuda-bindings, but no TensorRT: a kernel with one thread replaces the engine (tests/test_cuda.py). Prints
the median time of a step that is queued as separate calls and as a CUDA graph, and the lower bound of both: the kernel and the
copy of the logits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import toy_engine
from tt_edge import cuda


def median_step(session, steps: int) -> float:
    """Microseconds of one decode step of one sequence."""
    session.reset(1)
    ids, one, times = np.ones((1, 1), np.int64), np.ones(1, np.int64), []
    for _ in range(steps):
        if session.past_lengths[0] + 1 >= session.contract.max_seq_len:
            session.truncate([1])
        start = time.perf_counter()
        session.forward(ids, one)
        times.append(time.perf_counter() - start)
    return statistics.median(times[10:]) * 1e6


def floor(launch, vocabulary: int, steps: int) -> float:
    """Microseconds of the kernel, with the average number of tokens in its cache, and of copying the logits."""
    stream, host = cuda.Stream(), cuda.HostBuffer(4 * vocabulary)
    logits = host.view((vocabulary,), np.dtype(np.float32))
    sizes = (8, 4, 4 * toy_engine.CAPACITY * toy_engine.DEPTH, 4 * vocabulary)
    buffers = [cuda.Buffer(size) for size in sizes]
    for buffer in buffers:
        buffer.fill_zero(stream)
    buffers[1].copy_from(np.array([toy_engine.CAPACITY // 2], np.int32), stream)

    def work() -> None:
        addresses = [buffer.address for buffer in buffers]
        launch(
            1, stream.handle, *addresses, 0, 0, 1, toy_engine.CAPACITY, toy_engine.DEPTH, vocabulary, toy_engine.HIDDEN
        )
        buffers[3].copy_to(logits, stream)

    graph, times = stream.capture(work), []
    for _ in range(steps):
        start = time.perf_counter()
        graph.launch(stream)
        stream.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    launch = toy_engine.compile_kernel()
    rows = []
    for name, capturable in (("separate calls", False), ("CUDA graph", True)):
        with toy_engine.open_session(launch, args.vocabulary) as session:
            for profile in session._profiles:
                profile.capturable = capturable
            rows.append((name, median_step(session, args.steps)))
    rows.append(("kernel and copy only", floor(launch, args.vocabulary, args.steps)))
    print(f"{cuda.device_name()}, {args.vocabulary:,} logits")
    for name, microseconds in rows:
        print(f"{name:26} {microseconds:8.1f} µs")


if __name__ == "__main__":
    main()
