#!/usr/bin/env python3
"""What a scrape costs the daemon, compared with node_exporter, and how long it delays requests and events.

Run as root: sudo /usr/bin/python3 bench/scrape.py. Exit code: 0 if the targets are reached, 1 if not. With another
version's files, and a Python that has its libraries, that version is measured, too:

    git worktree add /var/tmp/before f2da2ee
    sudo /usr/bin/python3 bench/scrape.py --before=/var/tmp/before --python-before=PYTHON
"""

import argparse
import contextlib
import ctypes
import gzip
import http.client
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from running import Daemon  # noqa: E402
from senders import forked, run, set_name, victim  # noqa: E402
from waiting import wait_for  # noqa: E402

SERIES = (10, 1000, 10_000)
MOST_MS_A_HUNDRED, MOST_DELAY_MS = 2.0, 200.0  # the targets
ROUNDS = 5  # scrapes of each page, in turns
SCRAPERS = 2  # clients that scrape the large page in a loop
# As Prometheus 2.42 asks.
PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}


class Client:
    """One persistent connection, as Prometheus has."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)

    def get(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        """The body as sent."""
        self._connection.request("GET", path, headers=headers or {})
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (path, response.status)
        return body


def cpu_s(pid: int) -> float:
    """CPU time of a process and of all threads that it has ever had (clock_getcpuclockid(3))."""
    clock = ctypes.c_int()
    assert ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) == 0
    return time.clock_gettime(clock.value)


@dataclass
class Page:
    """A page, and its measurements."""

    title: str
    pid: int
    client: Client
    lines: int = 0  # series
    size: int = 0  # bytes
    zipped: int = 0
    cpu_ms: list[float] = field(default_factory=list)  # ms of CPU per scrape, in each round

    def look(self) -> None:
        """Series and bytes."""
        self.zipped = len(body := self.client.get("/metrics", PROMETHEUS))
        text = gzip.decompress(body)
        self.size, self.lines = len(text), sum(not line.startswith(b"#") for line in text.splitlines())

    def scrape(self, seconds: float) -> None:
        """A round of scrapes, one after the other."""
        before, scrapes, end = cpu_s(self.pid), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            self.client.get("/metrics", PROMETHEUS)
            scrapes += 1
        self.cpu_ms.append((cpu_s(self.pid) - before) * 1000 / scrapes)

    @property
    def ms_a_hundred(self) -> float:
        """CPU of the cheapest round (other load only adds), per hundred series."""
        return min(self.cpu_ms) * 100 / self.lines


def send(pid: int, names: int) -> None:
    """One SIGTERM from each name."""
    for number in range(names):
        set_name(b"sender%09d" % number)  # 15 bytes, the longest that a name can be
        os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def node_exporter() -> Iterator[Page]:
    """A running node_exporter, with its default collectors."""
    program = subprocess.run([HERE.parent / "scripts/node-exporter"], check=True, capture_output=True, text=True).stdout
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = subprocess.Popen(
        [program.strip(), f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return bool(Client(f"http://127.0.0.1:{port}").get("/metrics"))
        return False

    try:
        wait_for(answers, "node_exporter")
        yield Page("node_exporter", process.pid, Client(f"http://127.0.0.1:{port}"))
    finally:
        process.terminate()
        process.wait()


def measure_cost(folder: Path, victim_pid: int, seconds: float, before: tuple[Path, str] | None) -> list[Page]:
    """Scrape every page in turns, in one run. `before`: the files of another version, and the Python that runs it."""
    ours = ("killsnoopd", HERE.parent, sys.executable)
    versions = [ours, ("before", *before)] if before else [ours]
    with contextlib.ExitStack() as stack:
        pages = []
        for series in SERIES:
            for title, top, python in versions:
                prefix = ("env", "-C", str(top))  # python -m looks there first
                flags = [f"--metrics.max-series={series}"]
                daemon = Daemon(folder / f"{title}-{series}", flags, target="none", prefix=prefix, python=python)
                stack.callback(daemon.stop)
                daemon.wait_ready()
                pages.append(Page(f"{title}, {series} series", daemon.pid, Client(daemon.url)))
        run(lambda: send(victim_pid, max(SERIES)))
        pages.append(stack.enter_context(node_exporter()))
        for page in pages:
            page.look()
        for _ in range(ROUNDS):
            for page in pages:
                page.scrape(seconds)
    return pages


def delays(url: str, path: str, headers: dict[str, str], pause_s: float, end: float) -> list[float]:
    """The duration of each of many requests, in ms."""
    client, found = Client(url), []
    while time.monotonic() < end:
        began = time.monotonic()
        client.get(path, headers)
        found.append((time.monotonic() - began) * 1000)
        time.sleep(pause_s)
    return found


def in_a_child(measure: Callable[[], list[float]]) -> Callable[[], list[float]]:
    """Start a measurement in a process of its own; returns a function that waits for the result."""
    reader, writer = os.pipe()
    pid = forked(lambda: os.write(writer, json.dumps(measure()).encode()))
    os.close(writer)

    def figures() -> list[float]:
        with open(reader, "rb") as pipe:  # noqa: PTH123 # a pipe
            text = pipe.read()
        assert os.waitpid(pid, 0)[1] == 0
        return list(json.loads(text))

    return figures


def event_delays(lines: Path, victim_pid: int, rate: int, end: float) -> list[float]:
    """From kill() to the line on standard output, in ms, for this many events per second from a name of their own."""
    pid = os.getpid()
    set_name(b"bench-events")
    sent: list[float] = []
    found: list[float] = []
    with lines.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        rest = b""
        begun = time.monotonic()
        while len(found) < len(sent) or time.monotonic() < end:
            now = time.monotonic()
            if now < end and len(sent) < (now - begun) * rate:
                sent.append(now)
                os.kill(victim_pid, signal.SIGUSR1)
            assert now < end + 60, f"{len(sent) - len(found)} events are not there after a minute"
            *whole, rest = (rest + stream.read()).split(b"\n")
            now = time.monotonic()
            for line in whole:
                event = json.loads(line)
                if event.get("KILLSNOOP_PID") == str(pid) and event["KILLSNOOP_SIGNAL"] == "SIGUSR1":
                    found.append((now - sent[len(found)]) * 1000)
            time.sleep(0.0005)
    return found


WAITS = ("/-/healthy", "/metrics as text", "an event, 20 a second", "an event, 400 a second")


def measure_delays(folder: Path, victim_pid: int, scrapers: int, seconds: float) -> dict[str, list[float]]:
    """The delay of requests and events while the page of 10,000 series is scraped in a loop."""
    daemon = Daemon(folder / f"scraped-{scrapers}", ["--events.exclude=signal=SIGTERM"])
    try:
        daemon.wait_ready()
        run(lambda: send(victim_pid, max(SERIES)))
        result = {}
        for what in WAITS:
            end = time.monotonic() + seconds
            url = daemon.url
            scrapes = [
                in_a_child(lambda u=url, e=end: delays(u, "/metrics", PROMETHEUS, 0, e)) for _ in range(scrapers)
            ]
            if what.startswith("/"):
                path = what.split()[0]
                figures = in_a_child(lambda u=url, p=path, e=end: delays(u, p, {}, 0.02, e))
            else:
                rate = int(what.split()[2])
                figures = in_a_child(lambda r=rate, e=end: event_delays(daemon.stdout, victim_pid, r, e))
            result[what] = figures()
            taken = list(itertools.chain.from_iterable(each() for each in scrapes))
            if taken:
                result.setdefault("(the scrapes themselves)", []).extend(taken)
        return result
    finally:
        daemon.stop()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (default %(default)s)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="the files of another version")
    parser.add_argument("--python-before", default=sys.executable, metavar="PYTHON", help="what runs it")
    options = parser.parse_args()
    before = (options.before.resolve(), options.python_before) if options.before else None
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"python3 bench/scrape.py {' '.join(sys.argv[1:])}".rstrip(), end="\n\n")
    with tempfile.TemporaryDirectory() as name, victim() as pid:
        folder = Path(name)
        pages = measure_cost(folder, pid, options.seconds / ROUNDS, before)
        quiet = measure_delays(folder, pid, 0, options.seconds)
        scraped = measure_delays(folder, pid, SCRAPERS, options.seconds)

    node = pages[-1]
    print(f"{'':26} {'series':>7} {'bytes':>8} {'gzipped':>8} {'CPU ms':>7} {'a hundred':>10} {'x node':>7}")
    for page in pages:
        print(
            f"{page.title:26} {page.lines:7} {page.size:8} {page.zipped:8} {min(page.cpu_ms):7.2f} "
            f"{page.ms_a_hundred:10.3f} {page.ms_a_hundred / node.ms_a_hundred:7.2f}"
        )
    print(f"\n{'ms':26} {'not scraped':>24}   {f'{SCRAPERS} scrapers, 10,000 series':>26}")
    print(f"{'':26} {'median':>16} {'longest':>7}   {'median':>18} {'longest':>7}")
    for what in ("(the scrapes themselves)", *WAITS):
        cells = [
            f"{statistics.median(row[what]):.1f} {max(row[what]):7.1f}" if what in row else "-       -"
            for row in (quiet, scraped)
        ]
        print(f"{what:26} {cells[0]:>24}   {cells[1]:>26}")
    cost = max(page.ms_a_hundred for page in pages if page.lines > 100 and page.title.startswith("killsnoopd"))
    delay = max(max(scraped[what]) for what in WAITS)
    print()
    reached = []
    for title, value, most in (
        ("CPU ms for a hundred series", cost, MOST_MS_A_HUNDRED),
        ("longest wait, ms", delay, MOST_DELAY_MS),
    ):
        reached.append(value < most)
        print(f"{title}: {value:.2f} (to reach: < {most:g}): {'reached' if reached[-1] else 'not reached'}")
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
