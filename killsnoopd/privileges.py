"""Giving up what the daemon does not need once the probe is attached: everything."""

import ctypes
import os
import re
from pathlib import Path

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_SET_NAME = 24, 38, 47, 15
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(*arguments: object) -> None:
    if _libc.prctl(*arguments, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")


def drop() -> None:
    """Give up every capability of this thread for good (capabilities(7)), and gain none by execve(2).

    Call it before other threads start: capabilities are a thread's own. Raises OSError, and RuntimeError if the
    kernel shows a capability afterwards.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not _held():
        return  # as under systemd, whose sandbox would not let capset(2) through either
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if _status("CapEff") & 1 << 8:  # dropping from the bounding set takes CAP_SETPCAP itself
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in range(last + 1):
            _prctl(_PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")
    if _held():
        raise RuntimeError(f"capabilities {_held():#x} are still held after capset")


def _held() -> int:
    """Every capability in any set of this thread's but the bounding set."""
    return _status("CapEff") | _status("CapPrm") | _status("CapInh") | _status("CapAmb")


def _status(field: str) -> int:
    """A bit set from /proc/self/status."""
    match = re.search(rf"^{field}:\s*(\w+)$", Path("/proc/self/status").read_text(), re.M)
    return int(match[1], 16) if match else 0


def set_process_name(name: str) -> None:
    """What the kernel calls this process, up to 15 bytes; `python3` says nothing in a process list."""
    _prctl(_PR_SET_NAME, name.encode())
