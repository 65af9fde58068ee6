"""What an OOM kill says of its victim, by a real one in a memory cgroup."""

import os
import re
import subprocess

from cases import Processes, out_of_memory
from cgroups import has_memory_group, memory_cgroup
from senders import forked

HELD = ("ANON_BYTES", "FILE_BYTES", "SHMEM_BYTES", "PAGE_TABLES_BYTES", "SCORE_ADJ")
KILLED = (
    r"Killed process {pid} \({name}\) .*anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB, .*"
    r"pgtables:(\d+)kB oom_score_adj:(-?\d+)"
)
# What each CPU may not have added yet (percpu_counter_batch); since Linux 7 the kernel's line has the exact sum.
UNCERTAIN = max(32, 2 * os.cpu_count()) * os.cpu_count() * os.sysconf("SC_PAGESIZE")


def says_which(daemon):
    """Whether the hook that shows it is attached; some virtual machines refuse it (tests/vm/guest/test_hooks.py)."""
    hooks = {dict(labels)["hook"] for name, labels in daemon.samples() if name == "killsnoop_probe_hook_info"}
    return "out_of_memory" in hooks


def test_what_the_victim_held(start):
    """As the kernel's own log says; the process that asked for memory; and the cgroup that had reached its limit."""
    daemon = start("--events.rate=0")
    processes = Processes()
    (row, *_) = out_of_memory(processes)
    name, pid = row.target
    delivery, death = [found for found in daemon.events() if found.get("KILLSNOOP_TPID") == str(pid)]
    held = [int(delivery[f"KILLSNOOP_OOM_{name}"]) for name in HELD]
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    *sizes, adjustment = map(int, re.findall(KILLED.format(pid=pid, name=name), said)[-1])
    apart = [abs(ours - (kernels << 10)) for ours, kernels in zip(held[:-1], sizes, strict=True)]
    assert (max(apart) <= UNCERTAIN, apart[-1], held[-1]) == (True, 0, adjustment), (held, sizes)
    assert (held[0] > 40 << 20, adjustment) == (True, 1000)
    assert delivery["KILLSNOOP_TRIGGER_COMM"] == death["KILLSNOOP_TRIGGER_COMM"] == "ks-bystander"
    told = [found.get(f"KILLSNOOP_OOM_{name}") for found in (delivery, death) for name in ("SCOPE", "CGROUP")]
    assert told == (["cgroup", "/ks-oom", "cgroup", None] if says_which(daemon) else [None] * 4)
    who, size = "a cgroup " * says_which(daemon), round(sum(held[:3]) / (1 << 20))
    expected = f"kernel, {who}out of memory, sent SIGKILL to {name}[{pid}], which held {size} MiB in memory: delivered"
    assert delivery["MESSAGE"] == expected


if has_memory_group():  # a limit of cgroup v1 cannot be set below what is in use

    def test_a_limit_that_is_lowered(start):
        """The kernel kills for the process that lowers memory.max."""
        daemon = start("--events.rate=0")
        processes = Processes()
        with memory_cgroup("ks-oom-lower", 256 << 20) as folder:
            held = []

            def hold():
                (folder / "cgroup.procs").write_text(str(os.getpid()))
                held.append(b"x" * (100 << 20))

            victim = processes.victim("kv-lower", hold)
            lower = forked(lambda: (folder / "memory.max").write_text(str(16 << 20)), b"ks-lowers")
            os.waitpid(victim, 0)
            os.waitpid(lower, 0)
        delivery, _ = [found for found in daemon.events() if found.get("KILLSNOOP_TPID") == str(victim)]
        assert (delivery["KILLSNOOP_ORIGIN"], delivery["KILLSNOOP_TRIGGER_COMM"]) == ("oom", "ks-lowers")
        told = [delivery.get(f"KILLSNOOP_OOM_{name}") for name in ("SCOPE", "CGROUP")]
        assert told == (["cgroup", "/ks-oom-lower"] if says_which(daemon) else [None] * 2)
