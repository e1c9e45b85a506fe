"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tt_edge.errors import CapacityError, InvalidInputError, TTEdgeError
from tt_edge.runtime.async_llm import QueueFullError


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

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
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 429 else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_dict(), self.status, headers)


async def on_api_error(_: Request, error: Exception) -> Response:
    """Starlette's handler of ``ApiError`` and ``TTEdgeError``."""
    return (error if isinstance(error, ApiError) else ApiError.of(error)).response()  # type: ignore[arg-type]
