#!/usr/bin/env python3
"""Made-up names without end: is the page bounded, is memory flat, are sums exact, do known names keep counting?

    sudo bench/names.py --names=100000

Every victim has a name of its own, and so has its sender. The page is read all the while. Exit code 1 if a sum is
wrong, a table grows beyond its limit, a known name loses a death, or the second half of the names takes 1 MB more than
the first one. Needs a C compiler and pytest.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]
os.environ["PYTHONPATH"] = str(HERE.parent)

from running import Daemon  # noqa: E402
from senders import run  # noqa: E402
from test_victims import NAME  # noqa: E402
from victims import OURS, kill_one  # noqa: E402

SENDER, VICTIM = "ks-known", "kv-known"
MAX_DEATHS, MAX_SERIES = 2000, 10_000  # the defaults
MOST_GROWN_KB = 1024


def kill_known() -> None:
    """A death under names that were there first."""
    run(lambda: kill_one(VICTIM.encode()), SENDER.encode())


class Reading:
    """What a page says about the deaths and calls of our signal."""

    def __init__(self, daemon: Daemon) -> None:
        text = daemon.get("/metrics")
        self.bytes, self.kb = len(text), int(daemon.status("VmRSS"))
        self.series = sum(not line.startswith("#") for line in text.splitlines())
        self.deaths = self.calls = self.known = 0
        for (name, pairs), value in daemon.samples().items():
            labels = dict(pairs)
            if labels.get("signal") != NAME:
                continue
            if name in {"killsnoop_deaths_total", "killsnoop_deaths_aged_total"}:
                self.deaths += int(value)
            if name in {"killsnoop_signals_total", "killsnoop_signals_aged_total"}:
                self.calls += int(value)
            if name == "killsnoop_deaths_total" and labels["comm"] == SENDER and labels["tcomm"] == VICTIM:
                self.known = int(value)
        self.victims, self.senders = (
            int(daemon.value("killsnoop_series", family=family)) for family in ("deaths", "signals")
        )

    def __str__(self) -> str:
        return f"{self.deaths:7} {self.series:7} {self.bytes // 1000:6} {self.kb:7}"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--names", type=int, default=100_000, metavar="N", help="of victims, and of senders (%(default)s)"
    )
    names = parser.parse_args().names
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"python3 bench/names.py {' '.join(sys.argv[1:])}".rstrip(), end="\n\n")
    workers = os.cpu_count() or 1
    share = names // workers
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "names"
        subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / "names.c"], check=True)
        daemon = Daemon(Path(folder) / "daemon", target="stdout")
        daemon.wait_ready()
        kill_known()
        known, readings = 1, [Reading(daemon)]
        began = time.monotonic()
        running = [subprocess.Popen([program, str(worker * share), str(share), str(OURS)]) for worker in range(workers)]
        print(f"{'second':>7} {'deaths':>7} {'series':>7} {'kB':>6} {'RSS kB':>7}")
        while None in [process.poll() for process in running]:
            kill_known()
            known += 1
            readings.append(now := Reading(daemon))
            print(f"{time.monotonic() - began:7.1f} {now}", flush=True)
            daemon.stdout.write_bytes(b"")  # discard the events
            time.sleep(2)
        seconds = time.monotonic() - began
        kill_known()
        known += 1
        last = Reading(daemon)
        ledger, attempted = daemon.settled_ledger(), daemon.attempted()
        daemon.stop()
    expected = workers * share + known
    half = len(readings) // 2
    grown_kb = max(reading.kb for reading in readings[half:]) - max(reading.kb for reading in readings[:half])
    print(f"\n{workers * share} names of victims and as many of senders in {seconds:.0f} s")
    results = {
        f"deaths: {last.deaths} counted of {expected}": last.deaths == expected,
        f"calls: {last.calls} counted of {expected}": last.calls == expected,
        f"the known names: {last.known} counted of {known}": last.known == known,
        f"counters in use: {last.victims} of deaths, {last.senders} of calls": last.victims <= MAX_DEATHS
        and last.senders <= MAX_SERIES,
        f"events: the ledger has {sum(ledger.values())} of {attempted}": sum(ledger.values()) == attempted,
        f"VmRSS: at most {grown_kb} kB more in the second half than in the first": grown_kb < MOST_GROWN_KB,
    }
    for line, right in results.items():
        print(f"{line}{'' if right else ': WRONG'}")
    return 0 if all(results.values()) and all(process.returncode == 0 for process in running) else 1


if __name__ == "__main__":
    sys.exit(main())
