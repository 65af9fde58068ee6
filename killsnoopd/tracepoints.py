"""Attaching a program to a system call's exit: tracefs, perf_event_open(2), a link."""

import ctypes
import errno
import os
import re
from pathlib import Path

from killsnoopd import libbpf
from killsnoopd.failure import Exit, Failure

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def tracepoint_id(syscall: str, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """The number by which perf_event_open(2) knows sys_exit_<syscall>; source: tracefs."""
    mounted = [root for root in tracefs if (root / "events").is_dir()]
    for root in mounted:
        path = root / f"events/syscalls/sys_exit_{syscall}/id"
        try:
            return int(path.read_text())
        except PermissionError:
            raise Failure(Exit.NOPERM, f"not allowed to read {path}: run the loader as root") from None
        except FileNotFoundError:
            raise Failure(
                Exit.UNAVAILABLE,
                f"this kernel has no tracepoint sys_exit_{syscall}: it must be built with CONFIG_FTRACE_SYSCALLS",
            ) from None
    raise Failure(Exit.UNAVAILABLE, f"tracefs is not mounted: mount -t tracefs tracefs {tracefs[0]}, then start again")


class _PerfEventAttr(ctypes.Structure):  # struct perf_event_attr, PERF_ATTR_SIZE_VER0
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 5),
    )


def perf_event_open(tracepoint: int) -> int:
    """An fd of a perf event for a tracepoint. A program attached to it runs on every CPU, whichever one is named."""
    number = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
    attr = _PerfEventAttr(2, ctypes.sizeof(_PerfEventAttr), tracepoint, 1)  # PERF_TYPE_TRACEPOINT
    online = Path("/sys/devices/system/cpu/online").read_text()
    cpu = int(re.match(r"\d+", online)[0])  # type: ignore[index]
    libc = ctypes.CDLL(None, use_errno=True)
    cloexec = 8
    fd: int = libc.syscall(number, ctypes.byref(attr), -1, cpu, -1, cloexec)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "perf_event_open")
    return fd


def perf_refusal(paranoid: int) -> Failure:
    """perf_event_open said EACCES or EPERM: which capability cures it depends on kernel.perf_event_paranoid."""
    # 3 and 4 are Debian's and Ubuntu's own: there CAP_PERFMON is not enough for a tracepoint.
    needed = "CAP_SYS_ADMIN" if paranoid >= 3 else "CAP_PERFMON"
    return Failure(
        Exit.NOPERM,
        f"perf_event_open was refused (kernel.perf_event_paranoid={paranoid}): "
        f"the loader needs {needed}; run it as root",
    )


def attach(syscall: str, prog_fd: int) -> int:
    """Attach the program to its tracepoint; an fd of the link."""
    tracepoint = tracepoint_id(syscall)
    try:
        perf_fd = perf_event_open(tracepoint)
    except PermissionError:
        raise perf_refusal(int(Path("/proc/sys/kernel/perf_event_paranoid").read_text())) from None
    try:
        return libbpf.link_perf_event(prog_fd, perf_fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Failure(
                Exit.UNAVAILABLE,
                f"kernel {os.uname().release} is too old: killsnoopd needs Linux 5.15 or later (no perf event links)",
            ) from None
        raise
    finally:
        os.close(perf_fd)
