"""Generation over a session, from token ids to token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.scheduling.admission import check_prompt
from tt_edge.runtime.scheduling.request import FinishReason, Request, Timing
from tt_edge.runtime.scheduling.scheduler import Scheduler
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.seq2seq.source import Source

#: One for all prompts, or one for each.
Configs = GenerationConfig | Sequence[GenerationConfig]


@dataclass(frozen=True)
class GeneratedTokens:
    """The tokens of one prompt; where ``finish_reason`` is ``eos``, the last of ``new_token_ids`` is that token."""

    input_ids: list[int]
    new_token_ids: list[int]
    finish_reason: FinishReason
    timing: Timing


def generate(
    session: Session,
    prompts_ids: Sequence[Sequence[int]],
    config: Configs,
    on_token: Callable[[int, Token], bool | None] | None = None,
    sources: Sequence[Source] | None = None,
) -> list[GeneratedTokens]:
    """Continue each prompt; with greedy parameters, as Hugging Face ``generate(do_sample=False)`` does.

    Prompts may differ in length and parameters; those beyond ``max_batch`` start as slots fall free. ``on_token`` is called
    with the prompt's index and each new token, and may return ``True`` to end that one. ``sources`` are those of the prompts,
    for an encoder-decoder. Raises ``InvalidInputError`` for an empty prompt or an id outside the vocabulary and
    ``CapacityError`` for a prompt that leaves too little room, before anything runs.
    """
    if not prompts_ids:
        return []
    configs = one_each(config, len(prompts_ids))
    given: Sequence[Source | None] = [None] * len(prompts_ids) if sources is None else sources
    for index, (ids, its_config, source) in enumerate(zip(prompts_ids, configs, given, strict=True)):
        check_prompt(f"prompt {index}", ids, its_config, session.contract, source=source)
    scheduler = Scheduler(session, slots=min(len(prompts_ids), session.contract.max_batch))
    requests = [
        Request(
            list(ids),
            its_config,
            partial(on_token, index) if on_token else None,
            cache_salt="" if source is None else source.digest,
            source=source,
        )
        for index, (ids, its_config, source) in enumerate(zip(prompts_ids, configs, given, strict=True))
    ]
    scheduler.submit(*requests)
    scheduler.run(requests)
    return [
        GeneratedTokens(
            input_ids=list(request.prompt_ids),
            new_token_ids=[token.id for token in request.tokens],
            finish_reason=request.finish_reason or FinishReason.CANCELLED,
            timing=request.timing,
        )
        for request in requests
    ]


def one_each(config: Configs, count: int) -> list[GenerationConfig]:
    """``count`` configurations. Raises ``InvalidInputError`` for a list of another length."""
    if isinstance(config, GenerationConfig):
        return [config] * count
    if len(config) != count:
        raise InvalidInputError(f"{len(config)} generation configs do not fit {count} prompts; give one, or one each")
    return list(config)
