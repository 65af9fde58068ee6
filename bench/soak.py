#!/usr/bin/env python3
"""Half an hour of mixed load on one daemon: does it grow, lag, or lose count?

    sudo bench/soak.py --minutes=30

Floods of failures, new names and bursts of deaths, with a scrape every second. Each minute it prints a line: resident
memory, open files, pending events, the slowest scrape. At the end it prints how far memory grew since the first tenth
of the time, and whether the ledger closes. Exit code 1 if it does not, or if memory grew by more than 1 MB.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from running import Daemon  # noqa: E402
from senders import NO_SUCH_PID, forked, run, send, set_name  # noqa: E402


def mixed(until: float) -> None:
    """Every kind of load for a while, then a pause, in a loop."""
    number = 0
    while time.monotonic() < until:
        for _ in range(50_000):
            send("kill", NO_SUCH_PID, signal.SIGTERM)
        for _ in range(2_000):
            number += 1
            set_name(b"soak-%d" % number)
            send("kill", NO_SUCH_PID, number % 80)
        for _ in range(20):
            victim = forked(lambda: time.sleep(60), b"soak-victim")
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
        time.sleep(1)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="how long (%(default)s)")
    seconds = parser.parse_args().minutes * 60
    os.environ["PYTHONPATH"] = str(HERE.parent)
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "daemon", ["--metrics.series-ttl=60"], target="stdout")
        daemon.wait_ready()
        began = time.monotonic()
        end = began + seconds
        sender = forked(lambda: mixed(end), b"soak-mixed")
        readings: list[tuple[float, int]] = []
        slowest_s, told = 0.0, began
        print(f"{'minute':>6} {'RSS kB':>8} {'files':>6} {'pending':>8} {'slowest scrape, ms':>19}")
        try:
            while time.monotonic() < end:
                asked = time.monotonic()
                ledger = daemon.ledger()
                slowest_s = max(slowest_s, time.monotonic() - asked)
                if time.monotonic() - told >= min(60.0, seconds / 10):
                    told = time.monotonic()
                    kb = int(daemon.status("VmRSS"))
                    readings.append((told - began, kb))
                    files = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
                    print(
                        f"{(told - began) / 60:6.1f} {kb:8} {files:6} {ledger['pending']:8} {slowest_s * 1000:19.0f}",
                        flush=True,
                    )
                    slowest_s = 0.0
                daemon.stdout.write_bytes(b"")  # discard the events
                time.sleep(1)
        finally:
            os.waitpid(sender, 0)
        run(lambda: send("kill", NO_SUCH_PID, 9), b"soak-last")
        ledger, attempted = daemon.settled_ledger(), daemon.attempted()
        closed = sum(ledger.values()) == attempted
        early = [kb for at, kb in readings if at <= seconds / 10] or [readings[0][1]]
        grown_kb = readings[-1][1] - early[-1]
        daemon.stop()
    print(f"memory grew by {grown_kb} kB after the tenth part of the time; ledger: {ledger}")
    print(f"{attempted} events should be in it: it {'closes' if closed else 'DOES NOT CLOSE'}")
    return 0 if closed and grown_kb < 1024 else 1


if __name__ == "__main__":
    sys.exit(main())
