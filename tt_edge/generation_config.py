"""Generation settings: limits, sampling, stop conditions. Names are those of Hugging Face or OpenAI. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tt_edge.checkpoint_generation import recommended
from tt_edge.compat import Self
from tt_edge.config.base import JsonConfig, require, require_positive

#: Maximum number of alternatives in a token's ``logprobs``, and the largest logit bias: OpenAI's limits.
MAX_LOGPROBS, MAX_BIAS = 20, 100.0
#: Maximum number of beams.
MAX_BEAMS = 8
#: Maximum number of stop strings of one request, and their maximum length in characters.
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 16, 256
#: Maximum number of token sequences of ``bad_words_ids`` and of ``sequence_bias``.
MAX_SEQUENCES = 65_536


@dataclass(frozen=True)
class GenerationConfig(JsonConfig):
    """The generation settings of one request; each prompt of a batch may have its own. The default is greedy search.

    Generation stops at ``eos_token_ids`` (default: the bundle's), unless ``ignore_eos`` is set (for benchmarks). It also
    stops at ``stop_token_ids``, and when the text contains one of the ``stop`` strings; the text is cut before that string.

    With ``temperature`` 0 the most likely token is chosen. Above 0, tokens are sampled with a separate random generator per
    request, so that with a ``seed`` equal logits give equal tokens. The last bits of the logits depend on the shape of the
    network's steps: on the other requests in the batch, and on how much of the prompt was cached. This can change a sampled
    token, most likely in half precision. A request that runs without others, after the same earlier requests, is exactly
    reproducible. ``top_k`` (0: off), ``top_p`` and ``min_p`` limit the candidates.

    ``repetition_penalty`` divides the logits of tokens that occur in prompt or answer (CTRL, arXiv:1909.05858).
    ``frequency_penalty`` is subtracted for each occurrence of a token in the answer, ``presence_penalty`` once if it occurs
    at all, as OpenAI defines them. ``logit_bias`` (a mapping, stored as pairs) is added to logits by token id.

    ``sequence_bias`` is added to the logit of the last token of a sequence if the sequence's other tokens were just seen;
    ``bad_words_ids`` forbids that token. ``no_repeat_ngram_size`` forbids repeating n-grams of this size in prompt and
    answer. ``suppress_tokens`` are never chosen, ``begin_suppress_tokens`` not as the first new token. ``eos_token_ids`` are
    not chosen before ``min_new_tokens`` new tokens, or ``min_length`` tokens of prompt and answer together.
    ``forced_bos_token_id`` is chosen where prompt and answer have one token (the start of an encoder-decoder's answer), and one
    of ``forced_eos_token_id`` as the last of ``max_new_tokens``.

    ``no_timestamps_token_id`` makes an answer to speech have timestamps, which are the tokens above this one: in pairs, in
    order, the first at most ``max_initial_timestamp_index``, and wherever together they are likelier than any word.

    ``num_beams`` above 1 is beam search: the answer is the best of that many, by the sum of log-probabilities over the number
    of new tokens to the power of ``length_penalty``. ``early_stopping`` ends it when as many are finished (``True``), when no
    better one is likely (``False``), or none is possible (``"never"``).

    All are applied in Hugging Face's order: biases, penalties, n-grams, bad words, minimum lengths, forced and suppressed tokens,
    temperature, ``top_k``, ``top_p``, ``min_p``.

    ``logprobs``, if given, requests the log-probability of every new token and of that many most likely tokens, from the
    model's own distribution, before any of the above. ``prompt_logprobs`` requests the same for the prompt's tokens, from the
    second one on; then each prompt token takes its own step, and ``max_new_tokens`` may be 0.
    """

    max_new_tokens: int = 64
    eos_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    no_timestamps_token_id: int | None = None
    max_initial_timestamp_index: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        for name in (
            "eos_token_ids",
            "stop_token_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_eos_token_id",
        ):
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        if self.prompt_logprobs is None or self.max_new_tokens != 0:
            require_positive("max_new_tokens", self.max_new_tokens)
        require(isinstance(self.ignore_eos, bool), f"ignore_eos is {self.ignore_eos!r}; it must be true or false")
        for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens", "min_length"):
            _require_integer(name, getattr(self, name), 0, 2**31 - 1)
        if self.seed is not None:
            _require_integer("seed", self.seed, 0, 2**63 - 1)
        for name in ("forced_bos_token_id", "no_timestamps_token_id", "max_initial_timestamp_index"):
            if getattr(self, name) is not None:
                _require_integer(name, getattr(self, name), 0, 2**31 - 1)
        self._check_beams()
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _require_integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        for name, least, most in (
            ("temperature", 0.0, 100.0),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.01, 100.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
        ):
            _require_number(name, getattr(self, name), least, most)
        require(self.top_p > 0, f"top_p is {self.top_p!r}; it must be above 0, and 1 turns it off")
        require(
            len(stop) <= MAX_STOP_STRINGS, f"{len(stop)} stop strings are too many; give at most {MAX_STOP_STRINGS}"
        )
        for text in stop:
            fits = isinstance(text, str) and 1 <= len(text) <= MAX_STOP_LENGTH
            require(fits, f"stop string {text!r} is not of 1 to {MAX_STOP_LENGTH} characters; omit or change it")
        self._check_bias()
        object.__setattr__(self, "bad_words_ids", _sequences("bad_words_ids", self.bad_words_ids))
        object.__setattr__(self, "sequence_bias", _biased_sequences(self.sequence_bias))

    def _check_beams(self) -> None:
        _require_integer("num_beams", self.num_beams, 1, MAX_BEAMS)
        _require_number("length_penalty", self.length_penalty, -100.0, 100.0)
        stops = self.early_stopping
        require(
            isinstance(stops, bool) or stops == "never",
            f'early_stopping is {stops!r}; it must be true, false or "never"',
        )
        if self.num_beams > 1:
            ends = self.forced_eos_token_id
            require(
                len(ends) < 2,
                f"num_beams is {self.num_beams}, and forced_eos_token_id {ends} has several tokens, so that beams tie; give one",
            )
            for name, is_on in (
                ("temperature", self.temperature > 0),
                ("logprobs", self.logprobs is not None),
                ("prompt_logprobs", self.prompt_logprobs is not None),
                ("stop", bool(self.stop)),
            ):
                require(not is_on, f"num_beams is {self.num_beams}, and beam search has no {name}; omit one of them")

    def _check_bias(self) -> None:
        """Convert ``logit_bias``, a mapping or pairs, to pairs sorted by token id."""
        given = self.logit_bias.items() if isinstance(self.logit_bias, Mapping) else self.logit_bias
        is_pairs = isinstance(given, Collection) and all(isinstance(p, tuple | list) and len(p) == 2 for p in given)
        require(is_pairs, f"logit_bias is {self.logit_bias!r}; it must map token ids to numbers")
        bias = {}
        for key, value in given:
            # JSON's keys are text, written in one way: with another, two could be the same token.
            is_id = isinstance(key, int) or (
                isinstance(key, str) and re.fullmatch("0|[1-9][0-9]{0,9}", key) is not None
            )
            require(is_id and 0 <= int(key) < 2**31, f"logit_bias has key {str(key)[:40]!r}; its keys are token ids")
            _require_number(f"logit_bias of token {key}", value, -MAX_BIAS, MAX_BIAS)
            bias[int(key)] = float(value)
        object.__setattr__(self, "logit_bias", tuple(sorted(bias.items())))

    @classmethod
    def of_checkpoint(cls, data: Mapping[str, Any]) -> Self:
        """The settings of a checkpoint's ``generation_config.json``; ``checkpoint_generation.not_applied`` lists the others.

        Raises ``InvalidInputError`` for an invalid value.
        """
        return cls(**recommended(data))

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled, instead of choosing the most likely one."""
        return self.temperature > 0


def _token_ids(name: str, values: object) -> tuple[int, ...]:
    ids = tuple(values) if isinstance(values, tuple | list | set | frozenset | range) else (values,)
    for value in ids:
        _require_integer(name, value, 0, 2**31 - 1)
    return ids  # type: ignore[return-value]


def _sequences(name: str, values: object) -> tuple[tuple[int, ...], ...]:
    is_list = isinstance(values, tuple | list) and len(values) <= MAX_SEQUENCES
    require(is_list, f"{name} must be a list of at most {MAX_SEQUENCES} lists of token ids")
    found = tuple(_token_ids(name, value) for value in values)  # type: ignore[attr-defined]
    require(all(found), f"{name} has an empty list; its lists have a token id at least")
    return found


def _biased_sequences(given: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pairs of token ids and a bias, from pairs as in JSON or from a mapping, which transformers also accepts."""
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    is_pairs = isinstance(pairs, tuple | list) and all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
    require(is_pairs, "sequence_bias must be a list of pairs: a list of token ids, and a number")
    sequences = _sequences("sequence_bias", [ids for ids, _ in pairs])  # type: ignore[attr-defined]
    biases = [bias for _, bias in pairs]  # type: ignore[attr-defined]
    for bias in biases:
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool) and bias == bias
        require(is_number, f"sequence_bias has the bias {bias!r}; it must be a number")
    return tuple(zip(sequences, map(float, biases), strict=True))


def _require_integer(name: str, value: object, least: int, most: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(is_integer, f"{name} is {value!r}; it must be an integer from {least} to {most}")


def _require_number(name: str, value: object, least: float, most: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and least <= value <= most  # type: ignore[operator]  # false for NaN
    require(fits, f"{name} is {value!r}; it must be a number from {least:g} to {most:g}")
