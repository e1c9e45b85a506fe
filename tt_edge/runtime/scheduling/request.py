"""One request of a scheduler: the prompt and its settings, the tokens so far, and when they came."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tt_edge.compat import StrEnum
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.seq2seq.source import Source

#: Called with each new token as soon as it is known; ``True`` ends the request with ``FinishReason.STOP``.
OnToken = Callable[[Token], bool | None]


class FinishReason(StrEnum):
    """Why a request ended."""

    #: With an end-of-sequence token, which is kept.
    EOS = "eos"
    #: With a stop token, which is kept, or at a stop string.
    STOP = "stop"
    #: After ``max_new_tokens``.
    LENGTH = "length"
    #: Somebody called ``cancel()``.
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Timing:
    """Wall times of one request, in seconds. Requests run together, so others may share its prefill.

    ``ttft_s`` counts from when the request was made to its first token, so it includes encoding images and waiting for a
    free slot of the batch; ``prefill_s`` does not. ``decode_s`` runs from the first token to the last.
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
        """Output tokens per second of this request after the first; 0 when there is only one."""
        return 1.0 / self.tpot_s if self.tpot_s else 0.0

    def to_dict(self) -> dict[str, float]:
        return {
            "prefill_s": self.prefill_s,
            "ttft_s": self.ttft_s,
            "decode_s": self.decode_s,
            "tpot_s": self.tpot_s,
            "tokens_per_s": self.tokens_per_s,
        }


@dataclass(eq=False)
class Request:
    """Token ids to continue, with settings of its own. A scheduler fills in the second half."""

    prompt_ids: Sequence[int]
    config: GenerationConfig
    on_token: OnToken | None = None
    on_done: Callable[[], None] | None = None
    #: The images of a prompt to a vision-language model.
    images: PromptImages = NO_IMAGES
    #: Keys and values are reused only from requests with the same salt, so that nobody learns of another client's prompt.
    cache_salt: str = ""
    #: What the decoder of an encoder-decoder attends to.
    source: Source | None = None

    tokens: list[Token] = field(default_factory=list)
    #: With ``config.prompt_logprobs``: the prompt's tokens from the second on, with log-probabilities.
    prompt_tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    #: What ended it, in place of ``finish_reason``: a ``TTEdgeError``, or whatever ``on_token`` raised.
    error: Exception | None = None
    #: Tokens of the prompt whose keys and values were cached already.
    reused: int = 0
    cancelled: bool = False
    is_done: bool = False
    asked_at: float = field(default_factory=time.perf_counter)
    admitted_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0

    def cancel(self) -> None:
        """End it at the next step. May be called from any thread, and after the end too."""
        self.cancelled = True

    @property
    def prompt_keys(self) -> Sequence[int]:
        """What tells the prompt's tokens apart in the cache: their ids, and for images their content."""
        return self.images.keys or self.prompt_ids

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are asked for, and some are still to come."""
        return self.config.prompt_logprobs is not None and len(self.prompt_tokens) < len(self.prompt_ids) - 1

    @property
    def timing(self) -> Timing:
        if not self.tokens:
            return Timing(0.0, 0.0, 0.0, 0)
        decode_s = self.last_at - self.first_at
        return Timing(self.first_at - self.admitted_at, self.first_at - self.asked_at, decode_s, len(self.tokens))

    def reason_to_end(self, token: Token) -> FinishReason | None:
        """Why ``token``, the latest, is the last one by the settings, if it is."""
        if token.id in self.config.eos_token_ids and not self.config.ignore_eos:
            return FinishReason.EOS
        if token.id in self.config.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.config.max_new_tokens else None

    def finish(self, reason: FinishReason | None, error: Exception | None = None) -> None:
        """End it, for ``reason`` or with ``error``; ``is_done`` holds once ``on_done`` has returned."""
        self.finish_reason, self.error = reason, error
        try:
            if self.on_done is not None:
                self.on_done()
        except Exception as failure:  # of this request's own text or callback
            self.finish_reason, self.error = None, error or failure
        finally:
            self.is_done = True
