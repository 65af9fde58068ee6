"""What an OOM kill says of its victim, by a real one in a memory cgroup."""

import re
import subprocess

from cases import Processes, out_of_memory

HELD = ("ANON_BYTES", "FILE_BYTES", "SHMEM_BYTES", "PAGE_TABLES_BYTES", "SCORE_ADJ")
KILLED = (
    r"Killed process {pid} \({name}\) .*anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB, .*"
    r"pgtables:(\d+)kB oom_score_adj:(-?\d+)"
)


def test_what_the_victim_held(start):
    """The same as the kernel's own log says; and the process that asked for memory."""
    daemon = start("--events.rate=0")
    processes = Processes()
    (row, *_) = out_of_memory(processes)
    name, pid = row.target
    delivery, death = [found for found in daemon.events() if found.get("KILLSNOOP_TPID") == str(pid)]
    held = {name: delivery[f"KILLSNOOP_OOM_{name}"] for name in HELD}
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    anon, file, shmem, tables, adjustment = map(int, re.findall(KILLED.format(pid=pid, name=name), said)[-1])
    sizes = [number << 10 for number in (anon, file, shmem, tables)]
    assert held == dict(zip(HELD, map(str, [*sizes, adjustment]), strict=True))
    assert (anon > 40 << 10, adjustment) == (True, 1000)
    assert delivery["KILLSNOOP_TRIGGER_COMM"] == death["KILLSNOOP_TRIGGER_COMM"] == "ks-bystander"
    size = round((anon + file + shmem) / (1 << 10))
    expected = f"kernel, out of memory, sent SIGKILL to {name}[{pid}], which held {size} MiB in memory: delivered"
    assert delivery["MESSAGE"] == expected
