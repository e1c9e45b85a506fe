"""Who may ask, and what: an ASGI middleware before everything else."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tt_edge.server.errors import ApiError

#: What needs no key: the page, which asks for it, and whether the server lives.
OPEN_PATHS = frozenset({"/", "/chat.js", "/chat.css", "/health"})

#: Where bodies are forms with a file, and their content type.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
FORM = "multipart/form-data"

#: Headers that must not come twice: which one counts would be a matter of opinion.
_ONCE = ("authorization", "content-encoding", "content-type", "host")


@dataclass(frozen=True)
class Client:
    """Who sends a request. ``name`` tells clients apart where they take turns: a key, or an address.

    ``salt`` tells apart whose prompts may share the KV cache: empty unless there are several keys.
    """

    name: str
    salt: str = ""

    @classmethod
    def of(cls, request: Request) -> Client:
        """The client that the guard has found."""
        client = request.scope["state"]["client"]
        assert isinstance(client, cls)
        return client

    def cache_salt(self, given: str | None) -> str:
        """The salt of a request that gives one of its own, or none."""
        return f"{self.salt}/{given}" if given else self.salt


class Guard:
    """Refuses requests without one of the keys, for another host, or whose body is of another type than the path takes.

    A browser lets any web page send requests to this machine. It cannot read the answers, but they would cost time; and
    by DNS rebinding it could read them. Against the first, bodies must be declared as JSON, which browsers ask leave
    for, and forms, for which they do not, must not come from another page; against the second, the Host header must be one of
    ``hosts`` (``None``: any).
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts
        several = len(api_keys) > 1
        self._clients = [
            (f"Bearer {key}".encode(), Client(f"key {place}", _salt(key) if several else ""))
            for place, key in enumerate(api_keys)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["client"] = self._client(scope)
            except ApiError as error:
                return await error.response()(scope, receive, send)
        return await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> Client:
        headers = Headers(scope=scope)
        _check_framing(headers)
        host = headers.get("host", "").lower()
        name = re.sub(r":[0-9]*$", "", host, flags=re.ASCII)
        if self._hosts is not None and name not in self._hosts:
            raise ApiError(421, f"host {host[:200]!r} is not this server's ({', '.join(sorted(self._hosts))})")
        client = self._authenticated(headers.get("authorization", "").encode(), scope)
        if scope["method"] == "POST":
            wanted = FORM if scope["path"] in FORM_PATHS else "application/json"
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != wanted:
                raise ApiError(415, f"content type {kind[:200]!r} is not {wanted}; declare the body as that")
            if wanted == FORM:
                _check_same_origin(headers)
        return client

    def _authenticated(self, given: bytes, scope: Scope) -> Client:
        # All keys are compared, so that the time does not say which was nearly right.
        found = [client for key, client in self._clients if hmac.compare_digest(given, key)]
        if found:
            return found[0]
        if self._clients and scope["path"] not in OPEN_PATHS:
            raise ApiError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "invalid_api_key"
            )
        address = scope.get("client")
        return Client(str(address[0]) if address else "")


def _check_same_origin(headers: Headers) -> None:
    """Refuse a form that a browser sends for another site's page. Other clients send neither header."""
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
        origin is not None and origin.lower().partition("://")[2] != host
    ):
        raise ApiError(403, f"the form comes from a page of another site ({str(origin)[:200]}); send it from this one")


def _check_framing(headers: Headers) -> None:
    """Refuse what a proxy in front may take for another request than this server does."""
    for name in _ONCE:
        if len(headers.getlist(name)) > 1:
            raise ApiError(400, f"there are several headers {name}; send one")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise ApiError(400, "the request has both Content-Length and Transfer-Encoding; send one of them", close=True)


def _salt(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
