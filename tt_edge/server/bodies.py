"""Bodies of requests: read within limits of bytes, time and structure, and parsed beside the event loop."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from tt_edge.server.errors import ApiError

_Body = TypeVar("_Body", bound=BaseModel)

#: Most bytes of a body, where the model takes only text and where it takes images.
TEXT_BODY, IMAGE_BODY = 1 << 20, 32 << 20

#: Most bytes of bodies that are held at one time, until their images are encoded: sixteen of the largest. Bodies of text never
#: come to this; how many requests there are is bounded before.
MAX_HELD = 512 << 20

#: Most commas and opening brackets of a body, so that the values which JSON makes of it are bounded: 32 MiB of ``[1,1,…`` would
#: otherwise take gigabytes.
MAX_STRUCTURE = 1 << 18

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


class BodyReader:
    """Reads bodies of at most ``max_bytes``; ``parser`` is where they are parsed."""

    def __init__(self, max_bytes: int, timeout_s: float, parser: Executor) -> None:
        self._max_bytes, self._timeout_s, self._parser = max_bytes, timeout_s, parser
        self._held = HeldBytes(max(MAX_HELD, 2 * max_bytes))

    @asynccontextmanager
    async def received(self, request: Request, schema: type[_Body]) -> AsyncIterator[_Body]:
        """The body as a ``schema``; it counts among the bytes that are held until the block ends.

        Raises ``ApiError``: 408 for a body that is too slow, 413 for one too large, 415 for an encoding other than gzip, and 400
        for one that is no ``schema``.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip", ""):
            raise ApiError(415, f"content encoding {encoding[:80]!r} is not supported; send gzip, or no encoding")
        size = 0
        try:
            chunks = []
            async for chunk in self._chunks(request):
                self._held.add(len(chunk))
                size += len(chunk)
                if size > self._max_bytes:
                    raise self._too_large()
                chunks.append(chunk)
            content = b"".join(chunks)
            chunks.clear()
            if "gzip" in encoding:
                content = await self._beside(self._decompressed, content)
                self._held.add(len(content) - size)
                size = len(content)
            body = await self._beside(parsed, content, schema)
            del content
            yield body
        finally:
            self._held.remove(size)

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream, size, begun = request.stream(), 0, time.monotonic()
        while True:
            allowed = min(self._timeout_s, READ_GRACE_S + size / READ_RATE)
            next_chunk = asyncio.ensure_future(anext(stream))
            await asyncio.wait({next_chunk}, timeout=max(0.0, begun + allowed - time.monotonic()))
            if not next_chunk.done():
                next_chunk.cancel()
                raise ApiError(408, f"the body did not come in {allowed:.3g} s; send it at once")
            try:
                chunk = next_chunk.result()
            except StopAsyncIteration:
                return
            size += len(chunk)
            yield chunk

    async def _beside(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._parser, work, *args)

    def _decompressed(self, content: bytes) -> bytes:
        inflater = zlib.decompressobj(wbits=31)
        try:
            found = inflater.decompress(content, self._max_bytes + 1)
        except zlib.error as error:
            raise ApiError(400, f"the body is not gzip ({error}); omit the content encoding, or compress it") from None
        if len(found) > self._max_bytes:
            raise self._too_large(" when decompressed")
        if not inflater.eof:
            raise ApiError(400, "the gzip body is cut off; send all of it")
        return found

    def _too_large(self, when: str = "") -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_bytes} bytes{when}; send less")


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
