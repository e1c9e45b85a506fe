"""Beam search over a session, as transformers' ``generate(num_beams=…, do_sample=False)`` does it. NumPy only.

The beams of one prompt are the first slots of the batch. Where a beam continues another one, its slot takes that one's keys and
values through host memory: simple and exact, and no more than a copy of the cache a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import CapacityError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.scheduling.admission import check_prompt
from tt_edge.runtime.scheduling.logits_processors import TokenHistory, processors_for
from tt_edge.runtime.scheduling.sampling import check_finite
from tt_edge.runtime.seq2seq.source import Source

#: Added to the score of what may not be chosen, as in transformers.
_NEVER = np.float32(-1.0e9)


@dataclass(frozen=True)
class _Beams:
    """Candidates, best first: new tokens ``[n, length]``, scores ``[n]`` float32, and which beam each continues ``[n]``."""

    tokens: NDArray[np.int64]
    scores: NDArray[np.float32]
    parents: NDArray[np.int64]

    def best(self, scores: NDArray[np.float32], count: int) -> tuple[_Beams, NDArray[np.int64]]:
        order = np.argsort(-scores, kind="stable")[:count]
        return _Beams(self.tokens[order], scores[order], self.parents[order]), order


def check_beams(session: Session, config: GenerationConfig) -> None:
    """Raise ``CapacityError`` for more beams than the session has slots."""
    if config.num_beams > session.contract.max_batch:
        raise CapacityError(
            f"{config.num_beams} beams need as many batch slots, and the compiled model has {session.contract.max_batch}; lower "
            f"num_beams, or compile with --max-batch {config.num_beams}"
        )


def beam_search(
    session: Session,
    prompt_ids: Sequence[int],
    config: GenerationConfig,
    source: Source | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[int]:
    """The new tokens of the best of ``config.num_beams`` beams; the last may be an end-of-sequence token.

    Uses the session alone, from empty slots. ``stopped`` is asked after each step whether to end early. Raises as
    ``check_prompt`` and ``check_beams`` do.
    """
    check_prompt("the prompt", prompt_ids, config, session.contract, source=source)
    check_beams(session, config)
    search = _Search(session, list(prompt_ids), config, source)
    while search.step() and not stopped():
        pass
    return search.answer()


class _Search:
    def __init__(self, session: Session, prompt: list[int], config: GenerationConfig, source: Source | None) -> None:
        self.session, self.prompt, self.config = session, prompt, config
        self.width = config.num_beams
        self.ends = () if config.ignore_eos else (*config.eos_token_ids, *config.stop_token_ids)
        self.vocab = session.contract.vocab_size
        self.processors = processors_for(config, prompt, self.vocab)
        # Only the first beam counts at first: all are the same.
        scores = np.full(self.width, _NEVER, np.float32)
        self.finished = _Beams(np.zeros((self.width, 0), np.int64), scores.copy(), np.zeros(self.width, np.int64))
        self.is_finished = np.zeros(self.width, np.bool_)
        self.improvable = True
        scores[0] = 0
        self.running = _Beams(np.zeros((self.width, 0), np.int64), scores, np.arange(self.width))
        session.reset(self.width)
        if source is not None:
            for slot in range(self.width):
                session.write_cross(slot, source.cross, source.length)

    def step(self) -> bool:
        """Add one token to every beam; whether to go on."""
        config, length = self.config, self.running.tokens.shape[1]
        keep = max(2, 1 + len(self.ends)) * self.width
        total = (self._log_probabilities() + self.running.scores[:, None]).ravel()
        order = np.argsort(-total, kind="stable")[:keep]
        parents, ids = np.divmod(order, self.vocab)
        tokens = np.concatenate([self.running.tokens[parents], ids[:, None]], axis=1)
        found = _Beams(tokens, total[order], parents)
        ended = np.isin(ids, self.ends) | (length + 1 == config.max_new_tokens)
        before = self.running.tokens
        self.running, _ = found.best(found.scores + np.where(ended, _NEVER, np.float32(0)), self.width)
        self._finish(found, ended)
        self._reorder(before)
        divisor = np.float32((length + 1) ** config.length_penalty)
        if config.early_stopping == "never" and config.length_penalty > 0:
            divisor = np.float32(config.max_new_tokens**config.length_penalty)
        worst = self.finished.scores.min() if self.is_finished.any() else _NEVER
        # As transformers has it: places without a finished beam are as bad as can be.
        worst_of = np.where(self.is_finished, worst, _NEVER)
        self.improvable = self.improvable and bool((self.running.scores[0] / divisor > worst_of).any())
        is_full = self.is_finished.all() and config.early_stopping is True
        return self.improvable and not is_full and not ended.all()

    def answer(self) -> list[int]:
        """The best finished beam or, if the search was stopped before any, the best running one."""
        best = self.finished if self.is_finished.any() else self.running
        tokens: list[int] = best.tokens[0].tolist()
        ends = next((i for i, token in enumerate(tokens) if token in self.ends or token < 0), None)
        return tokens if ends is None else tokens[: ends + int(tokens[ends] >= 0)]

    def _log_probabilities(self) -> NDArray[np.float32]:
        """Of the next token of each beam ``[beams, V]``, with the settings' logits processors applied."""
        if self.running.tokens.shape[1] == 0:
            ids = np.tile(np.array(self.prompt, np.int64), (self.width, 1))
            logits = None
            for first in range(0, ids.shape[1], self.session.contract.max_input_len):
                piece = ids[:, first : first + self.session.contract.max_input_len]
                logits = self.session.forward(piece, np.full(self.width, piece.shape[1]))
            assert logits is not None
        else:
            logits = self.session.forward(self.running.tokens[:, -1:], np.ones(self.width, np.int64))
        scores = np.empty((self.width, self.vocab), np.float32)
        for beam, row in enumerate(logits):
            check_finite(row)
            shifted = row - row.max()
            scores[beam] = shifted - np.log(np.exp(shifted).sum())
            history = TokenHistory(self.prompt, self.config.max_new_tokens)
            for token in self.running.tokens[beam].tolist():
                history.append(token)
            for process in self.processors:
                process(scores[beam], history)
        return scores

    def _finish(self, found: _Beams, ended: NDArray[np.bool_]) -> None:
        """Keep the best of the beams that are finished and those of ``found`` that just ended."""
        config, length = self.config, found.tokens.shape[1]
        just = ended & (np.arange(len(ended)) < self.width)
        scores = found.scores / np.float32(length**config.length_penalty)
        if (self.is_finished.all() and config.early_stopping is True) or not self.improvable:
            scores = scores + _NEVER
        scores = np.where(just, scores, scores + _NEVER).astype(np.float32)
        filler = np.full((self.width, length - self.finished.tokens.shape[1]), -1, np.int64)
        merged = _Beams(
            np.concatenate([np.concatenate([self.finished.tokens, filler], axis=1), found.tokens]),
            np.concatenate([self.finished.scores, scores]),
            np.concatenate([self.finished.parents, found.parents]),
        )
        flags = np.concatenate([self.is_finished, just])
        self.finished, order = merged.best(merged.scores, self.width)
        self.is_finished = flags[order]

    def _reorder(self, before: NDArray[np.int64]) -> None:
        """Give each slot the keys and values of the beam that its own now continues; ``before`` are the tokens of those."""
        moves = [(slot, int(parent)) for slot, parent in enumerate(self.running.parents) if slot != parent]
        read = {
            parent: self.session.read_kv(parent, [*self.prompt, *before[parent].tolist()])
            for parent in {parent for _, parent in moves}
        }
        for slot, parent in moves:
            self.session.write_kv(slot, read[parent])
