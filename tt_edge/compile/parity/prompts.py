"""The prompts of a parity check: random tokens, with images between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compile.vision.processing.drawing import drawn
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages

if TYPE_CHECKING:
    from tt_edge.contract import IOContract
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline

#: Heights and widths of synthetic images, if the user gives none: odd sizes or, if those are too large, small ones.
_SIZES = (((118, 157), (201, 75)), ((60, 81), (45, 31)))

#: Random tokens before, between and after images.
_TEXT_BETWEEN = 5


@dataclass(frozen=True, eq=False)
class Prompt:
    """Token ids, and their images: ``pictures`` is PyTorch's input, ``images`` the network's.

    Where only ``keep`` of the image tokens are kept, ``whole`` are the ids with all of them.
    """

    ids: list[int]
    pictures: tuple[ProcessedImage, ...] = ()
    images: PromptImages = NO_IMAGES
    keep: float = 1.0
    whole: tuple[int, ...] = ()


def text_prompts(contract: IOContract, new_tokens: int, seed: int, excluded: Collection[int] = ()) -> list[Prompt]:
    """Up to three random prompts of different lengths, as many as the batch allows, without the ``excluded`` ids."""
    room = _room(contract, new_tokens)
    lengths = dict.fromkeys((min(room, 48), max(1, min(room, 48) // 5), max(1, min(room, 48) // 2)))
    generator = np.random.default_rng(seed)
    vocabulary = np.setdiff1d(np.arange(contract.vocab_size), list(excluded))
    return [
        Prompt(vocabulary[generator.integers(0, len(vocabulary), length)].tolist())
        for length in list(lengths)[: contract.max_batch]
    ]


def picture_prompts(
    contract: IOContract,
    vision: VisionPipeline,
    pictures: Sequence[ProcessedImage],
    new_tokens: int,
    seed: int,
    excluded: Collection[int] = (),
) -> list[Prompt]:
    """A prompt with the first image and one with the last two, if they fit, in the middle of random text.

    Raises ``CapacityError`` if not even the first fits.
    """
    room, leading = _room(contract, new_tokens), vision.processor.placeholders.leading
    vocabulary = np.setdiff1d(np.arange(contract.vocab_size), [*excluded, *vision.processor.token_ids])
    generator = np.random.default_rng(seed)
    found: list[Prompt] = []
    for chosen in (pictures[:1], pictures[-2:] if len(pictures) > 1 and not leading else ()):
        tokens = sum(picture.tokens for picture in chosen)
        images = [
            vision.processor.image_ids(vision.processor.tokens_in_prompt(picture), picture.layout) for picture in chosen
        ]
        length = sum(map(len, images)) + _TEXT_BETWEEN * (len(chosen) + 1)
        if not chosen or (found and (length > room or tokens > contract.max_image_tokens)):
            continue
        if length > room:
            raise CapacityError(
                f"a prompt with an image has {length} tokens and {new_tokens} new ones, and the compiled model takes {room} in "
                "one call; give a smaller image, or compile with larger --max-input-len and --max-seq-len"
            )
        texts = [
            generator.choice(vocabulary, _TEXT_BETWEEN).tolist() if part or not leading else []
            for part in range(len(chosen) + 1)
        ]
        keep = vision.processor.keep
        ids, whole = list(texts[0]), list(texts[0])
        for picture, image, text in zip(chosen, images, texts[1:], strict=True):
            ids += image + text
            whole += (image if keep == 1 else vision.processor.image_ids(picture.tokens)) + text
        found.append(Prompt(ids, tuple(chosen), vision.prompt_images(ids, chosen), keep, tuple(whole)))
    return found


def default_pictures(vision: VisionPipeline) -> list[NDArray[np.uint8]]:
    """Two images that fit the compiled vision network together, or at least one at a time."""
    most = vision.encoder.session.contract.max_image_tokens
    for sizes in _SIZES:
        found = [drawn(*size, seed) for seed, size in enumerate(sizes)]
        if max(vision.processor.image_processor.tokens_of(picture.shape[:2]) for picture in found) <= most:
            break
    return found


def _room(contract: IOContract, new_tokens: int) -> int:
    """The maximum length of a prompt, in tokens."""
    room = min(contract.max_input_len, contract.max_seq_len - new_tokens)
    if room < 1:
        raise InvalidInputError(
            f"{new_tokens} new tokens leave no room for a prompt in max_seq_len {contract.max_seq_len}; lower --new-tokens"
        )
    return room
