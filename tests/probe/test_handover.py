"""Descriptors, values and failures through a socket pair."""

import os
import socket

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import handover
from killsnoopd.probe.objects import Objects


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_values_and_descriptors(pair):
    """Each name gets its own descriptor; values may exceed one packet."""
    ours, theirs = pair
    reader, writer = os.pipe()
    opened = Objects(maps={"read": reader}, links={"write": writer})
    values = {"text": "x" * 100_000, "number": 7}
    child = os.fork()
    if not child:
        handover.send(theirs, values, opened)
        os._exit(0)
    theirs.close()
    received, objects = handover.receive(ours)
    assert os.waitpid(child, 0)[1] == 0
    assert received == values
    assert {kind: list(fds) for kind, fds in objects.kinds().items()} == {
        "maps": ["read"],
        "programs": [],
        "links": ["write"],
    }
    os.write(objects.links["write"], b"through")
    assert os.read(reader, 7) == b"through"
    opened.close()
    objects.close()


def test_no_descriptors(pair):
    ours, theirs = pair
    handover.send(theirs, {"bcc": "0.26.0"}, Objects())
    theirs.close()
    assert handover.receive(ours) == ({"bcc": "0.26.0"}, Objects())


def test_a_failure(pair):
    """It is raised on the other side with all its parts."""
    ours, theirs = pair
    handover.send_failure(theirs, Failure(Exit.CONFIG, "bcc is missing", "details\nand more"))
    theirs.close()
    with pytest.raises(Failure, match="bcc is missing") as raised:
        handover.receive(ours)
    assert (raised.value.exit_code, raised.value.details) == (Exit.CONFIG, "details\nand more")


def test_nothing(pair):
    """The other side has ended without a message."""
    ours, theirs = pair
    theirs.close()
    assert handover.receive(ours) is None
