"""The probe's event record, from bytes to an Event."""

import struct
from dataclasses import dataclass

from killsnoopd import names

_RECORD = struct.Struct("=Q 6I 3i B B 2x 16s 16s 16s")  # struct event in killsnoop.bpf.c
RECORD_BYTES = _RECORD.size
_UNSET = 0xFFFFFFFF  # (uid_t)-1: no login
_CALL = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One call that sends a signal. Ids are those of the host, names are text (names.text)."""

    time_ns: int  # CLOCK_MONOTONIC
    pid: int
    tid: int
    uid: int
    ppid: int
    loginuid: int | None
    sessionid: int | None
    target_arg: int  # as the sender wrote it: pid, -pgid, tid or pidfd
    sig: int  # as the sender wrote it
    res: int  # 0 or -errno
    syscall: str
    comm: str
    thread_comm: str
    parent_comm: str

    @property
    def signal(self) -> str:
        """The signal's name."""
        return names.signal_name(self.sig)

    @property
    def result(self) -> str:
        """`success` or the errno's name."""
        return names.result_name(self.res)


def decode(record: bytes) -> Event:
    """The event in a record of the ring buffer. Raises ValueError for one that the probe cannot have written."""
    try:
        (time_ns, pid, tid, uid, ppid, loginuid, sessionid, target_arg, sig, res, kind, call, *comms) = _RECORD.unpack(
            record
        )
    except struct.error as error:
        raise ValueError(f"a record of {len(record)} bytes: {error}") from None
    if kind != _CALL or call >= len(names.SYSCALLS):
        raise ValueError(f"a record of kind {kind}, call {call}")
    return Event(
        time_ns,
        pid,
        tid,
        uid,
        ppid,
        None if loginuid == _UNSET else loginuid,
        None if sessionid == _UNSET else sessionid,
        target_arg,
        sig,
        res,
        names.SYSCALLS[call],
        *map(names.text, comms),
    )
