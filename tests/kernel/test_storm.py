"""Storms on one CPU: several processes at once in the same program of the probe, and no call, delivery or death is lost.

A kernel that preempts a program keeps its recursion guard taken, and skips it for every other task on that CPU. Python
spends too little time in the kernel to show it, so the senders are loops in machine code.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from machine_code import DEATH, call, function
from senders import NO_SUCH_PID, forked

from killsnoopd.probe import ways

# It takes thirty times as long.
EMULATED = any(
    word in file.read_text()
    for file, word in ((Path("/proc/cpuinfo"), "QEMU"), (Path("/proc/device-tree/compatible"), "linux,dummy-virt"))
    if file.exists()
)
CALLS = 100_000 if EMULATED else 400_000  # by each of four processes
DELIVERIES = 5_000  # by each of four
DEATHS = 1_000 if EMULATED else 3_000  # by each of eight
NICE = (0, 0, 5, 10)


def storm(*jobs):
    """Run (name, machine code, times) at once, on one CPU, at different priorities."""
    cpu = min(os.sched_getaffinity(0))
    hold, go = os.pipe()

    def act(body, times, nice):
        os.close(go)
        os.sched_setaffinity(0, {cpu})
        os.nice(nice)
        loop, _memory = function(body)
        os.read(hold, 1)
        loop(times)

    pids = [
        forked(lambda b=body, n=times, nice=NICE[at % 4]: act(b, n, nice), name)
        for at, (name, body, times) in enumerate(jobs)
    ]
    os.close(hold)
    os.close(go)  # all start
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


def missed(daemon):
    return {
        dict(labels)["program"]: n
        for (name, labels), n in daemon.samples().items()
        if name == "killsnoop_probe_missed_total"
    }


@contextlib.contextmanager
def none_missed(daemon, record_property):
    before, began_s = missed(daemon), time.monotonic()
    yield
    record_property("s", round(time.monotonic() - began_s, 1))
    assert missed(daemon) == before


FAILING = {
    "kill": (call("kill", NO_SUCH_PID, 15), "ESRCH"),
    "tkill": (call("tkill", NO_SUCH_PID, 15), "ESRCH"),
    "tgkill": (call("tgkill", NO_SUCH_PID, NO_SUCH_PID, 15), "ESRCH"),
    "pidfd_send_signal": (call("pidfd_send_signal", -1, 15, 0, 0), "EBADF"),
}


@pytest.mark.parametrize("calls", [("kill",) * 4, tuple(FAILING)], ids=["one call", "four calls"])
def test_calls(daemon, calls, record_property):
    """Of one program, or of four if each call has its own: every failing call is counted."""
    names = [f"ks-storm{len(set(calls))}-{number}" for number in range(4)]
    with none_missed(daemon, record_property):
        storm(*((name.encode(), FAILING[call][0], CALLS) for name, call in zip(names, calls, strict=True)))
    expected = {(name, "SIGTERM", FAILING[call][1]): CALLS for name, call in zip(names, calls, strict=True)}
    assert daemon.signals(*names) == expected


@pytest.mark.parametrize("calls", [("kill",) * 4, tuple(FAILING)], ids=["one call", "four calls"])
def test_what_tracepoints_miss_is_counted(start, calls):
    """Where a kernel preempts their programs; elsewhere they miss nothing."""
    daemon = start("--probe.attach=tracepoint")
    names = [f"ks-storm-{number}" for number in range(4)]
    storm(*((name.encode(), FAILING[call][0], CALLS) for name, call in zip(names, calls, strict=True)))
    counted = sum(daemon.signals(*names).values())
    assert counted + missed(daemon)["sys_exit"] == 4 * CALLS
    assert (counted < 4 * CALLS) == ways.has_preemptible_tracepoints()


def test_calls_that_a_real_time_task_preempts(daemon, record_property):
    """A SCHED_FIFO sender wakes up again and again in the middle of another's call."""

    def wake_up():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        for _ in range(CALLS // 100):
            with contextlib.suppress(ProcessLookupError):
                os.kill(NO_SUCH_PID, 15)
            time.sleep(0.0001)

    with none_missed(daemon, record_property):
        real_time = forked(wake_up, b"ks-rt")
        storm((b"ks-preempted", FAILING["kill"][0], CALLS))
        assert os.waitpid(real_time, 0)[1] == 0
    assert daemon.signals("ks-rt", "ks-preempted") == {
        ("ks-rt", "SIGTERM", "ESRCH"): CALLS // 100,
        ("ks-preempted", "SIGTERM", "ESRCH"): CALLS,
    }


def test_deliveries(daemon, record_property):
    """SIGUSR2 to a process that ignores it."""
    key = ("SIGUSR2", "syscall", "ignored")
    before = daemon.deliveries().get(key, 0)
    was = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with none_missed(daemon, record_property):
            storm(*((b"ks-deliver-%d" % n, call("kill", os.getpid(), signal.SIGUSR2), DELIVERIES) for n in range(4)))
    finally:
        signal.signal(signal.SIGUSR2, was)
    assert daemon.deliveries()[key] == before + 4 * DELIVERIES


def test_deaths(daemon, record_property):
    """Eight killers, each of one child after the other."""
    before = daemon.deaths().get(("SIGKILL", "syscall"), 0)
    with none_missed(daemon, record_property):
        storm(*((b"ks-killer-%d" % number, DEATH, DEATHS) for number in range(8)))
    assert daemon.deaths()["SIGKILL", "syscall"] == before + 8 * DEATHS
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()
