"""Signals that only a machine of its own can provoke: SysRq, memory errors, core dumps that a helper reads."""

import ctypes
import mmap
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import journal, wait_for_another
from senders import forked
from waiting import wait_for

_libc = ctypes.CDLL(None, use_errno=True)
_PR_MCE_KILL, _PR_MCE_KILL_SET, _PR_MCE_KILL_EARLY = 33, 1, 1
_MADV_HWPOISON = 100


@pytest.fixture(scope="module", autouse=True)
def ready():
    """The daemon of this boot."""
    wait_for_another()


def told(pid):
    """{kind: (signal, origin, sender, trigger)} of the process, once its death is logged."""

    def look():
        events = journal("--boot", f"KILLSNOOP_TPID={pid}")
        return any(event["KILLSNOOP_EVENT"] == "death" for event in events) and events

    fields = ("SIGNAL", "ORIGIN", "COMM", "TRIGGER_COMM")
    return {
        event["KILLSNOOP_EVENT"]: tuple(event.get(f"KILLSNOOP_{name}") for name in fields)
        for event in wait_for(look, "the death")
    }


def victim(act, name):
    """A process that says when it is ready: act(say)."""
    ready, ready_here = os.pipe()
    pid = forked(lambda: act(lambda: os.write(ready_here, b"!")), name)
    os.read(ready, 1)
    os.close(ready)
    os.close(ready_here)
    return pid


def end_of(pid):
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def test_sysrq():
    """f: the OOM killer, as if there were no memory. Not in a cgroup of systemd's, which would end the unit of the tests."""
    group = Path("/sys/fs/cgroup/ks-sysrq")
    group.mkdir()

    def hold(say):
        (group / "cgroup.procs").write_text("0")
        Path("/proc/self/oom_score_adj").write_text("1000")
        held = b"x" * (40 << 20)
        say()
        signal.pause()
        assert held

    pid = victim(hold, b"kv-sysrq")
    Path("/proc/sysrq-trigger").write_text("f")
    assert end_of(pid) == signal.SIGKILL
    found = told(pid)
    assert {kind: what[:3] for kind, what in found.items()} == dict.fromkeys(
        ("delivery", "death"), ("SIGKILL", "oom", "kernel")
    )
    events = journal("--boot", f"KILLSNOOP_TPID={pid}")
    assert {event["KILLSNOOP_OOM_SCOPE"] for event in events} == {"sysrq"}


def test_a_group_without_memory():
    """memory.oom.group: one process takes too much, and all six are killed, each of them once."""
    tree = Path("/sys/fs/cgroup")
    (tree / "cgroup.subtree_control").write_text("+memory")
    group = tree / "ks-group"
    group.mkdir()
    (group / "memory.max").write_text(str(64 << 20))
    (group / "memory.oom.group").write_text("1")

    def member(say):
        (group / "cgroup.procs").write_text("0")
        say()
        signal.pause()

    def taker(say):
        (group / "cgroup.procs").write_text("0")
        say()
        assert b"x" * (256 << 20)

    pids = [victim(member, b"kv-group") for _ in range(5)] + [victim(taker, b"kv-group")]
    assert [end_of(pid) for pid in pids] == [signal.SIGKILL] * 6
    for pid in pids:
        found = told(pid)
        assert {kind: what[:3] for kind, what in found.items()} == dict.fromkeys(
            ("delivery", "death"), ("SIGKILL", "oom", "kernel")
        )
        assert len(journal("--boot", f"KILLSNOOP_TPID={pid}")) == 2
    wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text(), "an empty group")
    group.rmdir()


def poison(page):
    """The kernel gives up the memory behind a page, as after an error of the hardware."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    assert _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), _MADV_HWPOISON) == 0


def test_a_memory_error():
    """A process that reads such a page dies by itself; one that asked for it early dies while another uses the page."""

    def read_it():
        page = mmap.mmap(-1, mmap.PAGESIZE)
        page[0] = 1
        poison(page)
        page[0]

    pid = forked(read_it, b"kv-poison")
    assert end_of(pid) == signal.SIGBUS
    assert told(pid)["death"][:2] == ("SIGBUS", "self")

    shared = mmap.mmap(-1, mmap.PAGESIZE)
    shared[0] = 1

    def early(say):
        assert _libc.prctl(_PR_MCE_KILL, _PR_MCE_KILL_SET, _PR_MCE_KILL_EARLY, 0, 0) == 0
        assert shared[0] == 1
        say()
        signal.pause()

    pid = victim(early, b"kv-early")
    os.waitpid(forked(lambda: poison(shared), b"ks-poison"), 0)  # on Linux 6.12 it gets SIGBUS, too
    assert end_of(pid) == signal.SIGBUS
    assert told(pid) == dict.fromkeys(("delivery", "death"), ("SIGBUS", "kernel", "kernel", "ks-poison"))


def test_a_core_dump_for_a_helper(tmp_path):
    """The process dies of its own fault; its helper gets no signal."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    helper, dump = tmp_path / "ks-helper", tmp_path / "core"
    helper.write_text(f"#!/bin/sh\ncat >{dump}.part\nmv {dump}.part {dump}\n")
    helper.chmod(0o755)

    def crash():
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ctypes.string_at(0)

    pattern.write_text(f"|{helper}")
    try:
        pid = forked(crash, b"kv-dumps")
        assert os.WCOREDUMP(os.waitpid(pid, 0)[1])
        wait_for(dump.exists, "the core dump")
    finally:
        pattern.write_text(before)
    assert told(pid) == {"death": ("SIGSEGV", "self", None, None)}
    assert journal("KILLSNOOP_TCOMM=ks-helper") == []


def test_a_machine_without_memory():
    """A process that takes more than there is: its delivery and its death have what the kernel's own line says."""
    total = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
    assert len(Path("/proc/swaps").read_text().splitlines()) == 1, "there is swap"
    group = Path("/sys/fs/cgroup/ks-machine")  # as in test_sysrq
    group.mkdir()

    def take():
        (group / "cgroup.procs").write_text("0")
        Path("/proc/self/oom_score_adj").write_text("1000")
        held = []
        while True:  # in parts: the kernel refuses what is more than there is
            held.append(b"x" * (16 << 20))

    pid = forked(take, b"kv-machine")
    assert end_of(pid) == signal.SIGKILL
    found = told(pid)
    assert {kind: what[:3] for kind, what in found.items()} == dict.fromkeys(
        ("delivery", "death"), ("SIGKILL", "oom", "kernel")
    )
    said = re.findall(
        rf"Out of memory: Killed process {pid} \(kv-machine\) .*anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB, "
        r".*pgtables:(\d+)kB oom_score_adj:(-?\d+)",
        subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout,
    )
    *sizes, adjustment = map(int, said[-1])
    (event,) = journal("--boot", f"KILLSNOOP_TPID={pid}", "KILLSNOOP_EVENT=delivery")
    held = [int(event[f"KILLSNOOP_OOM_{name}_BYTES"]) for name in ("ANON", "FILE", "SHMEM", "PAGE_TABLES")]
    # One CPU may hold back 32 pages of each; since Linux 7 the kernel's line has the exact sum.
    assert all(abs(ours - (size << 10)) <= 32 * mmap.PAGESIZE for ours, size in zip(held, sizes, strict=True)), held
    assert (event["KILLSNOOP_OOM_SCORE_ADJ"], adjustment) == ("1000", 1000)
    assert sizes[0] > total >> 11  # half of the memory, in KiB
    assert (event["KILLSNOOP_OOM_SCOPE"], event.get("KILLSNOOP_OOM_CGROUP")) == ("machine", None)
    assert event["MESSAGE"].startswith("kernel, the machine out of memory, sent SIGKILL to kv-machine[")
    wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text(), "an empty group")
    group.rmdir()
