"""Attacks that any client can make on the port, and a scraper that needs its page meanwhile. On loopback only."""

import contextlib
import multiprocessing
import random
import resource
import selectors
import socket
import ssl
import time
from dataclasses import dataclass

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = GET[:-2] + b"Accept-Encoding: gzip\r\nConnection: close\r\n\r\n"  # as Prometheus does, but for the last header
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(193)
_RANDOM = random.Random(1)


@dataclass(frozen=True)
class Attack:
    """This many connections: each sends this, then reads or not, and is closed only at the end."""

    connections: int
    payload: bytes
    reads: bool = False


ATTACKS = {
    "silent": Attack(5000, b""),
    "half a request": Attack(5000, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "),
    "1 MB header": Attack(50, b"GET /metrics HTTP/1.1\r\nX-Long: " + b"a" * 1_000_000),
    "100,000 headers": Attack(50, b"GET /metrics HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n"),
    # A pattern that backtracks takes long on these.
    "blanks": Attack(100, GET[:-2] + (b"X:" + b" " * 8000 + b"\0\r\n") * 2 + b"\r\n"),
    "1 MB without CRLF": Attack(50, b"G" * 1_000_000),
    "garbage": Attack(500, _RANDOM.randbytes(20_000)),
    "garbage, ended": Attack(500, b"G" + _RANDOM.randbytes(2000).replace(b"\r", b"") + b"\r\n\r\n"),
    "TLS hello": Attack(500, CLIENT_HELLO),
    "TLS garbage": Attack(500, b"\x16\x03\x01\x40\x00" + _RANDOM.randbytes(16_384)),
    "HTTP/0.9": Attack(500, b"GET /metrics\r\n\r\n"),
    "POST of 1 GB": Attack(100, b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"a" * 1_000_000),
    "GET with a body": Attack(
        100, b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"a" * 100_000
    ),
    "pipelined": Attack(50, GET * 1000),
    "no reader": Attack(100, GET),
    "1,000 scrapes": Attack(1000, SCRAPE, reads=True),
}


def room_for(connections):
    """Raise the limit of open files to this number; whether that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 100
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


def launch(port, attack, host="127.0.0.1", source="127.0.0.1"):
    """The connections of an attack; the caller closes them."""
    opened = []
    for _ in range(attack.connections):
        client = socket.socket()
        opened.append(client)
        if not attack.reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.bind((source, 0))
            client.connect((host, port))
            client.setblocking(False)
            client.send(attack.payload)
    return opened


def read_all(opened, seconds):
    """What each connection receives until all have ended or the time is up."""
    received = dict.fromkeys(opened, b"")
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for client in opened:
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(0.1):
                part = b""
                with contextlib.suppress(OSError):
                    part = key.fileobj.recv(1 << 20)
                received[key.fileobj] += part
                if not part:
                    selector.unregister(key.fileobj)
    return list(received.values())


def answer(client):
    """Everything that arrives until the connection ends."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def ask(port, request=GET, source="127.0.0.1", context=None, timeout=10):
    """One request on a connection of its own: (status, whole response); status 0 if there was no response."""
    got = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout, (source, 0)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") if context else plain as client,
    ):
        client.sendall(request)
        got = answer(client)
    return (int(got[9:12]) if got.startswith(b"HTTP/1.") else 0), got


class Scraper:
    """Scrapes in a loop during the `with` block; afterwards `scrapes` has (status, seconds) of each.

    It is a process of its own, so that the work of attacking does not delay it.
    """

    def __init__(self, port, request=SCRAPE, source="127.0.0.1", context=None):
        self._arguments = (port, request, source, context)
        self.scrapes = []
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(theirs,))

    def _run(self, pipe):
        scrapes = []
        while not pipe.poll(0.01):
            begin = time.monotonic()
            status, _ = ask(*self._arguments)
            scrapes.append((status, time.monotonic() - begin))
        pipe.send(scrapes)

    def __enter__(self):
        self._process.start()
        return self

    def __exit__(self, *_):
        self._pipe.send("stop")
        self.scrapes = self._pipe.recv()
        self._process.join()

    def slowest_s(self):
        return max(seconds for _, seconds in self.scrapes)

    def well_served(self):
        """Whether each was answered within a second; one may have taken three, because a busy machine can delay it."""
        if not self.scrapes or any(status != 200 for status, _ in self.scrapes):
            return False
        late = [seconds for _, seconds in self.scrapes if seconds >= 1]
        return not late or (len(late) == 1 and late[0] < 3)


def trusting(ca):
    """A client's TLS context that trusts this CA, for localhost."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    return context
