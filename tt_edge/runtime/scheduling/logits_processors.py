"""Logits processors: each equals the Hugging Face processor of that name on the same scores. NumPy only.

Every one is called with the scores ``[V]`` of one request, which it changes in place, and the tokens so far. -inf marks what
cannot be chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tt_edge.generation_config import GenerationConfig

Scores = NDArray[np.float32]
Ids = NDArray[np.int64]


class TokenHistory:
    """Token ids of the prompt and the answer so far."""

    def __init__(self, prompt_ids: Sequence[int], room: int) -> None:
        self.prompt_length = self._length = len(prompt_ids)
        self._ids = np.empty(len(prompt_ids) + room, np.int64)
        self._ids[: len(prompt_ids)] = prompt_ids

    def __len__(self) -> int:
        return self._length

    @property
    def ids(self) -> Ids:
        """All of them, ``[S]``; valid until the next ``append``."""
        return self._ids[: self._length]

    @property
    def new_tokens(self) -> int:
        """How many of them are the answer's."""
        return self._length - self.prompt_length

    def append(self, token: int) -> None:
        self._ids[self._length] = token
        self._length += 1


Processor = Callable[[Scores, TokenHistory], None]


def processors_for(config: GenerationConfig, prompt_ids: Sequence[int], vocab_size: int) -> list[Processor]:
    """What ``config`` asks for before sampling, in Hugging Face's order; OpenAI's penalties follow ``RepetitionPenalty``."""
    found: list[Processor] = []
    ends = config.stop_token_ids if config.ignore_eos else (*config.eos_token_ids, *config.stop_token_ids)
    if config.logit_bias:
        found.append(SequenceBias((((token,), bias) for token, bias in dict(config.logit_bias).items()), vocab_size))
    if config.sequence_bias:
        found.append(SequenceBias(config.sequence_bias, vocab_size))
    if config.repetition_penalty != 1:
        found.append(RepetitionPenalty(config.repetition_penalty))
    if config.presence_penalty or config.frequency_penalty:
        found.append(AnswerPenalties(config.presence_penalty, config.frequency_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGram(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        found.append(NoBadWords(config.bad_words_ids, config.eos_token_ids, vocab_size))
    if config.min_length:
        found.append(MinLength(config.min_length, _inside(ends, vocab_size)))
    if config.min_new_tokens:
        found.append(MinLength(len(prompt_ids) + config.min_new_tokens, _inside(ends, vocab_size)))
    if config.forced_bos_token_id is not None:
        found.append(Force(1, _inside((config.forced_bos_token_id,), vocab_size)))
    if config.forced_eos_token_id:
        last = len(prompt_ids) + config.max_new_tokens - 1
        found.append(Force(last, _inside(config.forced_eos_token_id, vocab_size)))
    if config.suppress_tokens:
        found.append(SuppressTokens(_inside(config.suppress_tokens, vocab_size)))
    if config.begin_suppress_tokens:
        # What is forced at the beginning does not count as the first token of the answer.
        skipped = int(config.forced_bos_token_id is not None and len(prompt_ids) == 1)
        found.append(SuppressTokensAtBegin(_inside(config.begin_suppress_tokens, vocab_size), skipped))
    if config.no_timestamps_token_id is not None:
        found.append(
            Timestamps(config.no_timestamps_token_id, config.eos_token_ids, config.max_initial_timestamp_index)
        )
    return found


class SequenceBias:
    """Add a bias to the last token of a sequence where the tokens before it are the latest ones.

    A sequence with a token outside the vocabulary can never be generated and is passed over.
    """

    def __init__(self, biases: Iterable[tuple[Sequence[int], float]], vocab_size: int) -> None:
        self._single = np.zeros(vocab_size, np.float32)
        by_length: dict[int, list[tuple[Sequence[int], float]]] = defaultdict(list)
        for sequence, bias in {tuple(sequence): bias for sequence, bias in biases}.items():  # the last of equals
            if max(sequence) >= vocab_size:
                continue
            if len(sequence) == 1:
                self._single[sequence[0]] = bias
            else:
                by_length[len(sequence) - 1].append((sequence, bias))
        self._longer = [
            (
                np.array([sequence[:-1] for sequence, _ in group], np.int64),  # [N, length]
                np.array([sequence[-1] for sequence, _ in group], np.int64),
                np.array([bias for _, bias in group], np.float32),
            )
            for group in by_length.values()
        ]

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        total = self._single.copy()
        for prefixes, last, biases in self._longer:
            if prefixes.shape[1] <= len(history):
                matching = (history.ids[-prefixes.shape[1] :] == prefixes).all(axis=1)
                np.add.at(total, last[matching], biases[matching])
        scores += total


class NoBadWords(SequenceBias):
    """Never complete one of ``sequences``; one that is an end-of-sequence token is passed over."""

    def __init__(self, sequences: Iterable[Sequence[int]], eos_token_ids: Sequence[int], vocab_size: int) -> None:
        ends = {(token,) for token in eos_token_ids}
        super().__init__(((s, -np.inf) for s in sequences if tuple(s) not in ends), vocab_size)


class RepetitionPenalty:
    """Make all tokens so far less likely: divide their scores where positive, multiply where negative."""

    def __init__(self, penalty: float) -> None:
        self._penalty = np.float32(penalty)

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        ids = _inside(history.ids, len(scores))
        old = scores[ids]
        scores[ids] = np.where(old < 0, old * self._penalty, old / self._penalty)


class AnswerPenalties:
    """OpenAI's penalties, by how often a token is in the answer: ``presence`` once if it is at all, ``frequency`` each time."""

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence, self._frequency = presence, frequency

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        tokens, counts = np.unique(history.ids[history.prompt_length :], return_counts=True)
        scores[tokens] -= (self._frequency * counts + self._presence).astype(np.float32)


class NoRepeatNGram:
    """Never choose a token that would repeat ``size`` tokens in a row of prompt and answer."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        if len(history) < self._size:
            return
        windows = np.lib.stride_tricks.sliding_window_view(history.ids, self._size)
        latest = history.ids[len(history) + 1 - self._size :]
        scores[_inside(windows[(windows[:, :-1] == latest).all(axis=1), -1], len(scores))] = -np.inf


class MinLength:
    """Do not end before prompt and answer have ``length`` tokens."""

    def __init__(self, length: int, ends: Ids) -> None:
        self._length, self._ends = length, ends

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        if len(history) < self._length:
            scores[self._ends] = -np.inf


class SuppressTokens:
    """Never choose ``tokens``."""

    def __init__(self, tokens: Ids) -> None:
        self._tokens = tokens

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        scores[self._tokens] = -np.inf


class Force:
    """Choose one of ``tokens`` where prompt and answer have ``length`` tokens."""

    def __init__(self, length: int, tokens: Ids) -> None:
        self._length, self._tokens = length, tokens

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        if len(history) == self._length and len(self._tokens):
            scores[:] = -np.inf
            scores[self._tokens] = 0


class SuppressTokensAtBegin(SuppressTokens):
    """Do not choose ``tokens`` as the first token of the answer, after ``skipped`` forced ones."""

    def __init__(self, tokens: Ids, skipped: int = 0) -> None:
        super().__init__(tokens)
        self._skipped = skipped

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        if history.new_tokens == self._skipped:
            super().__call__(scores, history)


class Timestamps:
    """Whisper's rules for timestamps, which are the tokens after ``no_timestamps``.

    An answer begins with one, of at most ``most_initial``. They come in pairs, but for the last, and never decrease. Where all
    together are likelier than any other token, one is chosen. ``ends`` are end-of-sequence tokens, which come before them.
    """

    def __init__(self, no_timestamps: int, ends: Sequence[int], most_initial: int | None) -> None:
        self._none, self._first = no_timestamps, no_timestamps + 1
        self._end = ends[0] if ends else self._first
        self._most_initial = most_initial

    def __call__(self, scores: Scores, history: TokenHistory) -> None:
        scores[self._none] = -np.inf
        answer = history.ids[history.prompt_length :]
        times = answer[answer >= self._first]
        just = len(answer) >= 1 and answer[-1] >= self._first
        before = len(answer) < 2 or answer[-2] >= self._first
        if just and before:
            scores[self._first :] = -np.inf
        elif just:
            scores[: self._end] = -np.inf
        if len(times):  # the second of a pair may be equal to the first, and no other one
            scores[self._first : times[-1] + int(not just or before)] = -np.inf
        if not len(answer):
            scores[: self._first] = -np.inf
            if self._most_initial is not None:
                scores[self._first + self._most_initial + 1 :] = -np.inf
        most = scores[: self._first].max()
        together = np.logaddexp.reduce(scores[self._first :]) if len(scores) > self._first else -np.inf
        if together > most:
            scores[: self._first] = -np.inf


def _inside(tokens: Sequence[int] | Ids, vocab_size: int) -> Ids:
    """Those of ``tokens`` that have a score; the token of an image may have none."""
    found = np.asarray(tokens, np.int64)
    return found[found < vocab_size]
