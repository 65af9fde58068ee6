"""Where events go: a real datagram socket in journald's place, a real pipe in a log collector's."""

import json
import os
import socket
import struct
import threading
import time

import pytest

from killsnoopd import sinks
from killsnoopd.in_hand import WORDS, InHand


@pytest.fixture
def patience():
    patience = sinks.Patience(0.5)
    yield patience
    patience.close()


def journal(patience, path):
    return sinks.Journal(patience, InHand(memoryview(bytearray(8 * WORDS)).cast("Q")).send, path)


@pytest.fixture
def journald(tmp_path):
    """A datagram socket; whoever wants to read must."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.settimeout(10)
        yield server, tmp_path / "socket"


@pytest.mark.parametrize(
    ("fields", "datagram"),
    [
        ({"MESSAGE": "hello", "PRIORITY": "4"}, b"MESSAGE=hello\nPRIORITY=4\n"),
        ({"A": "naïve=1"}, "A=naïve=1\n".encode()),
        ({"A": "two\nlines"}, b"A\n" + struct.pack("<Q", 9) + b"two\nlines\n"),
        ({"A": "x\nUID=0"}, b"A\n" + struct.pack("<Q", 7) + b"x\nUID=0\n"),
    ],
)
def test_encode(fields, datagram):
    """journald's native protocol: a line break cannot forge a field."""
    assert sinks.encode(fields) == datagram


def test_journal(journald, patience):
    """A message is one datagram."""
    server, path = journald
    sink = journal(patience, path)
    sink.send({"MESSAGE": "hello"})
    assert server.recv(4096) == b"MESSAGE=hello\n"
    sink.close()


def in_thread(action):
    """Run it beside the test; its exception, or None, is the list's only item at the end."""
    outcome = []

    def run():
        try:
            action()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_full_socket_is_waited_for(journald, patience):
    """Nothing is lost while journald does not read, and other threads run meanwhile."""
    server, path = journald
    sink = journal(patience, path)
    sent = 1000
    thread, outcome = in_thread(lambda: [sink.send({"N": str(number)}) for number in range(sent)])
    thread.join(0.2)
    assert thread.is_alive(), "a thousand datagrams fit into the socket: nothing was tested"
    assert [server.recv(4096) for _ in range(sent)] == [b"N=%d\n" % number for number in range(sent)]
    thread.join(10)
    assert outcome == [None]
    sink.close()


def test_a_journald_that_is_away_is_waited_for(tmp_path, patience):
    """No socket, then a socket that nobody serves, then journald: the message arrives."""
    path = tmp_path / "socket"
    sink = journal(patience, path)
    thread, outcome = in_thread(lambda: sink.send({"N": "1"}))
    thread.join(0.3)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(path))
    dead.close()  # the file stays: ECONNREFUSED
    thread.join(0.3)
    assert thread.is_alive()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(10)
        assert server.recv(4096) == b"N=1\n"
    thread.join(10)
    assert outcome == [None]
    sink.close()


def test_journald_restarted_under_a_connection(tmp_path, patience):
    """A socket that was replaced is found again."""
    path = tmp_path / "socket"
    sink = journal(patience, path)
    for number in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(path))
            server.settimeout(10)
            sink.send({"N": str(number)})
            assert server.recv(4096) == b"N=%d\n" % number
        path.unlink()
    sink.close()


def test_a_message_that_is_too_long_is_an_error(journald, patience):
    """EMSGSIZE is the caller's to count; the next message goes through."""
    server, path = journald
    sink = journal(patience, path)
    with pytest.raises(OSError, match="Message too long"):
        sink.send({"A": "x" * 10_000_000})
    sink.send({"A": "1"})
    assert server.recv(4096) == b"A=1\n"
    sink.close()


def test_patience_ends_after_the_grace_period(journald, patience):
    """Told to stop, a sink that waits gives up when the grace is over, and not before."""
    _server, path = journald
    sink = journal(patience, path)
    thread, outcome = in_thread(lambda: [sink.send({"N": "1"}) for _ in range(10_000)])
    thread.join(0.2)
    assert thread.is_alive()
    before = time.monotonic()
    patience.stop()
    thread.join(10)
    assert isinstance(outcome[0], sinks.Stopped)
    assert time.monotonic() - before >= 0.5
    sink.close()


def test_json_lines(patience):
    """One object a line, readable as UTF-8, whole even when it is longer than a pipe takes at once."""
    reader, writer = os.pipe()
    sink = sinks.JsonLines(patience, writer)
    rows = [{"MESSAGE": "naïve"}, {"MESSAGE": "x" * 200_000}]
    thread, outcome = in_thread(lambda: [sink.send(row) for row in rows])
    with os.fdopen(reader, encoding="utf-8") as file:
        assert [json.loads(file.readline()) for _ in rows] == rows
        thread.join(10)
        assert outcome == [None]
        os.close(writer)
    sink.close()


def test_json_lines_to_a_reader_that_is_gone(patience):
    """EPIPE is the caller's to count."""
    reader, writer = os.pipe()
    sink = sinks.JsonLines(patience, writer)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        sink.send({"MESSAGE": "hello"})
    os.close(writer)


@pytest.mark.parametrize(
    ("target", "there", "kind"),
    [
        ("auto", True, sinks.Journal),
        ("auto", False, sinks.JsonLines),
        ("journal", False, sinks.Journal),
        ("stdout", True, sinks.JsonLines),
        ("none", True, type(None)),
    ],
)
def test_choose(target, there, kind, tmp_path, patience):
    """`auto` looks for journald's socket; the others do as they are told."""
    path = tmp_path / "socket"
    if there:
        path.touch()
    assert isinstance(sinks.choose(target, patience, lambda fd, datagram: None, path), kind)
