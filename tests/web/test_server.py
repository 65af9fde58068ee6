"""Addresses and pages; tests/kernel/test_lifecycle.py requests them from a real daemon."""

import asyncio
import logging
import socket
import struct
import threading
from urllib.parse import quote

import pytest
from attacks import GET
from prometheus_client import CollectorRegistry
from serving import Served

from killsnoopd.failure import Exit, Failure
from killsnoopd.web import policy, server
from killsnoopd.web.config_file import WebConfigFile


def test_listen_and_address():
    """Each address gets a socket, and is printed in the usual spelling."""
    sockets = server.listen([("127.0.0.1", 0), ("", 0), ("127.0.0.1", 0)])
    try:
        first, every, _ = map(server.address, sockets)
        assert first.startswith("127.0.0.1:")
        assert every.startswith(("[::]:", "0.0.0.0:"))
    finally:
        for bound in sockets:
            bound.close()


def test_an_address_in_use_says_so_and_lets_go_of_the_others():
    """One line; the first of the two addresses is released."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        taken = other.getsockname()[1]
        with pytest.raises(Failure, match=f"cannot listen on 127.0.0.1:{taken} \\(another program") as refused:
            server.listen([("127.0.0.1", port), ("127.0.0.1", taken)])
        assert refused.value.exit_code == Exit.OSERR
        socket.create_server(("127.0.0.1", port)).close()


def test_every_address_of_a_name(monkeypatch):
    """localhost is 127.0.0.1 and ::1: each gets one socket; an address that this machine does not have is skipped."""
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.1", "192.0.2.1"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sockets = server.listen([("localhost", 0)])
    try:
        assert [bound.getsockname()[0] for bound in sockets] == ["127.0.0.1", "127.0.0.2"]
    finally:
        for bound in sockets:
            bound.close()
    del found[:3]
    with pytest.raises(Failure, match="Cannot assign requested address"):
        server.listen([("localhost", 0)])


def test_localhost():
    """As this machine's /etc/hosts has it: 127.0.0.1 answers, whatever else the name stands for."""
    sockets = server.listen([("localhost", 0)])
    try:
        port = next(bound.getsockname()[1] for bound in sockets if bound.getsockname()[0] == "127.0.0.1")
        for bound in sockets:
            bound.listen()
        socket.create_connection(("127.0.0.1", port)).close()
    finally:
        for bound in sockets:
            bound.close()


def test_a_client_that_goes_away_early_leaves_no_traceback():
    """Before its page is built, or while it is sent."""
    served = Served(1_000_000)
    for number in range(40):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
            client.sendall(GET)
            if number % 2:
                client.recv(100)
    assert served.ask()[0] == 200
    assert served.stop()["tasks"] == 0
    assert "Traceback" not in served.said


class Held:
    """A page that is built only after `go_on` is set."""

    def __init__(self):
        self.go_on = threading.Event()

    def describe(self):
        return []

    def collect(self):
        assert self.go_on.wait(30)
        return []


class Broken:
    def describe(self):
        return []

    def collect(self):
        raise OSError(24, "Too many open files")


def served_by(page, max_requests=0):
    """A server that does not listen, and its number of refusals by reason."""
    registry = CollectorRegistry()
    registry.register(page)
    result = server.Server(registry, None, "/metrics", WebConfigFile(None), max_requests)
    return result, result._connections.refused


def test_a_page_that_cannot_be_built(caplog):
    """500; one line in the log says what and where, and the traceback is there at debug level."""
    caplog.set_level(logging.DEBUG, "killsnoopd")
    served, _ = served_by(Broken())
    head, body = asyncio.run(served.respond(GET, ""))
    assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert body == b"500: Internal Server Error\n"
    traceback, line = caplog.messages
    assert traceback.startswith("Traceback")
    assert line.startswith("a request failed: a bug: OSError: [Errno 24] Too many open files at ")
    assert "\n" not in line


def test_who_gets_no_turn_is_told_and_counted(monkeypatch):
    """503 if as many scrapes as --web.max-requests allows take longer than a scrape waits."""
    monkeypatch.setattr(policy, "SLOT_S", 0.05)
    page = Held()
    served, refused = served_by(page, 1)

    async def two():
        first = asyncio.create_task(served.respond(GET, ""))
        await asyncio.sleep(0)
        try:
            return await served.respond(GET, "")
        finally:
            page.go_on.set()
            await first

    head, body = asyncio.run(two())
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert body == b"Too many scrapes at a time (--web.max-requests).\n"
    assert refused["busy"] == 1


@pytest.mark.parametrize("path", ["/m\u00e9triques", "/-/healthy/metrics"])
def test_any_telemetry_path(path):
    """Clients send it percent-encoded."""
    registry = CollectorRegistry()
    served = server.Server(registry, None, path, WebConfigFile(None))
    head, body = asyncio.run(served.respond(f"GET {quote(path)}?x HTTP/1.1\r\nHost: x\r\n\r\n".encode(), ""))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"killsnoop_http_connections" in body
