"""Connections that say nothing, and too many from one address: others are served."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from contextlib import suppress

import pytest

from tests.server.conftest import serving
from tt_edge.server.access import connections
from tt_edge.server.access.connections import ConnectionLimits, is_loopback, owner
from tt_edge.server.parsing import bodies

#: Addresses of this machine from which the tests connect as if they were other machines'.
FAR, OTHER = "127.0.0.2", "127.0.0.3"


def limits(**given):
    return ConnectionLimits(**{"per_address": 4, "total": 8, "header_s": 0.4, "is_local": "127.0.0.1".__eq__, **given})


def connect(served, source=FAR, send=b""):
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))
    connection.sendall(send)
    return connection


def answer(connection):
    """The status and body of the answer, up to the end of the connection."""
    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, body


HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def trickle(connection, content):
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def healthy(served, source=FAR):
    return answer(connect(served, source, HEALTH))[0] == 200


def test_connections_that_say_nothing_are_closed(folder):
    with serving(folder, limits=limits()) as served:
        begun = time.monotonic()
        silent, slow = connect(served), connect(served, send=b"GET /health HT")
        assert answer(silent) == answer(slow) == (None, b"")
        assert 0.3 < time.monotonic() - begun < 5
        assert healthy(served)


def test_headers_that_trickle(folder):
    """A byte at a time keeps nothing open, on a connection that was used before either."""
    with serving(folder, limits=limits()) as served:
        connection = connect(served, send=HEALTH.replace(b"close", b"keep-alive"))
        assert b"200" in connection.recv(65536)
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            trickle(connection, HEALTH * 9)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("first", [b"", b'{"model": "tiny", '])
def test_a_body_that_trickles(folder, monkeypatch, first):
    """A body must begin to come, and keep up a rate: a byte at a time does not hold a request open."""
    monkeypatch.setattr(bodies, "READ_GRACE_S", 0.4)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with serving(folder, limits=limits()) as served:
        begun = time.monotonic()
        connection = connect(served, send=head + first)
        sender = threading.Thread(target=_until_it_is_closed, args=(connection, len(first)))
        sender.start()
        status, body = answer(connection)
        assert 0.3 < time.monotonic() - begun < 5
        assert (status, json.loads(body)["error"]["message"][:21]) == (408, "the body did not come")
        sender.join(5)
        assert not sender.is_alive()
        assert healthy(served)
        assert served.model.waiting == 0


def _until_it_is_closed(connection, sends):
    with suppress(OSError):
        for _ in range(1000 if sends else 0):
            connection.sendall(b" ")
            time.sleep(0.02)


BODY = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHUNK = b"10000\r\n" + bytes(1 << 16) + b"\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "ends"),
    [
        (b"\x16\x03\x01" * (1 << 20), 400, b"Invalid HTTP request received."),
        (HEALTH[:-2] + b"X: " + b"x" * (4 << 20), 400, b"Invalid HTTP request received."),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n" + b"x" * (4 << 20), 400, b"received.\r\n0\r\n\r\n"),
        (BODY + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 20 + b"no number\r\n", 413, b'"code":null}}'),
        (HEALTH + HEALTH * 50_000, 200, b'{"status":"ok"}'),
    ],
    ids=["no HTTP", "long headers", "wrong chunk", "wrong chunk after the answer", "more behind the last request"],
)
def test_a_client_that_still_sends_gets_its_answer(served, sent, status, ends):
    """Whole, and then the end of the connection, not a reset."""
    found, body = answer(connect(served, "127.0.0.1", sent))
    assert (found, body[-len(ends) :]) == (status, ends)


def test_a_client_that_takes_no_answers_is_let_go(folder):
    """Its answers and its place are not kept for longer than ``unread_s``."""
    with serving(folder, limits=limits(unread_s=0.3, per_address=1)) as served:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.bind((FAR, 0))
        connection.connect(connect(served).getpeername())
        connection.sendall(HEALTH.replace(b"/health", b"/").replace(b"close", b"keep-alive") * 1000)
        served.wait_until(lambda: healthy(served), "its place is free")


def test_refused_connections_do_not_take_all_files(folder, monkeypatch):
    monkeypatch.setattr(connections, "_LINGER_S", 30.0)
    monkeypatch.setattr(connections, "_MOST_LINGERING", 3)
    with serving(folder, limits=limits(header_s=30)) as served:
        held = [connect(served) for _ in range(4)]
        refused = [connect(served) for _ in range(12)]
        assert [answer(each)[0] for each in refused] == [429] * 12
        assert sum([takes_more(each) for each in refused]) == 3
        for each in refused + held:
            each.close()
        served.wait_until(lambda: healthy(served), "there is a place again")


def takes_more(connection):
    """Whether the other side still reads."""
    try:
        for _ in range(3):
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        return False
    return True


def test_one_address_does_not_take_the_places_of_others(folder):
    with serving(folder, limits=limits(header_s=30)) as served:
        taken = [connect(served) for _ in range(4)]
        status, body = answer(connect(served, send=HEALTH))
        assert (status, json.loads(body)["error"]["code"]) == (429, "overloaded")
        assert healthy(served, OTHER)
        assert healthy(served, "127.0.0.1")
        taken.pop().close()
        served.wait_until(lambda: healthy(served), "there is a place again")


def test_many_addresses_give_way_to_those_who_ask(folder):
    with serving(folder, limits=limits(header_s=30, per_address=3)) as served:
        silent = [connect(served, f"127.0.1.{number % 4}") for number in range(1, 9)]
        assert healthy(served)
        assert healthy(served, "127.0.0.1")
        assert answer(silent[0]) == (None, b""), "the one that was silent longest is closed"


def test_this_machine_is_not_limited_by_address(folder):
    with serving(folder, limits=limits(header_s=30)) as served:
        held = [connect(served, "127.0.0.1") for _ in range(7)]
        for _ in range(20):
            with urllib.request.urlopen(f"{served.url}/health", timeout=10) as response:
                assert response.status == 200
        assert len(held) == 7


@pytest.mark.parametrize(
    ("address", "local", "whose"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("::1", True, "::/64"),
        ("::ffff:127.0.0.1", True, "127.0.0.1"),
        ("10.0.0.7", False, "10.0.0.7"),
        ("2001:db8:1:2:3::4", False, "2001:db8:1:2::/64"),
        ("", True, ""),
    ],
)
def test_addresses(address, local, whose):
    assert (is_loopback(address), owner(address)) == (local, whose)
