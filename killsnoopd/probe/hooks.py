"""The table of hooks, and a function for each mechanism that attaches a program to one."""

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
    """A place in the kernel where a program runs."""

    name: str  # in logs, labels and pins
    program: str  # the program NAME is attached and tail-calls on_NAME, which does the work
    tracepoint: str  # group/name in tracefs
    mechanism: str  # a key of MECHANISMS
    without: str  # what is not seen without this hook


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
    """The BTF tracepoint that a program is loaded for; None if it is for a classic tracepoint."""
    (found,) = {hook.name if hook.mechanism == _BTF else None for hook in HOOKS if hook.program == program}
    return found


def _described(hook: Hook, file: str, tracefs: tuple[Path, ...]) -> bytes:
    """The content of a tracepoint's file in tracefs."""
    # Lazily: access to the second path makes the kernel mount tracefs there, with a warning since Linux 6.17.
    mounted = (root for root in tracefs if (root / "events").is_dir())
    for root in mounted:
        path = root / "events" / hook.tracepoint / file
        try:
            return path.read_bytes()
        except PermissionError:
            raise Failure(Exit.NOPERM, f"not allowed to read {path}: run the loader as root") from None
        except FileNotFoundError:
            raise Failure(
                Exit.UNAVAILABLE,
                f"this kernel has no tracepoint {hook.tracepoint}: use a kernel built with CONFIG_FTRACE_SYSCALLS",
            ) from None
    raise Failure(Exit.UNAVAILABLE, f"tracefs is not mounted: mount -t tracefs tracefs {tracefs[0]}, then start again")


def tracepoint_id(hook: Hook, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """A tracepoint's id for perf_event_open(2). Source: tracefs."""
    return int(_described(hook, "id", tracefs))


def field_offset(hook: Hook, field: str, tracefs: tuple[Path, ...] = TRACEFS) -> int:
    """Byte offset of a field in a tracepoint's record: the first is at 8 or at 12, by kernel. Source: tracefs."""
    found = re.search(rb"\b%b;\s*offset:(\d+);" % field.encode(), _described(hook, "format", tracefs))
    if not found:
        raise Failure(
            Exit.UNAVAILABLE,
            f"kernel {os.uname().release} has no field {field} in tracepoint {hook.tracepoint}: report it",
        )
    return int(found[1])


def by_name(name: str) -> Hook:
    """The hook of that name. Raises KeyError."""
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
    """An fd of a perf event for a tracepoint. A program attached to it runs on every CPU, not only on the one named."""
    number = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
    attr = _PerfEventAttr(2, ctypes.sizeof(_PerfEventAttr), tracepoint, 1)  # PERF_TYPE_TRACEPOINT
    online = Path("/sys/devices/system/cpu/online").read_bytes()
    cpu = int(re.match(rb"\d+", online)[0])  # type: ignore[index]
    libc = ctypes.CDLL(None, use_errno=True)
    cloexec = 8
    fd: int = libc.syscall(number, ctypes.byref(attr), -1, cpu, -1, cloexec)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "perf_event_open")
    return fd


def perf_refusal(paranoid: int) -> Failure:
    """The Failure for EACCES or EPERM from perf_event_open; it names the capability that `paranoid` requires."""
    # 3 (Debian) and 4 (Ubuntu) are distribution patches: there CAP_PERFMON is not enough for a tracepoint.
    needed = "CAP_SYS_ADMIN" if paranoid >= 3 else "CAP_PERFMON"
    return Failure(
        Exit.NOPERM,
        f"perf_event_open was refused (kernel.perf_event_paranoid={paranoid}): "
        f"the loader needs {needed}; run it as root",
    )


def _attach_tracepoint(hook: Hook, prog_fd: int) -> int:
    """Attach through perf_event_open(2) and a link."""
    try:
        perf_fd = perf_event_open(tracepoint_id(hook))
    except PermissionError:
        raise perf_refusal(int(Path("/proc/sys/kernel/perf_event_paranoid").read_bytes())) from None
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
    """Attach to the tracepoint that the program was loaded for."""
    return libbpf.link_btf_tracepoint(prog_fd)


MECHANISMS: dict[str, Callable[[Hook, int], int]] = {_TRACEPOINT: _attach_tracepoint, _BTF: _attach_btf_tracepoint}


def check(hook: Hook) -> None:
    """Raise Failure if the hook does not exist, as far as that is known before the probe is compiled."""
    if hook.mechanism == _TRACEPOINT:
        tracepoint_id(hook)


def attach(hook: Hook, prog_fd: int) -> int:
    """Attach a program to its hook; an fd of the link. Raises Failure, OSError."""
    return MECHANISMS[hook.mechanism](hook, prog_fd)
