"""The daemon at rest: no capability, little memory, no work, nothing left of the loader."""

import ctypes
import os
import re
from pathlib import Path

import pytest
from senders import NO_SUCH_PID, run, send
from waiting import wait_for

from killsnoopd.probe import hooks, start, ways
from killsnoopd.probe.hooks import PROGRAMS
from killsnoopd.probe.program import DAEMON_MAPS, JUMPS, Layout
from killsnoopd.settings import Settings


def test_no_capability_is_left(start):
    """Every set is empty in every thread, execve can gain none, and the loader is gone."""
    daemon = start()
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        status = (task / "status").read_text()
        assert set(re.findall(r"^Cap\w+:\s*(\w+)$", status, re.M)) == {"0" * 16}
        assert "NoNewPrivs:\t1" in status
    assert Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text() == ""
    assert daemon.status("Name") == "killsnoopd"


RESIDENT_MB = 35


def test_at_rest(start, record_property):
    """Little resident memory, three threads (one builds pages), bcc never mapped, and no unexplained fd."""
    daemon = start("--events.exclude=signal=all")  # other processes' signals make no events
    daemon.get()
    resident_mb = int(daemon.status("VmRSS")) / 1024
    record_property("mb_resident", round(resident_mb, 1))
    assert resident_mb <= RESIDENT_MB
    assert int(daemon.status("Threads")) == 3
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "libbpf.so" in maps
    assert not re.search("libbcc|LLVM|clang", maps)

    kinds = {}
    for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
        kind = re.sub(r"\[\d+\]$", "", str(fd.readlink()))
        kinds[kind] = kinds.get(kind, 0) + 1
    points = attached_points()
    assert kinds["anon_inode:bpf_link"] == len(points)
    assert kinds["anon_inode:bpf-prog"] == len({point.entry for point in points})
    assert kinds["anon_inode:bpf-map"] == len(DAEMON_MAPS) + len(JUMPS) + 9  # Python keeps an fd of what it maps
    assert not any("perf_event" in kind for kind in kinds)


def test_no_work_at_rest(start):
    """From one status line to the next, ten seconds later, one thread wakes up once, to write that line."""
    daemon = start("--events.exclude=signal=all")  # other processes' signals make no events
    daemon.get()
    daemon.wait_status()  # the connection above has ended by then
    before = wake_ups(daemon)
    daemon.wait_status()
    after = wake_ups(daemon)
    assert {thread: count - before[thread] for thread, count in after.items()} == {
        thread: 1 if thread == daemon.pid else 0 for thread in before
    }


def wake_ups(daemon):
    """{thread: number of times that it slept}, read while all sleep. Source: proc_pid_status(5).

    Giving up the CPU to another process is not sleeping, so a slow machine has the same numbers.
    """

    def read():
        tasks = {int(task.name): (task / "status").read_text() for task in Path(f"/proc/{daemon.pid}/task").iterdir()}
        return all("State:\tS" in status for status in tasks.values()) and tasks

    tasks = wait_for(read, "all threads to sleep")
    return {
        thread: int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.M)[1])
        for thread, status in tasks.items()
    }


def test_counters_cannot_be_written():
    """The maps of counts are frozen: not even root can change them through the daemon's fds; only its ledger can be."""
    layout = Layout.of(Settings())
    opened = start.load([], layout, "/usr/bin/python3")
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        key, value = ctypes.c_uint32(0), ctypes.create_string_buffer(24)
        for name, error in [
            ("counts", -1),
            ("series", -1),
            ("victims", -1),
            ("last_used", -1),
            ("slot_state", -1),
            ("ledger", 0),
        ]:
            fd = opened._objects.maps[name]
            assert lib.bpf_map_update_elem(fd, ctypes.byref(key), value, ctypes.c_uint64(0)) == error, name
        with pytest.raises(PermissionError):
            opened._map("counts", 4096, protection=3)
    finally:
        opened.close()


def test_nobody_can_read_the_probe():
    """With the fds, a process with uid nobody and no capability can read counts and events."""
    layout = Layout.of(Settings())
    opened = start.load([], layout, "/usr/bin/python3")

    def act():
        before = opened.counts().calls(b"ks-nobody", 15, -3)
        send("kill", NO_SUCH_PID, 15)
        assert opened.counts().calls(b"ks-nobody", 15, -3) == before + 1
        taken = []
        opened.consume(lambda position, record: taken.append(record) or True)
        assert b"ks-nobody" in taken[-1]
        assert opened.attached("kill")
        assert opened.program("sys_exit").misses == 0

    try:
        run(act, b"ks-nobody", uid=65534)
    finally:
        opened.close()


def test_run_statistics_are_there_when_the_kernel_keeps_them(start):
    """kernel.bpf_stats_enabled brings the probe's run time and runs onto the page."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    daemon = start()
    assert not any(name.startswith("killsnoop_probe_run") for name, _ in daemon.samples())
    before = switch.read_text()
    switch.write_text("1")
    try:
        for _ in range(50):
            os.kill(os.getpid(), 0)
        assert daemon.value("killsnoop_probe_runs_total", program="sys_exit") >= 50
        assert daemon.value("killsnoop_probe_run_seconds_total", program="sys_exit") > 0
    finally:
        switch.write_text(before)


def test_stopping_detaches(start):
    """After the daemon has ended, none of its programs is left in the kernel."""
    before = our_programs()
    daemon = start()
    assert len(our_programs() - before) == programs_of_a_probe()
    assert daemon.stop() == 0
    wait_for(lambda: our_programs() <= before, "the programs to go")


def attached_points():
    """Where a probe is attached on this kernel."""
    return hooks.points(Settings(), ways.choose(Settings()))


def programs_of_a_probe():
    """How many programs it has: entries, and those that do the work."""
    points = attached_points()
    return len({point.entry for point in points}) + len({point.hook.program for point in points})


def our_programs():
    """Ids of the kernel's programs that have names of ours; source: BPF_PROG_GET_NEXT_ID."""
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    names = {name[:15] for program in PROGRAMS for name in (program, f"on_{program}")}
    found, number = set(), ctypes.c_uint32(0)
    while lib.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        fd = lib.bpf_prog_get_fd_by_id(number)
        if fd >= 0:
            info, size = ctypes.create_string_buffer(256), ctypes.c_uint32(256)
            lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size))
            if info.raw[64:80].rstrip(b"\0").decode() in names:  # struct bpf_prog_info: name
                found.add(number.value)
            os.close(fd)
    return found
