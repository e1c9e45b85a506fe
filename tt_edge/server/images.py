"""Images of requests: preprocessed and encoded beside the event loop, one at a time, clients taking turns."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from starlette.requests import Request

from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.seq2seq.prompts import the_page
from tt_edge.runtime.text.chat import RenderedChat
from tt_edge.runtime.text.completion import EncodedPrompt
from tt_edge.server.access.guard import Client
from tt_edge.server.answers import responses
from tt_edge.server.metrics import Metrics
from tt_edge.server.turns import Turns

_T = TypeVar("_T")

#: Most images of one request.
MAX_IMAGES = 32


class ImageEncoder:
    """Encodes the images of prompts. ``decoder`` reads and preprocesses them, in a process; ``worker`` is a thread."""

    def __init__(
        self, model: AsyncLLM, decoder: Executor, worker: Executor, metrics: Metrics, timeout_s: float
    ) -> None:
        self._model, self._decoder, self._worker = model, decoder, worker
        self._metrics, self._timeout_s = metrics, timeout_s
        self._turns = Turns()

    async def encode(self, request: Request, chat: RenderedChat, cache_salt: str) -> EncodedPrompt:
        """``chat`` with its images encoded. The body of ``request`` must have been read.

        Raises ``ApiError`` after the timeout, ``ClientGoneError`` when the client goes away meanwhile, ``QueueFullError`` where
        too many wait, before any image is read, and what is wrong with the images or the prompt.
        """
        start = time.perf_counter()
        work = self._encoded(chat, Client.of(request).name, cache_salt)
        encoded = await responses.while_connected(request, work, self._timeout_s)
        self._metrics.images(len(chat.images), time.perf_counter() - start)
        return dataclasses.replace(encoded, asked_at=start)

    async def _encoded(self, chat: RenderedChat, client: str, cache_salt: str) -> EncodedPrompt:
        llm = self._model.llm
        if llm.source is not None:
            with self._model.waiting_place():
                return await self._page(chat, client, cache_salt)
        assert llm.vision is not None
        processor = llm.vision.processor
        with self._model.waiting_place():
            processor.placeholders.check(chat.text, len(chat.images))
            planned = await self._in_turn(client, self._decoder, processor.plan, chat.images)
            images = [await self._in_turn(client, self._decoder, processor.preprocess, image) for image in planned]
            ready = dataclasses.replace(chat, images=images)
            return await self._in_turn(client, self._worker, lambda: llm.encode(ready, cache_salt=cache_salt))

    async def _page(self, chat: RenderedChat, client: str, cache_salt: str) -> EncodedPrompt:
        """The one image of ``chat``, for a model that reads pages."""
        llm = self._model.llm
        assert llm.source is not None
        prepare = llm.source.page_processor().prepare
        pixels = await self._in_turn(client, self._decoder, prepare, the_page(chat.images))
        return await self._in_turn(client, self._worker, llm.sources.page, pixels, chat.text, cache_salt)

    async def _in_turn(self, client: str, executor: Executor, work: Callable[..., _T], *args: Any) -> _T:
        async with self._turns.of(client):
            return await asyncio.get_running_loop().run_in_executor(executor, work, *args)
