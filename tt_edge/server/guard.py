"""Who may ask, and how much at once: an ASGI middleware before everything else."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tt_edge.server.errors import ApiError

#: What needs no key: the page, which asks for it, and whether the server lives.
OPEN_PATHS = frozenset({"/", "/chat.js", "/chat.css", "/health"})


class Guard:
    """Refuses requests without the key, for another host, or whose body is no JSON.

    A browser lets any web page send requests to this machine. It cannot read the answers, but they would cost time; and
    by DNS rebinding it could read them. Against the first, bodies must be declared as JSON, which browsers ask leave
    for; against the second, the Host header must be one of ``hosts`` (``None``: any).
    """

    def __init__(self, app: ASGIApp, api_key: str | None, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts
        self._key = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self._hosts is not None and name not in self._hosts:
            return ApiError(421, f"host {host!r} is not this server's ({', '.join(sorted(self._hosts))})")
        given = headers.get("authorization", "").encode()
        if self._key is not None and scope["path"] not in OPEN_PATHS and not hmac.compare_digest(given, self._key):
            return ApiError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "invalid_api_key"
            )
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return ApiError(415, f"content type {kind!r} is not application/json; declare the body as that")
        return None
