"""Where the probe is attached: one table, and a function for each way to attach."""

import ctypes
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from killsnoopd import names
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import libbpf
from killsnoopd.settings import Settings

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


@dataclass(frozen=True)
class Hook:
    """A place in the kernel at which a program runs."""

    name: str  # in logs, labels and pins
    program: str  # NAME is attached; on_NAME, which it jumps to, does the work
    tracepoint: str  # group/name, as tracefs has it
    way: str  # of WAYS
    without: str  # what is not seen without it


_TRACEPOINT, _BTF = "tracepoint", "tp_btf"

HOOKS = (
    *(
        Hook(
            call,
            "sys_exit",
            f"syscalls/sys_exit_{call}",
            _TRACEPOINT,
            f"calls of {call}: their count, and those that fail",
        )
        for call in names.SYSCALLS
    ),
    Hook("signal_generate", "signal_generate", "signal/signal_generate", _BTF, "signals that reach a process"),
    Hook("mark_victim", "mark_victim", "oom/mark_victim", _TRACEPOINT, "which SIGKILLs are the OOM killer's"),
    Hook("sched_process_exit", "sched_process_exit", "sched/sched_process_exit", _BTF, "deaths"),
)
PROGRAMS = tuple(dict.fromkeys(hook.program for hook in HOOKS))  # numbered as enum program


def chosen(settings: Settings) -> tuple[Hook, ...]:
    """The hooks that these settings ask for: all but the calls that --probe.syscalls leaves out."""
    return tuple(hook for hook in HOOKS if hook.name not in set(names.SYSCALLS) - set(settings.syscalls))


def btf_tracepoint(program: str) -> str | None:
    """The tracepoint that a program with typed arguments names when it is loaded; None for the others."""
    (found,) = {hook.name if hook.way == _BTF else None for hook in HOOKS if hook.program == program}
    return found


def _described(hook: Hook, file: str, tracefs: tuple[Path, ...]) -> str:
    """What a file of tracefs says of a tracepoint."""
    # One after the other: a look at the second makes the kernel mount it, and since Linux 6.17 complain of that.
    mounted = (root for root in tracefs if (root / "events").is_dir())
    for root in mounted:
        path = root / "events" / hook.tracepoint / file
        try:
            return path.read_text()
        except PermissionError:
            raise Failure(Exit.NOPERM, f"not allowed to read {path}: run the loader as root") from None
        except FileNotFoundError:
            raise Failure(
                Exit.UNAVAILABLE,
                f"this kernel has no tracepoint {hook.tracepoint}: use a kernel built with CONFIG_FTRACE_SYSCALLS",
            ) from None
    raise Failure(Exit.UNAVAILABLE, f"tracefs is not mounted: mount -t tracefs tracefs {tracefs[0]}, then start again")


def tracepoint_id(hook: Hook, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """The number by which perf_event_open(2) knows a tracepoint; source: tracefs."""
    return int(_described(hook, "id", tracefs))


def field_offset(hook: Hook, field: str, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """Where a field is in a tracepoint's record, in bytes; source: tracefs. The first ones are at 8, or at 12."""
    found = re.search(rf"\b{field};\s*offset:(\d+);", _described(hook, "format", tracefs))
    if not found:
        raise Failure(
            Exit.UNAVAILABLE,
            f"kernel {os.uname().release} has no field {field} in tracepoint {hook.tracepoint}: report it",
        )
    return int(found[1])


def by_name(name: str) -> Hook:
    """A hook of the table. Raises KeyError."""
    return {hook.name: hook for hook in HOOKS}[name]


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


def _attach_tracepoint(hook: Hook, prog_fd: int) -> int:
    """By perf_event_open(2) and a link."""
    try:
        perf_fd = perf_event_open(tracepoint_id(hook))
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


def _attach_btf_tracepoint(_hook: Hook, prog_fd: int) -> int:
    """The program named its tracepoint when it was loaded."""
    return libbpf.link_btf_tracepoint(prog_fd)


WAYS: dict[str, Callable[[Hook, int], int]] = {_TRACEPOINT: _attach_tracepoint, _BTF: _attach_btf_tracepoint}


def check(hook: Hook) -> None:
    """Fail at once if the hook is not there, and that can be told before the probe is compiled. Raises Failure."""
    if hook.way == _TRACEPOINT:
        tracepoint_id(hook)


def attach(hook: Hook, prog_fd: int) -> int:
    """Attach a program to its hook; an fd of the link. Raises Failure, OSError."""
    return WAYS[hook.way](hook, prog_fd)
