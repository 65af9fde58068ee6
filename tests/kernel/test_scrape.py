"""A large page delays nobody; names are merged on it."""

import os
import signal
import socket
import statistics
import threading
import time
import urllib.parse

from running import load
from senders import run, set_name, victim
from waiting import wait_for

NAMES = 10_000


def send(pid):
    """A signal from each of many names."""
    for number in range(NAMES):
        set_name(b"ks-many-%d" % number)
        os.kill(pid, signal.SIGUSR1)


def taken_s(action):
    before = time.monotonic()
    action()
    return time.monotonic() - before


def test_a_large_page_holds_up_neither_requests_nor_events(start):
    """While two clients scrape ten thousand series in a loop, others wait for a fraction of a scrape's duration."""
    with victim() as pid:
        daemon = start("--events.exclude=signal=SIGUSR1")
        run(lambda: send(pid))
        scrapes, stop = [], threading.Event()

        def scrape():
            while not stop.is_set():
                scrapes.append(taken_s(daemon.get))

        scrapers = [threading.Thread(target=scrape) for _ in range(2)]
        for scraper in scrapers:
            scraper.start()
        try:
            wait_for(lambda: len(scrapes) >= 2, "the first scrapes")
            healthy = [taken_s(lambda: daemon.get("/-/healthy")) for _ in range(30)]
            events = []
            said = ""
            with daemon.stdout.open() as lines:
                lines.seek(0, os.SEEK_END)

                def told(name):
                    nonlocal said
                    said += lines.read()  # the last line may be incomplete
                    return f'"{name}"' in said

                for number in range(30):  # each from a name of its own, so that its line is known
                    name = f"ks-one-{number}"
                    run(lambda: os.kill(pid, signal.SIGUSR2), name.encode())
                    events.append(taken_s(lambda n=name: wait_for(lambda: told(n), f"the event of {n}")))
        finally:
            stop.set()
            for scraper in scrapers:
                scraper.join()
        assert len(scrapes) > 4
        with socket.create_connection(urllib.parse.urlsplit(daemon.url).netloc.split(":")) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert daemon.stop() == 0  # whether or not the page was being built
        assert statistics.median(healthy) < statistics.median(scrapes) / 4
        assert statistics.median(events) < statistics.median(scrapes) / 4


def test_folded_names(start, pins):
    """One probe and two daemons that merge its names differently: each shows the whole sum."""
    load(pins)

    def calls():
        for number in range(20):
            set_name(b"ks-worker/%d" % number)
            os.kill(os.getpid(), 0)

    daemon = start(f"--probe.pin={pins}", "--metrics.fold=ks-worker/1*", "--metrics.fold=numbers")
    run(calls)
    assert daemon.signals("ks-worker/1*", "ks-worker/#", "ks-worker/1", "ks-worker/2") == {
        ("ks-worker/1*", "0", "success"): 11,
        ("ks-worker/#", "0", "success"): 9,
    }
    assert daemon.stop() == 0
    daemon = start(f"--probe.pin={pins}", "--metrics.fold=ks-worker/*")
    run(calls)
    assert daemon.signals("ks-worker/*", "ks-worker/#") == {("ks-worker/*", "0", "success"): 40}
