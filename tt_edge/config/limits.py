"""Maximum sizes of calls. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tt_edge.config.base import JsonConfig, require, require_positive


@dataclass(frozen=True)
class Limits(JsonConfig):
    """Maximum sizes that a compiled model accepts.

    ``max_batch`` is the number of slots, ``max_input_len`` the prompt tokens per slot in one call, and ``max_seq_len`` the
    total tokens per slot (the capacity of the KV cache). For a vision-language model, ``min_image_tokens`` and
    ``max_image_tokens`` limit one call of its tower, the latter also a slot's prompt; for a language model both are ``None``.
    ``max_source_len`` is the number of places of an encoder-decoder's source: tokens of a text (of speech or a page it is the
    model's own number); for other models it is ``None``.
    """

    max_batch: int = 1
    max_input_len: int = 1024
    max_seq_len: int = 2048
    min_image_tokens: int | None = None
    max_image_tokens: int | None = None
    max_source_len: int | None = None

    def check(self) -> None:
        for name in ("max_batch", "max_seq_len", "max_input_len"):
            require_positive(name, getattr(self, name))
        for name in ("min_image_tokens", "max_image_tokens", "max_source_len"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        require(
            self.min_image_tokens is None or self.min_image_tokens <= (self.max_image_tokens or self.min_image_tokens),
            f"min_image_tokens {self.min_image_tokens} exceeds max_image_tokens {self.max_image_tokens}; lower "
            "--min-image-tokens or raise --max-image-tokens",
        )
        require(
            self.max_input_len <= self.max_seq_len,
            f"max_input_len {self.max_input_len} exceeds max_seq_len {self.max_seq_len}; "
            "raise --max-seq-len or lower --max-input-len",
        )

    def narrowed(self, max_input_len: int = 0, max_image_tokens: int = 0) -> Limits:
        """These limits with calls of no more than so many tokens and image tokens; 0: no narrower than before."""
        most, least = self.max_image_tokens, self.min_image_tokens
        most = min(most, max_image_tokens or most) if most is not None else None
        return replace(
            self,
            max_input_len=min(self.max_input_len, max_input_len or self.max_input_len),
            max_image_tokens=most,
            min_image_tokens=min(least, most) if least is not None and most is not None else least,
        )
