"""The note on the event in hand: what a daemon that comes after one that was killed makes of it."""

import re
import socket

import pytest

from killsnoopd import program
from killsnoopd.in_hand import OUTCOMES, WORDS, InHand


class Killed(Exception):
    """SIGKILL, as far as a test goes: nothing after it happens."""


@pytest.fixture
def words():
    return memoryview(bytearray(8 * WORDS)).cast("Q")


@pytest.fixture
def journald():
    """Both ends: ours does not wait."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_room_for_it_in_the_kernel():
    """As many words as the map has."""
    assert int(re.search(r"u64, ledger, (\d+)", program.MEMORY.read_text())[1]) == WORDS


def test_every_event_is_taken_once(words):
    """One after the other, also by a daemon that starts where another one stopped in good order."""
    first, second = InHand(words), InHand(words)
    for in_hand, positions in ((first, (0, 400, 800)), (second, (1200, 1600))):
        for position in positions:
            assert in_hand.take(position)
            in_hand.settle("logged")
    assert second.outcomes() == {"logged": 5, "journal_error": 0, "decode_error": 0}


@pytest.mark.parametrize("position", [0, 400])
@pytest.mark.parametrize(
    "killed", ["before it is sent", "as it is sent", "before it is counted", "before it is let go"]
)
def test_a_daemon_that_is_killed(words, journald, position, killed):
    """Whenever that is, the event is sent once and counted once."""
    ours, theirs = journald

    def log(in_hand, killed=None):
        if in_hand.take(position):
            if killed == "before it is sent":
                raise Killed
            in_hand.send(ours.fileno(), b"event")
            if killed in ("as it is sent", "before it is counted"):
                raise Killed
            in_hand.settle("logged")
            if killed == "before it is let go":
                raise Killed

    with pytest.raises(Killed):
        log(InHand(words), killed)
    log(InHand(words))
    assert theirs.recv(100) == b"event"
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert InHand(words).outcomes()["logged"] == 1


def test_an_event_that_could_not_be_sent_is_tried_again(words, journald):
    """The kernel notes what was sent, and nothing else."""
    ours, theirs = journald
    first = InHand(words)
    assert first.take(0)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(b"full")
    with pytest.raises(BlockingIOError):
        first.send(ours.fileno(), b"event")
    theirs.close()
    with pytest.raises(ConnectionError):
        first.send(ours.fileno(), b"event")
    assert InHand(words).take(0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_without_a_message(words, outcome):
    """An event that could not be decoded, say, is not dealt with twice either."""
    first = InHand(words)
    assert first.take(400)
    first.settle(outcome)
    assert not InHand(words).take(400)
    assert first.outcomes()[outcome] == 1


def test_one_position_later(words):
    """What is noted of one event says nothing about the next."""
    first = InHand(words)
    assert first.take(400)
    first.settle("logged")
    assert InHand(words).take(800)
