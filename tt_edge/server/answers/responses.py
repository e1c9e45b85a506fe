"""From requests that run to HTTP: one JSON body, or server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tt_edge.errors import TTEdgeError
from tt_edge.runtime.async_llm import CompletionStream
from tt_edge.runtime.text.completion import Completion, Delta
from tt_edge.server.answers.pacing import Pacer
from tt_edge.server.answers.replies import ChatReply, TextReply
from tt_edge.server.errors import ApiError
from tt_edge.server.metrics import Metrics

_T = TypeVar("_T")
Reply = ChatReply | TextReply

#: Seconds of silence after which a comment is sent, so that no proxy takes the connection for dead.
KEEP_ALIVE_S = 15.0

#: Seconds that a client may take to read what is left of an answer when its time is over.
UNREAD_S = 30.0


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def whole(
    request: Request, reply: Reply, streams: Sequence[CompletionStream], timeout_s: float, metrics: Metrics
) -> Response:
    """One JSON body with all answers. The answers end when the client goes away or ``timeout_s`` have passed."""
    try:
        completions = await while_connected(
            request, asyncio.gather(*(stream.completion() for stream in streams)), timeout_s
        )
    except ClientGoneError:
        return Response(status_code=499)  # nobody reads it; the logs do
    finally:
        for stream in streams:
            stream.cancel()
    _observe(metrics, completions)
    return JSONResponse(reply.whole(completions))


async def while_connected(request: Request, work: Awaitable[_T], timeout_s: float) -> _T:
    """The result of ``work``, which is cancelled when the client goes away or ``timeout_s`` have passed.

    Raises ``ClientGoneError`` and ``ApiError``. The body of ``request`` must have been read.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(_retrieved)
    gone = asyncio.ensure_future(disconnected(request))
    both: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            raise ClientGoneError
        raise timed_out(timeout_s)
    finally:
        gone.cancel()
        working.cancel()


def _retrieved(work: asyncio.Future[Any]) -> None:
    """Take the error of work that nobody waits for any more; asyncio would log it as forgotten."""
    if not work.cancelled():
        work.exception()


async def disconnected(request: Request) -> None:
    """Return when the client goes away. Its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events of all answers, as they come, in OpenAI's order; ``[DONE]`` is the last."""

    def __init__(
        self,
        reply: Reply,
        streams: Sequence[CompletionStream],
        timeout_s: float,
        metrics: Metrics,
        *,
        include_usage: bool,
    ) -> None:
        self._reply, self._streams, self._timeout_s, self._metrics = reply, streams, timeout_s, metrics
        self._include_usage = include_usage
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._lines(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(super().__call__(scope, receive, send))
        try:
            # A client that does not read holds the answer up; it must not do so for ever.
            await asyncio.wait({sending}, timeout=self._timeout_s + UNREAD_S)
            if sending.done():
                sending.result()
        except ClientDisconnect:
            pass
        finally:
            sending.cancel()
            for stream in self._streams:
                stream.cancel()

    async def _lines(self) -> AsyncIterator[str]:
        try:
            async for event in self._events():
                yield ": keep-alive\n\n" if event is None else _event(event)
        except TTEdgeError as error:
            yield _event(ApiError.of(error).to_dict())
        except ApiError as error:
            yield _event(error.to_dict())
        yield "data: [DONE]\n\n"

    async def _events(self) -> AsyncIterator[dict[str, Any] | None]:
        reply, completions = self._reply, {}
        for index in range(len(self._streams)):
            if (event := reply.first(index)) is not None:
                yield event
        async for index, piece in _merged(self._streams, self._timeout_s):
            if isinstance(piece, Completion):
                completions[index] = piece
                yield reply.last(index, piece)
            elif piece is None:
                yield None
            else:
                yield reply.piece(index, piece.text, piece.tokens)
        done = [completions[index] for index in sorted(completions)]
        _observe(self._metrics, done)
        if self._include_usage:
            yield reply.usage(done)


async def _merged(
    streams: Sequence[CompletionStream], timeout_s: float
) -> AsyncIterator[tuple[int, Delta | Completion | None]]:
    """The pieces of all streams, each with its index and its completion as the last; None after long silence.

    Raises the first error of a stream, and ``ApiError`` after ``timeout_s``.
    """
    queue: asyncio.Queue[tuple[int, Delta | Completion | Exception]] = asyncio.Queue()

    pacers: list[Pacer[Delta]] = [Pacer(partial(_put, queue, index)) for index in range(len(streams))]

    async def pump(index: int, stream: CompletionStream) -> None:
        pacer = pacers[index]
        try:
            async for delta in stream:
                pacer.add(delta)
            pacer.flush()
            queue.put_nowait((index, await stream.completion()))
        except TTEdgeError as error:
            pacer.flush()
            queue.put_nowait((index, error))
        finally:
            pacer.close()

    tasks = [asyncio.ensure_future(pump(index, stream)) for index, stream in enumerate(streams)]
    deadline, left = time.monotonic() + timeout_s, len(streams)
    try:
        while left:
            try:
                wait_s = max(0.0, min(KEEP_ALIVE_S, deadline - time.monotonic()))
                index, found = await asyncio.wait_for(queue.get(), wait_s)
            except asyncio.TimeoutError:
                if time.monotonic() >= deadline:
                    for pacer in pacers:
                        pacer.flush()
                    while not queue.empty():  # what is computed is the client's
                        index, found = queue.get_nowait()
                        if not isinstance(found, Exception):
                            yield index, found
                    raise timed_out(timeout_s) from None
                yield -1, None
                continue
            if isinstance(found, Exception):
                raise found
            left -= isinstance(found, Completion)
            yield index, found
    finally:
        for task in tasks:
            task.cancel()


def _put(queue: asyncio.Queue[tuple[int, Delta | Completion | Exception]], index: int, delta: Delta) -> None:
    queue.put_nowait((index, delta))


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _observe(metrics: Metrics, completions: Sequence[Completion]) -> None:
    for completion in completions:
        metrics.completion(completion)


def timed_out(seconds: float) -> ApiError:
    """The answer to a request that took too long."""
    return ApiError(504, f"the answer took longer than {seconds:g} s; ask for fewer tokens", "timeout")
