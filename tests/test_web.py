"""Addresses and pages; tests/kernel/test_lifecycle.py asks a real daemon for them."""

import asyncio
import socket

import aiohttp.web
import pytest
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.test_utils import make_mocked_request

from killsnoopd import middleware, web
from killsnoopd.connections import Connections
from killsnoopd.failure import Exit, Failure
from killsnoopd.web_config_file import WebConfigFile


def test_listen_and_address():
    """Each address gets its socket, and reads as people write it."""
    sockets = web.listen([("127.0.0.1", 0), ("", 0), ("127.0.0.1", 0)])
    try:
        first, every, _ = map(web.address, sockets)
        assert first.startswith("127.0.0.1:")
        assert every.startswith(("[::]:", "0.0.0.0:"))
    finally:
        for bound in sockets:
            bound.close()


def test_an_address_in_use_says_so_and_lets_go_of_the_others():
    """One line; the first of the two addresses is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        taken = other.getsockname()[1]
        with pytest.raises(Failure, match=f"cannot listen on 127.0.0.1:{taken} \\(another program") as refused:
            web.listen([("127.0.0.1", port), ("127.0.0.1", taken)])
        assert refused.value.exit_code == Exit.OSERR
        socket.create_server(("127.0.0.1", port)).close()


def test_a_client_that_goes_away_early_leaves_no_traceback(caplog):
    """aiohttp says AssertionError of a client that was gone before its request's turn; of a bug of ours all is said."""
    http = web._quiet_logger()
    for error in (AssertionError(), ConnectionResetError(), ValueError("a bug")):
        try:
            raise error
        except Exception:
            http.exception("Unhandled exception")
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


def test_who_gets_no_turn_is_told_and_counted(monkeypatch):
    """503 when as many scrapes as --web.max-requests allows go on for longer than one waits."""
    monkeypatch.setattr(middleware, "TURN_S", 0.05)
    connections = Connections(asyncio.Protocol, lambda: None, lambda _: True)
    gate = middleware.Gate(WebConfigFile(None), connections, "/metrics", 1)
    request = make_mocked_request("GET", "/metrics", payload=EMPTY_PAYLOAD)

    async def page(_):
        await asyncio.Event().wait()

    async def two():
        first = asyncio.create_task(gate(request, page))
        await asyncio.sleep(0)
        try:
            with pytest.raises(aiohttp.web.HTTPServiceUnavailable):
                await gate(request, page)
        finally:
            first.cancel()

    asyncio.run(two())
    assert connections.refused["busy"] == 1
