"""The overhead of a decode step: the host's time of a step, and of choosing a token, with an engine that does almost nothing.

    python benchmarks/decode_overhead.py [--vocabulary 151936] [--top-k 64] [--steps 500]

Needs a GPU and cuda-bindings, but no TensorRT: a kernel with one block a row replaces the engine (tests/models/toy_engine.py). For
1 and 8 rows, with the logits of the whole vocabulary and with the largest selected in the network, it prints the median time
of a step that is queued as separate calls and as a CUDA graph; of a step in a graph with a token for each row, greedy and by
top-p; the lower bound of these: the kernel and the copies; and the memory that Python allocated at most in one step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.models import toy_engine
from tt_edge import cuda
from tt_edge.errors import TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.scheduling.sampling import Sampler

#: Caches of a model with 24 layers. The kernel uses one; the others cost what a session spends on them.
CACHES = 48
#: In the stand-in's distribution, the likeliest 24 tokens have 95 % of the probability.
SETTINGS = {
    "greedy": GenerationConfig(1 << 20),
    "top-p 0.95": GenerationConfig(1 << 20, temperature=1.0, top_k=0, top_p=0.95, seed=0),
    "temperature 0.7, top-k 20, top-p 0.8": GenerationConfig(1 << 20, temperature=0.7, top_k=20, top_p=0.8, seed=0),
}


def median(step: Callable[[], object], session: Session, steps: int) -> float:
    """Microseconds of ``step``, one decode step of all slots."""
    batch, times = len(session.past_lengths), []
    for _ in range(steps + 10):
        if session.past_lengths[0] + 1 >= session.contract.max_seq_len:
            session.truncate([1] * batch)
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[10:]) * 1e6


def measure(launch: Callable[..., None], vocabulary: int, batch: int, top: int, steps: int) -> list[tuple[str, float]]:
    """Microseconds of a step by what is done."""
    rows = []
    ids, ones = np.ones((batch, 1), np.int64), np.ones(batch, np.int64)
    options = {"last": True, "top": top, "layers": CACHES, "batch": batch}
    for name, capturable in (("separate calls", False), ("CUDA graph", True)):
        with toy_engine.open_session(launch, vocabulary, **options) as session:
            session.reset(batch)
            for profile in session._profiles:
                profile.capturable = capturable
            rows.append((name, median(lambda s=session: s.forward_rows(ids, ones), session, steps)))
    with toy_engine.open_session(launch, vocabulary, **options) as session:
        for name, config in SETTINGS.items():
            session.reset(batch)
            samplers = [Sampler(config, [1], vocabulary) for _ in range(batch)]

            def step(samplers: Sequence[Sampler] = samplers, session: Session = session) -> None:
                logits = session.forward_rows(ids, ones)
                ids[:, 0] = [sampler.choose(row).id for sampler, row in zip(samplers, logits, strict=True)]

            rows.append((f"with tokens: {name}", median(step, session, steps)))
            rows.append((f"  KiB allocated: {name}", allocated(step)))
    return rows


def allocated(step: Callable[[], object]) -> float:
    """KiB that Python and NumPy had allocated at most at a time within a step."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    step()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak / 1024


def floor(launch: Callable[..., None], vocabulary: int, batch: int, top: int, steps: int) -> float:
    """Microseconds of the kernel, with the average number of tokens in its cache, and of copying what a step copies."""
    stream = cuda.Stream()
    sizes = (8, 4, 4 * toy_engine.CAPACITY * toy_engine.DEPTH, 4 * vocabulary, 0, 0, 4 * top, 4 * top, 4)
    buffers = [cuda.Buffer(batch * size) for size in sizes]
    for buffer in buffers:
        buffer.fill_zero(stream)
    places = np.full(batch, toy_engine.CAPACITY // 2, np.int32)
    buffers[1].copy_from(places, stream)
    copied = [buffers[6], buffers[7], buffers[8]] if top else [buffers[3]]
    hosts = [cuda.HostBuffer(buffer.nbytes).view((buffer.nbytes,), np.dtype(np.uint8)) for buffer in copied]

    def work() -> None:
        addresses = [0 if index in (4, 5) else buffer.address for index, buffer in enumerate(buffers)]
        shape = (1, toy_engine.CAPACITY, toy_engine.DEPTH, vocabulary, toy_engine.HIDDEN, 0, top)
        launch(batch, stream.handle, *addresses, *shape)
        for buffer, host in zip(copied, hosts, strict=True):
            buffer.copy_to(host, stream)

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
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    try:
        cuda.compute_capability()
    except TTEdgeError as error:
        sys.exit(f"decode_overhead.py needs a GPU: {error}")
    launch = toy_engine.compile_kernel()
    print(f"{cuda.device_name()}, {args.vocabulary:,} logits, microseconds of a step")
    print(f"{'':58}{'all logits':>12}{'top-k=' + str(args.top_k):>12}")
    for batch in (1, 8):
        both = [measure(launch, args.vocabulary, batch, top, args.steps) for top in (0, args.top_k + 1)]
        floors = [floor(launch, args.vocabulary, batch, top, args.steps) for top in (0, args.top_k + 1)]
        print(f"{batch} row{'s' if batch > 1 else ''}")
        for (name, whole), (_, top) in zip(*both, strict=True):
            print(f"  {name:56}{whole:12.1f}{top:12.1f}")
        print(f"  {'kernel and copies only':56}{floors[0]:12.1f}{floors[1]:12.1f}")


if __name__ == "__main__":
    main()
