"""Times of an engine's layers on this machine, from TensorRT's own profiler. Torch-free."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, GENERATION_TOKENS
from tt_edge.errors import CapacityError
from tt_edge.runtime.engine.tensorrt_session import TensorRTSession


@dataclass(frozen=True)
class PhaseTimes:
    """Mean times of one step of the engine, in milliseconds: of each layer, and of the whole step without the profiler."""

    new_tokens: int
    past_tokens: int
    layers: dict[str, float]
    step_ms: float

    @property
    def layers_ms(self) -> float:
        return sum(self.layers.values())

    def to_dict(self) -> dict[str, Any]:
        layers = [{"name": name, "ms": ms} for name, ms in self.layers.items()]
        return {
            "new_tokens": self.new_tokens,
            "past_tokens": self.past_tokens,
            "step_ms": self.step_ms,
            "layers_ms": self.layers_ms,
            "layers": layers,
        }


def measure_layers(session: TensorRTSession, batch: int, isl: int, past: int, runs: int) -> dict[str, PhaseTimes]:
    """Run a prompt of ``isl`` tokens and one token behind ``past`` tokens, ``runs`` times each, in ``batch`` slots.

    First without the profiler, which makes steps slower, then with it. The session is of no other use afterwards.
    Raises ``CapacityError`` for lengths that the engine does not take.
    """
    contract = session.contract
    for name, value, most in (
        ("batch", batch, contract.max_batch),
        ("isl", isl, contract.max_input_len),
        ("past", past, contract.max_seq_len - 1),
    ):
        if not 1 <= value <= most:
            raise CapacityError(f"--{name} is {value}; the bundle takes 1 to {most}")
    session.reset(batch)
    phases = {"prefill": (isl, 0), "decode": (1, past)}
    whole = {}
    for name, (new, before) in phases.items():
        _fill(session, before)
        _steps(session, new, before, 3)  # the third of a decode step is the first that launches a CUDA graph
        whole[name] = _steps(session, new, before, runs) / runs
    totals = session.time_layers()
    found = {}
    for name, (new, before) in phases.items():
        times = totals[GENERATION_PROFILE if new <= GENERATION_TOKENS and len(totals) > 1 else CONTEXT_PROFILE]
        _fill(session, before)
        _steps(session, new, before, 1)
        times.clear()
        _steps(session, new, before, runs)
        found[name] = PhaseTimes(new, before, {layer: ms / runs for layer, ms in times.items()}, whole[name] * 1e3)
    return found


def _fill(session: TensorRTSession, tokens: int) -> None:
    """Make every slot's cache hold ``tokens`` tokens; which ones does not matter."""
    batch = len(session.past_lengths)
    session.truncate(np.minimum(session.past_lengths, tokens))
    while (held := int(session.past_lengths[0])) < tokens:
        width = min(tokens - held, session.contract.max_input_len)
        session.forward(np.zeros((batch, width), np.int64), np.full(batch, width))


def _steps(session: TensorRTSession, new: int, past: int, runs: int) -> float:
    """Seconds of ``runs`` steps of ``new`` tokens behind the first ``past`` of the cache."""
    batch = len(session.past_lengths)
    ids, lengths, kept = np.zeros((batch, new), np.int64), np.full(batch, new), np.full(batch, past)
    started = time.perf_counter()
    for _ in range(runs):
        session.forward(ids, lengths)
        session.truncate(kept)
    return time.perf_counter() - started
