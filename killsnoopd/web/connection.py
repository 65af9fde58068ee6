"""One connection to the port, from accept(2) to close(2): TLS if configured, one request, its response.

Nothing after the header of the request is read. One request per connection: keep-alive would need bounds of its own,
and a scrape every 15 s gains nothing from it.
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

HEADER_S = 5.0  # for the TLS handshake and the whole header, from accept(2) on
ANSWER_S = 30.0  # for the page to be made and read; Prometheus gives up after 10 s unless told otherwise
STALE_S = 5.0  # an answer that takes longer makes room for others when all places are taken
STALL_S = 0.1  # without reading anything of an answer: the same
_SLICE_BYTES = _UNSENT_BYTES = 65536


class Owner(Protocol):
    """What all connections share."""

    respond: Callable[[bytes, str], Awaitable[tuple[bytes, bytes]]]
    tls: Callable[[], ssl.SSLContext | None]
    admits: Callable[[asyncio.Transport], bool]

    def bound_bodies(self, newest: bytes) -> None:
        """A response begins to be sent: end the slow readers of older ones if they take too much memory together."""

    def forget(self, connection: "Connection", reason: str | None = None) -> None:
        """It has ended; if it was ended for a reason, that is counted, once."""


def network(host: str) -> str:
    """What counts as one peer: an IPv4 address, or the /64 around an IPv6 address; "" for a unix socket."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


class Connection(asyncio.Protocol):
    """`connect` begins it, `drop` ends it early."""

    def __init__(self, owner: Owner, sock: socket.socket, host: str) -> None:
        self.network = network(host)
        self.since = time.monotonic()  # the peer was last heard of
        self.answering_since: float | None = None  # the header is complete
        self.body = b""  # being sent
        self._owner = owner
        self._sock = sock
        self._raw: asyncio.Transport | None = None  # the socket's own, whatever is wrapped around it
        self._transport: asyncio.Transport | None = None  # ours to read and write
        self._received = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline = asyncio.get_running_loop().call_later(HEADER_S, self.drop, "slow")
        self._connecting: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Make the socket asyncio's."""
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
        transport.set_write_buffer_limits(_UNSENT_BYTES)  # of TLS it would be 512 KiB
        self._transport = transport
        transport.resume_reading()
        return self._answer_if_complete(transport)  # what came with the end of the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is asyncio's; nothing is read before it is known whether it is TLS."""
        if isinstance(transport, asyncio.Transport):
            self._raw = transport
            if self._deadline.cancelled():  # dropped meanwhile
                transport.abort()
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of the header, or what follows it, which is ignored."""
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
        """Write the response in slices, as they are read: its body is in memory once, however many read it."""
        head, self.body = await self._owner.respond(bytes(self._received), self.network)
        self._owner.bound_bodies(self.body)
        transport.write(head + self.body[:_SLICE_BYTES])
        for begin in range(_SLICE_BYTES, len(self.body), _SLICE_BYTES):
            await self._writable.wait()
            transport.write(memoryview(self.body)[begin : begin + _SLICE_BYTES])
        self.body = b""
        transport.close()

    def pause_writing(self) -> None:
        """From now on the peer may be slow to read."""
        self.since = time.monotonic()
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has read something."""
        self.since = time.monotonic()
        self._writable.set()

    def _unsent(self) -> int:
        """Bytes that wait for the peer to read them."""
        transports = {each for each in (self._raw, self._transport) if each}
        return sum(each.get_write_buffer_size() for each in transports)

    def idle(self) -> bool:
        """Whether it makes room before others: nothing was asked, or nobody takes the answer."""
        now = time.monotonic()
        if self.answering_since is None or self._transport is None or now - self.answering_since > STALE_S:
            return True
        return now - self.since > STALL_S and (self._transport.is_closing() or self._unsent() > 0)

    def drop(self, reason: str | None) -> None:
        """End it at once; for a reason that is counted."""
        self._deadline.cancel()
        self._owner.forget(self, reason)
        if self._raw:
            self._raw.abort()
        else:
            if self._connecting:
                self._connecting.cancel()
            self._sock.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Closed, by whichever side."""
        self._deadline.cancel()
        self._owner.forget(self)
        if self._answering:
            self._answering.cancel()
