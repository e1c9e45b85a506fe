"""What a benchmark measured: the times of each request, and the figures of all of them.

The definitions are those of vLLM's and NVIDIA's (GenAI-Perf) benchmarks, so that figures can be compared;
docs/how_to/bench.md has them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tt_edge.errors import EngineError
from tt_edge.runtime.benchmark.energy import Energy
from tt_edge.runtime.benchmark.memory import Memory


@dataclass(frozen=True)
class RequestTimes:
    """One request. Times are of ``time.perf_counter``, in seconds.

    ``chunks``: when each piece of the answer came; in this process a piece is a token. ``computed_from``: when its prompt began
    to be computed, where that is known. ``reused_tokens`` of the prompt were in the KV cache; ``None``: the server does not say.
    """

    started: float
    chunks: tuple[float, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    computed_from: float | None = None
    reused_tokens: int | None = None
    #: Seconds of a vision tower for the prompt's images.
    vision_s: float = 0.0
    #: Turn of its conversation, from 1 on.
    turn: int = 1
    #: Why there is no answer.
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        """Time to first token: from the request's arrival to its first piece."""
        return self.chunks[0] - self.started

    @property
    def prefill_s(self) -> float:
        """From when the prompt began to be computed to the first piece; without that, the time to first token."""
        return self.chunks[0] - (self.started if self.computed_from is None else self.computed_from)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; ``None`` where there is only one, or all came in one piece."""
        if self.output_tokens < 2 or len(self.chunks) < 2:
            return None
        return (self.chunks[-1] - self.chunks[0]) / (self.output_tokens - 1)

    @property
    def end_to_end_s(self) -> float:
        return self.chunks[-1] - self.started


@dataclass(frozen=True)
class Distribution:
    """Of one metric over requests, or over the gaps of all requests."""

    mean: float
    p50: float
    p90: float
    p99: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        """``None`` for no values. Percentiles are interpolated linearly, as NumPy's are."""
        found = np.fromiter(values, np.float64)
        if not found.size:
            return None
        p50, p90, p99 = np.percentile(found, [50, 90, 99]).tolist()
        return cls(float(found.mean()), p50, p90, p99, float(found.min()), float(found.max()))


@dataclass(frozen=True)
class Measured:
    """The requests of one benchmark, and what was observed beside them. ``what``: what ran, in words."""

    what: str
    requests: Sequence[RequestTimes]
    memory: Memory = field(default_factory=Memory)
    energy: Energy = field(default_factory=Energy)
    #: True where TensorRT did not run, so that the figures say nothing about its speed.
    is_reference: bool = False
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> list[RequestTimes]:
        """Requests that were answered. Raises ``EngineError`` if none was."""
        found = [request for request in self.requests if request.error is None]
        if not found:
            why = next((request.error for request in self.requests), "none was made")
            raise EngineError(f"no request was answered ({why}); see what the model or server reports")
        return found

    def latencies(self) -> dict[str, Distribution]:
        """Milliseconds, by metric: those that the requests have."""
        good = self.good
        found: dict[str, Distribution | None] = {
            "vision": Distribution.of(r.vision_s * 1e3 for r in good if r.vision_s),
            "prefill": Distribution.of(r.prefill_s * 1e3 for r in good if r.computed_from is not None),
            "ttft": Distribution.of(r.ttft_s * 1e3 for r in good),
            "tpot": Distribution.of(r.tpot_s * 1e3 for r in good if r.tpot_s is not None),
            "itl": Distribution.of((b - a) * 1e3 for r in good for a, b in pairwise(r.chunks)),
            "end_to_end": Distribution.of(r.end_to_end_s * 1e3 for r in good),
        }
        return {name: value for name, value in found.items() if value is not None}

    def throughput(self) -> dict[str, float]:
        """Tokens and requests per second.

        ``prefill_tokens_per_s``: tokens of prompts that were computed (not reused), over the time in which any prompt was
        computed. ``decode_tokens_per_s``: tokens after each request's first, over the time in which any request decoded.
        ``output_tokens_per_s`` and ``requests_per_s``: over the time in which any request ran.
        """
        good = self.good
        prefill = _covered((r.chunks[0] - r.prefill_s, r.chunks[0]) for r in good)
        decode = _covered((r.chunks[0], r.chunks[-1]) for r in good)
        busy = _covered((r.started, r.chunks[-1]) for r in good)
        computed = sum(r.input_tokens - (r.reused_tokens or 0) for r in good)
        output = sum(r.output_tokens for r in good)
        return {
            "prefill_tokens_per_s": _rate(computed, prefill),
            "decode_tokens_per_s": _rate(output - len(good), decode),
            "output_tokens_per_s": _rate(output, busy),
            "requests_per_s": _rate(len(good), busy),
        }

    def reuse(self) -> float | None:
        """Share of the prompts' tokens that were in the KV cache; ``None`` where that is not known."""
        known = [r for r in self.good if r.reused_tokens is not None]
        total = sum(r.input_tokens for r in known)
        return sum(r.reused_tokens or 0 for r in known) / total if total else None

    def turns(self) -> dict[int, Measured]:
        """The requests by turn of their conversation, if there is more than one; turns that were answered at least once."""
        if {r.turn for r in self.requests} == {1}:
            return {}
        numbers = sorted({r.turn for r in self.requests if r.error is None})
        return {n: Measured(self.what, [r for r in self.requests if r.turn == n]) for n in numbers}

    def median(self, value: Callable[[RequestTimes], float | None]) -> float:
        """Of ``value`` over the answered requests that have it; 0 where none has."""
        found = [v for v in map(value, self.good) if v is not None]
        return statistics.median(found) if found else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it; times in milliseconds, memory in MiB, energy in joules."""
        good, output = self.good, sum(r.output_tokens for r in self.good)
        joules = self.energy.joules
        return {
            "what": self.what,
            "is_reference": self.is_reference,
            "settings": self.settings,
            "requests": len(good),
            "failed": [r.error for r in self.requests if r.error is not None],
            "input_tokens": sum(r.input_tokens for r in good),
            "output_tokens": output,
            "reuse": self.reuse(),
            "ms": {name: asdict(value) for name, value in self.latencies().items()},
            "throughput": self.throughput(),
            "memory": asdict(self.memory),
            "energy": asdict(self.energy) | {"joules_per_output_token": joules and output and joules / output},
            "turns": {
                str(turn): {"ttft_ms": asdict(part.latencies()["ttft"]), "reuse": part.reuse()}
                for turn, part in self.turns().items()
            },
            "notes": list(self.notes),
        }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, -np.inf
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return float(total)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
