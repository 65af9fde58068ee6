"""The counts in brief."""

import time

import pytest
from fakes import FakeProbe, counts

from killsnoopd.metrics.overview import LOST, look
from killsnoopd.probe.attached import Ledger
from killsnoopd.probe.program import DAEMON_STATUSES, PROBE_STATUSES

COUNTS = counts(
    [(b"evil", 9, 0, 5), (b"bash", 15, -1, 2)],
    overflow=[(9, "success", 10)],
    aged=[(9, "success", 100)],
    deliveries=[(9, "syscall", "delivered", 3), (15, "oom", "ignored", 4)],
    deaths=[(9, "syscall", 2), (11, "self", 1)],
    exits=[(15, 6)],
)


def test_sums():
    """All calls, deliveries, deaths and exits; of the events only those that were lost, by status."""
    statuses = dict.fromkeys((*PROBE_STATUSES, *DAEMON_STATUSES), 0) | {"logged": 8, "filtered": 9, "ring_full": 2}
    found = look(FakeProbe(COUNTS, Ledger(statuses, 1)))
    assert (found.calls, found.deliveries, found.deaths, found.exits) == (117, 7, 3, 6)
    assert (found.logged, found.pending, found.lost) == (8, 1, {"ring_full": 2})
    assert "evil" not in repr(found)


def test_each_status_is_lost_or_not():
    """A status that the probe or the daemon gets must be one or the other."""
    assert {*PROBE_STATUSES, *DAEMON_STATUSES} - set(LOST) == {"emitted", "logged", "filtered"}


def test_the_state_of_the_hooks(monkeypatch):
    """Which are attached, how, and since when."""
    found = look(FakeProbe(COUNTS))
    assert (found.hooks, found.detached, found.inexact) == ({"kill": "fexit", "tkill": "fexit"}, ("tkill",), ("tkill",))
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert found.attached_s == pytest.approx(booted_s + 1, abs=1)


def test_a_kernel_that_does_not_say(monkeypatch):
    """Linux before 5.19 refuses: the counts are there all the same."""
    probe = FakeProbe(COUNTS)

    def refused():
        raise PermissionError

    monkeypatch.setattr(probe, "attached_ns", refused)
    found = look(probe)
    assert (found.attached_s, found.detached, found.calls) == (None, (), 117)
