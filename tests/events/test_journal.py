"""journald's protocol, with a real datagram socket in journald's place."""

import socket
import struct
import time

import pytest
from threads import in_thread

from killsnoopd.events.in_flight import InFlight
from killsnoopd.events.journal import Journal, encode
from killsnoopd.events.stop_deadline import StopDeadline, Stopped
from killsnoopd.probe.program import LEDGER_WORDS


@pytest.fixture
def deadline():
    deadline = StopDeadline(0.5)
    yield deadline
    deadline.close()


def journal(deadline, path):
    return Journal(deadline, InFlight(memoryview(bytearray(8 * LEDGER_WORDS)).cast("Q")).send, path)


@pytest.fixture
def journald(tmp_path):
    """A datagram socket that reads nothing by itself."""
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
    """In journald's native protocol, a line break cannot forge a field."""
    assert encode(fields) == datagram


def test_journal(journald, deadline):
    """A message is one datagram."""
    server, path = journald
    sink = journal(deadline, path)
    sink.send({"MESSAGE": "hello"})
    assert server.recv(4096) == b"MESSAGE=hello\n"
    sink.close()


def test_a_full_socket_is_waited_for(journald, deadline):
    """While journald does not read, nothing is lost and other threads run."""
    server, path = journald
    sink = journal(deadline, path)
    sent = 1000
    thread, outcome = in_thread(lambda: [sink.send({"N": str(number)}) for number in range(sent)])
    thread.join(0.2)
    assert thread.is_alive(), "a thousand datagrams fit into the socket: nothing was tested"
    assert [server.recv(4096) for _ in range(sent)] == [b"N=%d\n" % number for number in range(sent)]
    thread.join(10)
    assert outcome == [None]
    sink.close()


def test_a_journald_that_is_away_is_waited_for(tmp_path, deadline):
    """No socket, then a socket without a reader, then journald: the message arrives."""
    path = tmp_path / "socket"
    sink = journal(deadline, path)
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


def test_journald_restarted_under_a_connection(tmp_path, deadline):
    """It connects to the new socket."""
    path = tmp_path / "socket"
    sink = journal(deadline, path)
    for number in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(path))
            server.settimeout(10)
            sink.send({"N": str(number)})
            assert server.recv(4096) == b"N=%d\n" % number
        path.unlink()
    sink.close()


def test_a_message_that_is_too_long_is_an_error(journald, deadline):
    """EMSGSIZE is passed to the caller, which counts it; the next message is sent."""
    server, path = journald
    sink = journal(deadline, path)
    with pytest.raises(OSError, match="Message too long"):
        sink.send({"A": "x" * 10_000_000})
    sink.send({"A": "1"})
    assert server.recv(4096) == b"A=1\n"
    sink.close()


def test_waiting_ends_after_the_grace_period(journald, deadline):
    """After stop(), a waiting sink gives up when the grace period has passed, not before."""
    _server, path = journald
    sink = journal(deadline, path)
    thread, outcome = in_thread(lambda: [sink.send({"N": "1"}) for _ in range(10_000)])
    thread.join(0.2)
    assert thread.is_alive()
    before = time.monotonic()
    deadline.stop()
    thread.join(10)
    assert isinstance(outcome[0], Stopped)
    assert time.monotonic() - before >= 0.5
    sink.close()
