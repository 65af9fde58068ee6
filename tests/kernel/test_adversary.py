"""A local user (uid 65534 or 4242) tries to hide a kill or a death, to blame another, or to use up what others need."""

import contextlib
import os
import platform
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from cases import Processes
from origins import PTRACE_CONT, PTRACE_SEIZE, Said, perform, ptrace, said
from senders import attack, become, forked, run, send
from tricks import (
    ANY_CHILD,
    awaited_flood,
    burn,
    crowd,
    handled_flood,
    hang_up,
    held_in_exit,
    let_go,
    make_send,
    once_more,
    serve,
    with_code,
)
from waiting import wait_for

NOBODY, QUIET = 65534, 4242
MAY_PERF = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 2


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


@pytest.fixture
def processes():
    found = Processes()
    yield found
    found.close()


def of(daemon, name, kind=None):
    """Events of the victims with this name."""
    return [e for e in daemon.events() if e.get("KILLSNOOP_TCOMM") == name and kind in (None, e["KILLSNOOP_EVENT"])]


WITHOUT_A_SIGNAL = [
    "PTRACE_CONT with SIGKILL", "PTRACE_CONT with SIGTERM", "PTRACE_CONT with a blocked signal", "PTRACE_KILL",
    "PTRACE_O_EXITKILL", "clone's exit signal", "timer_create, SIGEV_SIGNAL", "RLIMIT_CPU, by prlimit",
    *(["perf, sigtrap"] if MAY_PERF else []),
]  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_A_SIGNAL)
def test_deaths_without_a_system_call(daemon, name):
    """What the kernel can be made to send, or a tracer to inject, without any privilege: each death is logged.

    test_origins.py does the same as another user.
    """
    happened = perform(name, QUIET)
    events = [event for event in of(daemon, happened.victim) if event["KILLSNOOP_TARGET_UID"] == str(QUIET)]
    assert sorted(map(said, events), key=str) == sorted(happened.said, key=str)


@pytest.mark.parametrize("code", [0x80, 1, 5])
def test_a_kernels_code_to_oneself(daemon, code):
    """A process may send itself any si_code: the kernel's, a child's, a file's. It is the sender all the same."""
    name = f"kv-code-{code}"
    pid = forked(lambda: with_code(code), name.encode(), NOBODY)
    os.waitpid(pid, 0)
    assert [said(event) for event in of(daemon, name)] == [
        Said("delivery", "SIGKILL", "syscall", name),
        Said("death", "SIGKILL", "self", name),
    ]


HELD = 20


@pytest.mark.parametrize("uid", [NOBODY, QUIET])
def test_a_thread_that_is_held_in_its_exit(daemon, uid):
    """The process dies of SIGKILL, whatever the exit code of its last thread: each death is logged, with its sender."""
    run(lambda: [held_in_exit() for _ in range(HELD)], b"ks-held", uid)
    events = [event for event in of(daemon, "kv-held") if event["KILLSNOOP_TARGET_UID"] == str(uid)]
    found = sorted(map(said, events), key=str)
    assert found == [Said(kind, "SIGKILL", "syscall", "ks-held") for kind in ("death", "delivery") for _ in range(HELD)]


SHARE = 1024  # HISTORY_SHARE in bpf/fatal_signals.c


def test_a_limit_that_kills_by_a_thread(start, processes):
    """RLIMIT_CPU, reached by a thread that is not the leader, while the user has no room left in the memory of signals:
    the delivery and the death are logged."""
    daemon = start("--events.rate=0")
    with crowd(SHARE + 100, QUIET, "kernel"):
        pids = [forked(burn, b"kv-burns", QUIET) for _ in range(3)]
        processes.pids += pids
        for pid in pids:
            wait_for(lambda pid=pid: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "its end")
        events = of(daemon, "kv-burns")
    assert sorted(event["KILLSNOOP_EVENT"] for event in events) == ["death"] * 3 + ["delivery"] * 3
    assert daemon.deliveries()["SIGKILL", "rlimit", "delivered"] == 3
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()


@pytest.mark.parametrize("uid", [0, QUIET])
def test_memory_is_shared(start, processes, uid, record_property):
    """A user makes the probe remember all that it can, in 1,300 processes: escalations and deaths of others are logged as ever."""
    daemon = start("--events.rate=0")

    def tidy_up(number, _frame):
        signal.signal(number, signal.SIG_DFL)
        send("kill", os.getpid(), number)

    def victims(count, name, prepare=int):
        return [processes.victim(name, lambda: (prepare(), become(uid))) for _ in range(count)]

    stubborn = victims(3, "kv-stubborn", lambda: signal.signal(signal.SIGTERM, lambda *_: None))
    stopped, tidy = victims(3, "kv-stopped"), victims(3, "kv-tidies", lambda: signal.signal(signal.SIGTERM, tidy_up))
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    run(lambda: [send("kill", pid, 15) for pid in stubborn + stopped], b"ks-terms", uid)

    def beside_a_crowd():
        with crowd(SHARE + 300, NOBODY, "own") as parent:
            run(
                lambda: [send("kill", pid, 9) for pid in stubborn] + [send("kill", pid, 15) for pid in tidy],
                b"ks-kills",
                uid,
            )
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            for pid in stubborn + stopped + tidy:
                os.waitpid(pid, 0)
            assert daemon.value("killsnoop_escalations_total") == 3
            for name, sender in (("kv-stubborn", "ks-kills"), ("kv-stopped", "ks-terms"), ("kv-tidies", "ks-kills")):
                assert [event["KILLSNOOP_COMM"] for event in of(daemon, name, "death")] == [sender] * 3
        return parent

    parent = measured(daemon, record_property, beside_a_crowd)
    ends = [
        e for e in daemon.events() if e["KILLSNOOP_TARGET_UID"] == str(NOBODY) and e["KILLSNOOP_SIGNAL"] == "SIGKILL"
    ]
    kinds = [event["KILLSNOOP_EVENT"] for event in ends]
    # Those beyond its share die without a sender, which the delivery names.
    assert (kinds.count("delivery"), kinds.count("death")) == (SHARE + 300, SHARE + 300)
    assert {event.get("KILLSNOOP_PID", str(parent)) for event in ends} == {str(parent)}
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()


def test_a_second_signal_that_is_already_pending(daemon, processes):
    """SIGTERM to a stopped process, and one more with the code of a fault, which is dropped: the first one's sender killed."""
    victim = processes.victim("kv-pending", lambda: become(NOBODY))
    os.kill(victim, signal.SIGSTOP)
    run(lambda: send("kill", victim, 15), b"ks-first", NOBODY)
    run(lambda: once_more(victim), b"ks-second", NOBODY)
    os.kill(victim, signal.SIGCONT)
    os.waitpid(victim, 0)
    (death,) = of(daemon, "kv-pending", "death")
    assert said(death) == Said("death", "SIGTERM", "syscall", "ks-first")


def measured(daemon, record_property, action):
    """Do it; notes what it cost the daemon."""
    before_kb, before_s, began_s = int(daemon.status("VmRSS")), daemon.on_cpu_s(), time.monotonic()
    result = action()
    record_property("cpu_share_of_a_core", round((daemon.on_cpu_s() - before_s) / (time.monotonic() - began_s), 3))
    record_property("rss_grown_kb", int(daemon.status("VmRSS")) - before_kb)
    return result


def kills(count, name, uid, pace_s=0.02):
    """SIGKILLs of this uid to its own processes; their pids."""
    pids = [forked(signal.pause, b"kv-" + name, uid) for _ in range(count)]

    def act():
        for pid in pids:
            assert send("kill", pid, 9) == 0
            time.sleep(pace_s)

    run(act, b"ks-" + name, uid)
    for pid in pids:
        os.waitpid(pid, 0)
    return pids


def told(daemon, name):
    return sorted((e["KILLSNOOP_EVENT"], int(e["KILLSNOOP_TPID"])) for e in daemon.events(f"ks-{name}"))


@pytest.mark.parametrize("uid", [NOBODY, QUIET])
@pytest.mark.parametrize("flood", [handled_flood, awaited_flood])
def test_kills_behind_ones_own_flood(start, record_property, flood, uid):
    """A uid floods with other signals that may kill: each of its hundred SIGKILLs is logged, and each death."""
    daemon = start()
    with attack(flood, uid=uid):
        wait_for(lambda: daemon.ledger()["rate_limited"] > 10_000, "the flood to be over its limit")
        pids = measured(daemon, record_property, lambda: kills(100, b"own", uid))
    found, expected = told(daemon, "own"), sorted((kind, pid) for kind in ("delivery", "death") for pid in pids)
    record_property("sigkills_not_told", len(expected) - len(found))
    assert found == expected
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == 0
    assert sum(ledger.values()) == daemon.attempted()


def test_a_service_that_is_hung_up_on(start, record_property):
    """A client hangs up before a service of root's has answered, without end: its SIGPIPEs cost no event of root's."""
    daemon = start()
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    address = server.getsockname()
    report = os.memfd_create("report")
    os.ftruncate(report, 8)

    def sigpipes():
        return struct.unpack("=q", os.pread(report, 8, 0))[0]

    with (
        attack(lambda: serve(server, report), b"ks-service", processes=1),
        attack(lambda: hang_up(address), uid=NOBODY, processes=1),
    ):
        wait_for(lambda: sigpipes() > 1000, "SIGPIPEs")
        pids = measured(daemon, record_property, lambda: kills(60, b"root", 0))
        others = kills(60, b"other", QUIET)
    record_property("sigpipes", sigpipes())
    os.close(report)
    server.close()
    for name, killed in (("root", pids), ("other", others)):
        assert told(daemon, name) == sorted((kind, pid) for kind in ("delivery", "death") for pid in killed)
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == ledger["rate_limited"] == 0


@pytest.mark.parametrize("threads", [False, True])
def test_a_signal_that_a_tracer_held_back(start, processes, threads):
    """Root's SIGTERM comes when the tracer likes: the death says how long ago it was sent, and who traces, also if
    another thread, which nobody traces, ends last."""
    daemon = start("--events.rate=0", "--events.grace-period=1")

    def prepare():
        if threads:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        become(NOBODY)

    victim = processes.victim("kv-heldback", prepare)

    def trace():
        ptrace(PTRACE_SEIZE, victim)
        os.write(traced_by, b"!")
        _, status = os.waitpid(victim, ANY_CHILD)
        assert status >> 8 == signal.SIGTERM, hex(status)
        time.sleep(1.5)  # longer than the grace period
        ptrace(PTRACE_CONT, victim, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(victim, ANY_CHILD)

    traced, traced_by = os.pipe()
    tracer = forked(trace, b"ks-tracer", NOBODY)
    os.close(traced_by)
    assert os.read(traced, 1) == b"!"
    run(lambda: send("kill", victim, 15), b"ks-root")
    assert os.waitpid(tracer, 0)[1] == 0
    os.waitpid(victim, 0)
    os.close(traced)
    (death,) = of(daemon, "kv-heldback", "death")
    assert said(death) == Said("death", "SIGTERM", "syscall", "ks-root", "ks-tracer")
    assert death["KILLSNOOP_ORIGIN_INFERRED"] == "1"
    assert float(death["KILLSNOOP_ELAPSED_MS"]) >= 1500
    assert " s after ks-root" in death["MESSAGE"]
    assert "probably sent" in death["MESSAGE"]


def test_a_tracer_that_lets_go(start, processes):
    """Root's SIGTERM was handled long ago. The tracer detaches with another one, so nobody traces when the process dies: root is
    named as likely, with the time since."""
    daemon = start("--events.rate=0", "--events.grace-period=1")

    def prepare():
        become(NOBODY)
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))

    victim = processes.victim("kv-letgo", prepare)
    run(lambda: send("kill", victim, 15), b"ks-root")
    time.sleep(1.5)  # longer than the grace period

    run(lambda: let_go(victim, signal.SIGTERM), b"ks-tracer", NOBODY)
    os.waitpid(victim, 0)
    (death,) = of(daemon, "kv-letgo", "death")
    assert said(death) == Said("death", "SIGTERM", "syscall", "ks-root")
    assert death["KILLSNOOP_ORIGIN_INFERRED"] == "1"
    assert float(death["KILLSNOOP_ELAPSED_MS"]) >= 1500


if platform.machine() == "x86_64":

    def test_a_sender_that_is_traced(daemon, processes):
        """A tracer makes another process of its user call kill(2). That process is the sender; the event names the tracer."""
        puppet = processes.victim("ks-puppet", lambda: become(NOBODY))
        victim = processes.victim("kv-puppets", lambda: become(NOBODY))

        def act():
            make_send(puppet, victim, signal.SIGKILL)
            wait_for(lambda: " Z" in (Path(f"/proc/{victim}/stat").read_text()).rpartition(")")[2][:2], "the death")

        run(act, b"ks-tracer", NOBODY)
        os.waitpid(victim, 0)
        delivery, death = of(daemon, "kv-puppets")
        assert said(delivery) == Said("delivery", "SIGKILL", "syscall", "ks-puppet", "ks-tracer")
        assert said(death) == Said("death", "SIGKILL", "syscall", "ks-puppet")
        assert ", traced by ks-tracer[" in delivery["MESSAGE"]


def test_a_sigkill_that_nobody_sent(daemon, processes):
    """A tracer detaches with SIGKILL: nobody traces when the process dies. It is counted as of unknown origin, and logged."""
    before = daemon.deaths().get(("SIGKILL", "unknown"), 0)
    victim = processes.victim("kv-detached", lambda: become(NOBODY))

    run(lambda: let_go(victim, signal.SIGKILL), b"ks-tracer", NOBODY)
    os.waitpid(victim, 0)
    (death,) = of(daemon, "kv-detached", "death")
    assert said(death) == Said("death", "SIGKILL", "unknown", "")
    assert death["MESSAGE"].endswith("died of SIGKILL, sender not seen")
    assert daemon.deaths()["SIGKILL", "unknown"] == before + 1
