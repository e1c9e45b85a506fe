"""Bodies of requests: read within limits of bytes, time and structure, and parsed beside the event loop.

Large bodies are parsed in a process of their own, because a parser keeps the interpreter's lock until it is done.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from tt_edge.server.access.guard import Client
from tt_edge.server.errors import ApiError
from tt_edge.server.turns import Turns

_Body = TypeVar("_Body", bound=BaseModel)
_T = TypeVar("_T")

#: Most bytes of a body, where the model takes only text and where it takes images or speech.
TEXT_BODY, MEDIA_BODY = 1 << 20, 32 << 20

#: Most bytes of bodies that are held at one time, until their images are encoded or their speech is written down: sixteen of the
#: largest. Bodies of text never
#: come to this; how many requests there are is bounded before.
MAX_HELD = 512 << 20

#: Most commas and opening brackets of a body, so that the values which JSON makes of it are bounded: 32 MiB of ``[1,1,…`` would
#: otherwise take gigabytes.
MAX_STRUCTURE = 1 << 18

#: Bytes of a body that is parsed in this process, unless it is compressed: at most a few milliseconds.
SMALL_BODY = 64 << 10

#: Seconds in which a body must begin to come, and the bytes a second it must keep up from then on.
READ_GRACE_S, READ_RATE = 10.0, 64 << 10


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


@dataclass
class _Held:
    """A body that is being read, and the bytes that it counts for."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


class BodyReader:
    """Reads bodies of at most ``max_bytes``. Small ones are parsed in ``threads``, others in ``process``, clients taking turns."""

    def __init__(self, max_bytes: int, timeout_s: float, threads: Executor, process: Executor) -> None:
        self._max_bytes, self._timeout_s, self._threads, self._process = max_bytes, timeout_s, threads, process
        self._turns = Turns()
        self._held = HeldBytes(max(MAX_HELD, 2 * max_bytes))

    @asynccontextmanager
    async def received(self, request: Request, schema: type[_Body]) -> AsyncIterator[_Body]:
        """The body as a ``schema``; it counts among the bytes that are held until the block ends.

        Raises ``ApiError``: 408 for a body that is too slow, 413 for one too large, 415 for an encoding other than gzip, and 400
        for one that is no ``schema``.
        """

        async def parse(client: Client, content: bytes, compressed: bool) -> tuple[_Body, int]:
            return await self._parsed(client, content, compressed, schema)

        async with self._read(request, parse) as body:
            yield body

    @asynccontextmanager
    async def read_by(
        self, request: Request, reader: Callable[[bytes], _T], nbytes: Callable[[_T], int]
    ) -> AsyncIterator[_T]:
        """What ``reader`` makes of the body in the process, which pickles it; it is held and refused as ``received`` has it.

        Of what it makes, ``nbytes`` count, where they are more than the body's.
        """

        async def parse(client: Client, content: bytes, compressed: bool) -> tuple[_T, int]:
            async with self._turns.of(client.name):
                run = asyncio.get_running_loop().run_in_executor
                found, size = await run(self._process, _read_as, content, compressed, reader, self._max_bytes)
            return found, max(size, nbytes(found))

        async with self._read(request, parse) as found:
            yield found

    @asynccontextmanager
    async def _read(
        self, request: Request, parse: Callable[[Client, bytes, bool], Awaitable[tuple[_T, int]]]
    ) -> AsyncIterator[_T]:
        """What ``parse`` makes of a client's body, which may be compressed, and its bytes when it is not."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", ""):
            raise ApiError(415, f"content encoding {encoding[:80]!r} is not supported; send gzip, or no encoding")
        length = request.headers.get("content-length", "0")
        if len(length) > 20 or (length.isdecimal() and int(length) > self._max_bytes):
            raise _too_large(self._max_bytes)
        held = _Held()
        try:
            await self._collected_in_time(request, held)
            content = b"".join(held.chunks)
            held.chunks.clear()
            found, size = await parse(Client.of(request), content, "gzip" in encoding)
            del content
            self._held.add(size - held.size)
            held.size = size
            yield found
        finally:
            self._held.remove(held.size)

    async def _collected_in_time(self, request: Request, held: _Held) -> None:
        begun, collecting = time.monotonic(), asyncio.ensure_future(self._collect(request, held))
        try:
            while not collecting.done():
                allowed = min(self._timeout_s, READ_GRACE_S + held.size / READ_RATE)
                left = begun + allowed - time.monotonic()
                if left <= 0:
                    # The rest of the body would be taken for the next request.
                    raise ApiError(408, f"the body did not come in {allowed:.3g} s; send it at once", close=True)
                await asyncio.wait({collecting}, timeout=left)
            collecting.result()
        finally:
            collecting.cancel()

    async def _collect(self, request: Request, held: _Held) -> None:
        async for chunk in request.stream():
            self._held.add(len(chunk))
            held.size += len(chunk)
            if held.size > self._max_bytes:
                raise _too_large(self._max_bytes)
            held.chunks.append(chunk)

    async def _parsed(self, client: Client, content: bytes, compressed: bool, schema: type[_Body]) -> tuple[_Body, int]:
        run = asyncio.get_running_loop().run_in_executor
        if len(content) <= SMALL_BODY and not compressed:
            return await run(self._threads, parsed, content, schema), len(content)
        async with self._turns.of(client.name):
            return await run(self._process, _parsed_as, content, compressed, schema, self._max_bytes)


def _too_large(limit: int, when: str = "") -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes{when}; send less")


def _parsed_as(content: bytes, compressed: bool, schema: type[_Body], max_bytes: int) -> tuple[_Body, int]:
    """``content`` as a ``schema``, and its bytes when decompressed."""
    return _read_as(content, compressed, partial(parsed, schema=schema), max_bytes)


def _read_as(content: bytes, compressed: bool, reader: Callable[[bytes], _T], max_bytes: int) -> tuple[_T, int]:
    """What ``reader`` makes of ``content``, and its bytes when decompressed."""
    if compressed:
        content = decompressed(content, max_bytes)
    return reader(content), len(content)


def decompressed(content: bytes, max_bytes: int) -> bytes:
    """``content`` of gzip. Raises ``ApiError`` for what is none, is cut off, or is larger than ``max_bytes``."""
    try:
        found = gzip.GzipFile(fileobj=io.BytesIO(content)).read(max_bytes + 1)
    except EOFError:
        raise ApiError(400, "the gzip body is cut off; send all of it") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ApiError(400, f"the body is not gzip ({error}); omit the content encoding, or compress it") from None
    if len(found) > max_bytes:
        raise _too_large(max_bytes, " when decompressed")
    return found


def parsed(content: bytes, schema: type[_Body]) -> _Body:
    """``content`` as a ``schema``. Raises ``ApiError`` for what is no JSON, has too many values, or is no ``schema``."""
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_STRUCTURE:
        raise ApiError(400, f"the body has more than {MAX_STRUCTURE:,} commas and brackets; send less at a time")
    try:
        return schema.model_validate(from_json(content, allow_inf_nan=False))
    except ValidationError as error:
        raise _first(error) from None
    except ValueError as error:
        raise ApiError(400, f"Invalid JSON: {error}") from None


def _first(error: ValidationError) -> ApiError:
    """The first thing that is wrong, on one line."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    if first["type"] == "unsupported":
        place = f"{place}.{first['ctx']['name']}".lstrip(".")
        return ApiError(400, f"{place} is not supported; omit it", param=place)
    given = first["input"]
    value = (
        f" (it is {given!r})" if place and isinstance(given, str | int | float | bool) and len(str(given)) < 80 else ""
    )
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{place}: {message}{value}" if place else message, param=place or None)
