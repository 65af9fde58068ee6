"""Attaching a program to its tracepoint: by tracefs, perf_event_open(2) and a link, or by BTF alone."""

import ctypes
import errno
import os
import re
from pathlib import Path

from killsnoopd import libbpf
from killsnoopd.failure import Exit, Failure

BTF = ("signal_generate", "sched_process_exit")
"""Programs whose arguments are typed pointers (`tp_btf`): they name their tracepoint when they are loaded."""

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def _event(name: str) -> str:
    """The tracepoint's folder; a system call stands for the tracepoint at its exit."""
    return "oom/mark_victim" if name == "mark_victim" else f"syscalls/sys_exit_{name}"


def _described(name: str, file: str, tracefs: tuple[Path, ...]) -> str:
    """What a file of tracefs says of a tracepoint."""
    # One after the other: a look at the second makes the kernel mount it, and since Linux 6.17 complain of that.
    mounted = (root for root in tracefs if (root / "events").is_dir())
    for root in mounted:
        path = root / "events" / _event(name) / file
        try:
            return path.read_text()
        except PermissionError:
            raise Failure(Exit.NOPERM, f"not allowed to read {path}: run the loader as root") from None
        except FileNotFoundError:
            raise Failure(
                Exit.UNAVAILABLE,
                f"this kernel has no tracepoint {_event(name)}: it must be built with CONFIG_FTRACE_SYSCALLS",
            ) from None
    raise Failure(Exit.UNAVAILABLE, f"tracefs is not mounted: mount -t tracefs tracefs {tracefs[0]}, then start again")


def tracepoint_id(name: str, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """The number by which perf_event_open(2) knows a tracepoint; source: tracefs."""
    return int(_described(name, "id", tracefs))


def field_offset(name: str, field: str, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """Where a field is in a tracepoint's record, in bytes; source: tracefs. The first ones are at 8, or at 12."""
    found = re.search(rf"\b{field};\s*offset:(\d+);", _described(name, "format", tracefs))
    if not found:
        raise Failure(
            Exit.UNAVAILABLE,
            f"kernel {os.uname().release} has no field {field} in tracepoint {_event(name)}: please report it",
        )
    return int(found[1])


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


def attach(name: str, prog_fd: int) -> int:
    """Attach a program to a tracepoint; an fd of the link."""
    if name in BTF:
        return libbpf.link_btf_tracepoint(prog_fd)
    tracepoint = tracepoint_id(name)
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
