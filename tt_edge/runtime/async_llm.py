"""An LLM for many callers at once: a thread of its own runs the scheduler; callers are coroutines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from tt_edge.errors import CapacityError, EngineError, InvalidInputError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.preprocess import ImageSource, images_of
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Stats
from tt_edge.runtime.text.chat_template import Message
from tt_edge.runtime.text.completion import Completion, Delta, EncodedPrompt, TextRequest

_log = logging.getLogger(__name__)


class QueueFullError(CapacityError):
    """More requests wait than are allowed to; try again later."""


class TextStream:
    """One request on its way: iterate over its pieces, then ask for ``completion()``; or ask at once, and wait.

    ``cancel()``, or leaving an ``async with`` block, ends it.
    """

    def __init__(self, llm: LLM, prompt: EncodedPrompt, config: GenerationConfig | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deltas: asyncio.Queue[Delta | None] = asyncio.Queue()  # None: it is done
        self._ended = False
        config = llm.with_defaults(config)
        self._text = TextRequest(llm.tokenizer, prompt, config, self._send, lambda: self._send(None))

    @property
    def request(self) -> Request:
        return self._text.request

    def cancel(self) -> None:
        """End it at the next step; harmless when it is done."""
        self.request.cancel()

    async def completion(self) -> Completion:
        """What came of it, when it is done; pieces that nobody has taken are passed over. Raises its error."""
        async for _ in self:
            pass
        return self._text.completion()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        delta = None if self._ended else await self._deltas.get()
        if delta is not None:
            return delta
        self._ended = True
        if self.request.error is not None:
            raise self.request.error
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def _send(self, delta: Delta | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._deltas.put_nowait, delta)


class AsyncLLM:
    """Takes requests from any coroutine and runs as many at once as ``llm`` has rows; up to ``max_waiting`` more wait.

    It is then the only user of ``llm``, which it closes. Methods may be called from several event loops. Images are read and
    encoded in a thread of their own, one prompt after the other.
    """

    def __init__(self, llm: LLM, max_waiting: int = 64) -> None:
        self.llm = llm
        self.max_waiting = max_waiting
        self._inbox: deque[Request] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._busy = False
        self._encoding = 0  # prompts with images that are encoded, or wait for it
        self._pictures = ThreadPoolExecutor(1, "tt-edge-pictures")
        self._thread = threading.Thread(target=self._work, name="tt-edge-scheduler", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return self.llm.scheduler.running

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        return self._encoding + len(self._inbox) + len(self.llm.scheduler.waiting)

    @property
    def stats(self) -> Stats:
        return self.llm.scheduler.stats

    @property
    def is_alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread.is_alive() and not self._closing

    async def encode(
        self, prompt: str, images: Sequence[ImageSource] = (), *, add_special_tokens: bool = True
    ) -> EncodedPrompt:
        """As ``LLM.encode``. A prompt with images counts as waiting meanwhile.

        Raises ``QueueFullError`` when too many wait, before any image is read. A coroutine that is cancelled gives up its
        place; what is being encoded at that moment is finished and thrown away.
        """
        if not images:
            return self.llm.encode(prompt, add_special_tokens=add_special_tokens)
        with self._wake:
            self._check_room(1)
            self._encoding += 1
        work = partial(self.llm.encode, prompt, images, add_special_tokens=add_special_tokens)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pictures, work)
        finally:
            with self._wake:
                self._encoding -= 1

    def stream(
        self,
        prompt: str | Sequence[int] | EncodedPrompt,
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> TextStream:
        """Start to continue ``prompt``: text, token ids, or what ``encode`` made of text and images. Iterate over the result.

        Raises ``QueueFullError`` when too many wait, and what makes the prompt impossible (``LLM.generate``).
        """
        if isinstance(prompt, str):
            prompt = self.llm.encode(prompt, add_special_tokens=add_special_tokens)
        elif not isinstance(prompt, EncodedPrompt):
            prompt = EncodedPrompt(self.llm.tokenizer.decode(prompt), prompt)
        return self.streams([(prompt, config)])[0]

    def streams(self, prompts: Sequence[tuple[EncodedPrompt, GenerationConfig | None]]) -> list[TextStream]:
        """As ``stream``, for several: all are taken, or none."""
        found = [TextStream(self.llm, prompt, config) for prompt, config in prompts]
        for each in found:
            self.llm.scheduler.check(each.request)
        with self._wake:
            self._check_room(len(found))
            self._inbox.extend(each.request for each in found)
            self._wake.notify()
        return found

    def _check_room(self, more: int) -> None:
        if not self.is_alive:
            raise EngineError("the model is being shut down; start it again")
        # Requests for which there is a row do not wait.
        free = self.llm.session.contract.max_batch - self.running
        if self.waiting + more > self.max_waiting + max(0, free):
            raise QueueFullError(f"{self.waiting} requests are waiting, as many as may; try again later")

    async def chat_stream(
        self, messages: Sequence[Message], config: GenerationConfig | None = None, **variables: Any
    ) -> TextStream:
        """Start the assistant's answer to ``messages``."""
        prompt = self.llm.apply_chat_template(messages, **variables)
        return self.stream(await self.encode(prompt, images_of(messages), add_special_tokens=False), config)

    async def generate(
        self,
        prompt: str | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> Completion:
        """What follows ``prompt``. A coroutine that is cancelled ends its request.

        Raises ``InvalidInputError`` for ``images`` beside token ids: only a text's placeholders become as long as they are.
        """
        given: Sequence[int] | EncodedPrompt
        if isinstance(prompt, str):
            given = await self.encode(prompt, images, add_special_tokens=add_special_tokens)
        elif images:
            raise InvalidInputError(f"the prompt is token ids, and has {len(images)} images; give it as text")
        else:
            given = prompt
        async with self.stream(given, config) as stream:
            return await stream.completion()

    async def chat(
        self, messages: Sequence[Message], config: GenerationConfig | None = None, **variables: Any
    ) -> Completion:
        """The assistant's answer to ``messages``."""
        async with await self.chat_stream(messages, config, **variables) as stream:
            return await stream.completion()

    def close(self) -> None:
        """End all requests and close the LLM. Closing twice is harmless."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._pictures.shutdown(cancel_futures=True)
        self.llm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        scheduler = self.llm.scheduler
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._busy or self._inbox)
                scheduler.waiting.extend(self._inbox)
                self._inbox.clear()
                if self._closing:
                    break
            try:
                self._busy = scheduler.step()
            except TTEdgeError as error:
                scheduler.abort(error)
            except Exception as error:  # a defect: the requests must not wait for ever
                _log.exception("a step of the scheduler failed")
                scheduler.abort(EngineError(f"internal error ({type(error).__name__}: {error})"))
        scheduler.abort(EngineError("the model is being shut down; start it again"))
