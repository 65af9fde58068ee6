"""A record as the probe writes it to the ring buffer."""

from killsnoopd.event import HEAD, Head


def record(exe=(), cgroup=(), tcgroup=(), **changes):
    """A record as the probe writes it: that of a SIGKILL that reached a process."""
    texts = [b"".join(name + b"\0" for name in names) for names in (exe, cgroup, tcgroup)]
    head = Head(
        time_ns=5_000_000_000, elapsed_ns=0, start_ns=1_000, tstart_ns=2_000, cgroup=11, tcgroup=12, bucket_id=1000,
        pid=100, tid=101, uid=1000, ppid=1, loginuid=1000, sessionid=3, ns_pid=0, tns_pid=0, tpid=42, tuid=33,
        target_arg=-42, sig=9, res=0, code=0, exe_dev=8 << 20 | 1, ttid=43,
        exe_len=len(texts[0]), cgroup_len=len(texts[1]), tcgroup_len=len(texts[2]),
        kind=1, origin=0, call=0, outcome=0, flags=0, padding=b"",
        comm=b"bash", thread_comm=b"worker", parent_comm=b"sshd", tcomm=b"nginx",
    )._replace(**changes)  # fmt: skip
    return HEAD.pack(*head) + b"".join(texts)
