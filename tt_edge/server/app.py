"""The application: its routes, and the chat page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tt_edge.errors import TTEdgeError
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.server.access.guard import Guard
from tt_edge.server.endpoints import Endpoints
from tt_edge.server.errors import ApiError, on_api_error, on_defect, on_disconnect, on_http_error
from tt_edge.server.metrics import Counted
from tt_edge.server.settings import Settings

_PAGE = {
    "/": ("index.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
)


def create_app(model: AsyncLLM, settings: Settings | None = None) -> Starlette:
    """The ASGI application for ``model``, which is closed when the application shuts down."""
    endpoints = Endpoints(model, settings or Settings())
    routes = [
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/v1/completions", endpoints.completions, methods=["POST"]),
        Route("/v1/audio/transcriptions", endpoints.transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", endpoints.translations, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics_page),
        *(Route(path, page) for path in _PAGE),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(endpoints.close)

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Counted, metrics=endpoints.metrics, paths=[route.path for route in routes]),
            Middleware(Guard, api_keys=endpoints.settings.api_keys, hosts=endpoints.settings.hosts),
        ],
        exception_handlers={
            ApiError: on_api_error,
            TTEdgeError: on_api_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_disconnect,
            Exception: on_defect,
        },
        lifespan=lifespan,
    )


async def page(request: Request) -> Response:
    """The chat page and its parts."""
    name, kind = _PAGE[request.url.path]
    content = (resources.files("tt_edge.server") / "page" / name).read_bytes()
    headers = {
        "Content-Security-Policy": _PAGE_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(content, media_type=kind, headers=headers)
