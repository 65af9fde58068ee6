"""What an OOM kill says of its victim, by a real one in a memory cgroup."""

from cases import Processes, out_of_memory


def test_what_the_victim_held(start):
    """Its resident memory, page tables and oom_score_adj, and the process that asked for memory."""
    daemon = start("--events.rate=0")
    processes = Processes()
    (row, *_) = out_of_memory(processes)
    name, pid = row.target
    delivery, death = [found for found in daemon.events() if found.get("KILLSNOOP_TPID") == str(pid)]
    anon, file, shmem, tables = (
        int(delivery[f"KILLSNOOP_OOM_{sort}_BYTES"]) for sort in ("ANON", "FILE", "SHMEM", "PAGE_TABLES")
    )
    assert 40 << 20 <= anon <= 64 << 20
    assert 0 < file <= 64 << 20
    assert 0 <= shmem < 1 << 20
    assert 4096 <= tables < 16 << 20
    assert delivery["KILLSNOOP_OOM_SCORE_ADJ"] == "1000"
    assert delivery["KILLSNOOP_TRIGGER_COMM"] == death["KILLSNOOP_TRIGGER_COMM"] == "ks-bystander"
    size = round((anon + file + shmem) / (1 << 20))
    expected = f"kernel, out of memory, sent SIGKILL to {name}[{pid}], which held {size} MiB in memory: delivered"
    assert delivery["MESSAGE"] == expected
