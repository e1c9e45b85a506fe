"""Requests that no client library sends: each is answered or refused, is not taken for another one, and leaves no traceback."""

from __future__ import annotations

import json
import logging
import re
import socket
import time

import pytest

from tests.server.conftest import serving

BODY = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x;ext=1\r\n%s\r\n0\r\nX: y\r\nContent-Length: 5\r\n\r\n" % (len(BODY), BODY)
CLOSE = b"Connection: close\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def post(headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    head = b"POST /v1/completions HTTP/%s\r\nHost: localhost\r\nContent-Type: application/json\r\n" % version
    return head + headers + b"\r\n" + body


@pytest.fixture(scope="module")
def served(folder):
    with serving(folder, hosts={"localhost", "[::1]"}) as served:
        yield served


def exchange(served, *parts: bytes, seconds: float = 20.0) -> bytes:
    """What the server answers until it closes the connection."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while received := connection.recv(1 << 16):
                answer += received
        except ConnectionResetError:  # it was closed with bytes unread
            return answer
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (post(LENGTH + LENGTH + CLOSE), [200]),
        (post(LENGTH + b"Content-Length: 1\r\n"), [400]),
        (post(b"Content-Length: +5\r\n", b"hello"), [400]),
        (post(b"Content-Length: 99999999999999999999\r\n" + CLOSE, b""), [413]),
        (post(b"Content-Length: " + b"9" * 5000 + b"\r\n", b""), [400]),
        (post(CHUNKED + CLOSE, CHUNKS), [200]),
        (post(b"Transfer-Encoding: gzip, chunked\r\n", b""), [400]),
        (post(CHUNKED, b"-5\r\nhello\r\n"), [400]),
        (post(CHUNKED, b"ZZ\r\n"), [400]),
        (post(CHUNKED, b"5;" + b"a" * (1 << 18)), [400]),
        (post(LENGTH, version=b"1.0"), [200]),
        (post(LENGTH + b"Expect: 100-continue\r\n" + CLOSE), [100, 200]),
        (post(b"Content-Length: 9999999\r\nExpect: 100-continue\r\n" + CLOSE, b""), [413]),
        (HEALTH + b"\r\n" + HEALTH + CLOSE + b"\r\n", [200, 200]),
        (HEALTH + CLOSE + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", [400]),
        (HEALTH + CLOSE + b"X: a\0b\r\n\r\n", [400]),
        (b"GET /health\r\n\r\n", [400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [421, 400]),
        (b"GET http://evil/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [404]),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [404]),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", [400]),
        (b"GET /health HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\n\r\n", [200]),
        (b"GET /health HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", [200]),
        (b"GET /health HTTP/1.1\r\nHost: localhost:evil.example\r\nConnection: close\r\n\r\n", [421]),
        (b"GET /health HTTP/1.1\r\nHost: localhost@evil.example\r\nConnection: close\r\n\r\n", [421]),
        (b"GET /v1/models/a%00%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [404]),
        (b"GET /chat.js/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [404]),
        # Which of two counts would be a matter of opinion, and so would where the body ends.
        (post(LENGTH + b"Content-Type: text/plain\r\n" + CLOSE), [400]),
        (post(LENGTH + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n" + CLOSE), [400]),
        (post(LENGTH + b"Content-Encoding: gzip\r\nContent-Encoding: identity\r\n" + CLOSE), [400]),
        (post(LENGTH + CHUNKED, CHUNKS + HEALTH + b"\r\n"), [400]),
    ],
)
def test_statuses(served, request_, expected):
    assert statuses(exchange(served, request_)) == expected


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_upgrades_are_ignored(served, upgrade):
    headers = b"Connection: Upgrade, close\r\nUpgrade: %s\r\nSec-WebSocket-Version: 13\r\n" % upgrade
    answer = exchange(served, HEALTH + headers + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert statuses(answer) == [200]


@pytest.mark.parametrize("key", ["1" + "0" * 20_000, "05", " 5", "\u0665", "1_0", "-1", "", "4294967296"])
def test_keys_of_a_bias(served, key):
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1, "logit_bias": {key: 1}}).encode()
    answer = exchange(served, post(b"Content-Length: %d\r\n" % len(body) + CLOSE, body))
    assert statuses(answer) == [400]
    assert b"logit_bias has key" in answer


def test_clients_that_leave_are_no_defects(served, caplog):
    """In the middle of a body, at a broken chunk, and while several answers are made."""
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    host, port = served.url.removeprefix("http://").split(":")
    several = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 40, "n": 2}).encode()
    for content in (
        post(LENGTH, BODY[:5]),
        post(CHUNKED, b"5\r\nhel"),
        post(b"Content-Length: %d\r\n" % len(several), several),
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(content)
            time.sleep(0.1)
    exchange(served, post(CHUNKED, b"5\r\nhelloZZ\r\n"))
    served.wait_until(lambda: not served.model.running, "the answers have ended")
    assert statuses(exchange(served, HEALTH + CLOSE + b"\r\n")) == [200]
    time.sleep(0.1)
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
