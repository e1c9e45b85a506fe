"""How fast a bundle runs: prefill, time to first token, time per output token. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.scheduling.request import Timing


@dataclass(frozen=True)
class Speed:
    """Medians over iterations of one batch. Times are wall times in milliseconds.

    ``tokens_per_s`` counts the tokens of all prompts while decoding. ``peak_mb`` is in MiB: of device memory where the
    model is on a GPU, else the resident set of this process, which has everything else in it too.
    """

    what: str
    prefill_ms: float
    ttft_ms: float
    tpot_ms: float
    tokens_per_s: float
    peak_mb: float
    peak_of: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def speed(what: str, timings: Sequence[Timing], batch: int, peak_mb: float, peak_of: str) -> Speed:
    """The medians of ``timings``, one for each iteration."""
    tpot = statistics.median(t.tpot_s for t in timings)
    return Speed(
        what=what,
        prefill_ms=statistics.median(t.prefill_s for t in timings) * 1e3,
        ttft_ms=statistics.median(t.ttft_s for t in timings) * 1e3,
        tpot_ms=tpot * 1e3,
        tokens_per_s=batch / tpot if tpot else 0.0,
        peak_mb=peak_mb,
        peak_of=peak_of,
    )


def random_prompts(vocab_size: int, batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Token ids int64 ``[batch, length]``, uniform over the vocabulary."""
    return np.random.default_rng(seed).integers(0, vocab_size, (batch, length))


def measure(session: Session, prompts: np.ndarray, new_tokens: int, iterations: int) -> Speed:
    """Generate ``new_tokens`` after ``prompts`` ``[B, S]``, once to warm up and then ``iterations`` times.

    Raises ``InvalidInputError`` for fewer than two new tokens or no iteration, and what ``generate`` raises.
    """
    check_counts(new_tokens, iterations)
    config = GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True)
    peak = PeakMemory()
    batch: list[list[int]] = prompts.tolist()
    timings = [generate(session, batch, config)[0].timing for _ in range(iterations + 1)][1:]
    return speed(session.word, timings, len(batch), *peak.read())


def check_counts(new_tokens: int, iterations: int) -> None:
    """Raise ``InvalidInputError`` for counts that give no time per token."""
    for name, value, least in (("num_tokens", new_tokens, 2), ("iterations", iterations, 1)):
        if value < least:
            raise InvalidInputError(f"{name} is {value}; a benchmark needs at least {least}")


class PeakMemory:
    """The most memory in use from now on: on the GPU where there is one, else this process's resident set.

    On a GPU it is what is in use when it is read, by whatever process: a session's memory does not grow once it is open.
    """

    def __init__(self) -> None:
        with suppress(OSError):  # start the high-water mark over (Linux, proc(5))
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> tuple[float, str]:
        """MiB, and of what."""
        used = cuda.memory_in_use()
        if used is not None:
            return used / 2**20, "device"
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024, "process"


def table(speeds: Sequence[Speed]) -> str:
    """One line for each of ``speeds``."""
    lines = [f"{'prefill ms':>11}{'TTFT ms':>10}{'TPOT ms':>10}{'tokens/s':>10}{'peak MiB':>10}  what"]
    lines += [
        f"{s.prefill_ms:>11.2f}{s.ttft_ms:>10.2f}{s.tpot_ms:>10.3f}{s.tokens_per_s:>10.1f}{s.peak_mb:>10,.0f}  "
        f"{s.what} ({s.peak_of} memory)"
        for s in speeds
    ]
    return "\n".join(lines)
