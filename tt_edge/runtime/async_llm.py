"""An LLM for many callers at once: a thread of its own steps the scheduler; callers are coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from tt_edge.compat import Self
from tt_edge.errors import CapacityError, EngineError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM, Prompt
from tt_edge.runtime.multimodal.sources import ImageSource
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.scheduler import Stats
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.runtime.seq2seq.transcription import Transcript, windows
from tt_edge.runtime.text.chat import RenderedChat
from tt_edge.runtime.text.chat_template import Message
from tt_edge.runtime.text.completion import Completion, Delta, EncodedPrompt


class QueueFullError(CapacityError):
    """As many requests are waiting as may; try again later."""


def _next_window(
    step: Callable[[], tuple[EncodedPrompt, GenerationConfig]],
) -> tuple[EncodedPrompt, GenerationConfig] | Transcript:
    """The next prompt of a transcription, or what it came to: a ``StopIteration`` cannot leave a future."""
    try:
        return step()
    except StopIteration as end:
        found: Transcript = end.value
        return found


class CompletionStream:
    """One running request: iterate over its pieces, then ask for ``completion()``; or ask at once, and wait.

    ``cancel()``, or leaving an ``async with`` block, ends it.
    """

    def __init__(self, llm: LLM, prompt: EncodedPrompt, config: GenerationConfig | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deltas: asyncio.Queue[Delta | None] = asyncio.Queue()  # None: it is done
        self._ended = False
        self._text = llm.text_request(prompt, config, self._send, lambda: self._send(None))

    @property
    def request(self) -> Request:
        return self._text.request

    def cancel(self) -> None:
        """End it at the next step; harmless when it is done."""
        self.request.cancel()

    async def completion(self) -> Completion:
        """The completion, when the request is done; pieces not yet taken are dropped. Raises the request's error."""
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
    """Takes requests from any coroutine and runs as many at once as ``llm`` has slots; up to ``max_waiting`` more wait.

    It closes ``llm`` in the end. Methods may be called from several event loops. Text is tokenized in a thread of its own, and
    images are read and encoded in another, one prompt after the other.
    """

    def __init__(self, llm: LLM, max_waiting: int = 64) -> None:
        self.llm = llm
        self.max_waiting = max_waiting
        self._wake = threading.Condition()
        self._closing = False
        self._encoding = 0  # prompts that are encoded, or wait for it
        self._texts = ThreadPoolExecutor(1, "tt-edge-texts")
        self._images = ThreadPoolExecutor(1, "tt-edge-images")
        self._thread = threading.Thread(target=self._work, name="tt-edge-scheduler", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return self.llm.scheduler.running

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        return self._encoding + self.llm.scheduler.waiting

    @property
    def stats(self) -> Stats:
        return self.llm.scheduler.stats

    @property
    def is_alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread.is_alive() and not self._closing

    async def encode(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource] = (),
        *,
        add_special_tokens: bool = True,
        cache_salt: str = "",
    ) -> EncodedPrompt:
        """As ``LLM.encode``, off the event loop. A prompt counts as waiting meanwhile.

        Raises ``QueueFullError`` when too many wait, before any work. A coroutine that is cancelled gives up its place; the
        work of that moment is finished and thrown away.
        """
        work = partial(self.llm.encode, prompt, images, add_special_tokens=add_special_tokens, cache_salt=cache_salt)
        has_images = bool(prompt.images if isinstance(prompt, RenderedChat) else images)
        pool = self._images if has_images else self._texts
        with self.waiting_place():
            return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def transcribe(
        self,
        features: np.ndarray,
        seconds: float,
        speech: Speech,
        config: GenerationConfig,
        *,
        timestamps: bool | None = None,
        cache_salt: str = "",
    ) -> Transcript:
        """As ``LLM.transcribe``, of log-mel ``features`` of so many ``seconds``; the samples of ``speech`` are not used.

        A coroutine that is cancelled ends it at the next step. Raises ``QueueFullError`` when too many wait, before any work: what
        has begun is written down to its end.
        """
        asked = windows(
            self.llm.sources,
            features,
            seconds,
            speech,
            self.llm.with_defaults(config),
            timestamps=timestamps,
            cache_salt=cache_salt,
        )
        step, has_begun = partial(next, asked), False
        while True:
            with self.waiting_place(is_admitted=has_begun):
                found = await asyncio.get_running_loop().run_in_executor(self._images, _next_window, step)
            if isinstance(found, Transcript):
                return found
            has_begun = True
            async with self.streams([found], is_admitted=True)[0] as stream:
                step = partial(asked.send, await stream.completion())

    def check_room(self) -> None:
        """Raise ``QueueFullError`` when too many wait for one more to be taken now."""
        with self._wake:
            self._check_room(1)

    @contextmanager
    def waiting_place(self, *, is_admitted: bool = False) -> Iterator[None]:
        """Count as one waiting prompt. Raises ``QueueFullError`` when too many wait, unless the request was admitted before."""
        with self._wake:
            self._check_room(1, is_admitted=is_admitted)
            self._encoding += 1
        try:
            yield
        finally:
            with self._wake:
                self._encoding -= 1

    def stream(
        self,
        prompt: str | Sequence[int] | EncodedPrompt,
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> CompletionStream:
        """Start to continue ``prompt``: text, token ids, or what ``encode`` returned. Iterate over the result.

        Text is tokenized at once, in the caller's thread; ``await encode(…)`` first where it may be long. Raises
        ``QueueFullError`` when too many wait, and what makes the prompt impossible (``LLM.generate``).
        """
        if isinstance(prompt, str):
            prompt = self.llm.encode(prompt, add_special_tokens=add_special_tokens)
        elif not isinstance(prompt, EncodedPrompt):
            prompt = self.llm.encoded_ids(prompt)
        return self.streams([(prompt, config)])[0]

    def streams(
        self, prompts: Sequence[tuple[EncodedPrompt, GenerationConfig | None]], *, is_admitted: bool = False
    ) -> list[CompletionStream]:
        """As ``stream``, for several: all are taken, or none. Those of a request that was admitted before are always taken."""
        found = [CompletionStream(self.llm, prompt, config) for prompt, config in prompts]
        with self._wake:
            self._check_room(len(found), is_admitted=is_admitted)
            self.llm.scheduler.submit(*(each.request for each in found))
            self._wake.notify()
        return found

    def _check_room(self, more: int, *, is_admitted: bool = False) -> None:
        if not self.is_alive:
            raise EngineError("the model is being shut down; start it again")
        if is_admitted:
            return
        slots = self.llm.session.contract.max_batch
        if more > self.max_waiting + slots:
            raise InvalidInputError(
                f"{more} answers at once can never run: {slots} run and {self.max_waiting} may wait; ask for fewer"
            )
        # Requests for which there is a slot do not wait.
        if self.waiting + more > self.max_waiting + max(0, slots - self.running):
            raise QueueFullError(f"{self.waiting} requests are waiting, as many as may; try again later")

    async def chat_stream(
        self, messages: Sequence[Message], config: GenerationConfig | None = None, **variables: Any
    ) -> CompletionStream:
        """Start the assistant's answer to ``messages``."""
        return self.stream(await self.encode(self.llm.render_chat(messages, **variables)), config)

    async def generate(
        self,
        prompt: str | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> Completion:
        """The continuation of ``prompt``. A coroutine that is cancelled ends its request.

        Raises ``InvalidInputError`` for ``images`` beside token ids: images need a text with placeholders.
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
        for pool in (self._texts, self._images):
            pool.shutdown(cancel_futures=True)
        self.llm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        for _ in self.llm.scheduler.steps(until=self._closed_while_idle):
            pass
        self.llm.scheduler.abort(EngineError("the model is being shut down; start it again"))

    def _closed_while_idle(self) -> bool:
        """Wait until there is something to do; whether that is to close."""
        scheduler = self.llm.scheduler
        with self._wake:
            self._wake.wait_for(lambda: self._closing or scheduler.running or scheduler.waiting)
            return self._closing
