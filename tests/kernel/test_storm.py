"""Storms on one CPU: several processes at once in the same program of the probe, and no call, delivery or death is lost.

A kernel that preempts a program keeps its recursion guard taken, and skips it for every other task on that CPU. Python
spends too little time in the kernel to show it, so the senders are loops in machine code.
"""

import contextlib
import ctypes
import mmap
import os
import platform
import signal
import struct
import time
from pathlib import Path

import pytest
from senders import NO_SUCH_PID, NUMBERS, forked

from killsnoopd.probe import ways

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the senders are x86-64 machine code")

EMULATED = "QEMU" in Path("/proc/cpuinfo").read_text()  # takes thirty times as long
CALLS = 100_000 if EMULATED else 400_000  # by each of four processes
DELIVERIES = 5_000  # by each of four
DEATHS = 1_000 if EMULATED else 3_000  # by each of eight
NICE = (0, 0, 5, 10)
TIDY_UP = "5b c3"  # pop rbx; ret


def code(body):
    """A function that does this so many times (its argument): rbx counts. And its memory, to be kept."""
    loop = body + bytes.fromhex("48ffcb")  # dec rbx
    loop += b"\x0f\x85" + struct.pack("<i", -len(loop) - 6)  # jnz
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex("53 4889fb") + loop + bytes.fromhex(TIDY_UP))  # push rbx; mov rbx, rdi
    return ctypes.CFUNCTYPE(None, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory))), memory


def call(name, *arguments):
    """Code of one system call with up to three 32-bit arguments: mov edi, esi, edx, eax; syscall."""
    text = b"".join(opcode + struct.pack("<I", value & 0xFFFFFFFF) for opcode, value in zip(
        (b"\xbf", b"\xbe", b"\xba"), arguments, strict=False))  # fmt: skip
    return text + b"\xb8" + struct.pack("<I", NUMBERS[name]) + b"\x0f\x05"


# clone(CLONE_VM | SIGCHLD) of a child that only waits: its registers are all it has. Then kill(child, SIGKILL) and wait4().
DEATH = bytes.fromhex(
    "bf11010000 31f6 31d2 4531d2 4531c0 b838000000 0f05"  # clone
    "85c0 7507"  # the child goes on here:
    "b822000000 0f05"  # pause
    "4189c1"  # mov r9d, eax
    "89c7 be09000000 b83e000000 0f05"  # kill
    "4489cf 31f6 31d2 4531d2 b83d000000 0f05"  # wait4
)


def storm(*jobs):
    """Run (name, code, times) at once, on one CPU, at different priorities."""
    cpu = min(os.sched_getaffinity(0))
    hold, go = os.pipe()

    def act(text, times, nice):
        os.close(go)
        os.sched_setaffinity(0, {cpu})
        os.nice(nice)
        function, _memory = code(text)
        os.read(hold, 1)
        function(times)

    pids = [
        forked(lambda t=text, n=times, nice=NICE[at % 4]: act(t, n, nice), name)
        for at, (name, text, times) in enumerate(jobs)
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
    "pidfd_send_signal": (call("pidfd_send_signal", -1, 15, 0), "EBADF"),
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
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    before = daemon.deliveries().get(key, 0)
    with none_missed(daemon, record_property):
        storm(*((b"ks-deliver-%d" % n, call("kill", os.getpid(), signal.SIGUSR2), DELIVERIES) for n in range(4)))
    assert daemon.deliveries()[key] == before + 4 * DELIVERIES


def test_deaths(daemon, record_property):
    """Eight killers, each of one child after the other."""
    before = daemon.deaths().get(("SIGKILL", "syscall"), 0)
    with none_missed(daemon, record_property):
        storm(*((b"ks-killer-%d" % number, DEATH, DEATHS) for number in range(8)))
    assert daemon.deaths()["SIGKILL", "syscall"] == before + 8 * DEATHS
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()
