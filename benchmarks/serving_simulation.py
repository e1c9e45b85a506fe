"""Serving under load, without a GPU: the real scheduler on a session whose steps only cost time.

    python benchmarks/serving_simulation.py

Deterministic: requests come from a seed, and time is counted, not measured. A run of the network on R rows of S tokens costs
20 ms + 0.05 ms for each token beyond one a row + 0.2 ms for each further row. That is about a 7B model on an edge GPU: 20 ms to
read the weights. 64 requests arrive as a Poisson process; prompts are log-normal around 512 tokens, sigma 0.5; each gets 128 new
tokens.

Columns: useful share of the computed tokens; time to first token (TTFT); time between two tokens of a request, as they are chosen
and as a client of the server sees them, which holds up to three so that they come evenly; of the latter p99 over p50.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tt_edge.config import Limits
from tt_edge.contract import BATCH, SEQUENCE, IOContract, KVPair, TensorSpec
from tt_edge.contract.inputs import Feeds
from tt_edge.dtypes import DType
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.kv_rows import Bytes, Region
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.scheduling.plan import PREFILL_TOKENS
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Scheduler
from tt_edge.runtime.scheduling.token import Token
from tt_edge.server.answers.pacing import Pacer

LOADS = [(4, 0.5), (8, 1.0), (8, 2.0)]  # slots, requests per second
REQUESTS, NEW_TOKENS, VOCAB, CAPACITY = 64, 128, 4096, 4096
RUN_S, TOKEN_S, ROW_S = 20e-3, 0.05e-3, 0.2e-3


class CostSession(Session):
    """Computes nothing; counts what each run of the network would cost."""

    def __init__(self, slots: int) -> None:
        cache = (BATCH, 1, CAPACITY, 1)
        super().__init__(
            IOContract(
                inputs=(
                    TensorSpec("input_ids", DType.INT64, (BATCH, SEQUENCE)),
                    TensorSpec("write_indices", DType.INT32, (BATCH,)),
                    TensorSpec("past_key_0", DType.FLOAT16, cache),
                ),
                outputs=(
                    TensorSpec("logits", DType.FLOAT32, (BATCH, VOCAB)),
                    TensorSpec("present_key_0", DType.FLOAT16, cache),
                ),
                limits=Limits(max_batch=slots, max_input_len=CAPACITY, max_seq_len=CAPACITY),
                kv_cache=(KVPair("past_key_0", "present_key_0"),),
            )
        )
        self.clock, self.computed, self.runs = 0.0, 0, 0
        self._logits = np.zeros((slots, VOCAB), np.float32)

    @property
    def word(self) -> str:
        return "simulated"

    def _allocate(self, batch: int) -> None:
        pass

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        batch, width = feeds["input_ids"].shape
        self.clock += RUN_S + TOKEN_S * batch * (width - 1) + ROW_S * (batch - 1)
        self.computed += batch * width
        self.runs += 1
        return self._logits[:batch]

    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        return np.zeros((region.runs, length, region.token_bytes), np.uint8)

    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        pass

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        raise NotImplementedError


class Clock:
    """What the server's ``Pacer`` needs of an event loop, with time that is counted."""

    class Timer:
        def __init__(self, callback: Callable[[], None]) -> None:
            self.callback: Callable[[], None] | None = callback

        def cancel(self) -> None:
            self.callback = None

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Clock.Timer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        timer = self.Timer(callback)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def run_until(self, when: float) -> None:
        while self._timers and self._timers[0][0] <= when:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self.now = when


def paced(chosen: Sequence[float]) -> list[float]:
    """When a client gets the tokens of an answer that are chosen at these times."""
    clock, sent = Clock(), list[float]()
    pacer: Pacer[int] = Pacer(lambda _: sent.append(clock.now), clock)
    for token, when in enumerate(chosen):
        clock.run_until(when)
        pacer.add(token)
    pacer.flush()
    return sent


def simulate(slots: int, rate: float, seed: int = 0, **options: int) -> dict[str, float]:
    """Serve the load of ``rate`` requests per second with ``slots`` slots; ``options`` are the scheduler's. Times in seconds."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, REQUESTS))
    lengths = np.clip(random.lognormal(np.log(512), 0.5, REQUESTS).astype(int), 1, CAPACITY - NEW_TOKENS)
    session = CostSession(slots)
    scheduler = Scheduler(session, **options)
    times: list[list[float]] = [[] for _ in range(REQUESTS)]

    def note(index: int, _: Token) -> None:
        times[index].append(session.clock)

    requests = [
        Request(
            random.integers(0, VOCAB, length).tolist(),
            GenerationConfig(NEW_TOKENS, ignore_eos=True),
            partial(note, index),
        )
        for index, length in enumerate(lengths)
    ]
    submitted = 0
    while not all(request.is_done for request in requests):
        if not scheduler.running and not scheduler.waiting:
            session.clock = max(session.clock, arrivals[submitted])
        while submitted < REQUESTS and arrivals[submitted] <= session.clock:
            scheduler.submit(requests[submitted])
            submitted += 1
        scheduler.step()
    first = np.array([own[0] for own in times]) - arrivals
    useful = int(lengths.sum()) + REQUESTS * (NEW_TOKENS - 1)
    sent = [paced(own) for own in times]
    p50, p99 = np.percentile(_between(sent), [50, 99])
    return {
        "useful": useful / session.computed,
        "ttft_mean": float(first.mean()),
        "ttft_p50": float(np.median(first)),
        "ttft_p99": float(np.percentile(first, 99)),
        "chosen_p50": float(np.median(_between(times))),
        "chosen_p99": float(np.percentile(_between(times), 99)),
        "chosen_worst": float(_between(times).max()),
        "p50": float(p50),
        "p99": float(p99),
        "worst": float(_between(sent).max()),
        "ratio": float(p99 / p50),
        "held": float(np.mean([np.subtract(late, own).mean() for late, own in zip(sent, times, strict=True)])),
        "runs": session.runs,
        "seconds": session.clock,
    }


def _between(times: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.diff(own) for own in times])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prefill-tokens", type=int, default=PREFILL_TOKENS, help=f"default {PREFILL_TOKENS}")
    args = parser.parse_args()
    chosen, seen = "| chosen p50 | p99 | worst ", "| seen p50 | p99 | worst | p99 / p50 | held |"
    print("| slots, requests/s | useful | TTFT mean | p50 | p99 " + chosen + seen)
    print("|---" * 13 + "|")
    columns = ("ttft_mean", "ttft_p50", "ttft_p99", "chosen_p50", "chosen_p99", "chosen_worst", "p50", "p99", "worst")
    for slots, rate in LOADS:
        r = simulate(slots, rate, args.seed, prefill_tokens=args.prefill_tokens)
        ms = " | ".join(f"{1e3 * r[name]:,.0f} ms" for name in columns)
        print(f"| {slots}, {rate:g} | {r['useful']:.1%} | {ms} | {r['ratio']:.2f} | {1e3 * r['held']:.0f} ms |")


if __name__ == "__main__":
    main()
