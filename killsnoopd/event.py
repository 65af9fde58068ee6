"""The probe's event record, from bytes to an Event."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple, get_type_hints

from killsnoopd import names

# A field's type, and its format for struct.
_U64 = Annotated[int, "Q"]
_U32 = Annotated[int, "I"]
_S32 = Annotated[int, "i"]
_U16 = Annotated[int, "H"]
_U8 = Annotated[int, "B"]
_COMM = Annotated[bytes, "16s"]
_PADDING = Annotated[bytes, "4s"]


class Head(NamedTuple):
    """`struct event` of maps.h, field by field. The text follows it."""

    time_ns: _U64
    elapsed_ns: _U64
    start_ns: _U64
    cgroup: _U64
    pid: _U32
    tid: _U32
    uid: _U32
    ppid: _U32
    loginuid: _U32
    sessionid: _U32
    ns_pid: _S32
    exe_dev: _U32
    comm: _COMM
    thread_comm: _COMM
    parent_comm: _COMM
    bucket_id: _U64
    target_arg: _S32
    sig: _S32
    code: _S32
    trigger_pid: _U32
    origin: _U8
    call: _U8
    flags: _U8
    oom_scope: _U8
    padding: _PADDING
    trigger_comm: _COMM
    tty: _COMM
    tstart_ns: _U64
    tcgroup: _U64
    tpid: _U32
    ttid: _U32
    tuid: _U32
    tns_pid: _S32
    res: _S32
    status: _S32
    exe_len: _U16
    cgroup_len: _U16
    cmdline_len: _U16
    ancestors_len: _U16
    tcgroup_len: _U16
    memory_len: _U16
    kind: _U8
    outcome: _U8
    cmdline: _U8
    padding_2: _U8
    tcomm: _COMM


FORMATS = tuple(kind.__metadata__[0] for kind in get_type_hints(Head, include_extras=True).values())
HEAD = struct.Struct("=" + "".join(FORMATS))
KINDS = ("call", "delivery", "death", "exit")  # numbered as enum kind
CMDLINES = ("none", "whole", "cut", "unread")  # numbered as enum cmdline
OOM_SCOPES = (None, "machine", "cpuset", "memory_policy", "cgroup", "sysrq")  # numbered as enum oom_scope
CMDLINE_MAX = 512  # bytes of a command line (maps.h)
ANCESTORS_MAX = 16
_ANCESTOR = struct.Struct("=I16s")
_MEMORY = struct.Struct("=qqqqi4x")  # struct memory
_UNSET = 0xFFFFFFFF  # (uid_t)-1: no login
_COMPAT, _ESCALATION, _NAMESPACE_END, _INFERRED, _SELF_TEST, _HANDLED = 1, 2, 4, 8, 16, 32  # enum flag


@dataclass(frozen=True)
class Place:
    """A process's place in the cgroup v2 tree."""

    cgroup: int  # id: the inode number of the cgroup's folder
    names: tuple[bytes, ...] | None  # from the root, which has none, down to the cgroup; None: not readable
    trusted: int  # how many of them root has chosen; the others come from the owner of the cgroup above them


@dataclass(frozen=True)
class Cmdline:
    """A command line."""

    arguments: bytes | None  # each ending with a NUL, or as many bytes as were read; None: the probe could not read it
    cut: bool = False


@dataclass(frozen=True)
class Sender:
    """The sender. Ids are those of the host; names are text (names.text)."""

    pid: int
    tid: int
    uid: int
    ppid: int
    loginuid: int | None
    sessionid: int | None
    ns_pid: int | None  # pid in its own pid namespace, if that is not the host's
    start_ns: int  # CLOCK_BOOTTIME
    comm: str
    thread_comm: str
    parent_comm: str
    place: Place
    exe_dev: int  # the kernel's dev_t: major << 20 | minor
    exe_names: tuple[bytes, ...]  # from the executable up (maps.h: struct scratch); empty: not known
    cmdline: Cmdline | None = None  # None: it has none, or it was not asked for
    ancestors: tuple[tuple[int, str], ...] = ()  # pid and name, from the parent up; empty: none, or not known


@dataclass(frozen=True)
class Target:
    """The process that the signal was generated for."""

    pid: int
    uid: int
    ns_pid: int | None
    start_ns: int
    comm: str
    place: Place


@dataclass(frozen=True)
class Memory:
    """The memory of a process that the OOM killer kills: resident bytes by sort, and its page tables."""

    anon: int
    file: int
    shmem: int
    page_tables: int
    oom_score_adj: int
    exhausted: Place | None = None  # the cgroup that reached its limit, if it was that


@dataclass(frozen=True)
class Trigger:
    """The process in whose context the kernel sent the signal, or a tracer of sender or target: perhaps the cause."""

    pid: int
    comm: str


@dataclass(frozen=True)
class Event:
    """A call that failed or sent signal 0, a signal generated for a process, or a process's end.

    The end is a death by a signal, or an exit soon after one that the process handled. Both also have the fields of
    the signal's delivery, if it was seen.
    """

    kind: str  # of KINDS
    time_ns: int  # CLOCK_BOOTTIME
    sig: int  # as the sender wrote it
    code: int  # si_code, of a delivery
    status: int | None  # of an exit: the status
    res: int  # result of the call, 0 or -errno
    origin: str  # names.ORIGINS; of a death: names.DEATH_ORIGINS
    syscall: str | None
    target_arg: int | None  # as the sender wrote it: pid, -pgid, tid or pidfd
    outcome: str | None  # names.OUTCOMES; of a death: died; of an exit: exited
    compat: bool  # a 32-bit program's call on a 64-bit kernel
    elapsed_ns: int | None  # of a death or an exit: since the signal; None: no signal was seen
    escalation_ns: int | None  # since the SIGTERM to the same process; 0 for a death that follows an escalation
    namespace_end: bool  # the target's pid namespace ended: its init exited
    inferred: bool  # the origin is only the likeliest one (docs/design.md)
    self_test: bool  # a test signal of the daemon, which is not logged
    handled: bool  # the target handles the signal
    tty: str  # name of the terminal that sent the signal, like pts/4; empty: none, or not known
    trigger: Trigger | None
    payer: int  # the token bucket that paid for it; the same of a death and its delivery
    sender: Sender | None  # None: the kernel, or nobody (origin self, unknown)
    target: Target | None  # None: not known; see target_arg
    memory: Memory | None = None  # of an OOM kill's delivery
    oom_scope: str | None = None  # of an OOM kill: whose memory was used up, of OOM_SCOPES; None: not known

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


def _place(cgroup: int, text: bytes) -> Place:
    if not text:
        return Place(cgroup, None, 0)
    _root, *found = _names(text)
    parts = tuple(name for name in found if name != b"/")
    return Place(cgroup, parts, found.index(b"/") if b"/" in found else len(parts))


@lru_cache(64)
def _ancestors(part: bytes) -> tuple[tuple[int, str], ...]:
    return tuple((pid, names.text(comm)) for pid, comm in _ANCESTOR.iter_unpack(part))


def _cmdline(state: str, arguments: bytes) -> Cmdline | None:
    if state == "none":
        return None
    return Cmdline(None if state == "unread" else arguments, state == "cut")


def _memory(part: bytes) -> Memory:
    anon, file, shmem, page_tables, oom_score_adj = _MEMORY.unpack_from(part)
    text = part[_MEMORY.size :]
    exhausted = _place(0, text) if text else None
    # The sum of what several CPUs counted may be below zero for a moment.
    return Memory(max(0, anon), max(0, file), max(0, shmem), max(0, page_tables), oom_score_adj, exhausted)


def decode(record: bytes) -> Event:
    """Decode a record of the ring buffer. Raises ValueError if the probe cannot have written it."""
    try:
        head = Head._make(HEAD.unpack_from(record))
    except struct.error as error:
        raise ValueError(f"a record of {len(record)} bytes: {error}") from None
    try:
        kind, origin, outcome = KINDS[head.kind], names.DEATH_ORIGINS[head.origin], names.OUTCOMES[head.outcome]
        syscall = names.SYSCALLS[head.call]
        cmdline, oom_scope = CMDLINES[head.cmdline], OOM_SCOPES[head.oom_scope]
    except IndexError:
        numbers = f"kind {head.kind}, origin {head.origin}, outcome {head.outcome}, call {head.call}"
        raise ValueError(f"a record of {numbers}, cmdline {head.cmdline}, scope {head.oom_scope}") from None
    lengths = (head.exe_len, head.cgroup_len, head.cmdline_len, head.ancestors_len, head.tcgroup_len, head.memory_len)
    if (
        len(record) != HEAD.size + sum(lengths)
        or head.ancestors_len % _ANCESTOR.size
        or 0 < head.memory_len < _MEMORY.size
    ):
        raise ValueError(f"a record of {len(record)} bytes, {'+'.join(map(str, lengths))} of them text")
    parts, at = [], HEAD.size
    for length in lengths:
        parts.append(record[at : at + length])
        at += length
    exe, cgroup, arguments, ancestors, tcgroup, memory = parts
    flags, by_call, ended = head.flags, origin == "syscall", kind in ("death", "exit")
    sender = target = None
    if head.pid:
        sender = Sender(
            head.pid,
            head.tid,
            head.uid,
            head.ppid,
            None if head.loginuid == _UNSET else head.loginuid,
            None if head.sessionid == _UNSET else head.sessionid,
            head.ns_pid if head.ns_pid > 0 else None,
            head.start_ns,
            names.text(head.comm),
            names.text(head.thread_comm),
            names.text(head.parent_comm),
            _place(head.cgroup, cgroup),
            head.exe_dev,
            _names(exe),
            _cmdline(cmdline, arguments),
            _ancestors(ancestors),
        )
    if head.tpid:
        target = Target(
            head.tpid,
            head.tuid,
            head.tns_pid if head.tns_pid > 0 else None,
            head.tstart_ns,
            names.text(head.tcomm),
            _place(head.tcgroup, tcgroup),
        )
    return Event(
        kind,
        head.time_ns,
        head.sig,
        head.code,
        head.status if kind == "exit" else None,
        head.res,
        origin,
        syscall if by_call else None,
        head.target_arg if by_call else None,
        {"delivery": outcome, "death": "died", "exit": "exited"}.get(kind),
        flags & _COMPAT != 0,
        head.elapsed_ns or None if ended else None,
        (head.elapsed_ns if kind == "delivery" else 0) if flags & _ESCALATION else None,
        flags & _NAMESPACE_END != 0,
        flags & _INFERRED != 0,
        flags & _SELF_TEST != 0,
        flags & _HANDLED != 0,
        names.text(head.tty),
        Trigger(head.trigger_pid, names.text(head.trigger_comm)) if head.trigger_pid else None,
        head.bucket_id,
        sender,
        target,
        _memory(memory) if origin == "oom" and memory else None,
        oom_scope,
    )
