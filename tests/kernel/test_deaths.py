"""What died of a signal, and who is to blame: deaths, escalations, and what must not be taken for them."""

import ctypes
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from senders import forked, run, send, siginfo

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


def told(daemon, kind, *comms):
    """Events of one kind, by sender's or target's name."""
    return [
        event
        for event in daemon.events()
        if event["KILLSNOOP_EVENT"] == kind and {event.get("KILLSNOOP_COMM"), event.get("KILLSNOOP_TCOMM")} & set(comms)
    ]


def test_a_death_names_its_sender(daemon, processes):
    """One event more, once the process is dead: of what, by whom, and how long it took."""
    before = daemon.deaths().get(("SIGTERM", "syscall"), 0)
    victim = processes.victim("kv-dies")
    sender = run(lambda: send("kill", victim, 15), b"ks-killer")
    os.waitpid(victim, 0)
    (death,) = told(daemon, "death", "kv-dies")
    assert (death["KILLSNOOP_OUTCOME"], death["KILLSNOOP_SIGNAL"]) == ("died", "SIGTERM")
    assert (death["KILLSNOOP_COMM"], int(death["KILLSNOOP_PID"])) == ("ks-killer", sender)
    assert int(death["KILLSNOOP_TPID"]) == victim
    assert 0 < float(death["KILLSNOOP_ELAPSED_MS"]) < 10_000
    assert daemon.deaths()["SIGTERM", "syscall"] == before + 1


def test_an_exit_after_a_handled_signal(daemon, processes):
    """A service stops as asked: an exit with its status, and who asked for it; no death."""
    before = daemon.value("killsnoop_exits_total", signal="SIGTERM")
    victim = processes.victim("kv-stops", lambda: signal.signal(signal.SIGTERM, lambda *_: os._exit(3)))
    sender = run(lambda: send("kill", victim, 15), b"ks-asks")
    os.waitpid(victim, 0)
    (delivery,) = told(daemon, "delivery", "kv-stops")
    assert (delivery["KILLSNOOP_HANDLED"], delivery["PRIORITY"]) == ("1", "6")
    (end,) = told(daemon, "exit", "kv-stops")
    assert (end["KILLSNOOP_COMM"], int(end["KILLSNOOP_PID"]), int(end["KILLSNOOP_TPID"])) == ("ks-asks", sender, victim)
    assert (end["KILLSNOOP_SIGNAL"], end["KILLSNOOP_EXIT_STATUS"], end["KILLSNOOP_OUTCOME"]) == (
        "SIGTERM",
        "3",
        "exited",
    )
    assert float(end["KILLSNOOP_ELAPSED_MS"]) > 0
    assert told(daemon, "death", "kv-stops") == []
    assert daemon.value("killsnoop_exits_total", signal="SIGTERM") == before + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_exit_after_a_signal_that_was_waited_for(daemon, processes, number):
    """sigwait(3), as many daemons do: the signal is blocked, and has no handler."""
    name = f"kv-sigwait-{number}"

    def wait():
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        os.write(told_by, b"!")
        signal.sigwait([number])
        os._exit(0)

    ready, told_by = os.pipe()
    victim = forked(wait, name.encode())
    os.read(ready, 1)
    run(lambda: send("kill", victim, number), b"ks-asks")
    os.waitpid(victim, 0)
    os.close(ready)
    os.close(told_by)
    (end,) = told(daemon, "exit", name)
    assert (end["KILLSNOOP_COMM"], end["KILLSNOOP_EXIT_STATUS"]) == ("ks-asks", "0")


def test_an_exit_long_after_a_signal(start, processes):
    """A SIGHUP that was handled, and an exit after the grace period: nobody is to blame."""
    daemon = start("--events.rate=0", "--events.grace-period=1")

    def act():
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    late, soon = (processes.victim(f"kv-{name}", act) for name in ("late", "soon"))
    run(lambda: [send("kill", victim, 1) for victim in (late, soon)], b"ks-reload")
    time.sleep(1.1)  # longer than the grace period
    # SIGUSR1 has its default action and is sent by the victim itself: a death, not an exit.
    run(lambda: send("kill", soon, 15), b"ks-stop")
    os.waitpid(soon, 0)
    (end,) = told(daemon, "exit", "kv-soon")
    assert (end["KILLSNOOP_COMM"], end["KILLSNOOP_SIGNAL"]) == ("ks-stop", "SIGTERM")
    resource.prlimit(late, resource.RLIMIT_CPU, (0, 0))  # ends it without a terminating signal
    run(lambda: send("kill", late, 10), b"ks-usr1")
    os.waitpid(late, 0)
    assert told(daemon, "exit", "kv-late") == []


def test_a_handler_that_sends_the_signal_once_more(daemon, processes):
    """It tidies up, and then dies of the signal by its own hand; whoever sent the first one killed it."""

    def tidy_up(number, _frame):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        os.kill(os.getpid(), number)

    victim = processes.victim("kv-again", lambda: signal.signal(signal.SIGTERM, tidy_up))
    sender = run(lambda: send("kill", victim, 15), b"ks-outside")
    os.waitpid(victim, 0)
    (death,) = told(daemon, "death", "kv-again")
    assert (death["KILLSNOOP_COMM"], int(death["KILLSNOOP_PID"])) == ("ks-outside", sender)


def crash():
    ctypes.string_at(0)


def test_a_fault_has_no_sender(daemon):
    """A process that runs into its own SIGSEGV is nobody's victim, even if it was sent one before."""
    before = daemon.deaths().get(("SIGSEGV", "self"), 0)
    os.waitpid(forked(crash, b"kv-crash"), 0)

    def survive_one():
        signal.signal(signal.SIGSEGV, lambda *_: None)
        send("kill", os.getpid(), signal.SIGSEGV)
        time.sleep(0)  # Python's handler has run
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        crash()

    os.waitpid(forked(survive_one, b"kv-crash"), 0)
    deaths = told(daemon, "death", "kv-crash")
    assert [(death["KILLSNOOP_ORIGIN"], death["KILLSNOOP_CODE_NAME"]) for death in deaths] == [
        ("self", "SEGV_MAPERR")
    ] * 2
    assert all("KILLSNOOP_PID" not in death and "KILLSNOOP_COMM" not in death for death in deaths)
    assert deaths[0]["MESSAGE"].endswith("died of SIGSEGV, its own fault (SEGV_MAPERR)")
    assert daemon.deaths()["SIGSEGV", "self"] == before + 2


def test_abort_is_ones_own_doing(daemon):
    """abort(3) is a tgkill to oneself: left out of deliveries like every other, but the death has its sender."""
    pid = forked(_libc.abort, b"kv-abort")
    os.waitpid(pid, 0)
    (death,) = told(daemon, "death", "kv-abort")
    assert death["KILLSNOOP_PID"] == death["KILLSNOOP_TPID"] == str(pid)
    assert death["KILLSNOOP_ORIGIN"] == "self"
    assert death["MESSAGE"].endswith("died of SIGABRT, which it sent itself")
    assert told(daemon, "delivery", "kv-abort") == []


def test_a_process_of_many_threads_dies_once(daemon, processes):
    """The last thread's end is the process's; a thread's alone is not."""

    def threads():
        for _ in range(8):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    before = daemon.deaths().get(("SIGKILL", "syscall"), 0)
    victims = [processes.victim("kv-threads", threads) for _ in range(20)]
    run(lambda: [send("kill", victim, 9) for victim in victims], b"ks-threads")
    for victim in victims:
        os.waitpid(victim, 0)
    deaths = told(daemon, "death", "kv-threads")
    assert sorted(int(death["KILLSNOOP_TPID"]) for death in deaths) == sorted(victims)
    assert daemon.deaths()["SIGKILL", "syscall"] == before + 20


def test_escalation(start, processes):
    """SIGTERM, then SIGKILL to the same process in time: marked with the time between, and counted; not if too late."""
    daemon = start("--events.rate=0", "--events.grace-period=1")
    quick, slow, other = (
        processes.victim(f"kv-{name}", lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        for name in ("ignores", "slow", "other")
    )
    handler = processes.victim("kv-handler", lambda: signal.signal(signal.SIGTERM, lambda *_: None))
    late = processes.victim("kv-late", lambda: signal.signal(signal.SIGTERM, lambda *_: None))
    for victim in (quick, slow, handler, late):
        run(lambda victim=victim: send("kill", victim, 15), b"ks-term")
    time.sleep(0.2)  # the elapsed time that the death must report
    run(lambda: [send("kill", victim, 9) for victim in (handler, other)], b"ks-kill9")
    time.sleep(1)  # longer than the grace period
    run(lambda: send("kill", late, 9), b"ks-kill9")
    kills = [event for event in told(daemon, "delivery", "ks-kill9") if event["KILLSNOOP_SIGNAL"] == "SIGKILL"]
    lapses = {event["KILLSNOOP_TCOMM"]: event.get("KILLSNOOP_ESCALATION_MS") for event in kills}
    assert 200 <= float(lapses.pop("kv-handler")) < 1000
    assert lapses == {"kv-other": None, "kv-late": None}
    assert daemon.value("killsnoop_escalations_total") == 1
    (message,) = [event["MESSAGE"] for event in kills if event["KILLSNOOP_TCOMM"] == "kv-handler"]
    assert " ms after SIGTERM" in message


def test_a_pid_that_came_round(daemon, processes):
    """SIGTERM to one process, SIGKILL to another with the same pid: no escalation, and the right death."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    handle = lambda: signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # noqa: E731
    first = processes.victim("kv-first", handle)
    run(lambda: send("kill", first, 15), b"ks-first")
    os.waitpid(first, 0)
    time.sleep(0.02)  # the clock that tells processes apart moves on
    for _ in range(200):
        last.write_text(str(first - 1))
        second = processes.victim("kv-second")
        if second == first:
            break
        os.kill(second, signal.SIGKILL)
        os.waitpid(second, 0)
    assert second == first
    run(lambda: send("kill", second, 9), b"ks-second")
    os.waitpid(second, 0)
    (kill,) = told(daemon, "delivery", "ks-second")
    assert "KILLSNOOP_ESCALATION_MS" not in kill
    (death,) = told(daemon, "death", "ks-second", "ks-first")
    assert (death["KILLSNOOP_COMM"], death["KILLSNOOP_TCOMM"]) == ("ks-second", "kv-second")


def test_children_and_clocks_are_no_senders(daemon):
    """SIGCHLD of a child that ends, alarm(2), setitimer(2), timer_create(2): not counted, not told."""
    before = daemon.deliveries()

    def act():
        for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
        signal.setitimer(signal.ITIMER_PROF, 0.01)
        # struct sigevent: value, SIGUSR1, SIGEV_SIGNAL; struct itimerspec: once, in 10 ms.
        event = (ctypes.c_int * 16)(0, 0, signal.SIGUSR1, 0)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        timer = ctypes.c_void_p()
        assert _libc.timer_create(1, event, ctypes.byref(timer)) == 0
        assert _libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 10_000_000), None) == 0
        for _ in range(10):
            os.waitpid(forked(lambda: None), 0)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:  # on the CPU, for the clocks that count that
            continue

    run(act, b"ks-clocks")
    assert told(daemon, "delivery", "ks-clocks") == []
    clocks = ("SIGALRM", "SIGPROF", "SIGVTALRM", "SIGCHLD", "SIGUSR1")
    after = {key: count for key, count in daemon.deliveries().items() if key[0] in clocks}
    assert after == {key: count for key, count in before.items() if key[0] in clocks}


@pytest.mark.parametrize("code", [-1, -2, -3, -4, -5, -60, -7])
def test_a_code_cannot_hide_a_signal(daemon, processes, code):
    """rt_sigqueueinfo(2) lets a sender choose a timer's code, or a message queue's: it is told all the same."""
    victim = processes.victim("kv-forged")
    name = f"ks-forger{code}"
    sender = run(lambda: send("rt_sigqueueinfo", victim, 9, siginfo(9, code)), name.encode())
    (event,) = told(daemon, "delivery", name)
    assert (event["KILLSNOOP_ORIGIN"], event["KILLSNOOP_CODE"]) == ("syscall", str(code))
    assert (int(event["KILLSNOOP_PID"]), event["KILLSNOOP_TCOMM"]) == (sender, "kv-forged")
