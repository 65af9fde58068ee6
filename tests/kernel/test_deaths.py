"""What died of a signal, and who is to blame: deaths, escalations, and what must not be taken for them."""

import ctypes
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from cases import Processes
from senders import forked, run, send, siginfo
from waiting import wait_for

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


@pytest.fixture
def processes():
    found = Processes()
    yield found
    found.close()


def told(daemon, kind, *comms):
    """Events of one kind, by sender's or target's name."""
    return [
        event
        for event in daemon.events()
        if event["KILLSNOOP_EVENT"] == kind and {event["KILLSNOOP_COMM"], event.get("KILLSNOOP_TCOMM")} & set(comms)
    ]


def test_a_death_names_its_sender(daemon, processes):
    """One event more, once the process is dead: of what, by whom, and how long it took."""
    before = daemon.deaths().get(("SIGTERM", True), 0)
    victim = processes.victim("kv-dies")
    sender = run(lambda: send("kill", victim, 15), b"ks-killer")
    os.waitpid(victim, 0)
    (death,) = told(daemon, "death", "kv-dies")
    assert (death["KILLSNOOP_OUTCOME"], death["KILLSNOOP_SIGNAL"]) == ("died", "SIGTERM")
    assert (death["KILLSNOOP_COMM"], int(death["KILLSNOOP_PID"])) == ("ks-killer", sender)
    assert int(death["KILLSNOOP_TPID"]) == victim
    assert 0 < float(death["KILLSNOOP_DIED_AFTER_MS"]) < 10_000
    assert daemon.deaths()["SIGTERM", True] == before + 1


def test_a_signal_that_is_handled_is_no_death(daemon, processes):
    """The process lives on, and ends later by itself: nobody killed it."""
    victim = processes.victim("kv-lives", lambda: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))
    run(lambda: send("kill", victim, 15), b"ks-asks")
    os.waitpid(victim, 0)
    assert len(told(daemon, "delivery", "kv-lives")) == 1
    assert told(daemon, "death", "kv-lives") == []


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
    """A process that runs into its own SIGSEGV is counted, but is nobody's victim; even if one was sent it before."""
    before = daemon.deaths().get(("SIGSEGV", False), 0)
    os.waitpid(forked(crash, b"kv-crash"), 0)

    def survive_one():
        signal.signal(signal.SIGSEGV, lambda *_: None)
        send("kill", os.getpid(), signal.SIGSEGV)
        time.sleep(0)  # Python's handler has run
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        crash()

    os.waitpid(forked(survive_one, b"kv-crash"), 0)
    assert told(daemon, "death", "kv-crash") == []
    assert daemon.deaths()["SIGSEGV", False] == before + 2


def test_abort_is_ones_own_doing(daemon):
    """abort(3) is a tgkill to oneself: left out of deliveries like every other, but the death has its sender."""
    pid = forked(_libc.abort, b"kv-abort")
    os.waitpid(pid, 0)
    (death,) = told(daemon, "death", "kv-abort")
    assert death["KILLSNOOP_PID"] == death["KILLSNOOP_TPID"] == str(pid)
    assert told(daemon, "delivery", "kv-abort") == []


def test_a_process_of_many_threads_dies_once(daemon, processes):
    """The last thread's end is the process's; a thread's alone is not."""

    def threads():
        for _ in range(8):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    before = daemon.deaths().get(("SIGKILL", True), 0)
    victims = [processes.victim("kv-threads", threads) for _ in range(20)]
    run(lambda: [send("kill", victim, 9) for victim in victims], b"ks-threads")
    for victim in victims:
        os.waitpid(victim, 0)
    deaths = told(daemon, "death", "kv-threads")
    assert sorted(int(death["KILLSNOOP_TPID"]) for death in deaths) == sorted(victims)
    assert daemon.deaths()["SIGKILL", True] == before + 20


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


def test_sigpipe_is_the_kernels(daemon):
    """A write to a pipe that nobody reads: the kernel's signal, and the process dies of it."""

    def act():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        reader, writer = os.pipe()
        os.close(reader)
        os.write(writer, b"!")

    pid = forked(act, b"kv-pipe")
    os.waitpid(pid, 0)
    (event,) = told(daemon, "delivery", "kv-pipe")
    assert (event["KILLSNOOP_ORIGIN"], event["KILLSNOOP_PID"], event["KILLSNOOP_TPID"]) == ("kernel", "0", str(pid))
    assert len(told(daemon, "death", "kv-pipe")) == 1


def test_control_c_is_the_kernels(daemon):
    """^C on a terminal: whoever happens to run when the line discipline sends SIGINT is not its sender."""
    pid, terminal = os.forkpty()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _libc.prctl(15, b"kv-tty", 0, 0, 0)
        os.write(1, b"ready")
        signal.pause()
        os._exit(0)
    while b"ready" not in os.read(terminal, 100):
        continue
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGINT
    os.close(terminal)
    (event,) = [event for event in told(daemon, "delivery", "kv-tty") if event["KILLSNOOP_SIGNAL"] == "SIGINT"]
    assert (event["KILLSNOOP_COMM"], event["KILLSNOOP_PID"], event["KILLSNOOP_ORIGIN"]) == ("kernel", "0", "kernel")
    assert "KILLSNOOP_UID" not in event


def test_a_limit_of_cpu_time(daemon):
    """RLIMIT_CPU: SIGXCPU, then SIGKILL, in the process's own context; the kernel's, and no OOM kill."""

    def act():
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            continue

    pid = forked(act, b"kv-cpu")
    os.waitpid(pid, 0)
    kills = [event for event in told(daemon, "delivery", "kv-cpu") if event["KILLSNOOP_SIGNAL"] == "SIGKILL"]
    assert [(event["KILLSNOOP_PID"], event["KILLSNOOP_ORIGIN"]) for event in kills] == [("0", "kernel")]
    assert len(told(daemon, "death", "kv-cpu")) == 1
    wait_for(lambda: daemon.deliveries().get(("SIGKILL", "kernel", "delivered"), 0) >= 1, "the count")
