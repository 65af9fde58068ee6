"""The event thread gives every record that it takes a status."""

import pytest
from event_record import record
from fakes import FakeInFlight, FakeProbe
from waiting import wait_for

from killsnoopd.events.processes import Identity, Processes
from killsnoopd.events.stop_deadline import StopDeadline, Stopped
from killsnoopd.events.writer import Writer
from killsnoopd.settings import Rule


class Sink:
    """Keeps what it gets; raises each of these errors once."""

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


def written(sink, records, rules=()):
    """Run the thread until it has taken these records; the statuses it counted."""
    probe = FakeProbe(records=records)
    in_flight = FakeInFlight()
    deadline = StopDeadline(1)
    probe.events_fd = deadline.stop_fd
    writer = Writer(probe, sink, in_flight, Processes(), deadline, pinned=False, cpu_share=None, rules=rules)
    writer.start()
    assert writer.stop(10)
    assert sink.closed
    deadline.close()
    return in_flight.statuses, writer.last_event_ns


@pytest.mark.parametrize(
    ("errors", "statuses", "sent"),
    [
        ([], ["logged"] * 3, ["1", "2", "3"]),
        ([None, OSError(90, "Message too long")], ["logged", "journal_error", "logged"], ["1", "3"]),
        ([RuntimeError("a bug")], ["journal_error", "logged", "logged"], ["2", "3"]),
        ([None, Stopped()], ["logged", "journal_error", "journal_error"], ["1"]),
    ],
    ids=["all is well", "one is too long", "a bug", "told to stop"],
)
def test_statuses(errors, statuses, sent):
    """Logged events are in order; the others are counted, and the thread continues."""
    sink = Sink(*errors)
    counted, last_event_ns = written(sink, [record(pid=pid, res=0) for pid in (1, 2, 3)])
    assert counted == statuses
    assert sink.sent == sent
    assert (last_event_ns is not None) == bool(sent)


def test_a_record_that_makes_no_sense(caplog):
    """It is counted, the error is logged once, and the next record is logged."""
    sink = Sink()
    counted, _ = written(sink, [b"short", b"short", record(pid=7)])
    assert counted == ["decode_error", "decode_error", "logged"]
    assert sink.sent == ["7"]
    assert len(caplog.records) == 1


def test_a_test_of_the_probe_is_not_logged():
    """The ledger does not count it, and the next event is logged."""
    sink = Sink()
    counted, _ = written(sink, [record(pid=6, flags=16), record(pid=7)])
    assert counted == [None, "logged"]
    assert sink.sent == ["7"]


def test_no_time_left():
    """A ring buffer that is not pinned ends with the daemon: events that it holds at the deadline are counted as lost."""

    class Slow(Sink):
        def send(self, fields):
            super().send(fields)
            wait_for(deadline.passed, "the deadline")

    sink, in_flight, deadline = Slow(), FakeInFlight(), StopDeadline(0.1)
    probe = FakeProbe(records=[record(pid=pid) for pid in (1, 2, 3)])
    probe.events_fd = deadline.stop_fd
    writer = Writer(probe, sink, in_flight, Processes(), deadline, pinned=False, cpu_share=None)
    writer.start()
    assert writer.stop(10)
    deadline.close()
    assert in_flight.statuses == ["logged", "journal_error", "journal_error"]
    assert (writer.given_up, writer.sending) == (2, False)


def test_an_excluded_event_is_counted_and_not_logged(monkeypatch):
    """By rules that name a unit; the events of others are logged."""
    monkeypatch.setattr(Processes, "identify", lambda _, event: Identity(unit=f"{event.sender.pid}.service"))
    sink = Sink()
    counted, _ = written(
        sink, [record(pid=pid, res=0) for pid in (6, 7, 6)], (Rule(frozenset(range(66)), unit="6.service"),)
    )
    assert counted == ["filtered", "logged", "filtered"]
    assert sink.sent == ["7"]


def pinned(sink, records, grace_s):
    """The same with a ring buffer that outlives the daemon."""
    probe = FakeProbe(records=records)
    in_flight = FakeInFlight()
    deadline = StopDeadline(grace_s)
    probe.events_fd = deadline.stop_fd
    writer = Writer(probe, sink, in_flight, Processes(), deadline, pinned=True, cpu_share=None)
    writer.start()
    return probe, in_flight, writer


def test_what_cannot_be_logged_stays_in_a_pinned_ring_buffer():
    """Neither the event in flight nor those behind it are consumed, so the next daemon finds them."""
    probe, in_flight, writer = pinned(Sink(None, Stopped()), [record(pid=pid) for pid in (1, 2, 3)], grace_s=1)
    assert not writer.stop(10)
    assert writer.done.is_set()
    assert in_flight.statuses == ["logged"]
    assert len(probe.records) == 1  # the second is in flight


def test_a_pinned_flood_does_not_keep_the_daemon():
    """If events arrive as fast as they are logged, the thread ends at the deadline."""

    class Endless(list):
        def pop(self, _index):
            return record(pid=1)

        def __bool__(self):
            return True

    sink = Sink()
    probe, in_flight, writer = pinned(sink, [], grace_s=0.1)
    probe.records = Endless()
    assert writer.stop(10)
    assert sink.closed
    assert set(in_flight.statuses) == {"logged"}
