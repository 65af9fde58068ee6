"""A sender numbers its signals while systemd and apt do everything to the daemon that they can."""

import ctypes
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import active, calls, drop_in, journal, ledger, main_pid, run, scrape, show, wait_for_another
from senders import NO_SUCH_PID, forked
from waiting import DEADLINE_S, wait_for

AT_LEAST = 20_000
PACE_S = 0.001  # between two signals
RATE = 5  # events logged per second: an emulated CPU takes 10 ms for one, and the daemon may use only a part of it
pytestmark = pytest.mark.flags(f"--events.rate={RATE} --events.burst={RATE}")
STOP = Path("/run/ks-stop")
PACKAGES = Path("/input/packages")


@pytest.fixture(scope="module", autouse=True)
def quick_watchdog():
    """For the daemon that these flags are for."""
    with drop_in("[Service]\nWatchdogSec=8\n"):
        yield


def numbered(told):
    """One signal after another, each to another pid that does not exist, until STOP exists."""
    number, kill = 0, ctypes.CDLL(None).kill  # half the cost of `send`
    while number < AT_LEAST or (number % 100 or not STOP.exists()):
        kill(NO_SUCH_PID - number, 9)
        number += 1
        time.sleep(PACE_S)
    told.write_text(str(number))


@contextmanager
def scraper():
    """Scrapes in a loop; counts the results."""
    results, stop = Counter(), threading.Event()

    def scrape_on():
        while not stop.wait(3):  # building a page takes an emulated CPU a quarter of a second
            try:
                with urllib.request.urlopen("http://127.0.0.1:10035/metrics", timeout=DEADLINE_S) as response:
                    response.read()
                results["answered"] += 1
            except OSError as error:
                reason = getattr(error, "reason", error)
                results["refused" if isinstance(reason, ConnectionRefusedError) else type(reason).__name__] += 1

    thread = threading.Thread(target=scrape_on)
    thread.start()
    try:
        yield results
    finally:
        stop.set()
        thread.join()


def disturb(name):
    """Run it, and wait until another daemon is READY; the seconds that this took."""
    began_s, gone = time.monotonic(), [] if name == "daemon-reexec" else [main_pid()]
    DISTURBANCES[name]()
    wait_for_another(*gone)
    return round(time.monotonic() - began_s)


def signalled(number):
    return lambda: os.kill(main_pid(), number)


def install(version):
    (package,) = PACKAGES.glob(f"killsnoopd_*+{version}_all.deb")
    return lambda: run("dpkg", "--install", str(package))  # test_installation has apt


def twenty_restarts():
    """Within five seconds."""
    for _ in range(20):
        run("systemctl", "--no-block", "restart", "killsnoopd")
        time.sleep(0.2)


DISTURBANCES = {
    "systemctl restart": lambda: run("systemctl", "restart", "killsnoopd"),
    "SIGKILL": signalled(signal.SIGKILL),
    "SIGSEGV": signalled(signal.SIGSEGV),
    "watchdog": signalled(signal.SIGSTOP),
    "daemon-reexec": lambda: run("systemctl", "daemon-reexec"),
    "twenty restarts": twenty_restarts,
    "upgrade, same probe": install("same"),
    "upgrade, another probe": install("tother"),
}


def test_every_number_is_counted_and_logged_once(tmp_path, record_property):
    """Restarts, crashes, a hang, upgrades: no signal is missed, none is logged twice, no scrape is refused."""
    told, lasted_s = tmp_path / "told", {}
    assert show("killsnoopd.service", "WatchdogUSec") == "8s"
    with scraper() as scrapes:
        before = ledger()
        since = f"--after-cursor={journal('-n1')[0]['__CURSOR']}"
        sender = forked(lambda: numbered(told), b"ks-numbered")
        try:
            for name in DISTURBANCES:
                lasted_s[name] = disturb(name)
        finally:
            STOP.touch()
            os.waitpid(sender, 0)
        sent = int(told.read_text())
        assert calls("ks-numbered") == sent

        def told_since():
            """The ledger and the journal's events, if nothing else was logged meanwhile."""
            now = ledger()
            run("journalctl", "--sync")
            events = journal(since, "-u", "killsnoopd", "--output-fields=KILLSNOOP_COMM,KILLSNOOP_TPID")
            return now == ledger() and (now, [event for event in events if "KILLSNOOP_TPID" in event])

        after, events = wait_for(told_since, "a quiet moment")
    assert sent >= AT_LEAST
    became = {status: events - before[status] for status, events in after.items()}
    assert became["ring_full"] == became["journal_error"] == became["decode_error"] == 0
    assert became["logged"] + became["rate_limited"] >= sent
    times_told = Counter(event["KILLSNOOP_TPID"] for event in events if event["KILLSNOOP_COMM"] == "ks-numbered")
    assert set(times_told.values()) == {1}
    assert set(times_told) <= {str(NO_SUCH_PID - number) for number in range(sent)}
    assert len(events) - became["logged"] == 0  # not the list itself, which pytest would print
    assert scrapes["refused"] == 0
    record_property("signals", sent)
    record_property("told", len(times_told))
    record_property("s_of_each_disturbance", lasted_s)
    record_property("scrapes", dict(scrapes))


def test_no_start_limit():
    """systemd restarts it any number of times."""
    assert show("killsnoopd.service", "StartLimitIntervalUSec") == "0"
    assert active()
    assert scrape()
