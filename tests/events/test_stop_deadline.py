"""The deadline for the event thread after the daemon is asked to stop."""

import os
import select

import pytest

from killsnoopd.events.stop_deadline import StopDeadline, Stopped


def test_nothing_passes_before_stop():
    """Until stop(), there is no deadline."""
    deadline = StopDeadline(0)
    assert not deadline.passed()
    deadline.wait(None, 0.01)
    deadline.close()


def test_stop():
    """The descriptor becomes readable, and waiting raises after the grace period."""
    deadline = StopDeadline(0)
    poll = select.poll()
    poll.register(deadline.stop_fd, select.POLLIN)
    assert poll.poll(0) == []
    deadline.stop()
    assert poll.poll(0)
    assert deadline.passed()
    with pytest.raises(Stopped):
        deadline.wait(None)
    deadline.close()


def test_a_writable_descriptor_is_not_waited_for():
    """Nor within the grace period."""
    reader, writer = os.pipe()
    deadline = StopDeadline(60)
    deadline.stop()
    deadline.wait(writer)
    deadline.close()
    os.close(reader)
    os.close(writer)
