"""From a request with images to a prompt that a model takes: read and encoded beside the event loop, with limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.text.completion import EncodedPrompt
from tt_edge.server import answers
from tt_edge.server.errors import ApiError
from tt_edge.server.metrics import Metrics

#: Most bytes of a body, where the model takes text alone and where it takes images.
TEXT_BODY, IMAGE_BODY = 1 << 20, 32 << 20

#: Most bytes of bodies that are held at one time, until their images are encoded: sixteen of the largest. Bodies of text never
#: come to this; how many requests there are is bounded before.
MAX_HELD = 512 << 20

#: Most images of one request.
MAX_IMAGES = 32


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class HeldBytes:
    """Counts the bytes of bodies that are held at one time. ``add`` raises ``ApiError`` 429 for more than ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0

    def add(self, count: int) -> None:
        if self._held + count > self._limit:
            raise ApiError(429, "the server holds as many bytes of requests as it may; try again later", "overloaded")
        self._held += count

    def remove(self, count: int) -> None:
        self._held -= count


async def encode(
    model: AsyncLLM, request: Request, prompt: str, images: Sequence[str], timeout_s: float, metrics: Metrics
) -> EncodedPrompt:
    """``prompt`` with its ``images``, ``data:`` URLs, encoded. The body of ``request`` must have been read.

    Raises ``ApiError`` for too many or after ``timeout_s``, ``ClientGoneError`` when the client goes away meanwhile, and what is
    wrong with the images or the prompt.
    """
    if not images:
        return await model.encode(prompt, add_special_tokens=False)
    if len(images) > MAX_IMAGES:
        raise ApiError(400, f"the messages have {len(images)} images, more than {MAX_IMAGES}; send fewer")
    start = time.perf_counter()
    work = asyncio.ensure_future(model.encode(prompt, images, add_special_tokens=False))
    gone = asyncio.ensure_future(answers.disconnected(request))
    both: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            encoded = work.result()
            metrics.images(len(images), time.perf_counter() - start)
            return encoded
        if gone.done():
            raise ClientGoneError
        raise answers.timed_out(timeout_s)
    finally:
        work.cancel()
        gone.cancel()
