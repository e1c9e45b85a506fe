"""Benchmarks of a loaded bundle, in this process: token ids in, token ids out. Tokenizing and HTTP are not part of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.benchmark.energy import EnergyMeter
from tt_edge.runtime.benchmark.memory import PeakMemory
from tt_edge.runtime.benchmark.records import Measured, RequestTimes
from tt_edge.runtime.benchmark.vision import random_picture, random_prompt
from tt_edge.runtime.benchmark.workload import Plan, random_ids
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Scheduler
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.seq2seq.source import Source

#: One run of a benchmark.
Run: TypeAlias = Callable[[], list[RequestTimes]]


@dataclass(eq=False)
class _Timed:
    """A request that notes when its tokens come."""

    ids: Sequence[int]
    new_tokens: int
    images: PromptImages = NO_IMAGES
    vision_s: float = 0.0
    turn: int = 1
    source: Source | None = None
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = GenerationConfig(max_new_tokens=self.new_tokens, ignore_eos=True)
        salt = "" if self.source is None else self.source.digest
        self.request = Request(
            list(self.ids), config, self._note, images=self.images, cache_salt=salt, source=self.source
        )

    def _note(self, _: Token) -> None:
        self.times.append(time.perf_counter())

    def record(self) -> RequestTimes:
        request = self.request
        return RequestTimes(
            started=request.asked_at - self.vision_s,
            chunks=tuple(self.times),
            input_tokens=len(self.ids) if self.source is None else self.source.length,
            output_tokens=len(request.tokens),
            computed_from=request.admitted_at,
            reused_tokens=request.reused,
            vision_s=self.vision_s,
            turn=self.turn,
        )


def measure(llm: LLM, plan: Plan) -> Measured:
    """Run ``plan`` on ``llm``, which nobody else uses meanwhile.

    Raises ``CapacityError`` for sequences that do not fit, before anything runs.
    """
    limits = llm.session.contract
    if llm.source is not None:
        return measure_sources(llm, plan)
    if plan.rate is None:
        plan.check_fits(limits.max_seq_len, limits.max_batch)
    else:
        Plan(plan.isl, plan.osl).check_fits(limits.max_seq_len, limits.max_batch)
    if plan.image_tokens:
        if llm.vision is None:
            raise InvalidInputError(
                "--image-tokens needs a vision-language model, and the bundle has no vision tower; omit it"
            )
        picture = random_picture(llm.vision.encoder.session.contract, plan.image_tokens, plan.seed)
        ids = random_prompt(llm, plan.isl, plan.image_tokens, plan.seed)
        return measure_images(llm, ids, [picture], plan)
    if plan.rate is None and plan.turns == 1:
        return measure_batch(llm.session, batch_prompts(llm, plan), plan)
    if plan.rate is None:
        return _of_session(llm.session, lambda: _conversations(llm.session, plan), plan.warmup, plan.runs)
    [ids] = random_prompts(limits.vocab_size, 1, plan.isl, plan.seed).tolist()
    return _of_session(
        llm.session,
        lambda: _at_a_rate(llm.session, plan),
        plan.warmup,
        1,
        warm=lambda: _together(llm.session, [_Timed(ids, plan.osl)]),
    )


def measure_batch(session: Session, prompts: np.ndarray, plan: Plan) -> Measured:
    """Generate ``plan.osl`` tokens after ``prompts`` ``[B, S]``, together, ``plan.warmup`` and then ``plan.runs`` times."""
    batch = prompts.tolist()
    return _of_session(
        session, lambda: _together(session, [_Timed(ids, plan.osl) for ids in batch]), plan.warmup, plan.runs
    )


def measure_images(llm: LLM, ids: Sequence[int], images: Sequence[ProcessedImage], plan: Plan) -> Measured:
    """Encode ``images`` and generate after ``ids``, in ``plan.batch`` slots together; the images are encoded one by one."""

    def run() -> list[RequestTimes]:
        return _together(llm.session, [_with_images(llm, ids, images, plan.osl) for _ in range(plan.batch)])

    return _of_session(llm.session, run, plan.warmup, plan.runs)


def measure_sources(llm: LLM, plan: Plan) -> Measured:
    """Answer random sources, in ``plan.batch`` slots together; they are encoded one by one before, which counts as vision does.

    A text has ``plan.isl`` tokens, speech of any length as many places, other sources their one size; a language is not detected.
    Raises ``CapacityError`` for what does not fit, and ``InvalidInputError`` for a plan of other requests than batches.
    """
    pipeline, limits = llm.source, llm.session.contract
    assert pipeline is not None
    if plan.rate is not None or plan.turns > 1 or plan.image_tokens:
        raise InvalidInputError(
            "the bundle is of an encoder-decoder, of which only batches are measured; omit --rate, --agentic and --image-tokens"
        )
    start = [max(token, 0) for token in pipeline.start.default]
    for what, needed, most, option in (
        ("--isl", plan.isl, limits.max_source_len, "source-len"),
        (f"--osl and {len(start)} tokens before", plan.osl + len(start), limits.max_seq_len, "seq-len"),
        ("--batch", plan.batch, limits.max_batch, "batch"),
    ):
        if needed > most:
            raise CapacityError(
                f"{what} make {needed}, more than the {most} of the compiled model; lower it, or compile with a larger "
                f"--max-{option}"
            )
    random = np.random.default_rng(plan.seed)
    shape = pipeline.shape_of(plan.isl)

    def content() -> np.ndarray:
        if pipeline.takes_text:
            return random.integers(0, limits.vocab_size, shape)
        return random.standard_normal(shape, np.float32)

    contents = [content() for _ in range(plan.batch)]

    def timed(given: np.ndarray) -> _Timed:
        begun = time.perf_counter()
        source = pipeline.source(given)
        return _Timed(start, plan.osl, vision_s=time.perf_counter() - begun, source=source)

    def run() -> list[RequestTimes]:
        return _together(llm.session, [timed(given) for given in contents])

    return _of_session(llm.session, run, plan.warmup, plan.runs)


def observe(what: str, run: Run, warmup: int, runs: int, warm: Run | None = None) -> Measured:
    """Call ``warm``, or else ``run``, ``warmup`` times; then ``run`` ``runs`` times, with its requests, memory and energy noted."""
    peak, meter = PeakMemory(), EnergyMeter()
    for _ in range(warmup):
        (warm or run)()
    meter.start()
    try:
        records = [record for _ in range(runs) for record in run()]
    finally:
        energy = meter.stop()
    return Measured(what, records, peak.read(), energy)


def _of_session(session: Session, run: Run, warmup: int, runs: int, warm: Run | None = None) -> Measured:
    return replace(observe(session.word, run, warmup, runs, warm), is_reference=isinstance(session, ReferenceSession))


def batch_prompts(llm: LLM, plan: Plan) -> np.ndarray:
    """The prompts of a plan without images, rate or turns: token ids int64 ``[batch, isl]``."""
    return random_prompts(llm.session.contract.vocab_size, plan.batch, plan.isl, plan.seed)


def random_prompts(vocab_size: int, batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Token ids int64 ``[batch, length]``, uniform over the vocabulary."""
    return np.random.default_rng(seed).integers(0, vocab_size, (batch, length))


def _together(session: Session, timed: Sequence[_Timed]) -> list[RequestTimes]:
    """All at once, on an empty cache."""
    scheduler = Scheduler(session, slots=len(timed))
    requests = [each.request for each in timed]
    for request in requests:
        request.asked_at = time.perf_counter()
    scheduler.submit(*requests)
    scheduler.run(requests)
    return [each.record() for each in timed]


def _with_images(llm: LLM, ids: Sequence[int], images: Sequence[ProcessedImage], new_tokens: int) -> _Timed:
    """Encodes the images anew."""
    start, given = time.perf_counter(), NO_IMAGES
    if images:
        assert llm.vision is not None
        llm.vision.encoder.forget()
        given = llm.vision.prompt_images(ids, images)
    return _Timed(ids, new_tokens, given, time.perf_counter() - start)


def _at_a_rate(session: Session, plan: Plan) -> list[RequestTimes]:
    """Requests that come whether or not earlier ones are done. Each counts from when it was due."""
    contract, random = session.contract, np.random.default_rng(plan.seed)
    timed = [
        _Timed(random_ids(random, contract.vocab_size, size.input), size.output)
        for size in plan.sizes(contract.max_seq_len)
    ]
    scheduler = Scheduler(session, slots=min(plan.batch, contract.max_batch))
    coming = deque(zip(plan.arrival_times(), timed, strict=True))
    start = time.perf_counter()
    while coming or scheduler.running or scheduler.waiting:
        while coming and start + coming[0][0] <= time.perf_counter():
            due, each = coming.popleft()
            each.request.asked_at = start + due
            scheduler.submit(each.request)
        if scheduler.running or scheduler.waiting:
            scheduler.step()
        elif coming:
            time.sleep(max(0.0, start + coming[0][0] - time.perf_counter()))
    return [each.record() for each in timed]


def _conversations(session: Session, plan: Plan) -> list[RequestTimes]:
    """Conversations that share a prefix; each turn's prompt is all before it and new tokens, and follows the answer at once."""
    random = np.random.default_rng(plan.seed)
    scheduler, vocabulary = Scheduler(session, slots=plan.batch), session.contract.vocab_size
    prefix = random_ids(random, vocabulary, plan.prefix)

    def next_turn(before: Sequence[int], turn: int) -> _Timed:
        each = _Timed([*before, *random_ids(random, vocabulary, plan.isl)], plan.osl, turn=turn)
        each.request.asked_at = time.perf_counter()
        scheduler.submit(each.request)
        return each

    active, done = [next_turn(prefix, 1) for _ in range(plan.batch)], []
    while active:
        scheduler.step()
        for each in [each for each in active if each.request.is_done]:
            active.remove(each)
            done.append(each.record())
            if each.turn < plan.turns:
                said = [token.id for token in each.request.tokens]
                active.append(next_turn([*each.ids, *said], each.turn + 1))
    return done
