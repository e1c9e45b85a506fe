"""How to generate: limits, sampling, stop conditions. Names are Hugging Face's, or else OpenAI's. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tt_edge.checkpoint_generation import recommended
from tt_edge.compat import Self
from tt_edge.config.base import JsonConfig, require, require_positive

#: Most alternatives a token's ``logprobs`` may list, and the largest logit bias: OpenAI's limits.
MAX_LOGPROBS, MAX_BIAS = 20, 100.0
#: Most stop strings of one request, and their longest, in characters.
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 16, 256
#: Most token sequences of ``bad_words_ids`` and of ``sequence_bias``.
MAX_SEQUENCES = 65_536


@dataclass(frozen=True)
class GenerationConfig(JsonConfig):
    """How to continue one prompt; the prompts of a batch may have one each. The default is greedy.

    ``eos_token_ids`` end it, and default to the bundle's; ``ignore_eos`` goes on past them (for benchmarks).
    ``stop_token_ids`` end it too, and so does text that holds one of the ``stop`` strings, which it is cut before.

    ``temperature`` 0 takes the likeliest token; above 0, tokens are drawn, by a generator of the request's own, so that with a
    ``seed`` the same logits give the same tokens. Logits change in their last bits with the shape of the network's steps: with
    what else is in the batch, and with how much of the prompt was cached. A draw that falls between two tokens within those bits
    may then differ, most likely in half precision; a request that runs by itself, after the same requests, is repeated exactly.
    ``top_k`` (0: off), ``top_p`` and ``min_p`` then limit what is
    drawn from. ``repetition_penalty`` divides the logits of tokens seen in prompt and answer (CTRL, arXiv:1909.05858);
    ``frequency_penalty`` is subtracted once for each time a token is in the answer and ``presence_penalty`` once if it
    is at all, as OpenAI defines them. ``logit_bias`` (a mapping, kept as pairs) adds to logits by token id.

    ``sequence_bias`` adds to the logit of the last token of a sequence where the tokens before it were just seen, and
    ``bad_words_ids`` forbids it; ``no_repeat_ngram_size`` forbids what would repeat so many tokens of prompt and answer.
    ``suppress_tokens`` are never chosen, ``begin_suppress_tokens`` not as the first new token. Before ``min_new_tokens``
    new tokens, or ``min_length`` of prompt and answer together, ``eos_token_ids`` are not chosen.

    All are applied as Hugging Face orders them: biases, penalties, n-grams, bad words, least lengths, suppressed tokens,
    temperature, ``top_k``, ``top_p``, ``min_p``.

    ``logprobs``, if given, asks for every token's log-probability and for that many of the likeliest tokens', by the
    model's own distribution, before any of the above. ``prompt_logprobs`` asks for the same of the prompt's tokens from the
    second on; each then takes a step of its own, and ``max_new_tokens`` may be 0.
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

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        for name in ("eos_token_ids", "stop_token_ids", "suppress_tokens", "begin_suppress_tokens"):
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        if self.prompt_logprobs is None or self.max_new_tokens != 0:
            require_positive("max_new_tokens", self.max_new_tokens)
        require(isinstance(self.ignore_eos, bool), f"ignore_eos is {self.ignore_eos!r}; it must be true or false")
        for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens", "min_length"):
            _require_integer(name, getattr(self, name), 0, 2**31 - 1)
        if self.seed is not None:
            _require_integer("seed", self.seed, 0, 2**63 - 1)
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

    def _check_bias(self) -> None:
        """Make ``logit_bias`` pairs, by token id, of a mapping or of pairs."""
        given = self.logit_bias.items() if isinstance(self.logit_bias, Mapping) else self.logit_bias
        is_pairs = isinstance(given, Collection) and all(isinstance(p, tuple | list) and len(p) == 2 for p in given)
        require(is_pairs, f"logit_bias is {self.logit_bias!r}; it must map token ids to numbers")
        bias = {}
        for key, value in given:
            is_id = isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isdigit())  # JSON's keys
            require(is_id and 0 <= int(key) < 2**31, f"logit_bias has key {key!r}; its keys are token ids")
            _require_number(f"logit_bias of token {key}", value, -MAX_BIAS, MAX_BIAS)
            bias[int(key)] = float(value)
        object.__setattr__(self, "logit_bias", tuple(sorted(bias.items())))

    @classmethod
    def of_checkpoint(cls, data: Mapping[str, Any]) -> Self:
        """What a checkpoint's ``generation_config.json`` recommends; ``checkpoint_generation.not_applied`` names the rest.

        Raises ``InvalidInputError`` for a value that a field cannot have.
        """
        return cls(**recommended(data))

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, rather than the likeliest taken."""
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
    """Pairs of token ids and a bias, of pairs as JSON has them or of a mapping as transformers also takes it."""
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
    fits = is_number and least <= value <= most  # type: ignore[operator]  # of NaN, neither holds
    require(fits, f"{name} is {value!r}; it must be a number from {least:g} to {most:g}")
