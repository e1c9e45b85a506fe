"""How fast a bundle of a vision-language model runs: its tower, prefill, decoding, and all of it. Torch-free."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tt_edge.contract import IOContract
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.benchmark.llm import PeakMemory, check_counts
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES
from tt_edge.runtime.scheduling.request import Request, Timing
from tt_edge.runtime.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from tt_edge.runtime.llm import LLM


@dataclass(frozen=True)
class VisionSpeed:
    """Medians over iterations of one prompt. Times are wall times in milliseconds; images are preprocessed already.

    ``vision_ms``: from pixels to features in host memory. ``prefill_ms``: from there to the first token. ``end_to_end_ms``:
    from pixels to the last token. ``peak_mb`` as in ``Speed``.
    """

    what: str
    vision_ms: float
    prefill_ms: float
    tokens_per_s: float
    end_to_end_ms: float
    peak_mb: float
    peak_of: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def vision_speed(
    what: str, vision_s: Sequence[float], timings: Sequence[Timing], peak_mb: float, peak_of: str
) -> VisionSpeed:
    """The medians, of one entry for each iteration."""
    tpot = statistics.median(t.tpot_s for t in timings)
    whole = [v + t.prefill_s + t.decode_s for v, t in zip(vision_s, timings, strict=True)]
    return VisionSpeed(
        what=what,
        vision_ms=statistics.median(vision_s) * 1e3,
        prefill_ms=statistics.median(t.prefill_s for t in timings) * 1e3,
        tokens_per_s=1 / tpot if tpot else 0.0,
        end_to_end_ms=statistics.median(whole) * 1e3,
        peak_mb=peak_mb,
        peak_of=peak_of,
    )


def measure(
    llm: LLM, ids: Sequence[int], images: Sequence[ProcessedImage], new_tokens: int, iterations: int
) -> VisionSpeed:
    """Encode ``images`` and generate ``new_tokens`` after ``ids``, once to warm up and then ``iterations`` times.

    Raises ``InvalidInputError`` for fewer than two new tokens or no iteration.
    """
    check_counts(new_tokens, iterations)
    config = GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True)
    peak, vision_s, timings = PeakMemory(), [], []
    for _ in range(iterations + 1):
        start, given = time.perf_counter(), NO_IMAGES
        if images:
            assert llm.vision is not None
            llm.vision.encoder.forget()
            given = llm.vision.prompt_images(ids, images)
        seconds = time.perf_counter() - start
        scheduler, request = Scheduler(llm.session, slots=1), Request(list(ids), config, images=given)
        scheduler.submit(request)
        scheduler.run([request])
        vision_s.append(seconds)
        timings.append(request.timing)
    return vision_speed(llm.session.word, vision_s[1:], timings[1:], *peak.read())


def random_picture(contract: IOContract, tokens: int, seed: int = 0) -> ProcessedImage:
    """A preprocessed image of ``tokens`` image tokens, of random pixels, as nearly square as that number allows.

    Raises ``InvalidInputError`` for a number that images of this model cannot have.
    """
    geometry, generator = contract.tower, np.random.default_rng(seed)
    if geometry.tile_size is not None:
        tiles, rest = divmod(tokens, geometry.tokens_a_unit)
        if rest or not tiles:
            raise InvalidInputError(
                f"no image of this model has {tokens} image tokens; give a multiple of {geometry.tokens_a_unit}"
            )
        pixels = generator.standard_normal((tiles, 3, *geometry.tile_size), np.float32)
        return ProcessedImage(pixels, None, tokens)
    if tokens < 1:
        raise InvalidInputError(f"no image has {tokens} image tokens; give 1 or more")
    rows = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    grid = (1, rows * geometry.merge_size, tokens // rows * geometry.merge_size)
    pixels = generator.standard_normal((math.prod(grid), geometry.patch_dim), np.float32)
    return ProcessedImage(pixels, grid, tokens)


def random_prompt(llm: LLM, length: int, image_tokens: int, seed: int = 0) -> list[int]:
    """``length`` token ids with ``image_tokens`` of an image among them: in front where the model has images there."""
    assert llm.vision is not None
    if image_tokens >= length:
        raise InvalidInputError(
            f"{length} input tokens have no room for {image_tokens} image tokens and text; raise --isl, or lower --image_tokens"
        )
    vocabulary = np.setdiff1d(np.arange(llm.session.contract.vocab_size), llm.vision.processor.token_ids)
    text: list[int] = np.random.default_rng(seed).choice(vocabulary, length - image_tokens).tolist()
    before = 0 if llm.vision.processor.placeholders.leading else len(text) // 2
    return text[:before] + [llm.vision.processor.token_ids[0]] * image_tokens + text[before:]


def vision_table(speeds: Sequence[VisionSpeed]) -> str:
    """One line for each of ``speeds``."""
    lines = [f"{'vision ms':>10}{'prefill ms':>12}{'tokens/s':>10}{'end to end ms':>15}{'peak MiB':>10}  what"]
    lines += [
        f"{s.vision_ms:>10.2f}{s.prefill_ms:>12.2f}{s.tokens_per_s:>10.1f}{s.end_to_end_ms:>15.2f}{s.peak_mb:>10,.0f}  "
        f"{s.what} ({s.peak_of} memory)"
        for s in speeds
    ]
    return "\n".join(lines)
