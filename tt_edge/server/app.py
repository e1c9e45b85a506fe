"""The application: its routes, and from the body of a request to the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tt_edge.errors import CapacityError, TTEdgeError
from tt_edge.runtime.async_llm import AsyncLLM, CompletionStream
from tt_edge.runtime.text.completion import EncodedPrompt
from tt_edge.server import answers, images
from tt_edge.server.errors import ApiError, on_api_error
from tt_edge.server.guard import Guard
from tt_edge.server.metrics import Counted, Metrics
from tt_edge.server.replies import ChatReply, TextReply
from tt_edge.server.schemas import ChatRequest, CompletionRequest

_Body = TypeVar("_Body", bound=BaseModel)

_PAGE = {
    "/": ("index.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat.css": ("chat.css", "text/css"),
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Settings:
    """``timeout_s`` seconds a request, ``max_body`` bytes; ``hosts`` are the names that the server goes by, ``None`` any.

    Without ``max_body`` it is 1 MiB, or 32 MiB where the model takes images.
    """

    api_key: str | None = None
    timeout_s: float = 600.0
    max_body: int | None = None
    hosts: Collection[str] | None = None


def create_app(model: AsyncLLM, settings: Settings | None = None) -> Starlette:
    """The ASGI application for ``model``, which is closed when the application shuts down."""
    endpoints = Endpoints(model, settings or Settings())
    routes = [
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/v1/completions", endpoints.completions, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics_page),
        *(Route(path, endpoints.page) for path in _PAGE),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(model.close)

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Counted, metrics=endpoints.metrics, paths=[route.path for route in routes]),
            Middleware(Guard, api_key=endpoints.settings.api_key, hosts=endpoints.settings.hosts),
        ],
        exception_handlers={ApiError: on_api_error, TTEdgeError: on_api_error},
        lifespan=lifespan,
    )


class Endpoints:
    """What each route does."""

    def __init__(self, model: AsyncLLM, settings: Settings) -> None:
        self._model, self.settings = model, settings
        self._takes_images = model.llm.vision is not None
        self._max_body = settings.max_body or (images.IMAGE_BODY if self._takes_images else images.TEXT_BODY)
        self._held = images.HeldBytes(max(images.MAX_HELD, 2 * self._max_body))
        self.metrics = Metrics(model)
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        """``/v1/chat/completions``."""
        async with self._received(request, ChatRequest) as body:
            try:
                encoded = await self._encoded(request, body)
            except images.ClientGoneError:
                return Response(status_code=499)  # nobody reads it; the logs do
        llm = self._model.llm
        new_tokens = body.wanted_tokens or self._room(len(encoded.ids))
        configs = body.config(llm.generation_defaults, new_tokens, body.wanted_logprobs)
        streams = self._model.streams([(encoded, config) for config in configs])
        return await self._answer(request, body, ChatReply(llm.name, llm.tokenizer, body.n), streams)

    async def _encoded(self, request: Request, body: ChatRequest) -> EncodedPrompt:
        """The conversation as the model takes it. Its messages are let go: images may be large."""
        urls = [url for message in body.messages for url in message.images]
        messages = [message.plain() for message in body.messages]
        body.messages.clear()
        prompt = self._model.llm.apply_chat_template(messages, **body.chat_template_kwargs)
        return await images.encode(self._model, request, prompt, urls, self.settings.timeout_s, self.metrics)

    async def completions(self, request: Request) -> Response:
        """``/v1/completions``."""
        async with self._received(request, CompletionRequest) as body:
            pass
        llm = self._model.llm
        configs = body.config(llm.generation_defaults, body.max_tokens, body.logprobs)
        prompts = [
            llm.encode(p) if isinstance(p, str) else EncodedPrompt(llm.tokenizer.decode(p), p) for p in body.prompts
        ]
        streams = self._model.streams([(prompt, config) for prompt in prompts for config in configs])
        texts = [prompt.text for prompt in prompts for _ in configs]
        reply = TextReply(llm.name, llm.tokenizer, body.n, body.echo, prompts=texts)
        return await self._answer(request, body, reply, streams)

    async def models(self, _: Request) -> Response:
        """``/v1/models``: the one there is."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """``/v1/models/NAME``."""
        self._check_name(request.path_params["name"])
        return JSONResponse(self._card())

    async def health(self, _: Request) -> Response:
        """``/health``: 200 while requests are served."""
        alive = self._model.is_alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def metrics_page(self, request: Request) -> Response:
        """``/metrics``."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.metrics.registry), headers={"Content-Type": kind})

    async def page(self, request: Request) -> Response:
        """The chat page and its parts."""
        name, kind = _PAGE[request.url.path]
        content = (resources.files("tt_edge.server") / "page" / name).read_bytes()
        headers = {
            "Content-Security-Policy": _PAGE_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        }
        return Response(content, media_type=kind, headers=headers)

    async def _answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        reply: answers.Reply,
        streams: list[CompletionStream],
    ) -> Response:
        timeout = self.settings.timeout_s
        if not body.stream:
            return await answers.whole(request, reply, streams, timeout, self.metrics)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return answers.Events(reply, streams, timeout, self.metrics, include_usage=usage)

    @asynccontextmanager
    async def _received(self, request: Request, schema: type[_Body]) -> AsyncIterator[_Body]:
        """The body; it counts among the bytes that are held until the block ends."""
        chunks, size = [], 0
        try:
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    async for chunk in request.stream():
                        self._held.add(len(chunk))
                        size += len(chunk)
                        if size > self._max_body:
                            raise ApiError(413, f"the body is larger than {self._max_body} bytes; send less")
                        chunks.append(chunk)
            except TimeoutError:
                raise ApiError(
                    408, f"the body did not come in {self.settings.timeout_s:g} s; send it at once"
                ) from None
            try:
                body = schema.model_validate_json(b"".join(chunks))
            except ValidationError as error:
                raise ApiError(400, _first(error)) from None
            chunks.clear()
            self._check_name(body.model)  # type: ignore[attr-defined]
            yield body
        finally:
            self._held.remove(size)

    def _check_name(self, name: str) -> None:
        if name != self._model.llm.name:
            raise ApiError(
                404, f"model {name!r} is not here; this server has {self._model.llm.name!r}", "model_not_found"
            )

    def _room(self, prompt_tokens: int) -> int:
        """How many tokens an answer may have."""
        limit = self._model.llm.session.contract.max_seq_len
        if prompt_tokens >= limit:
            raise CapacityError(f"the messages have {prompt_tokens} tokens, and the model takes {limit}; shorten them")
        return limit - prompt_tokens

    def _card(self) -> dict[str, Any]:
        llm = self._model.llm
        more = {
            "max_model_len": llm.session.contract.max_seq_len,
            "input_modalities": ["text", "image"] if self._takes_images else ["text"],
        }
        return {"id": llm.name, "object": "model", "created": self._started, "owned_by": "tt-edge", **more}


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, on one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    given = first["input"]
    value = (
        f" (it is {given!r})" if place and isinstance(given, str | int | float | bool) and len(str(given)) < 80 else ""
    )
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{value}" if place else message
