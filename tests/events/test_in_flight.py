"""The event in flight, and the next daemon after one was killed."""

import re
import socket

import pytest

from killsnoopd.events.in_flight import InFlight
from killsnoopd.probe import program
from killsnoopd.probe.program import DAEMON_STATUSES, LEDGER_WORDS


class Killed(Exception):
    """Stands for SIGKILL: nothing runs after it."""


@pytest.fixture
def words():
    return memoryview(bytearray(8 * LEDGER_WORDS)).cast("Q")


@pytest.fixture
def journald():
    """Both ends of a socket; ours does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def statuses(words):
    """The daemon's half of the ledger."""
    return dict(zip(DAEMON_STATUSES, words, strict=False))


def test_room_for_it_in_the_kernel():
    """The map has as many words."""
    assert int(re.search(r"u64, ledger, (\d+)", program.MAPS_HEADER.read_text())[1]) == LEDGER_WORDS


def test_every_event_is_taken_once(words):
    """One after the other, also by a daemon that starts after another one stopped cleanly."""
    first, second = InFlight(words), InFlight(words)
    for in_flight, positions in ((first, (0, 400, 800)), (second, (1200, 1600))):
        for position in positions:
            assert in_flight.begin(position)
            in_flight.finish("logged")
    assert statuses(words) == {"logged": 5, "filtered": 0, "journal_error": 0, "decode_error": 0}


@pytest.mark.parametrize("position", [0, 400])
@pytest.mark.parametrize(
    "killed", ["before it is sent", "as it is sent", "before it is counted", "before it is let go"]
)
def test_a_daemon_that_is_killed(words, journald, position, killed):
    """Wherever it is killed, the event is sent once and counted once."""
    ours, theirs = journald

    def log(in_flight, killed=None):
        if in_flight.begin(position):
            if killed == "before it is sent":
                raise Killed
            in_flight.send(ours.fileno(), b"event")
            if killed in ("as it is sent", "before it is counted"):
                raise Killed
            in_flight.finish("logged")
            if killed == "before it is let go":
                raise Killed

    with pytest.raises(Killed):
        log(InFlight(words), killed)
    log(InFlight(words))
    assert theirs.recv(100) == b"event"
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert statuses(words)["logged"] == 1


def test_an_event_that_could_not_be_sent_is_tried_again(words, journald):
    """The kernel records only what was sent."""
    ours, theirs = journald
    first = InFlight(words)
    assert first.begin(0)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(b"full")
    with pytest.raises(BlockingIOError):
        first.send(ours.fileno(), b"event")
    theirs.close()
    with pytest.raises(ConnectionError):
        first.send(ours.fileno(), b"event")
    assert InFlight(words).begin(0)


@pytest.mark.parametrize("status", DAEMON_STATUSES)
def test_a_status_without_a_message(words, status):
    """Nor is an event handled twice that, for example, could not be decoded."""
    first = InFlight(words)
    assert first.begin(400)
    first.finish(status)
    assert not InFlight(words).begin(400)
    assert statuses(words)[status] == 1


def test_one_position_later(words):
    """A record of one event does not apply to the next."""
    first = InFlight(words)
    assert first.begin(400)
    first.finish("logged")
    assert InFlight(words).begin(800)
