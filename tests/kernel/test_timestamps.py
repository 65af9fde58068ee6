"""When each series last counted: soon after, and right whatever restarts."""

import time

from running import load
from senders import NO_SUCH_PID, run, send

LAG_S = 10  # what docs/metrics.md promises
LOOP_S = 12


def last(daemon, comm):
    """{signal: Unix time} of a sender's failed calls."""
    return {
        dict(labels)["signal"]: value
        for (name, labels), value in daemon.samples().items()
        if name == "killsnoop_signals_last_timestamp_seconds" and dict(labels)["comm"] == comm
    }


def call(comm, number=9):
    run(lambda: send("kill", NO_SUCH_PID, number), comm)


def test_while_a_cpu_counts_from_its_cache(start):
    """A loop looks its slot up once in a while; its time is late by less than is promised, and never ahead."""
    daemon = start("--events.target=none")

    def loop():
        end_s = time.monotonic() + LOOP_S
        while time.monotonic() < end_s:
            send("kill", NO_SUCH_PID, 9)

    began_s = time.time()
    call(b"ks-once")
    run(loop, b"ks-loop")
    asked_s = time.time()
    assert began_s - 1 <= last(daemon, "ks-once")["SIGKILL"] <= began_s + 1
    assert asked_s - LAG_S <= last(daemon, "ks-loop")["SIGKILL"] <= asked_s


def test_restarts_and_takeovers_keep_it(start, pins):
    """The next daemon shows the same time, and so does another version of the probe."""
    load(pins)
    first = start(f"--probe.pin={pins}")
    call(b"ks-kept")
    found = last(first, "ks-kept")
    assert set(found) == {"SIGKILL"}
    first.stop()
    second = start(f"--probe.pin={pins}")
    assert abs(last(second, "ks-kept")["SIGKILL"] - found["SIGKILL"]) <= 1
    second.stop()
    load(pins, "--events.rate=7")
    time.sleep(2.1)  # so that a time of its own would differ
    third = start("--events.rate=7", f"--probe.pin={pins}")
    call(b"ks-kept", 15)
    later = last(third, "ks-kept")
    assert abs(later["SIGKILL"] - found["SIGKILL"]) <= 1
    assert later["SIGTERM"] >= found["SIGKILL"] + 2


def test_without_a_counter_of_its_own(start):
    """A call that finds every counter taken moves the time of (other)."""
    daemon = start("--metrics.max-series=1", "--events.target=none")
    call(b"ks-first")
    began_s = time.time()
    call(b"ks-second", 50)
    assert began_s - 1 <= last(daemon, "(other)")["SIGRTMIN+16"] <= time.time()


def test_left_out(start):
    """The counters stay."""
    daemon = start("--no-metrics.timestamps", "--events.target=none")
    call(b"ks-left")
    assert daemon.signals("ks-left") == {("ks-left", "SIGKILL", "ESRCH"): 1}
    assert "_last_timestamp_seconds{" not in daemon.get()
