"""Drops privileges: the daemon's, once the probe is attached; the loader's, as far as this kernel needs none."""

import ctypes
import os
import re
from pathlib import Path

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_SET_NAME = 24, 38, 47, 15
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN = 21
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(*arguments: object) -> None:
    if _libc.prctl(*arguments, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")


def drop() -> None:
    """Drop all capabilities of this thread for good (capabilities(7)); execve(2) cannot regain any.

    Call it before other threads start, since each thread has its own capabilities. Raises OSError, and RuntimeError
    if the kernel still shows a capability afterwards.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not _held():
        return  # as under systemd, whose sandbox also forbids capset(2)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if effective() & 1 << 8:  # changing the bounding set takes CAP_SETPCAP
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
        for capability in range(last + 1):
            _prctl(_PR_CAPBSET_DROP, capability)
    _capset(0, 0, 0)
    if _held():
        raise RuntimeError(f"capabilities {_held():#x} are still held after capset")


def drop_one(capability: int) -> None:
    """Drop a capability of this thread for good, if it has it. Raises OSError."""
    if effective() >> capability & 1:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _capset(*(_status(name) & ~(1 << capability) for name in ("CapEff", "CapPrm", "CapInh")))


def _capset(effective: int, permitted: int, inheritable: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    words = (bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in (effective, permitted, inheritable))
    if _libc.capset(header, (ctypes.c_uint32 * 6)(*words)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")


def _held() -> int:
    """The union of this thread's capability sets, without the bounding set."""
    return _status("CapEff") | _status("CapPrm") | _status("CapInh") | _status("CapAmb")


def effective() -> int:
    """The bit set of this thread's effective capabilities."""
    return _status("CapEff")


def _status(field: str) -> int:
    return bit_set(Path("/proc/self/status").read_bytes(), field)


def bit_set(status: bytes, field: str) -> int:
    """A field of a text like /proc/PID/status that holds a bit set; 0 if it is not there."""
    match = re.search(rb"^%b:\t([0-9a-f]+)$" % field.encode(), status, re.M)
    return int(match[1], 16) if match else 0


def set_process_name(name: str) -> None:
    """Set this process's name, up to 15 bytes; otherwise process lists show `python3`."""
    _prctl(_PR_SET_NAME, name.encode())
