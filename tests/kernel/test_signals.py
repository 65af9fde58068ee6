"""Signals of real processes: each is counted once, with the right labels, and logged correctly."""

import ctypes
import errno
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from senders import NO_SUCH_PID, NOBODY, forked, run, send, set_name, siginfo, victim

from killsnoopd.probe import hooks, ways
from killsnoopd.settings import Settings

INT_MIN = -(2**31)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


def test_23_signals(daemon):
    """23 signals of known name, number and outcome: counters and events show exactly these."""
    with victim(own_group=True) as target, victim() as doomed, victim() as roots:
        pidfd = os.pidfd_open(target)
        plan = {  # sender: uid, [(call, arguments, signal, result)]
            "ks-root": (0, [
                ("kill", (target, 10), "SIGUSR1", "success"),
                ("kill", (target, 12), "SIGUSR2", "success"),
                ("kill", (target, 15), "SIGTERM", "success"),
                ("kill", (target, 15), "SIGTERM", "success"),
                ("kill", (target, 37), "SIGRTMIN+3", "success"),
                ("kill", (-target, 1), "SIGHUP", "success"),
                ("kill", (target, 0), "0", "success"),
                ("kill", (doomed, 9), "SIGKILL", "success"),
                ("kill", (NO_SUCH_PID, 9), "SIGKILL", "ESRCH"),
                ("kill", (INT_MIN, 15), "SIGTERM", "ESRCH"),
                ("kill", (target, 99), "invalid", "EINVAL"),
                ("kill", (target, -5), "invalid", "EINVAL"),
                ("kill", (target | 7 << 32, 10 | 7 << 32), "SIGUSR1", "success"),  # the high halves are ignored
            ]),
            "ks-nobody": (NOBODY, [
                ("kill", (roots, 15), "SIGTERM", "EPERM"),
                ("kill", (roots, 9), "SIGKILL", "EPERM"),
                ("kill", (roots, 0), "0", "EPERM"),
            ]),
            "ks-calls": (0, [
                ("tkill", (target, 10), "SIGUSR1", "success"),
                ("tgkill", (target, target, 12), "SIGUSR2", "success"),
                ("rt_sigqueueinfo", (target, 40, siginfo(40)), "SIGRTMIN+6", "success"),
                ("rt_tgsigqueueinfo", (target, target, 41, siginfo(41)), "SIGRTMIN+7", "success"),
                ("pidfd_send_signal", (pidfd, 2, None, 0), "SIGINT", "success"),
                ("pidfd_send_signal", (999, 2, None, 0), "SIGINT", "EBADF"),
                ("rt_sigqueueinfo", (target, 40, siginfo(40, code=0)), "SIGRTMIN+6", "EPERM"),  # kernel codes cannot be forged
            ]),
        }  # fmt: skip
        assert sum(len(calls) for _, calls in plan.values()) == 23

        def act(calls):
            for call, arguments, _, result in calls:
                res = send(call, *arguments)
                assert result == ("success" if res == 0 else errno.errorcode[-res])

        pids = {name: run(lambda calls=calls: act(calls), name.encode(), uid) for name, (uid, calls) in plan.items()}
    counted, logged = {}, []
    for name, (uid, calls) in plan.items():
        for call, arguments, sig, result in calls:
            counted[name, sig, result] = counted.get((name, sig, result), 0) + 1
            first = (arguments[0] + 2**31) % 2**32 - 2**31
            # A delivery's event names the target, whatever the sender wrote; a failed call's has what the sender wrote.
            reached = result == "success" and sig != "0"
            tpid = (doomed if sig == "SIGKILL" else target) if reached else first
            logged.append((pids[name], name, uid, call, sig, first, tpid, result, reached))
    assert daemon.signals(*plan) == counted
    assert [
        (
            int(e["KILLSNOOP_PID"]), e["KILLSNOOP_COMM"], int(e["KILLSNOOP_UID"]), e["KILLSNOOP_SYSCALL"],
            e["KILLSNOOP_SIGNAL"], int(e["KILLSNOOP_TARGET_ARG"]), int(e["KILLSNOOP_TPID"]), e["KILLSNOOP_RESULT"],
            "KILLSNOOP_OUTCOME" in e,
        )
        for e in daemon.events(*plan)
        if e["KILLSNOOP_EVENT"] != "death"
    ] == logged  # fmt: skip


def test_timestamps_are_those_of_the_signal(daemon):
    """An event has the wall-clock time of its signal, however late it is written."""
    os.kill(daemon.pid, signal.SIGSTOP)
    before = time.time()
    run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-clock")
    after = time.time()
    time.sleep(0.5)  # the event must wait this long without showing it
    os.kill(daemon.pid, signal.SIGCONT)
    (event,) = daemon.events("ks-clock")
    assert before - 0.005 <= datetime.fromisoformat(event["KILLSNOOP_TIMESTAMP"]).timestamp() <= after + 0.005


def test_a_thread_counts_under_its_process_name(daemon):
    """A thread named tokio-runtime-w counts under its process's name; the event has both names."""

    def in_thread():
        set_name(b"tokio-runtime-w")
        send("kill", NO_SUCH_PID, 15)

    def act():
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()

    pid = run(act, b"ks-agent")
    assert daemon.signals("ks-agent", "tokio-runtime-w") == {("ks-agent", "SIGTERM", "ESRCH"): 1}
    (event,) = daemon.events("ks-agent")
    assert event["KILLSNOOP_THREAD_COMM"] == "tokio-runtime-w"
    assert int(event["KILLSNOOP_PID"]) == pid != int(event["KILLSNOOP_TID"])


def test_parent_and_login(daemon):
    """An event has the sender's parent, and the login uid if there is one."""
    parent = []

    def act():
        parent.append(run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-child"))

    pid = run(act, b"ks-parent")
    (event,) = daemon.events("ks-child")
    assert (event["KILLSNOOP_PARENT_COMM"], int(event["KILLSNOOP_PPID"])) == ("ks-parent", pid)
    assert event.get("KILLSNOOP_LOGINUID", str(2**32 - 1)) == Path("/proc/self/loginuid").read_text()


@pytest.mark.parametrize("sig", [9, 15, 19])
def test_a_process_that_signals_itself_is_counted_once(daemon, sig):
    """kill(getpid(), KILL): the exit of the call is seen although the process never runs again."""
    name = f"ks-self-{sig}"
    pid = forked(lambda: send("kill", os.getpid(), sig), name.encode())
    _, status = os.waitpid(pid, os.WUNTRACED)
    if sig == 19:
        assert os.WIFSTOPPED(status)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert list(daemon.signals(name).values()) == [1]


def act_on_itself():
    """Each way in which a process can signal itself with tkill and tgkill, and one in which it cannot."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    send("tkill", threading.get_native_id(), 10)
    send("tgkill", os.getpid(), threading.get_native_id(), 10)
    send("tgkill", os.getpid(), NO_SUCH_PID, 10)
    send("tgkill", os.getppid(), os.getppid(), 0)


def test_signals_within_a_process_are_left_out(start):
    """Go's preemption and raise(3) are tgkills within one process: not counted by default."""
    quiet, full = start("--probe.syscalls=kill,tkill,tgkill"), start("--probe.self-signals")
    run(act_on_itself, b"ks-gopher")
    assert quiet.signals("ks-gopher") == {("ks-gopher", "0", "success"): 1}
    assert [event for event in quiet.events("ks-gopher") if event["KILLSNOOP_EVENT"] == "delivery"] == []
    delivered = [event for event in full.events("ks-gopher") if event["KILLSNOOP_EVENT"] == "delivery"]
    assert [event["KILLSNOOP_SYSCALL"] for event in delivered] == ["tkill", "tgkill"]
    assert full.signals("ks-gopher") == {
        ("ks-gopher", "0", "success"): 1,
        ("ks-gopher", "SIGUSR1", "success"): 2,
        ("ks-gopher", "SIGUSR1", "ESRCH"): 1,
    }


def test_signals_within_a_process_are_left_out_in_a_container(daemon):
    """In a pid namespace, a process knows itself by another pid; it is recognised anyway."""

    def act():
        os.unshare(os.CLONE_NEWPID)
        run(act_on_itself, b"ks-boxed")

    if not hasattr(os, "unshare"):  # Python 3.12
        os.CLONE_NEWPID = 0x20000000
        os.unshare = lambda flags: ctypes.CDLL(None).unshare(flags)
    run(act)
    # getppid() is 0 in there: tgkill(0, 0, 0) fails with EINVAL, and is the only call that was not to itself.
    assert daemon.signals("ks-boxed") == {("ks-boxed", "0", "EINVAL"): 1}


def test_only_the_chosen_system_calls_are_watched(start):
    """--probe.syscalls: the other calls are not even attached to."""
    daemon = start("--probe.syscalls=tkill,kill")
    with victim() as target:
        run(lambda: (send("kill", target, 10), send("tgkill", target, target, 10)), b"ks-some")
    assert daemon.signals("ks-some") == {("ks-some", "SIGUSR1", "success"): 1}
    settings = Settings(syscalls=("kill", "tkill"))
    assert {dict(labels)["hook"] for name, labels in daemon.samples() if name == "killsnoop_probe_attached"} == {
        point.hook.name for point in hooks.points(settings, ways.choose(settings))
    }


def test_filtered_events_are_counted(start):
    """Filtered events are counted as signals, and as filtered in the ledger."""
    daemon = start("--events.exclude=signal=SIGUSR1,SIGRTMIN+3,invalid")
    with victim() as target:
        run(lambda: [send("kill", target, sig) for sig in (10, 37, 99, 0, 17, 23, 28, 12)], b"ks-filter")
    assert sum(daemon.signals("ks-filter").values()) == 8
    assert [event["KILLSNOOP_SIGNAL"] for event in daemon.events("ks-filter")] == ["SIGUSR2"]
    assert daemon.ledger()["filtered"] >= 7
