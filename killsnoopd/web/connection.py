"""One connection to the port, from accept(2) to close(2): TLS if configured, one request, one response.

It reads nothing after the request's header. Keep-alive would need its own limits, and a scrape every 15 s gains nothing
from it.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from killsnoopd.web.message import HEADER_BYTES, complete

log = logging.getLogger("killsnoopd")

HEADER_S = 5.0  # deadline for the TLS handshake and the header, from accept(2)
ANSWER_S = 30.0  # deadline for building and reading the response; Prometheus' default timeout is 10 s
STALE_S = 5.0  # after this, a response counts as idle
STALL_S = 0.1  # after this without reading, a client counts as idle
_SLICE_BYTES = _UNSENT_BYTES = 65536


class Owner(Protocol):
    """The parts that all connections share."""

    respond: Callable[[bytes, str], Awaitable[tuple[bytes, bytes]]]
    tls: Callable[[], ssl.SSLContext | None]
    admits: Callable[[asyncio.Transport], bool]

    def bound_bodies(self, newest: bytes) -> None:
        """Sending of `newest` begins: drop slow readers of older responses if all together take too much memory."""

    def forget(self, connection: "Connection", reason: str | None = None) -> None:
        """The connection has ended. A reason is counted, once."""


def network(host: str) -> str:
    """The peer of an address: the IPv4 address itself, or the /64 of an IPv6 address; "" for a unix socket."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


class Connection(asyncio.Protocol):
    """A connection. connect() starts it; drop() ends it early."""

    def __init__(self, owner: Owner, sock: socket.socket, host: str) -> None:
        self.network = network(host)
        self.since = time.monotonic()  # the peer's last activity
        self.answering_since: float | None = None  # when the header was complete
        self.body = b""  # the body being sent
        self._owner = owner
        self._sock = sock
        self._raw: asyncio.Transport | None = None  # the socket's transport, below TLS
        self._transport: asyncio.Transport | None = None  # the transport to read and write
        self._received = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline = asyncio.get_running_loop().call_later(HEADER_S, self.drop, "slow")
        self._connecting: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Start the TLS handshake if TLS is configured, then read the header."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        context = self._owner.tls()
        try:
            raw, _ = await loop.connect_accepted_socket(lambda: self, self._sock)
            transport = raw
            if context and not raw.is_closing():
                transport = await loop.start_tls(  # type: ignore[assignment] # None if it is closed meanwhile
                    raw, self, context, server_side=True, ssl_handshake_timeout=HEADER_S
                )
        except OSError as error:  # ssl.SSLError is one
            log.debug("TLS with %s: %s", self.network, error)
            return self.drop("tls")
        if transport is None or transport.is_closing():
            return self.drop(None)
        if context and not self._owner.admits(transport):
            return self.drop("tls")
        transport.set_write_buffer_limits(_UNSENT_BYTES)  # the default for TLS is 512 KiB
        self._transport = transport
        transport.resume_reading()
        return self._answer_if_complete(transport)  # data may have come with the end of the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pause reading until it is clear whether TLS is used."""
        if isinstance(transport, asyncio.Transport):
            self._raw = transport
            if self._deadline.cancelled():  # drop() was called meanwhile
                transport.abort()
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Collect bytes of the header; ignore what follows it."""
        if self.answering_since is None:
            self._received += data[: HEADER_BYTES - len(self._received)]
            if self._transport:
                self._answer_if_complete(self._transport)

    def _answer_if_complete(self, transport: asyncio.Transport) -> None:
        if not complete(self._received):
            return
        transport.pause_reading()
        loop = asyncio.get_running_loop()
        self.answering_since = self.since = time.monotonic()
        self._deadline.cancel()
        self._deadline = loop.call_later(ANSWER_S, self.drop, "slow")
        self._answering = loop.create_task(self._answer(transport))

    async def _answer(self, transport: asyncio.Transport) -> None:
        """Write the response in slices as the client reads. All readers of one body share it in memory."""
        head, self.body = await self._owner.respond(bytes(self._received), self.network)
        self._owner.bound_bodies(self.body)
        transport.write(head + self.body[:_SLICE_BYTES])
        for begin in range(_SLICE_BYTES, len(self.body), _SLICE_BYTES):
            await self._writable.wait()
            transport.write(memoryview(self.body)[begin : begin + _SLICE_BYTES])
        self.body = b""
        transport.close()

    def pause_writing(self) -> None:
        """The write buffer is full: the peer reads slowly."""
        self.since = time.monotonic()
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has read data."""
        self.since = time.monotonic()
        self._writable.set()

    def _unsent(self) -> int:
        """Bytes that the peer has not read yet."""
        transports = {each for each in (self._raw, self._transport) if each}
        return sum(each.get_write_buffer_size() for each in transports)

    def idle(self) -> bool:
        """Whether it may be evicted: it sent no request, or the response is stale or not read."""
        now = time.monotonic()
        if self.answering_since is None or self._transport is None or now - self.answering_since > STALE_S:
            return True
        return now - self.since > STALL_S and (self._transport.is_closing() or self._unsent() > 0)

    def drop(self, reason: str | None) -> None:
        """End the connection at once; a reason is counted."""
        self._deadline.cancel()
        self._owner.forget(self, reason)
        if self._raw:
            self._raw.abort()
        else:
            if self._connecting:
                self._connecting.cancel()
            self._sock.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """The connection is closed, by either side."""
        self._deadline.cancel()
        self._owner.forget(self)
        if self._answering:
            self._answering.cancel()
