#!/usr/bin/env python3
"""How the page grows with the number of senders: series and bytes of a scrape of a real daemon.

Run as root: sudo /usr/bin/python3 bench/page.py. One process takes name after name, and from each sends one SIGTERM to
a process that blocks it. Signals of other processes are on the page, too: compare rows.
"""

import gzip
import os
import platform
import signal
import sys
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from running import Daemon  # noqa: E402
from senders import run, set_name, victim  # noqa: E402

SENDERS = (0, 1, 10, 100, 1000, 9900)  # the limit is 10,000 series, and the machine itself needs some


def send(pid: int, first: int, last: int) -> None:
    """One SIGTERM from each name."""
    for number in range(first, last):
        set_name(b"sender%09d" % number)  # 15 bytes, the longest that a name can be
        os.kill(pid, signal.SIGTERM)


def main() -> None:
    """Entry point."""
    print(f"Linux {platform.release()}, {platform.machine()}")
    print(f"{'senders':>8} {'series':>8} {'killsnoop_signals_total':>24} {'bytes':>9} {'gzipped':>9}")
    with tempfile.TemporaryDirectory() as folder, victim() as pid:
        daemon = Daemon(Path(folder) / "daemon", ["--events.exclude=signal=all"])
        try:
            daemon.wait_ready()
            for before, senders in zip((0, *SENDERS), SENDERS, strict=False):
                run(lambda first=before, last=senders: send(pid, first, last))
                page = daemon.get().encode()
                series = [line for line in page.splitlines() if line and not line.startswith(b"#")]
                signals = sum(line.startswith(b"killsnoop_signals_total") for line in series)
                request = urllib.request.Request(daemon.url + "/metrics", headers={"Accept-Encoding": "gzip"})
                with urllib.request.urlopen(request) as response:
                    zipped = response.read()
                assert len(gzip.decompress(zipped).splitlines()) >= len(page.splitlines())
                print(f"{senders:8} {len(series):8} {signals:24} {len(page):9} {len(zipped):9}")
        finally:
            daemon.stop()


if __name__ == "__main__":
    main()
