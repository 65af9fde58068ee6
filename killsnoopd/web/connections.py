"""Limits what network peers can hold: connections, and memory for responses that they read slowly."""

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from killsnoopd.web.connection import STALL_S, Connection

log = logging.getLogger("killsnoopd")

MAX_OPEN = 64  # two Prometheus servers need two
MAX_BODY_BYTES = 32 << 20  # of all different responses being sent
REASONS = ("evicted", "slow", "bad_request", "tls", "unauthorized", "busy")
_SEND_BUFFER_BYTES = 128 << 10  # kernel buffer per connection; by default it grows to 4 MiB (tcp_wmem)
_SPARE_FDS = 16  # for /proc, systemd, --web.config.file
_PAUSE_S = 0.05  # between attempts to accept while no connection can be evicted
_COMPLAINT_INTERVAL_S = 60.0


def fd_limit() -> int:
    """The number of connections that the free file descriptors allow: at least 1, at most MAX_OPEN."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return max(1, min(MAX_OPEN, soft - used - _SPARE_FDS))


class Connections:
    """Accepts connections on listening sockets and enforces the limits.

    `respond` takes a header and the peer's network, and returns the head and the body of the response. `tls` returns
    the context for a new connection, None for plain HTTP. `admits` says whether a client's certificate is accepted.
    """

    def __init__(
        self,
        respond: Callable[[bytes, str], Awaitable[tuple[bytes, bytes]]],
        tls: Callable[[], ssl.SSLContext | None],
        admits: Callable[[asyncio.Transport], bool],
    ) -> None:
        self.respond, self.tls, self.admits = respond, tls, admits
        self.refused = Counter(dict.fromkeys(REASONS, 0))
        self._limit = fd_limit()
        self._open: set[Connection] = set()
        self._listening: list[socket.socket] = []
        self._paused: asyncio.TimerHandle | None = None
        self._complained_s = -_COMPLAINT_INTERVAL_S

    def start(self, sockets: Iterable[socket.socket]) -> None:
        """Listen. The caller closes the sockets."""
        self._listening = list(sockets)
        if self._limit < MAX_OPEN:
            log.warning("at most %d connections: raise the limit on open files (ulimit -n, LimitNOFILE=)", self._limit)
        for listening in self._listening:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # accepted sockets inherit it
            listening.listen(socket.SOMAXCONN)
        self._resume()

    async def close(self, timeout_s: float) -> None:
        """Stop accepting, give clients `timeout_s` to read their responses, then drop the rest."""
        if self._paused:
            self._paused.cancel()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
        self._listening.clear()
        end = time.monotonic() + timeout_s
        while any(each.answering_since for each in self._open) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for each in list(self._open):
            each.drop(None)
        await asyncio.sleep(0)  # asyncio closes them meanwhile

    def _resume(self) -> None:
        if self._paused:
            self._paused.cancel()
            self._paused = None
        for listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _pause(self) -> None:
        """Leave new connections in the kernel's queue until an open one ends."""
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.remove_reader(listening)
        self._paused = self._paused or loop.call_later(_PAUSE_S, self._resume)

    def _accept(self, listening: socket.socket) -> None:
        """Accept one connection at a time, so that the event loop serves open ones and closes dropped ones between."""
        if len(self._open) >= self._limit and not self._evict():
            self._pause()
            return
        try:
            sock, peer = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:  # EMFILE, or the machine is out of a resource
            log.debug("accept: %s", error)
            if not self._evict():
                self._pause()
            return
        sock.setblocking(False)
        connection = Connection(self, sock, str(peer[0]) if isinstance(peer, tuple) else "")
        self._open.add(connection)
        connection.connect()

    def _evict(self) -> bool:
        """Close the longest-idle connection of the peer with most connections; False if none is idle."""
        idle = [each for each in self._open if each.idle()]
        if len(idle) * 2 < len(self._open):  # mostly scrapes: spare new connections, which may be about to send
            idle = [each for each in idle if each.since < time.monotonic() - STALL_S]
        if not idle:
            return False
        if time.monotonic() - self._complained_s >= _COMPLAINT_INTERVAL_S:
            self._complained_s = time.monotonic()
            log.warning(
                "all %d connections are in use: closing the oldest idle ones to accept new ones", len(self._open)
            )
        held = Counter(each.network for each in self._open)
        min(idle, key=lambda each: (-held[each.network], each.since)).drop("evicted")
        return True

    def forget(self, connection: Connection, reason: str | None = None) -> None:
        """The connection has ended; accept another."""
        if connection in self._open:
            self._open.remove(connection)
            if reason:
                self.refused[reason] += 1
            if self._paused:
                self._resume()

    def bound_bodies(self, newest: bytes) -> None:
        """Drop the readers of the oldest responses until all together fit MAX_BODY_BYTES; keep those of `newest`."""
        readers = defaultdict(list)
        for each in sorted(self._open, key=lambda each: each.answering_since or 0.0):
            if each.body:
                readers[id(each.body)].append(each)
        held = sum(len(each[0].body) for each in readers.values())
        for slow in readers.values():
            if held <= MAX_BODY_BYTES or slow[0].body is newest:
                break
            held -= len(slow[0].body)
            for each in slow:
                each.drop("slow")

    def collect(self) -> Iterator[Metric]:
        """The metrics of the port."""
        yield GaugeMetricFamily("killsnoop_http_connections", "Open connections.", value=len(self._open))
        yield GaugeMetricFamily(
            "killsnoop_http_connections_limit",
            "Maximum number of open connections; one more closes the oldest idle one.",
            value=self._limit,
        )
        refused = CounterMetricFamily(
            "killsnoop_http_refused",
            "Connections and requests refused, by reason: evicted (closed for a newer one), slow (to send the request "
            "or to read the response), bad_request (not HTTP, header too long, has a body), tls (no TLS, or no valid "
            "client certificate), unauthorized (no password or a wrong one), busy (too many at a time).",
            labels=("reason",),
        )
        for reason, count in self.refused.items():
            refused.add_metric((reason,), count)
        yield refused
