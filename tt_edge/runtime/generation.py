"""Greedy generation over a session: prefill, then one token a row at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.config import GenerationConfig
from tt_edge.contract import EngineContract
from tt_edge.errors import CapacityError, EngineError, InvalidInputError
from tt_edge.runtime.session import Ids, Logits, Session

#: Called with the prompt's index and each new token, as soon as it is known.
OnToken = Callable[[int, int], None]


@dataclass(frozen=True)
class Timing:
    """Wall times of one row, in seconds. Rows of a batch run together and share its prefill.

    ``ttft_s`` counts from the start of ``generate()`` to the row's first token, so it includes the batches before it;
    ``decode_s`` runs from the first token to the row's last.
    """

    prefill_s: float
    ttft_s: float
    decode_s: float
    new_tokens: int

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first; 0 when there is only one."""
        return self.decode_s / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of this row after the first; 0 when there is only one."""
        return 1.0 / self.tpot_s if self.tpot_s else 0.0

    def to_dict(self) -> dict[str, float]:
        return {
            "prefill_s": self.prefill_s,
            "ttft_s": self.ttft_s,
            "decode_s": self.decode_s,
            "tpot_s": self.tpot_s,
            "tokens_per_s": self.tokens_per_s,
        }


@dataclass(frozen=True)
class Generation:
    """The tokens of one row; where ``finish_reason`` is ``eos``, the last of ``new_token_ids`` is that token."""

    input_ids: list[int]
    new_token_ids: list[int]
    finish_reason: str  # "eos" or "length"
    timing: Timing


def select_next(logits: Logits) -> Ids:
    """Greedy choice: the id of the largest of ``logits`` ``[B, V]``, int64 ``[B]``; the first among equals.

    Raises ``EngineError`` for NaN or infinite logits, which an overflow in half precision causes.
    """
    best = logits.max(axis=-1)
    if not np.isfinite(best).all():
        row = int(np.flatnonzero(~np.isfinite(best))[0])
        raise EngineError(f"the logits of row {row} hold {best[row]}; compile with --precision bf16 or fp32")
    choice: Ids = logits.argmax(axis=-1).astype(np.int64)
    return choice


def prefill(session: Session, prompts: Sequence[Sequence[int]]) -> Logits:
    """Feed whole prompts to a freshly reset session; returns the logits of each one's last token, ``[B, V]``.

    Prompts longer than ``max_input_len`` go in pieces. All rows start at place 0, so a row that is done never has a
    longer past than one that is not, and padding stays within the cache.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    step = session.contract.max_input_len
    last: Logits = np.zeros((len(prompts), session.contract.vocab_size), np.float32)
    for start in range(0, int(lengths.max()), step):
        counts = np.clip(lengths - start, 0, step)
        ids = np.zeros((len(prompts), int(counts.max())), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : counts[row]] = prompt[start : start + step]
        logits = session.forward(ids, counts)
        ends_here = (counts > 0) & (lengths <= start + step)
        last[ends_here] = logits[ends_here]
    return last


def decode_one_step(session: Session, tokens: Ids, active: NDArray[np.bool_]) -> Logits:
    """Feed one token to each active row (``tokens`` ``[B]``); returns logits ``[B, V]``, of meaning in active rows."""
    return session.forward(np.where(active, tokens, 0)[:, None], active.astype(np.int32))


def generate(
    session: Session,
    prompts_ids: Sequence[Sequence[int]],
    config: GenerationConfig,
    on_token: OnToken | None = None,
) -> list[Generation]:
    """Continue each prompt greedily, as Hugging Face ``generate(do_sample=False)`` does.

    Prompts may differ in length; more than ``max_batch`` of them run batch after batch. A row ends after
    ``config.max_new_tokens`` or with one of ``config.eos_token_ids``, which is kept.
    Raises ``InvalidInputError`` for an empty prompt or an id outside the vocabulary and ``CapacityError`` for a prompt
    that leaves too little room, before anything runs.
    """
    for index, prompt in enumerate(prompts_ids):
        _check_prompt(index, prompt, config, session.contract)
    began, results = time.perf_counter(), []
    size = session.contract.max_batch
    for start in range(0, len(prompts_ids), size):
        prompts = prompts_ids[start : start + size]
        results += _generate_batch(session, prompts, config, on_token, first_index=start, began=began)
    return results


def _generate_batch(
    session: Session,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    on_token: OnToken | None,
    *,
    first_index: int,
    began: float,
) -> list[Generation]:
    eos = () if config.ignore_eos else config.eos_token_ids
    new: list[list[int]] = [[] for _ in prompts]
    ended = [0.0] * len(prompts)
    active = np.ones(len(prompts), np.bool_)
    tokens = np.zeros(len(prompts), np.int64)

    start = time.perf_counter()
    session.reset(len(prompts))
    logits = prefill(session, prompts)
    first = 0.0
    while True:
        tokens[active] = select_next(logits[active])
        now = time.perf_counter()
        first = first or now
        for row in np.flatnonzero(active).tolist():
            token = int(tokens[row])
            new[row].append(token)
            ended[row] = now
            active[row] = token not in eos and len(new[row]) < config.max_new_tokens
            if on_token is not None:
                on_token(first_index + row, token)
        if not active.any():
            break
        logits = decode_one_step(session, tokens, active)
    return [
        Generation(
            input_ids=list(prompt),
            new_token_ids=new[row],
            finish_reason="eos" if new[row][-1] in eos else "length",
            timing=Timing(first - start, first - began, ended[row] - first, len(new[row])),
        )
        for row, prompt in enumerate(prompts)
    ]


def _check_prompt(index: int, prompt: Sequence[int], config: GenerationConfig, contract: EngineContract) -> None:
    if not len(prompt):
        raise InvalidInputError(f"prompt {index} has no tokens; give some text, if only a begin-of-sequence token")
    if min(prompt) < 0 or max(prompt) >= contract.vocab_size:
        wrong = min(prompt) if min(prompt) < 0 else max(prompt)
        raise InvalidInputError(
            f"prompt {index} has token id {wrong}, outside the vocabulary of {contract.vocab_size}; "
            "encode it with the bundle's own tokenizer"
        )
    total = len(prompt) + config.max_new_tokens
    if total > contract.max_seq_len:
        raise CapacityError(
            f"prompt {index} has {len(prompt)} tokens, and {config.max_new_tokens} new ones make {total}, more than "
            f"max_seq_len {contract.max_seq_len}; lower --max-new-tokens, shorten the prompt, "
            "or compile with a larger --max-seq-len"
        )
