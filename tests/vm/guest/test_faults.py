"""Faults that need a machine of their own: its clock is set, its memory is short."""

import os
import signal
import time
from datetime import datetime

from conftest import calls, journal, kill_as, main_pid, run, wait_for_another
from senders import NO_SUCH_PID, send
from waiting import wait_for


def test_the_clock_is_set():
    """A day ahead, two days back, and back again: counting continues, nothing restarts, events have the new time."""
    pid, off_s = main_pid(), 0
    for step_s in (86_400, -172_800, 86_400):
        off_s += step_s
        time.clock_settime(time.CLOCK_REALTIME, time.time() + step_s)
        comm = f"ks-clock{off_s}"
        kill_as(comm, lambda: send("kill", NO_SUCH_PID, 9))
        assert calls(comm) == 1
        (event,) = wait_for(lambda comm=comm: journal(f"KILLSNOOP_COMM={comm}"), "the event")
        assert event["KILLSNOOP_TIMESTAMP"][:10] == time.strftime("%Y-%m-%d", time.gmtime())
    assert off_s == 0
    assert main_pid() == pid


def test_the_machine_sleeps():
    """An event that waits during suspend is logged with the time at which it happened; counting continues."""
    pid = main_pid()
    os.kill(pid, signal.SIGSTOP)
    before_s = time.time()
    kill_as("ks-asleep", lambda: send("kill", NO_SUCH_PID, 9))
    monotonic_s, boot_s = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    run("rtcwake", "--mode=mem", "--seconds=20")
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - boot_s - (time.monotonic() - monotonic_s)
    os.kill(pid, signal.SIGCONT)
    assert slept_s > 5
    (event,) = wait_for(lambda: journal("KILLSNOOP_COMM=ks-asleep"), "the event")
    happened_s = datetime.fromisoformat(event["KILLSNOOP_TIMESTAMP"]).timestamp()
    assert before_s - 0.1 < happened_s < before_s + 5
    assert calls("ks-asleep") == 1
    assert main_pid() == pid


def test_no_memory_left():
    """The daemon is killed by its own memory limit: systemd restarts it, counting continues, its death is an event."""
    kill_as("ks-before", lambda: send("kill", NO_SUCH_PID, 9))
    pid = main_pid()
    run("systemctl", "set-property", "--runtime", "killsnoopd.service", "MemoryMax=4M", check=False)
    try:
        wait_for(lambda: main_pid() != pid, "the daemon to be killed")
    finally:
        run("systemctl", "revert", "killsnoopd.service")
    wait_for_another(pid)
    assert calls("ks-before") == 1
    wait_for(lambda: journal("KILLSNOOP_ORIGIN=oom", f"KILLSNOOP_TPID={pid}"), "the event of its own death")
