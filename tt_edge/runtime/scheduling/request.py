"""One prompt on its way through a scheduler: what is asked, what came of it, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tt_edge.contract import EngineContract
from tt_edge.errors import CapacityError, InvalidInputError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages
from tt_edge.runtime.scheduling.sampling import Token

#: Called with each new token as soon as it is known; ``True`` ends the row with ``FinishReason.STOP``.
OnToken = Callable[[Token], bool | None]


class FinishReason(StrEnum):
    """Why a row ended."""

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
    """Wall times of one row, in seconds. Rows run together, so others may share its prefill.

    ``ttft_s`` counts from when the row was asked for to its first token, so it includes encoding images and waiting for a
    free row of the batch; ``prefill_s`` does not. ``decode_s`` runs from the first token to the last.
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


@dataclass(eq=False)
class Request:
    """Tokens to continue, by parameters of its own. A scheduler fills in the second half."""

    prompt_ids: Sequence[int]
    config: GenerationConfig
    on_token: OnToken | None = None
    on_done: Callable[[], None] | None = None
    #: Of a prompt to a vision-language model.
    images: PromptImages = NO_IMAGES

    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: TTEdgeError | None = None
    #: Tokens of the prompt whose keys and values were there already.
    reused: int = 0
    cancelled: bool = False
    asked_at: float = field(default_factory=time.perf_counter)
    admitted_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0

    def cancel(self) -> None:
        """End it at the next step. May be called from any thread, and after the end too."""
        self.cancelled = True

    @property
    def prompt_keys(self) -> Sequence[int]:
        """What tells the prompt's tokens apart: their ids, and for images their content."""
        return self.images.keys or self.prompt_ids

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def timing(self) -> Timing:
        if not self.tokens:
            return Timing(0.0, 0.0, 0.0, 0)
        decode_s = self.last_at - self.first_at
        return Timing(self.first_at - self.admitted_at, self.first_at - self.asked_at, decode_s, len(self.tokens))

    def finish(self, reason: FinishReason | None, error: TTEdgeError | None = None) -> None:
        self.finish_reason, self.error = reason, error
        if self.on_done is not None:
            self.on_done()


def check_prompt(
    what: str,
    prompt: Sequence[int],
    config: GenerationConfig,
    contract: EngineContract,
    images: PromptImages = NO_IMAGES,
) -> None:
    """Raise ``InvalidInputError`` or ``CapacityError`` if ``prompt``, called ``what``, cannot run, now or ever."""
    if not len(prompt):
        raise InvalidInputError(f"{what} has no tokens; give some text, if only a begin-of-sequence token")
    if min(prompt) < 0 or max(prompt) >= contract.vocab_size:
        wrong = min(prompt) if min(prompt) < 0 else max(prompt)
        raise InvalidInputError(
            f"{what} has token id {wrong}, outside the vocabulary of {contract.vocab_size}; "
            "encode it with the bundle's own tokenizer"
        )
    total = len(prompt) + config.max_new_tokens
    if total > contract.max_seq_len:
        raise CapacityError(
            f"{what} has {len(prompt)} tokens, and {config.max_new_tokens} new ones make {total}, more than "
            f"max_seq_len {contract.max_seq_len}; lower max_new_tokens, shorten the prompt, "
            "or compile with a larger --max-seq-len"
        )
    _check_images(what, images, config, contract)


def _check_images(what: str, images: PromptImages, config: GenerationConfig, contract: EngineContract) -> None:
    if not images.tokens:
        return
    if not contract.takes_images:
        raise InvalidInputError(
            f"{what} has an image, and the compiled model takes text alone; compile a model with vision"
        )
    if images.tokens > contract.max_image_tokens:
        raise CapacityError(
            f"{what} has {images.tokens} image tokens, more than max_image_tokens {contract.max_image_tokens}; give fewer or "
            "smaller images, or compile with a larger --max-image-tokens"
        )
    if images.positions is not None:
        last = max(int(images.positions.max()), images.positions.shape[1] + images.delta + config.max_new_tokens - 2)
        if last >= contract.max_seq_len:
            raise CapacityError(
                f"{what} reaches position {last}, beyond max_seq_len {contract.max_seq_len}: a video's frames count by their "
                "time; lower max_new_tokens, give fewer frames, or compile with a larger --max-seq-len"
            )
