"""The self-test against a probe that reports whatever a test wants; tests/kernel runs it against real ones."""

import contextlib
import errno
import os
import re
import signal
from pathlib import Path

import pytest
from event_record import record
from fakes import counts

from killsnoopd import names
from killsnoopd.event import _SELF_TEST
from killsnoopd.probe import self_test

CALL, DELIVERY = 0, 1
NAMES = ("signal 0", "SIGURG")
ORIGIN = names.ORIGINS.index("syscall")
OURS = {"flags": _SELF_TEST, "origin": ORIGIN, "res": 0, "call": names.SYSCALLS.index("kill"), "code": 0}


def our_comm():
    """Not read at import: another test may set it."""
    return Path("/proc/self/comm").read_bytes().rstrip(b"\n")


def of(kind, **changes):
    """The record of one of our own signals, as a probe that works reports it."""
    pid, comm = os.getpid(), our_comm()
    us = {
        "pid": pid,
        "tid": pid,
        "ns_pid": 0,
        "comm": comm,
        "target_arg": pid,
        "sig": self_test.SIGNALS[("call", "delivery")[kind]],
    }
    target = {"tpid": pid, "ttid": pid, "tcomm": comm} if kind == DELIVERY else {"tpid": 0, "tcomm": b""}
    return record(**OURS | us | target | {"kind": kind} | changes)


class Reporter:
    """A probe that reports these records, and counts the two signals unless told otherwise."""

    def __init__(self, *records, calls=1, deliveries=1, room=1 << 20):
        self._records, self._calls, self._deliveries = records, calls, deliveries
        self.end, self.room = 0, room
        self._readings = 0

    def counts(self):
        self._readings += 1
        if self._readings == 1:
            return counts()
        delivered = (signal.SIGURG, "syscall", "ignored", self._deliveries)
        return counts([(our_comm().ljust(16, b"\0"), 0, 0, self._calls)], deliveries=[delivered])

    @contextlib.contextmanager
    def self_testing(self):
        yield self

    def records(self, start):
        assert start == self.end
        return self._records


def faults(*records, syscalls=names.SYSCALLS, **options):
    return self_test.faults(Reporter(*records, **options), syscalls)


def test_all_is_well():
    """Also among the events of others, and records that cannot be decoded."""
    assert faults(record(), of(CALL), b"\0" * 7, of(DELIVERY), record(kind=DELIVERY)) == []


def test_nothing_is_reported():
    assert faults(calls=0, deliveries=0) == [
        "our own signal 0 was not counted",
        "our own signal 0 made no event",
        "our own SIGURG was not counted",
        "our own SIGURG made no event",
    ]


@pytest.mark.parametrize(
    ("kind", "changes", "seen"),
    [
        (DELIVERY, {"origin": names.ORIGINS.index("oom")}, "origin oom"),
        (DELIVERY, {"origin": names.ORIGINS.index("kernel"), "pid": 0}, "from kernel to"),
        (DELIVERY, {"pid": 1, "tid": 1}, r"\[1\] to"),
        (DELIVERY, {"tpid": 1, "ttid": 1}, "to 1,"),
        (CALL, {"res": -1}, "result EPERM"),
        (CALL, {"call": names.SYSCALLS.index("tgkill")}, "call tgkill"),
        (CALL, {"sig": 15}, "SIGTERM from"),
    ],
)
def test_a_wrong_report(kind, changes, seen):
    """It says what was seen, and what was sent."""
    (fault,) = faults(*(of(other, **(changes if other == kind else {})) for other in (CALL, DELIVERY)))
    said, wanted = fault.removeprefix(f"our own {NAMES[kind]} was reported as (").removesuffix(")").split("), not as (")
    assert re.search(seen, said)
    assert re.search(seen, wanted) is None


def test_without_kill():
    """If the probe does not watch kill(2), signal 0 is not tested."""
    assert faults(of(DELIVERY), syscalls=("tgkill",), calls=0) == []


def test_a_full_ring_buffer(caplog):
    """Events are not tested then, which is said; counts are."""
    assert faults(room=100) == []
    assert faults(room=100, calls=0) == [f"our own signal {names.SIGNALS[0]} was not counted"]
    assert caplog.messages == ["the ring buffer is full: the self-test checks counts, not events"] * 2


def test_a_signal_that_is_forbidden(caplog, monkeypatch):
    """AppArmor lets some containers send themselves signal 0 only; the rest is tested, and the log says what is not."""

    def only_0(_pid, sig):
        if sig:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "kill", only_0)
    assert faults(of(CALL), deliveries=0) == []
    assert faults(deliveries=0) == ["our own signal 0 made no event"]
    assert caplog.messages == ["the self-test skips SIGURG: Permission denied. A security module forbids it"] * 2
