#!/usr/bin/env python3
"""What killsnoopd and killsnoop.bt miss in a storm: four processes in a loop of failing kill() calls, on one CPU.

By turns. Run it as root; needs pytest and bpftrace. `make bench-vm VM="--storm"` runs it on the kernels of tests/vm.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]
os.environ["PYTHONPATH"] = str(HERE.parent)
os.environ.setdefault("DEADLINE_S", "120")

from running import Daemon  # noqa: E402
from senders import NO_SUCH_PID, run, send  # noqa: E402
from test_storm import CALLS, FAILING, missed, storm  # noqa: E402
from waiting import wait_for  # noqa: E402

NAMES = [f"ks-storm-{number}" for number in range(4)]
QUIET_S = 5  # output that has not grown for this long is complete


def run_storm() -> None:
    """CALLS by each process."""
    storm(*((name.encode(), FAILING["kill"][0], CALLS) for name in NAMES))


def of_killsnoopd(folder: Path) -> str:
    """What its counters say."""
    daemon = Daemon(folder / "daemon", ("--probe.syscalls=kill",))
    daemon.wait_ready()
    try:
        run_storm()
        counted = sum(daemon.signals(*NAMES).values())
        return f"{counted} counted; {4 * CALLS - counted} missed, of which it reports {missed(daemon)['sys_exit']:.0f}"
    finally:
        daemon.stop()


def of_killsnoop_bt(folder: Path) -> str:
    """What it printed, what it says that it lost, and runs that the kernel skipped."""
    output = folder / "killsnoop.bt"
    with output.open("wb") as file:
        process = subprocess.Popen(["killsnoop.bt"], stdout=file, stderr=subprocess.STDOUT)
    try:

        def knock() -> bool:
            run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-knock")
            time.sleep(0.5)
            return b"ks-knock" in output.read_bytes()

        wait_for(knock, "killsnoop.bt to print a line")
        run_storm()
        size = -1
        while output.stat().st_size != size:
            size = output.stat().st_size
            time.sleep(QUIET_S)
        programs = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
        skipped = sum(program.get("recursion_misses", 0) for program in programs if program["type"] == "tracepoint")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    text = output.read_text(errors="replace")
    printed = len(re.findall(r" ks-storm-\d ", text))
    lost = sum(map(int, re.findall(r"Lost (\d+) events", text)))
    return (
        f"{printed} printed; {4 * CALLS - printed} missed, of which it reports {lost} events as lost; "
        f"the kernel skipped its programs {skipped} times"
    )


def main() -> int:
    """Entry point."""
    print(
        f"Linux {platform.release()}, {platform.machine()}: {4 * CALLS} calls by four processes on one CPU", flush=True
    )
    for tool, watch in (("killsnoopd", of_killsnoopd), ("killsnoop.bt", of_killsnoop_bt)) * 2:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{tool:14}{watch(Path(folder))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
