"""What a compiled model can take: checks of a prompt before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from tt_edge.contract import IOContract
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages
from tt_edge.runtime.seq2seq.source import Source


def check_ids(what: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Raise ``InvalidInputError`` if ``token_ids``, called ``what``, are none or not all in the vocabulary."""
    if not len(token_ids):
        raise InvalidInputError(f"{what} has no tokens; give some text, at least a begin-of-sequence token")
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        wrong = min(token_ids) if min(token_ids) < 0 else max(token_ids)
        raise InvalidInputError(
            f"{what} has token id {wrong}, outside the vocabulary of {vocab_size}; "
            "encode it with the bundle's own tokenizer"
        )


def check_prompt(
    what: str,
    prompt: Sequence[int],
    config: GenerationConfig,
    contract: IOContract,
    images: PromptImages = NO_IMAGES,
    source: Source | None = None,
) -> None:
    """Raise ``InvalidInputError`` or ``CapacityError`` if ``prompt``, called ``what``, cannot run, now or ever."""
    check_ids(what, images.of_vocabulary(prompt), contract.vocab_size)
    total = len(prompt) + config.max_new_tokens
    if total > contract.max_seq_len:
        raise CapacityError(
            f"{what} has {len(prompt)} tokens, and {config.max_new_tokens} new ones make {total}, more than "
            f"max_seq_len {contract.max_seq_len}; lower max_new_tokens, shorten the prompt, "
            "or compile with a larger --max-seq-len"
        )
    _check_images(what, images, config, contract)
    if contract.takes_source != (source is not None):
        raise InvalidInputError(
            f"{what} has no source, and the compiled model is an encoder-decoder; give the text, speech or page that it answers to"
            if contract.takes_source
            else f"{what} has a source, and the compiled model is no encoder-decoder; give a prompt"
        )
    if source is not None and config.prompt_logprobs is not None:
        raise InvalidInputError(
            f"{what} is the source of an encoder-decoder, whose tokens have no log-probabilities; omit prompt_logprobs (of "
            "completions: echo)"
        )


def _check_images(what: str, images: PromptImages, config: GenerationConfig, contract: IOContract) -> None:
    if not images.tokens:
        return
    if not contract.takes_images:
        raise InvalidInputError(
            f"{what} has an image, and the compiled model takes only text; compile a model with vision"
        )
    if images.tokens > contract.max_image_tokens:
        raise CapacityError(
            f"{what} has {images.tokens} image tokens, more than max_image_tokens {contract.max_image_tokens}; give fewer or "
            "smaller images, or compile with a larger --max-image-tokens"
        )
    if images.longest_block > contract.max_input_len:
        raise CapacityError(
            f"{what} has {images.longest_block} tokens that see each other, which one call must take, more than max_input_len "
            f"{contract.max_input_len}; shorten the prompt, or compile with a larger --max-input-len"
        )
    if images.in_blocks and config.prompt_logprobs is not None:
        raise InvalidInputError(
            f"{what} has tokens that see those after them, and so no log-probabilities; omit prompt_logprobs (of completions: "
            "echo)"
        )
    if images.positions is not None:
        last = max(int(images.positions.max()), images.positions.shape[1] + images.delta + config.max_new_tokens - 2)
        if last >= contract.max_seq_len:
            raise CapacityError(
                f"{what} reaches position {last}, beyond max_seq_len {contract.max_seq_len}: a video's frames count by their "
                "time; lower max_new_tokens, give fewer frames, or compile with a larger --max-seq-len"
            )
