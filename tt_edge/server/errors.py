"""Errors in OpenAI's form, whatever goes wrong, and in words that its clients recognise."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tt_edge.errors import CapacityError, InvalidInputError, TTEdgeError
from tt_edge.runtime.async_llm import QueueFullError


class ApiError(Exception):
    """A refusal with its HTTP status; ``param`` is the field of the body that is wrong.

    ``close`` ends the connection: where the request ends is not certain.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, *, param: str | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.close = status, message, code, param, close

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.status, self.message, self.code, self.param, self.close)

    @classmethod
    def of(cls, error: TTEdgeError) -> ApiError:
        """The status that says whose fault ``error`` is."""
        if isinstance(error, QueueFullError):
            return cls(429, str(error), "queue_full")
        if isinstance(error, CapacityError):
            return cls(400, str(error), "context_length_exceeded")
        if isinstance(error, InvalidInputError):
            return cls(400, str(error))
        return cls(500, str(error))

    def to_dict(self) -> dict[str, object]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 429 else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.close:
            headers["Connection"] = "close"
        if self.status == 415:
            headers["Accept-Encoding"] = "gzip, identity"
        return JSONResponse(self.to_dict(), self.status, headers)


def _unpickled(status: int, message: str, code: str | None, param: str | None, close: bool) -> ApiError:
    return ApiError(status, message, code, param=param, close=close)


def context_length_exceeded(limit: int, what: str, asked: str) -> ApiError:
    """In OpenAI's wording: LiteLLM's context-window fallbacks look for the first sentence. langchain-openai looks for the code in
    the text of the error, which OpenAI's client makes of the message, so the message ends with it.

    ``what`` is ``messages`` or ``prompt``; ``asked`` says how long they are.
    """
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. However, {asked}. Please reduce the length of the {what} or "
        "completion (context_length_exceeded).",
        "context_length_exceeded",
        param=what,
    )


async def on_api_error(_: Request, error: Exception) -> Response:
    """Starlette's handler of ``ApiError`` and ``TTEdgeError``."""
    return (error if isinstance(error, ApiError) else ApiError.of(error)).response()  # type: ignore[arg-type]


async def on_disconnect(_: Request, __: Exception) -> Response:
    """Starlette's handler of a client that leaves while its body is read, or whose body breaks off."""
    return Response(status_code=499)  # nobody reads it; the logs do


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of what it refuses itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is no {request.url.path[:200]} here; there are {_endpoints(request)}",
        405: f"{request.url.path[:200]} does not take {request.method[:20]}",
    }
    response = ApiError(error.status_code, messages.get(error.status_code, error.detail)).response()
    response.headers.update(error.headers or {})
    return response


def _endpoints(request: Request) -> str:
    return ", ".join(path for route in request.app.routes if (path := getattr(route, "path", "")).startswith("/v1/"))


async def on_defect(_: Request, error: Exception) -> Response:
    """Starlette's handler of everything else: a defect of the server, whose traceback uvicorn logs."""
    return ApiError(500, f"internal error ({type(error).__name__}); the server's log has the cause").response()
