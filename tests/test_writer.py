"""The event thread: every record that it takes has an outcome."""

import os

import pytest
from fakes import FakeProbe
from test_event import record

from killsnoopd import sinks
from killsnoopd.processes import Processes
from killsnoopd.writer import Writer


class Sink:
    """Records what it is sent; raises what it is told to, once."""

    def __init__(self, *errors):
        self.sent = []
        self.closed = False
        self._errors = list(errors)

    def send(self, fields):
        if self._errors and (error := self._errors.pop(0)):
            raise error
        self.sent.append(fields["KILLSNOOP_PID"])

    def close(self):
        self.closed = True


def written(sink, records):
    """Run the thread until it has taken these records; the outcomes it counted."""
    probe = FakeProbe(records=records)
    probe.events_fd = stop_fd = os.eventfd(1)
    writer = Writer(probe, sink, Processes(), stop_fd)
    writer.start()
    writer.join(10)
    assert not writer.is_alive()
    assert sink.closed
    os.close(stop_fd)
    return probe.outcomes, writer.last_event_ns


@pytest.mark.parametrize(
    ("errors", "outcomes", "sent"),
    [
        ([], ["logged"] * 3, ["1", "2", "3"]),
        ([None, OSError(90, "Message too long")], ["logged", "journal_error", "logged"], ["1", "3"]),
        ([RuntimeError("a bug")], ["journal_error", "logged", "logged"], ["2", "3"]),
        ([None, sinks.Stopped()], ["logged", "journal_error", "journal_error"], ["1"]),
    ],
    ids=["all is well", "one is too long", "a bug", "told to stop"],
)
def test_outcomes(errors, outcomes, sent):
    """What is logged is logged in order; what is not is counted, and the thread goes on."""
    sink = Sink(*errors)
    counted, last_event_ns = written(sink, [record(pid=pid, res=0) for pid in (1, 2, 3)])
    assert counted == outcomes
    assert sink.sent == sent
    assert (last_event_ns is not None) == bool(sent)


def test_a_record_that_makes_no_sense(caplog):
    """Is counted, said once, and stands in nobody's way."""
    sink = Sink()
    counted, _ = written(sink, [b"short", b"short", record(pid=7)])
    assert counted == ["decode_error", "decode_error", "logged"]
    assert sink.sent == ["7"]
    assert len(caplog.records) == 1
