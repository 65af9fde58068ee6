#!/usr/bin/env python3
"""A flood on every core, and a name with control characters: what killsnoopd and its peers report meanwhile.

One tool at a time. While one uid sends itself signals in a tight loop on every core, another uid sends itself 300
signals, a hundred per second. The table shows how many of these the tool reports, at once or later; its cost; and
whether a process name gets into its output raw. Run it as root; peers that are not installed are left out.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from coverage import Tool, heard, running, tools  # noqa: E402
from senders import forked, run, send  # noqa: E402
from waiting import wait_for  # noqa: E402

ATTACKER, QUIET = 20_001, 20_002  # uids
COUNT, PACE_S = 300, 0.01
LATE_S = 20
BURST_S = 5.0  # then the burst that a uid may log at once is over
HOSTILE = b"ks-\x1b[31m\nroot"
TICKS = os.sysconf("SC_CLK_TCK")


def flood() -> None:
    """Until it is killed; a minute at most."""
    signal.alarm(60)
    while True:
        send("kill", os.getpid(), signal.SIGURG)


def numbered() -> None:
    """One signal every ten milliseconds."""
    for _ in range(COUNT):
        send("kill", os.getpid(), signal.SIGURG)
        time.sleep(PACE_S)


def cpu_s(without: list[int]) -> float:
    """CPU time of all threads of our children that still run, except some: that of the tool."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid() and int(stat.parent.name) not in without:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def told(tool: Tool) -> int:
    """The quiet uid's signals that the tool has reported."""
    return sum(b"ks-quiet" in line for line in tool.output.read_bytes().splitlines())


def attacked(tool: Tool, folder: Path) -> tuple[int, int, float, int, bool]:
    """Signals reported at once, and in total; the tool's CPU share; bytes written; whether the name got through raw."""
    with running(tool, folder):
        pids = [forked(flood, b"ks-flood", ATTACKER) for _ in os.sched_getaffinity(0)]
        try:
            time.sleep(BURST_S)
            before_s, began_s = cpu_s(pids), time.monotonic()
            run(numbered, b"ks-quiet", QUIET)
            share = (cpu_s(pids) - before_s) / (time.monotonic() - began_s)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        at_once = told(tool)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: told(tool) >= COUNT, "the rest", LATE_S)
        late = told(tool)
        size = tool.output.stat().st_size
        heard(tool, run(numbered_once, HOSTILE), LATE_S)  # a tool that the name confuses may never report that pid
        raw = HOSTILE[:8] in tool.output.read_bytes()[size:]
    return at_once, late, share, size, raw


def numbered_once() -> None:
    """One signal to ourselves."""
    send("kill", os.getpid(), signal.SIGURG)


def main() -> None:
    """Print the table."""
    print(f"of {COUNT} by another uid, logged as they end, and {LATE_S} s later")
    print(
        f"{'':14} {'at once':>8} {'later':>8} {'CPU, of one core':>18} {'output, kB':>12}   escape sequence in a name"
    )
    with tempfile.TemporaryDirectory() as folder:
        for found in tools():
            # killsnoopd as shipped, except that it logs SIGURG.
            tool = replace(found, command=[word for word in found.command if word != "--events.rate=0"])
            at_once, late, share, size, raw = attacked(tool, Path(folder))
            through = "gets through" if raw else "does not"
            print(f"{tool.name:14} {at_once:8} {late:8} {share:18.0%} {size / 1000:12.0f}   {through}")
            tool.output.unlink()


if __name__ == "__main__":
    main()
