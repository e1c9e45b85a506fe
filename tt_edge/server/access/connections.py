"""Connections: how many an address may have, and how long one may take to send its request.

A connection that says nothing costs a place. Without limits, one client can take them all, and everybody else gets 503.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tt_edge.server.errors import ApiError

#: Seconds for which bytes that a client still sends are read and dropped after its answer. Closed with bytes unread, the connection
#: would be reset, and the client might lose the answer (RFC 9112, section 9.6).
_LINGER_S = 1.0

#: Refused connections that are kept open for this at one time. More are closed at once: they have no place, and must not take all
#: file descriptors.
_MOST_LINGERING = 64


def is_loopback(address: str) -> bool:
    """Whether ``address`` is of this machine."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address in ("", "localhost")  # a socket of the file system
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def owner(address: str) -> str:
    """Whose connections count together: an IPv4 address, or the 64 bits of an IPv6 address that its owner does not choose."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


@dataclass(frozen=True)
class ConnectionLimits:
    """At most ``total`` connections of other machines, ``per_address`` of one, and ``total`` more of this machine.

    Headers of a request must come within ``header_s`` seconds, and a client whose answers wait must take some of them within
    ``unread_s``. ``is_local`` says which addresses are of this machine.
    """

    per_address: int = 96
    total: int = 384
    header_s: float = 10.0
    unread_s: float = 30.0
    is_local: Callable[[str], bool] = is_loopback


@dataclass
class _Pool:
    """Open connections, the oldest first."""

    connections: dict[LimitedConnection, None] = field(default_factory=dict)
    of_owner: dict[str, int] = field(default_factory=dict)


class LimitedConnection(H11Protocol):
    """uvicorn's HTTP connection with ``limits``; ``limited`` makes a class of it."""

    limits: ClassVar[ConnectionLimits]
    pools: ClassVar[dict[bool, _Pool]]
    refused: ClassVar[set[LimitedConnection]]

    _pool: _Pool | None = None
    _owner = ""
    _header_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _sends_on = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it in a line."""
        lingering = _LingeringTransport(transport, self._may_still_send, self.limits.unread_s)
        super().connection_made(lingering)  # type: ignore[arg-type]
        address = self.client[0] if self.client else ""
        local = self.limits.is_local(address)
        self._owner, pool = owner(address), self.pools[local]
        if not local and pool.of_owner.get(self._owner, 0) >= self.limits.per_address:
            return self._refuse(429, f"this address has {self.limits.per_address} connections, as many as one may")
        if len(pool.connections) >= self.limits.total and not _close_one_that_waits(pool):
            return self._refuse(503, "the server has as many connections as it may")
        self._pool = pool
        pool.connections[self] = None
        pool.of_owner[self._owner] = pool.of_owner.get(self._owner, 0) + 1
        self._watch_headers()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        super().connection_lost(exc)
        self.resume_writing()
        self._unwatch()
        self.refused.discard(self)
        self.leave()

    def data_received(self, data: bytes) -> None:
        """Take bytes; while they are the headers of a request, the time runs on."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.MUST_CLOSE:  # it said that this was its last request
            self._sends_on = True
            return
        super().data_received(data)
        if not self.waits_for_request:
            self._unwatch()
        elif self._header_timer is None:
            self._watch_headers()

    def pause_writing(self) -> None:
        """Answers wait, because the client does not take them: end the connection if it goes on."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client takes its answers."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; behind an answer that has begun, only close. What is still computed gets no answer."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if not self.waits_for_request:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def waits_for_request(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def leave(self) -> None:
        """No longer count. Harmless when it does not."""
        pool, self._pool = self._pool, None
        if pool is not None:
            del pool.connections[self]
            pool.of_owner[self._owner] -= 1
            if not pool.of_owner[self._owner]:
                del pool.of_owner[self._owner]

    def _watch_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_s, self._expire)

    def _unwatch(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _expire(self) -> None:
        self._header_timer = None
        if self.waits_for_request:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps(ApiError(status, f"{message}; try again later", "overloaded").to_dict()).encode()
        head = f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body)
        if len(self.refused) < _MOST_LINGERING:
            self.refused.add(self)
        self.transport.close()

    def _may_still_send(self) -> bool:
        """Whether bytes may come that nobody reads: the client was refused unheard, what it sends is no HTTP, the body of its
        request has not ended, or another request stands behind it."""
        if self._pool is None:
            return self in self.refused
        return self._sends_on or self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])


class _LingeringTransport:
    """A transport that, while the client ``sends``, closes its own side first, and the connection ``_LINGER_S`` later.

    Closed with bytes that the client does not take, it is aborted ``unread_s`` later.
    """

    def __init__(self, transport: asyncio.Transport, sends: Callable[[], bool], unread_s: float) -> None:
        self._transport, self._sends, self._unread_s, self._lingers = transport, sends, unread_s, False

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._sends() or not self._transport.can_write_eof():
            self._close()
            return
        self._lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_S, self._close)

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def _close(self) -> None:
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(self._unread_s, self._transport.abort)
        self._transport.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def _close_one_that_waits(pool: _Pool) -> bool:
    """Close the oldest connection that has no request; whether there was one."""
    for connection in pool.connections:
        if connection.waits_for_request:
            connection.leave()
            connection.transport.abort()
            return True
    return False


def limited(limits: ConnectionLimits) -> type[LimitedConnection]:
    """uvicorn's ``http`` setting: connections with these limits, counted together."""
    pools = {True: _Pool(), False: _Pool()}
    return type("Connection", (LimitedConnection,), {"limits": limits, "pools": pools, "refused": set()})
