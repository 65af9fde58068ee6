"""A record as the probe writes it to the ring buffer."""

import struct

from killsnoopd.event import CMDLINES, FORMATS, HEAD, Head

_LENGTHS = ("exe_len", "cgroup_len", "cmdline_len", "ancestors_len", "tcgroup_len", "memory_len")

_EMPTY = {name: b"" if form.endswith("s") else 0 for name, form in zip(Head._fields, FORMATS, strict=True)}
_KILL = {
    "time_ns": 5_000_000_000, "start_ns": 1_000, "tstart_ns": 2_000, "cgroup": 11, "tcgroup": 12, "bucket_id": 1000,
    "pid": 100, "tid": 101, "uid": 1000, "ppid": 1, "loginuid": 1000, "sessionid": 3, "tpid": 42, "tuid": 33,
    "target_arg": -42, "sig": 9, "exe_dev": 8 << 20 | 1, "ttid": 43, "kind": 1,
    "comm": b"bash", "thread_comm": b"worker", "parent_comm": b"sshd", "tcomm": b"nginx",
}  # fmt: skip


def record(texts=((), (), ()), cmdline=b"", cmdline_state="", ancestors=(), memory=b"", **changes):
    """The record of a SIGKILL that reached a process, with these changes; a field that is named nowhere is empty.

    `texts`: the names on the paths to the executable and to the cgroups of sender and target; `ancestors`: pid and name
    of each.
    """
    exe, cgroup, tcgroup = [b"".join(name + b"\0" for name in names) for names in texts]
    parts = (exe, cgroup, cmdline, b"".join(struct.pack("=I16s", *each) for each in ancestors), tcgroup, memory)
    lengths = dict(zip(_LENGTHS, map(len, parts), strict=True))
    state = {"cmdline": CMDLINES.index(cmdline_state or ("whole" if cmdline else "none"))}
    return HEAD.pack(*Head(**_EMPTY | _KILL | lengths | state | changes)) + b"".join(parts)
