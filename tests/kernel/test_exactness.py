"""Exact counts: under load, during scrapes, with all series taken, and compared with an independent observer."""

import os
import random
import signal
import subprocess
from collections import Counter

from observer import bpftrace
from prometheus_client.parser import text_string_to_metric_families
from senders import NO_SUCH_PID, forked, run, send, set_name

from killsnoopd import names
from killsnoopd.probe.hooks import PROGRAMS

MILLION = 1_000_000


def finished(pids):
    """Reap the children; all must have succeeded."""
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0


def kill_loop(calls, sig=15):
    kill = os.kill
    for _ in range(calls):
        try:
            kill(NO_SUCH_PID, sig)
        except ProcessLookupError:
            continue


def test_a_million_calls_while_scraped(start):
    """The counter grows by the number of calls, on all cores, and never goes down between scrapes."""
    daemon = start()
    cores = len(os.sched_getaffinity(0))
    share, rest = divmod(MILLION, cores)
    pids = [forked(lambda n=share + (core < rest): kill_loop(n), b"ks-million") for core in range(cores)]
    readings = [0]
    while any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for pid in pids):
        readings.append(sum(daemon.signals("ks-million").values()))
    finished(pids)
    assert readings == sorted(readings)
    assert any(0 < reading < MILLION for reading in readings), "no scrape fell into the run"
    assert daemon.signals("ks-million") == {("ks-million", "SIGTERM", "ESRCH"): MILLION}
    # Every event is in the ledger exactly once, whatever its status.
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()
    assert len(daemon.stdout.read_text().splitlines()) == ledger["logged"]
    assert ledger["rate_limited"] > 0
    missed = [value for (name, _), value in daemon.samples().items() if name == "killsnoop_probe_missed_total"]
    assert missed == [0] * len(PROGRAMS)


def test_the_ledger_closes_when_the_ring_buffer_is_full(start):
    """While the event thread is stopped, events that find the ring buffer full are counted; so are all calls."""
    daemon = start("--events.rate=0", "--probe.ring-size=64K")
    os.kill(daemon.pid, signal.SIGSTOP)
    run(lambda: kill_loop(10_000), b"ks-full")
    os.kill(daemon.pid, signal.SIGCONT)
    ledger = daemon.settled_ledger()
    assert daemon.signals("ks-full") == {("ks-full", "SIGTERM", "ESRCH"): 10_000}
    assert 25 < len(daemon.events("ks-full")) < 165  # half of 64 KiB, for records of 200 to 1,200 bytes
    assert len(daemon.events()) == ledger["logged"]
    assert ledger["ring_full"] >= 10_000 - 165
    assert sum(ledger.values()) == daemon.attempted()


def test_the_limit_is_per_uid(start):
    """A flood by one uid uses up only its own token bucket."""
    daemon = start("--events.rate=10", "--events.burst=100")
    run(lambda: kill_loop(50_000), b"ks-flood", uid=1001)
    run(lambda: kill_loop(100), b"ks-quiet", uid=1002)
    assert len(daemon.events("ks-quiet")) == 100
    assert 100 <= len(daemon.events("ks-flood")) < 200  # the burst, and ten per second while it lasted
    assert sum(daemon.signals("ks-flood", "ks-quiet").values()) == 50_100


def test_when_every_series_is_taken_the_rest_is_counted_as_other(start):
    """With more names than series, names that have one keep it, and the sum over comm stays exact."""
    daemon = start("--metrics.max-series=100")
    run(lambda: kill_loop(7), b"ks-early")

    def act():
        for number in range(2000):
            set_name(b"ks-%d" % number)
            send("kill", NO_SUCH_PID, 9 if number % 2 else 99)

    run(act)
    run(lambda: kill_loop(5), b"ks-early")
    found = daemon.signals()
    assert found["ks-early", "SIGTERM", "ESRCH"] == 12
    named = sum(calls for (comm, _, _), calls in found.items() if comm.startswith("ks-") and comm != "ks-early")
    others = {key[1:]: calls for key, calls in found.items() if key[0] == "(other)"}
    ours = ("SIGKILL", "ESRCH"), ("invalid", "ESRCH")
    assert 0 < named < 100
    assert named + sum(others[key] for key in ours) == 2000
    assert (
        daemon.value("killsnoop_series", family="signals")
        == daemon.value("killsnoop_series_limit", family="signals")
        == 100
    )
    assert daemon.value("killsnoop_series_overflow_total", family="signals") == sum(others.values())


def test_two_cores_that_bring_new_names_at_once(start):
    """Races for a slot lose no count: every core uses the same new names at the same time."""
    daemon = start("--events.target=none")
    names = [b"ks-%d" % number for number in range(3000)]

    def act():
        for name in names:
            set_name(name)
            send("kill", NO_SUCH_PID, 9)

    finished([forked(act) for _ in range(4)])
    found = daemon.signals(*(name.decode() for name in names))
    assert len(found) == 3000
    assert set(found.values()) == {4}


def test_hostile_names(daemon, promtool):
    """Every byte, and 2,000 random names: the page can be parsed, each name is a series, no count is lost."""
    seeded = random.Random(3)
    raws = {bytes([byte]) for byte in range(1, 256)}
    raws |= {seeded.randbytes(15).partition(b"\0")[0] or b"\1" for _ in range(2000)}
    raws |= {b"\xff", rb"\xff", b"", b"   ", b"(other)", b'a"} 1\n# HELP', b"x\\", b'"', "naïve".encode(), b"\xc3"}

    def act():
        for raw in raws:
            set_name(raw)
            send("kill", NO_SUCH_PID, 63)

    before = len(daemon.signals())
    run(act)
    promtool(daemon.get())
    found = {key: calls for key, calls in daemon.signals().items() if key[1] == "SIGRTMIN+29"}
    assert len(found) == len(raws) == sum(found.values())
    assert len(daemon.signals()) == before + len(raws)
    logged = [event for event in daemon.events() if event["KILLSNOOP_SIGNAL"] == "SIGRTMIN+29"]
    assert len({event.get("KILLSNOOP_COMM") for event in logged}) == len(raws)
    assert all(value.isprintable() for event in logged for value in event.values())


def test_a_hundred_thousand_random_names(start, promtool):
    """There are as many series as different names, even if only invalid bytes differ."""
    daemon = start("--metrics.max-series=120000", "--events.target=none")
    seeded = random.Random(4)
    raws = set()
    while len(raws) < 100_000:
        raws.add(seeded.randbytes(15).partition(b"\0")[0])

    def act():
        for raw in raws:
            set_name(raw)
            send("kill", NO_SUCH_PID, 63)

    run(act)
    page = daemon.get()
    promtool(page)
    read = [
        (sample.labels["comm"], sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "killsnoop_signals_total" and sample.labels["signal"] == "SIGRTMIN+29"
    ]
    assert len(read) == len(raws)
    assert dict(read) == {names.text(raw): 1 for raw in raws}


def test_a_thousand_threads_at_once(daemon):
    """There is no table of calls in flight that could overflow."""
    run(lambda: [finished([forked(lambda: kill_loop(20)) for _ in range(100)]) for _ in range(10)], b"ks-many")
    assert daemon.signals("ks-many") == {("ks-many", "SIGTERM", "ESRCH"): 20_000}


BPFTRACE = "".join(
    f"""
tracepoint:syscalls:sys_enter_{call} {{ @sig[tid] = args->sig; }}
tracepoint:syscalls:sys_exit_{call} {{ @[comm, @sig[tid], args->ret] = count(); delete(@sig[tid]); }}
"""
    for call in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
)


def test_an_independent_observer_counts_the_same(start):
    """bpftrace observes the same calls during a run of stress-ng: equal counts for every comm, signal and result."""
    daemon = start("--events.target=none", "--probe.self-signals")
    load = "stress-ng --kill 2 --kill-ops 20000 --sigq 1 --sigq-ops 5000 --timeout 20"
    with bpftrace(BPFTRACE) as counted:
        subprocess.run(load.split(), check=True, capture_output=True)
        theirs = counted()
    named = Counter()
    for key, calls in theirs.items():
        comm, sig, ret = key.rsplit(",", 2)
        if comm.startswith("stress-ng"):
            named[comm, names.signal_name(int(sig)), names.result_name(int(ret))] += calls
    ours = {key: calls for key, calls in daemon.signals().items() if key[0].startswith("stress-ng")}
    assert sum(named.values()) > 20_000
    assert ours == named
