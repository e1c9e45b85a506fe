"""What a benchmark asks for: lengths, arrivals, and prompts of random tokens. Reproducible by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tt_edge.compat import StrEnum
from tt_edge.errors import CapacityError, InvalidInputError


class Arrivals(StrEnum):
    """When requests come, at a given mean rate."""

    #: Independent of each other, as from many users: exponential gaps.
    POISSON = "poisson"
    #: Evenly spaced.
    CONSTANT = "constant"
    #: Several at the same moment, the groups evenly spaced.
    BURST = "burst"


class LengthKind(StrEnum):
    """How lengths are distributed around the one that is asked for."""

    FIXED = "fixed"
    #: From (1 - spread) to (1 + spread) times it.
    UNIFORM = "uniform"
    #: With a standard deviation of spread times it.
    NORMAL = "normal"
    #: It is the median, and the spread the standard deviation of the logarithm: many short ones, few long ones.
    LOGNORMAL = "lognormal"


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens, such as ``lognormal:0.5``."""

    kind: LengthKind = LengthKind.FIXED
    spread: float = 0.0

    @classmethod
    def parse(cls, text: str, option: str) -> Lengths:
        """Of ``kind`` or ``kind:spread``. Raises ``InvalidInputError`` with ``option`` for anything else."""
        name, _, spread = text.partition(":")
        kinds = ", ".join(LengthKind)
        if name not in list(LengthKind):
            raise InvalidInputError(f"{option} is {text!r}; give one of {kinds}, with a spread such as lognormal:0.5")
        kind = LengthKind(name)
        try:
            value = float(spread) if spread else (0.0 if kind is LengthKind.FIXED else 0.5)
        except ValueError:
            value = math.nan
        most = 1.0 if kind is LengthKind.UNIFORM else 3.0
        if not 0 <= value <= most or (kind is LengthKind.FIXED and value):
            raise InvalidInputError(
                f"{option} is {text!r}; a spread is a number from 0 to {most:g}, and fixed has none"
            )
        return cls(kind, value)

    def draw(self, random: np.random.Generator, length: int, count: int, most: int) -> list[int]:
        """``count`` lengths around ``length``, each from 1 to ``most``."""
        if self.kind is LengthKind.UNIFORM:
            found = random.uniform(1 - self.spread, 1 + self.spread, count) * length
        elif self.kind is LengthKind.NORMAL:
            found = random.normal(length, self.spread * length, count)
        elif self.kind is LengthKind.LOGNORMAL:
            found = random.lognormal(math.log(length), self.spread, count)
        else:
            found = np.full(count, float(length))
        lengths: list[int] = np.clip(np.rint(found), 1, most).astype(int).tolist()
        return lengths


def arrival_times(random: np.random.Generator, kind: Arrivals, rate: float, count: int, burst: int) -> list[float]:
    """Seconds from the start, in order, at ``rate`` requests per second; at an infinite rate all at once.

    ``burst``: requests of one group, with ``Arrivals.BURST``.
    """
    if math.isinf(rate):
        return [0.0] * count
    if kind is Arrivals.POISSON:
        times: list[float] = np.cumsum(random.exponential(1 / rate, count)).tolist()
        return times
    group = burst if kind is Arrivals.BURST else 1
    return [index // group * group / rate for index in range(count)]


class Size(NamedTuple):
    """Tokens of a request: of its prompt, and to generate."""

    input: int
    output: int


@dataclass(frozen=True)
class Plan:
    """The options of a benchmark.

    ``batch`` requests run together, ``runs`` times after ``warmup`` times. With ``rate`` instead, ``requests`` arrive by
    ``arrivals``. With ``turns`` above 1, ``batch`` conversations share their first ``prefix`` tokens, and each turn adds ``isl``
    tokens and an answer of ``osl``.
    """

    isl: int
    osl: int
    batch: int = 1
    warmup: int = 1
    runs: int = 5
    rate: float | None = None
    requests: int = 32
    arrivals: Arrivals = Arrivals.POISSON
    burst: int = 4
    isl_dist: Lengths = Lengths()
    osl_dist: Lengths = Lengths()
    image_tokens: int = 0
    prefix: int = 0
    turns: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"isl": 1, "osl": 2, "batch": 1, "warmup": 0, "runs": 1, "requests": 1, "burst": 1, "turns": 1}
        least |= {"prefix": 0, "image_tokens": 0, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InvalidInputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; a benchmark needs at least {value}"
                )
        if self.rate is not None and not self.rate > 0:
            raise InvalidInputError(
                f"--rate is {self.rate:g}; give requests per second above 0, or inf for all at once"
            )
        if self.turns > 1 and (self.rate is not None or self.image_tokens):
            raise InvalidInputError("--agentic has its own arrivals and text only; omit --rate and --image-tokens")
        if self.rate is not None and self.image_tokens:
            raise InvalidInputError("--image-tokens is for requests that start together; omit --rate")
        if self.rate is None and (self.isl_dist.kind, self.osl_dist.kind) != (LengthKind.FIXED, LengthKind.FIXED):
            raise InvalidInputError("--isl-dist and --osl-dist are for requests at a rate; give --rate too")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, where lengths are fixed."""
        return self.prefix + self.turns * (self.isl + self.osl)

    def check_fits(self, max_seq_len: int, max_batch: int) -> None:
        """Raise ``CapacityError`` if the sequences, or as many at once, are more than the compiled model has room for."""
        if self.longest > max_seq_len:
            whole = f"--isl {self.isl} and --osl {self.osl} make sequences of"
            if self.turns > 1:
                whole = (
                    f"{self.prefix} shared tokens and {self.turns} turns of --isl {self.isl} and --osl {self.osl} make"
                )
            raise CapacityError(
                f"{whole} {self.longest} tokens, more than max_seq_len {max_seq_len}; lower them, or compile with a larger "
                "--max-seq-len"
            )
        if self.batch > max_batch:
            raise CapacityError(
                f"--batch is {self.batch}, and the bundle has {max_batch} slots; lower it, give --rate, or compile with a larger "
                "--max-batch"
            )

    def sizes(self, max_seq_len: int) -> list[Size]:
        """The requests of ``rate``, drawn from the distributions and cut to the compiled model's limit."""
        random = np.random.default_rng([self.seed, 1])
        outputs = self.osl_dist.draw(random, self.osl, self.requests, max_seq_len - 1)
        inputs = self.isl_dist.draw(random, self.isl, self.requests, max_seq_len - 1)
        return [Size(min(i, max_seq_len - o), o) for i, o in zip(inputs, outputs, strict=True)]

    def arrival_times(self) -> list[float]:
        """Of the requests of ``rate``."""
        assert self.rate is not None
        random = np.random.default_rng([self.seed, 2])
        return arrival_times(random, self.arrivals, self.rate, self.requests, self.burst)

    def describe(self) -> str:
        """One line for a table."""
        if self.turns > 1:
            return (
                f"{self.batch} conversations of {self.turns} turns after {self.prefix} shared tokens, {self.isl} input and "
                f"{self.osl} new tokens a turn, {self.runs} runs"
            )
        if self.rate is not None:
            when = "all at once" if math.isinf(self.rate) else f"at {self.rate:g}/s ({self.arrivals})"
            lengths = f"{_about(self.isl, self.isl_dist)} input and {_about(self.osl, self.osl_dist)} new tokens"
            return f"{self.requests} requests {when}, {lengths}"
        images = f", {self.image_tokens} of them image tokens" if self.image_tokens else ""
        return f"{self.batch} x {self.isl} input tokens{images}, {self.osl} new, {self.runs} runs after {self.warmup}"


def _about(length: int, lengths: Lengths) -> str:
    return str(length) if lengths.kind is LengthKind.FIXED else f"about {length} ({lengths.kind} {lengths.spread:g})"


def random_ids(random: np.random.Generator, vocabulary: Sequence[int] | np.ndarray | int, length: int) -> list[int]:
    """``length`` token ids, uniform over ``vocabulary``."""
    ids: list[int] = random.choice(vocabulary, length).tolist()
    return ids
