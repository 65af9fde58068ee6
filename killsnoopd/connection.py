"""One connection to the port: TLS if that is asked for, then a header, then aiohttp and the answer.

aiohttp sees it once the whole header is there; until then it is a socket and at most 16 KiB. It serves one request:
another on the same connection would be one more thing to bound, and a scrape every 15 s gains nothing by it.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("killsnoopd")

HEADER_S = 5.0  # for the TLS handshake and the whole header, from accept(2) on
ANSWER_S = 30.0  # for the page to be made and read; Prometheus gives up after 10 s unless told otherwise
STALE_S = 5.0  # an answer that takes longer makes room for others when all places are taken
STALL_S = 0.1  # without reading anything of an answer: the same
HEADER_BYTES = 16384
_UNSENT_BYTES = 65536


class Terms(Protocol):
    """What all connections share."""

    factory: Callable[[], asyncio.Protocol]
    tls: Callable[[], ssl.SSLContext | None]
    admits: Callable[[asyncio.Transport], bool]
    refused: Counter[str]

    def holds(self, connection: "Connection") -> bool:
        """Whether it is open still."""

    def forget(self, connection: "Connection") -> None:
        """It has ended."""


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
    """From accept(2) to close(2); `connect` begins it."""

    def __init__(self, terms: Terms, sock: socket.socket, host: str) -> None:
        self.network = network(host)
        self._terms = terms
        self._sock = sock
        self.since = time.monotonic()  # that anything was heard of the peer
        self._answering = False
        self._raw: asyncio.Transport | None = None  # the socket's own, whatever is wrapped around it
        self._transport: asyncio.Transport | None = None  # ours to read and write
        self._header = bytearray()
        self._request: asyncio.Protocol | None = None
        self._answering_since = 0.0
        self._deadline = asyncio.get_running_loop().call_later(HEADER_S, self.drop, "slow")
        self._task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Make the socket asyncio's."""
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        context = self._terms.tls()
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
        if context and not self._terms.admits(transport):
            return self.drop("tls")
        transport.set_write_buffer_limits(_UNSENT_BYTES)  # of TLS it would be 512 KiB
        self._transport = transport
        transport.resume_reading()
        return self._parse(transport)  # what came with the end of the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is asyncio's; nothing is read before it is known whether it is TLS."""
        if isinstance(transport, asyncio.Transport):
            self._raw = transport
            if not self._terms.holds(self):  # dropped meanwhile
                transport.abort()
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of a header; after it nothing is read, a request's body neither."""
        if not self._answering:
            self._header += data
            if self._transport:
                self._parse(self._transport)

    def _parse(self, transport: asyncio.Transport) -> None:
        header = self._header
        end = header.find(b"\r\n\r\n", 0, HEADER_BYTES) + 4
        if end >= 4:
            if b" HTTP/1." in header[: header.find(b"\r\n", 2)]:
                self._begin(transport, bytes(header[:end]))
            else:  # HTTP/0.9, or a request that only looks like one
                self._refuse(transport, b"400 Bad Request")
        elif len(header) >= HEADER_BYTES:
            self._refuse(transport, b"431 Request Header Fields Too Large")
        elif header and not header[:1].isalpha() and header[0] not in b"\r\n":
            self._refuse(transport, b"400 Bad Request")  # TLS to a plain port, garbage

    def _begin(self, transport: asyncio.Transport, header: bytes) -> None:
        self._answer_from_now(transport)
        self._request = self._terms.factory()
        self._request.connection_made(transport)
        self._request.data_received(header)

    def _refuse(self, transport: asyncio.Transport, status: bytes) -> None:
        self._terms.refused["bad_request"] += 1
        self._answer_from_now(transport)
        transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        transport.close()

    def _answer_from_now(self, transport: asyncio.Transport) -> None:
        self._header.clear()
        self._answering, self.since = True, time.monotonic()
        self._answering_since = self.since
        self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(ANSWER_S, self.drop, "slow")
        transport.pause_reading()

    def pause_writing(self) -> None:
        """For aiohttp, which waits: from now on the peer may be slow to read."""
        self.since = time.monotonic()
        if self._request:
            self._request.pause_writing()

    def resume_writing(self) -> None:
        """For aiohttp, which goes on: the peer has read something."""
        self.since = time.monotonic()
        if self._request:
            self._request.resume_writing()

    def answering(self) -> bool:
        """Whether the header is there, and the answer not yet given."""
        return self._answering

    def _unsent(self) -> int:
        """Bytes that wait for the peer to read them."""
        transports = {each for each in (self._raw, self._transport) if each}
        return sum(each.get_write_buffer_size() for each in transports)

    def idle(self) -> bool:
        """Whether it makes room before others: nothing was asked, or nobody takes the answer."""
        now = time.monotonic()
        if not self._answering or self._transport is None or now - self._answering_since > STALE_S:
            return True
        return now - self.since > STALL_S and (self._transport.is_closing() or self._unsent() > 0)

    def drop(self, reason: str | None) -> None:
        """End it at once; for a reason that is counted."""
        if reason and self._terms.holds(self):
            self._terms.refused[reason] += 1
        self._deadline.cancel()
        self._terms.forget(self)
        if self._raw:
            self._raw.abort()
        else:
            if self._task:
                self._task.cancel()
            self._sock.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whichever side."""
        self._deadline.cancel()
        self._terms.forget(self)
        if self._request:
            self._request.connection_lost(exc)
            self._request = None
