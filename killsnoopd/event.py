"""The probe's event record, from bytes to an Event."""

import struct
from dataclasses import dataclass

from killsnoopd import names

_HEAD = struct.Struct("=6Q 8x 6I 2i 2I 4i 2I 3H 5B 5x 16s 16s 16s 16s")  # struct event of bpf/maps.h
_UNSET = 0xFFFFFFFF  # (uid_t)-1: no login
_KINDS = ("call", "delivery", "death")
_COMPAT, _ESCALATION, _NAMESPACE_END, _INFERRED, _SELF_TEST = 1, 2, 4, 8, 16  # enum flag


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is in the cgroup v2 tree."""

    cgroup: int  # id; the inode of the cgroup's folder
    names: tuple[bytes, ...]  # from the cgroup up to the root, both included; empty if the kernel would not tell


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent it. Ids are those of the host, names are text (names.text)."""

    pid: int
    tid: int
    uid: int
    ppid: int
    loginuid: int | None
    sessionid: int | None
    ns_pid: int | None  # the pid in its own pid namespace, if that is not the host's
    start_ns: int  # CLOCK_BOOTTIME
    comm: str
    thread_comm: str
    parent_comm: str
    place: Place
    exe_dev: int  # dev_t of the kernel: major << 20 | minor
    exe_names: tuple[bytes, ...]  # from the executable up to the root of its file system; empty: not known


@dataclass(frozen=True, slots=True)
class Target:
    """Whom it reached."""

    pid: int
    uid: int
    ns_pid: int | None
    start_ns: int
    comm: str
    place: Place


@dataclass(frozen=True, slots=True)
class Event:
    """A call that failed or asked with signal 0, a signal that reached a process, or a death of one."""

    kind: str  # call, delivery or death; a death has all that was known of the delivery
    time_ns: int  # CLOCK_BOOTTIME
    sig: int  # as the sender wrote it
    code: int  # si_code, of a delivery
    res: int  # 0 or -errno: what the call returns
    origin: str  # names.ORIGINS
    syscall: str | None
    target_arg: int | None  # as the sender wrote it: pid, -pgid, tid or pidfd
    outcome: str | None  # names.OUTCOMES; of a death: died
    compat: bool  # a 32-bit program's call on a 64-bit kernel
    died_after_ns: int | None
    escalation_ns: int | None  # since the SIGTERM that the same process was sent; 0 of a death: it was one
    namespace_end: bool  # the init of the target's pid namespace ended
    inferred: bool  # the origin is the likeliest one: nothing shows that it is the only one (docs/design.md)
    self_test: bool  # one of the two signals by which the daemon tests the probe: not to be logged
    sender: Sender | None  # None: the kernel
    target: Target | None  # None: see target_arg

    @property
    def signal(self) -> str:
        """The signal's name."""
        return names.signal_name(self.sig)

    @property
    def result(self) -> str:
        """`success` or the errno's name."""
        return names.result_name(self.res)


def _names(text: bytes) -> tuple[bytes, ...]:
    return tuple(text[:-1].split(b"\0")) if text else ()


def decode(record: bytes) -> Event:
    """The event in a record of the ring buffer. Raises ValueError for one that the probe cannot have written."""
    try:
        head = _HEAD.unpack_from(record)
    except struct.error as error:
        raise ValueError(f"a record of {len(record)} bytes: {error}") from None
    time_ns, elapsed_ns, start_ns, tstart_ns, cgroup, tcgroup, pid, tid, uid, ppid, loginuid, sessionid = head[:12]
    ns_pid, tns_pid, tpid, tuid, target_arg, sig, res, code, exe_dev, _, exe_len, cgroup_len, tcgroup_len = head[12:25]
    kind, origin, call, outcome, flags, comm, thread_comm, parent_comm, tcomm = head[25:]
    first = _HEAD.size + exe_len
    second = first + cgroup_len
    if kind >= len(_KINDS) or origin >= len(names.ORIGINS) or outcome >= len(names.OUTCOMES):
        raise ValueError(f"a record of kind {kind}, origin {origin}, outcome {outcome}")
    if call >= len(names.SYSCALLS) or len(record) != second + tcgroup_len:
        raise ValueError(f"a record of call {call}, {len(record)} bytes, {exe_len}+{cgroup_len}+{tcgroup_len} of text")
    kind_name, by_call = _KINDS[kind], names.ORIGINS[origin] == "syscall"
    sender = target = None
    if pid:
        sender = Sender(
            pid,
            tid,
            uid,
            ppid,
            None if loginuid == _UNSET else loginuid,
            None if sessionid == _UNSET else sessionid,
            ns_pid if ns_pid > 0 else None,
            start_ns,
            names.text(comm),
            names.text(thread_comm),
            names.text(parent_comm),
            Place(cgroup, _names(record[first:second])),
            exe_dev,
            _names(record[_HEAD.size : first]),
        )
    if tpid:
        place = Place(tcgroup, _names(record[second:]))
        target = Target(tpid, tuid, tns_pid if tns_pid > 0 else None, tstart_ns, names.text(tcomm), place)
    return Event(
        kind_name,
        time_ns,
        sig,
        code,
        res,
        names.ORIGINS[origin],
        names.SYSCALLS[call] if by_call else None,
        target_arg if by_call else None,
        {"call": None, "death": "died"}.get(kind_name, names.OUTCOMES[outcome]),
        bool(flags & _COMPAT),
        elapsed_ns if kind_name == "death" else None,
        (elapsed_ns if kind_name == "delivery" else 0) if flags & _ESCALATION else None,
        bool(flags & _NAMESPACE_END),
        bool(flags & _INFERRED),
        bool(flags & _SELF_TEST),
        sender,
        target,
    )
