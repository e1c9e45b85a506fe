"""A client of OpenAI's HTTP endpoints that notes when each piece of a streamed answer comes. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tt_edge.errors import EngineError, InvalidInputError, one_line
from tt_edge.runtime.benchmark.records import RequestTimes

_MAX_LINE = 1 << 20
#: Fields that not every server takes; without them the lengths of answers are up to the model.
OPTIONAL = ("ignore_eos", "stream_options")


class ServerError(EngineError):
    """The server cannot be reached, or did not answer as OpenAI's do. ``status`` is HTTP's, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """One streamed answer: its times, and its text."""

    times: RequestTimes
    text: str
    #: Whether the server counted the tokens of prompt and answer; an answer's are else its pieces, a prompt's are 0.
    has_usage: bool


class OpenAIClient:
    """Of the server at ``url``, with or without ``/v1``. Each request has a connection of its own; thread-safe."""

    def __init__(
        self, url: str, model: str | None = None, api_key: str | None = None, *, chat: bool, timeout: float
    ) -> None:
        parts = urlsplit(url)
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInputError(f"--server {url} has no valid port ({error}); give http://HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not self._host:
            raise InvalidInputError(f"--server {url} is not an address; give http://HOST:PORT")
        path = parts.path.rstrip("/")
        self.url, self._path = url, path if path.endswith("/v1") else f"{path}/v1"
        self._secure, self._chat, self._timeout = parts.scheme == "https", chat, timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise InvalidInputError("the API key has characters that HTTP does not send; copy it again")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._model = model
        self._left_out: set[str] = set()

    @property
    def model(self) -> str:
        """The model that is asked for: the server's first, unless one was given."""
        if self._model is None:
            body = self._json("GET", "/models")
            data = body.get("data") if isinstance(body, dict) else None
            first = data[0] if isinstance(data, list) and data else None
            name = first.get("id") if isinstance(first, dict) else None
            if not isinstance(name, str):
                raise ServerError(f"{self.url} lists no model; give --model")
            self._model = name
        return self._model

    @property
    def left_out(self) -> tuple[str, ...]:
        """The fields of ``OPTIONAL`` that this server refused, and which are no longer sent."""
        return tuple(sorted(self._left_out))

    def probe(self, prompt: str) -> Answer:
        """Complete ``prompt`` by one token, and find out which optional fields the server takes.

        Raises ``ServerError`` with what is wrong if it does not answer.
        """
        while True:
            try:
                return self.complete([{"role": "user", "content": prompt}] if self._chat else prompt, 1)
            except ServerError as error:
                refused = [name for name in OPTIONAL if name not in self._left_out and name in str(error)]
                rest = [name for name in OPTIONAL if name not in self._left_out]
                if error.status not in (400, 422) or not rest:
                    raise
                self._left_out.add((refused or rest)[0])

    def complete(self, prompt: str | list[dict[str, Any]], max_tokens: int) -> Answer:
        """Stream the answer to ``prompt``, text or messages. Raises ``ServerError``."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        body |= {"messages": prompt} if isinstance(prompt, list) else {"prompt": prompt}
        body = {name: value for name, value in body.items() if name not in self._left_out}
        connection = self._connect()
        try:
            started = time.perf_counter()
            path = "/chat/completions" if isinstance(prompt, list) else "/completions"
            response = self._send(connection, "POST", path, body)
            return self._read(response, started)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, started: float) -> Answer:
        times: list[float] = []
        every: list[float] = []  # of pieces without text too, such as tokens that are not shown
        text, usage = [], None
        for event in self._events(response):
            now = time.perf_counter()
            if event.get("error"):
                raise ServerError(f"{self.url} ended the answer with an error: {_reason(event)}")
            if isinstance(event.get("usage"), dict):
                usage = event["usage"]
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if not _only_announces(choice):
                    every.append(now)
                if piece := _piece(choice):
                    times.append(now)
                    text.append(piece)
        chunks = times or every
        if not chunks:
            raise ServerError(f"{self.url} streamed no answer; it may not be a server with OpenAI's endpoints")
        counted = usage is not None and _count(usage.get("completion_tokens"))
        output = _count(usage.get("completion_tokens")) if usage and counted else len(chunks)
        details = (usage or {}).get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        record = RequestTimes(
            started,
            tuple(chunks),
            _count((usage or {}).get("prompt_tokens")),
            output,
            reused_tokens=None if cached is None else _count(cached),
        )
        return Answer(record, "".join(text), bool(counted and record.input_tokens))

    def _events(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream of server-sent events."""
        while line := response.readline(_MAX_LINE):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError as error:
                raise ServerError(
                    f"{self.url} streams {data[:60]!r}, which is not JSON; see the server's log"
                ) from error
            if isinstance(event, dict):
                yield event

    def _json(self, method: str, path: str) -> Any:
        connection = self._connect()
        try:
            answer = self._send(connection, method, path, None).read(_MAX_LINE)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ServerError(
                f"{self.url}{path} is not JSON but {answer[:60]!r}; give the address of the API"
            ) from error

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        assert self._host is not None
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from error
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Mapping[str, Any] | None
    ) -> http.client.HTTPResponse:
        connection.request(method, self._path + path, None if body is None else json.dumps(body), self._headers)
        response = connection.getresponse()
        if response.status != 200:
            raise ServerError(
                f"{self.url} answers {method} {self._path}{path} with {response.status} {response.reason}: "
                f"{_reason_of(response.read(_MAX_LINE))}{_NEXT.get(response.status, '')}",
                response.status,
            )
        return response

    def _unreachable(self, error: Exception) -> ServerError:
        reason = "no answer in time" if isinstance(error, TimeoutError) else one_line(error)
        return ServerError(f"{self.url} cannot be reached ({reason}); start the server, or check the address")


#: The next step, by HTTP status.
_NEXT = {
    401: "; give --api-key",
    403: "; give --api-key",
    404: "; check the address, --model and --endpoint",
    429: "; lower --rate or --batch",
}


def _piece(choice: Any) -> str:
    """The new text of a choice: of a completion, or a chat's content or reasoning."""
    if not isinstance(choice, dict):
        return ""
    delta = choice.get("delta")
    found = choice.get("text")
    if isinstance(delta, dict):
        found = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    return found if isinstance(found, str) else ""


def _only_announces(choice: Any) -> bool:
    """Whether it is the piece with which many servers begin a chat, before anything is computed."""
    delta = choice.get("delta") if isinstance(choice, dict) else None
    return isinstance(delta, dict) and "role" in delta and not choice.get("finish_reason")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _reason_of(body: bytes) -> str:
    try:
        return _reason(json.loads(body))
    except ValueError:
        return " ".join(body[:120].decode("utf-8", "replace").split()) or "an empty answer"


def _reason(body: Any) -> str:
    """The message of an error, as OpenAI's and others' have it."""
    found = body
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return " ".join(str(found)[:300].split())
