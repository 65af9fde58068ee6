#!/usr/bin/env python3
"""What attacks on the port do to a well-behaved scraper and to the daemon's memory; compared with node_exporter.

Run as root: sudo /usr/bin/python3 bench/attack_http.py [$(scripts/node-exporter)]. Each attack gets a new server, on
loopback. It is scraped as Prometheus does, but one scrape after another, each on its own connection. For two seconds
from the start of the attack, a row has: accepted connections of the attack, scrapes answered with 200 within
a second, the slowest scrape, and the memory (VmRSS) before and at its peak.
"""

import contextlib
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from attacks import ATTACKS, SCRAPE, Attack, Scraper, ask, launch, read_all, room_for  # noqa: E402
from running import Daemon  # noqa: E402
from waiting import wait_for  # noqa: E402

SECONDS = 2.0
FEW_FILES = ("prlimit", "--nofile=64:64")
CASES = [(name, what, ()) for name, what in ATTACKS.items()] + [
    ("2,000 silent, ulimit -n 64", Attack(2000, b""), FEW_FILES)
]


def rss_mb(pid: int) -> float:
    """Resident memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1000


@contextlib.contextmanager
def killsnoopd(prefix: tuple[str, ...]):
    """(pid, port) of a killsnoopd."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "daemon", prefix=prefix)
        try:
            daemon.wait_ready()
            yield daemon.pid, int(daemon.url.rpartition(":")[2])
        finally:
            daemon.stop()


def node_exporter(program: str):
    """(pid, port) of node_exporter."""

    @contextlib.contextmanager
    def run(prefix: tuple[str, ...]):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [*prefix, program, f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: ask(port, SCRAPE)[0] == 200, "node_exporter to answer")
            yield process.pid, port
        finally:
            process.kill()
            process.wait()

    return run


def attacked(server, what: Attack, prefix: tuple[str, ...]) -> str:
    """A row of the table."""
    with server(prefix) as (pid, port):
        for _ in range(5):
            ask(port, SCRAPE)
        before = most = rss_mb(pid)
        with Scraper(port) as scraper:
            end = time.monotonic() + SECONDS
            opened = launch(port, what)
            taken = sum(client.fileno() >= 0 and connected(client) for client in opened)
            if what.reads:
                read_all(opened, 10)
            while time.monotonic() < end:
                most = max(most, rss_mb(pid))
                time.sleep(0.02)
        for client in opened:
            client.close()
    good = sum(status == 200 and seconds < 1 for status, seconds in scraper.scrapes)
    answered = f"{good} of {len(scraper.scrapes)}"
    return f"{taken:11} {answered:>12} {scraper.slowest_s() * 1000:9.0f} {before:8.0f} {most:8.0f}"


def connected(client: socket.socket) -> bool:
    """Whether connect(2) has succeeded, even if the peer has closed the connection since."""
    return client.getsockname()[1] != 0 and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) not in (111, 115)


def main() -> None:
    """Entry point."""
    if not room_for(5000):
        sys.exit("needs 5,100 open files (ulimit -Hn)")
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    servers = {"killsnoopd": killsnoopd}
    if len(sys.argv) > 1:
        servers["node_exporter"] = node_exporter(sys.argv[1])
    print(f"{'attack':28} {'connections':>11} {'within 1 s':>12} {'slowest':>9} {'MB':>8} {'most':>8}")
    for name, what, prefix in CASES:
        print(f"{name} ({what.connections:,})" if "," not in name else name)
        for server, start in servers.items():
            print(f"  {server:26} {attacked(start, what, prefix)}", flush=True)


if __name__ == "__main__":
    main()
