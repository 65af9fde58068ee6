"""The table of hooks, and a function for each way of attaching a program to one. ways.py chooses the way."""

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
    program: str  # the entry program; it tail-calls on_PROGRAM, which does the work
    tracepoint: str  # group/name in tracefs; empty: none
    ways: tuple[str, ...]  # keys of WAYS; hooks of one program have the same
    without: str  # what is not seen without this hook
    functions: tuple[str, ...] = ()  # for fexit and kprobe: the kernel functions, those that exist
    at_return: bool = False  # kprobe: at their return, not at their entry
    entered: tuple[str, ...] = ()  # for fentry: a function that no other task on that CPU can enter meanwhile
    optional: bool = False  # the probe is complete without it


# Each system call has a function per ABI: for 64-bit programs, for 32-bit ones (some with other types), for x32.
_ABIS = {
    "x86_64": ("__x64_sys_", "__ia32_sys_", "__ia32_compat_sys_", "__x64_compat_sys_"),
    "aarch64": ("__arm64_sys_", "__arm64_compat_sys_"),
}

FEXIT, FENTRY, KPROBE, TRACEPOINT, TP_BTF = "fexit", "fentry", "kprobe", "tracepoint", "tp_btf"
BY_FUNCTION = (FEXIT, FENTRY, KPROBE)  # through ftrace

HOOKS = (
    *(
        Hook(
            call,
            "sys_exit",
            f"syscalls/sys_exit_{call}",
            (FEXIT, KPROBE, TRACEPOINT),
            f"calls of {call}: their count, and those that fail",
            tuple(abi + call for abi in _ABIS.get(os.uname().machine, ())),
            at_return=True,
        )
        for call in names.SYSCALLS
    ),
    Hook("signal_generate", "signal_generate", "signal/signal_generate", (TP_BTF,), "signals that reach a process"),
    Hook("mark_victim", "mark_victim", "oom/mark_victim", (TP_BTF,), "which SIGKILLs are the OOM killer's"),
    Hook(
        "out_of_memory",
        "out_of_memory",
        "",
        (FENTRY,),
        "whose memory was used up when the OOM killer killed: the machine's or a cgroup's",
        entered=("out_of_memory",),  # under oom_lock, of which there is one
        optional=True,
    ),
    Hook(
        "sched_process_exit",
        "sched_process_exit",
        "sched/sched_process_exit",
        (TP_BTF, FENTRY, KPROBE, TRACEPOINT),
        "deaths",
        # do_exit() calls both soon after the tracepoint, when the exit code is set.
        functions=("exit_files",),
        entered=("membarrier_update_current_mm",),  # by exit_mm(), with interrupts off
    ),
)
PROGRAMS = tuple(dict.fromkeys(hook.program for hook in HOOKS))  # numbered as enum program


def chosen(settings: Settings) -> tuple[Hook, ...]:
    """The hooks that these settings ask for: all but the calls that --probe.syscalls leaves out."""
    return tuple(hook for hook in HOOKS if hook.name not in set(names.SYSCALLS) - set(settings.syscalls))


@dataclass(frozen=True)
class Point:
    """An entry program, and a link that attaches it: one per hook; with fexit, one per kernel function."""

    hook: Hook
    way: str
    function: str = ""  # of fexit and fentry

    @property
    def link(self) -> str:
        """The link's name: the hook, how it is attached, and for fexit and fentry the function."""
        return f"{self.hook.name}@{self.way}" + (f"@{self.function}" if self.function else "")

    @property
    def entry(self) -> str:
        """The entry program's name. A program is loaded once for each function that fexit attaches it to."""
        return self.hook.program + (f"@{self.function}" if self.function else "")

    @property
    def kind(self) -> libbpf.ProgramType:
        """What its programs are loaded for."""
        return WAYS[self.way].kind(self)

    def attach(self, prog_fd: int) -> int:
        """Attach a program; an fd of the link. Raises Failure, OSError."""
        return WAYS[self.way].attach(self, prog_fd)


def points(settings: Settings, ways: dict[str, str]) -> tuple[Point, ...]:
    """All points of the hooks that these settings ask for. `ways`: the way of each program that has one."""
    found: list[Point] = []
    for hook in chosen(settings):
        if hook.program in ways:
            found += points_of(hook, ways[hook.program])
    return tuple(found)


def points_of(hook: Hook, way: str) -> tuple[Point, ...]:
    """The points of a hook that is attached in this way."""
    if way in (FEXIT, FENTRY):
        return tuple(Point(hook, way, function) for function in functions(hook, way))
    return (Point(hook, way),)


def functions(hook: Hook, way: str) -> tuple[str, ...]:
    """Those of the hook's functions for this way that this kernel has. Source: BTF."""
    return tuple(filter(libbpf.has_function, hook.entered if way == FENTRY else hook.functions))


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


def _attach_tracepoint(point: Point, prog_fd: int) -> int:
    """Attach through perf_event_open(2) and a link."""
    try:
        perf_fd = perf_event_open(tracepoint_id(point.hook))
    except PermissionError:
        raise perf_refusal(int(Path("/proc/sys/kernel/perf_event_paranoid").read_bytes())) from None
    try:
        return libbpf.link_perf_event(prog_fd, perf_fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Failure(
                Exit.UNAVAILABLE,
                f"kernel {os.uname().release} has no perf event links: "
                "use Linux 5.15 or later, or a kernel with these backported",
            ) from None
        raise
    finally:
        os.close(perf_fd)


def _attach_tracing(_point: Point, prog_fd: int) -> int:
    """Attach to the tracepoint or function that the program was loaded for."""
    return libbpf.link_tracing(prog_fd)


def _attach_kprobe(point: Point, prog_fd: int) -> int:
    """Attach to all functions of the hook at once (kprobe.multi)."""
    return libbpf.link_kprobe_multi(prog_fd, functions(point.hook, KPROBE), point.hook.at_return)


@dataclass(frozen=True)
class Way:
    """A way of attaching a program."""

    kind: Callable[[Point], libbpf.ProgramType]
    attach: Callable[[Point, int], int]
    result_offset: int  # bytes from the program's argument to the result of a call


_REGISTER_OF_RESULT = {"x86_64": 80, "aarch64": 0}  # struct pt_regs: ax, regs[0]
WAYS = {
    FEXIT: Way(lambda point: libbpf.function_exit(point.function), _attach_tracing, 8),  # after the one argument
    FENTRY: Way(lambda point: libbpf.function_entry(point.function), _attach_tracing, 0),
    KPROBE: Way(lambda _: libbpf.KPROBE_MULTI, _attach_kprobe, _REGISTER_OF_RESULT.get(os.uname().machine, 0)),
    # 8 bytes (12 on some real-time kernels), the call's number, and at 16 in both cases the result.
    TRACEPOINT: Way(lambda _: libbpf.TRACEPOINT, _attach_tracepoint, 16),
    TP_BTF: Way(lambda point: libbpf.btf_tracepoint(point.hook.name), _attach_tracing, 0),
}


def check(settings: Settings, ways: dict[str, str]) -> None:
    """Raise Failure if a hook does not exist, as far as that is known before the probe is compiled."""
    for hook in chosen(settings):
        if ways.get(hook.program) == TRACEPOINT:
            tracepoint_id(hook)
