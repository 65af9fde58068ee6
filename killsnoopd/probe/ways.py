"""Chooses the way in which each program is attached: by what the kernel has, and by trial, never by its version.

A program of a tracing hook that is preempted keeps its recursion guard, per program and CPU, until it continues. The
kernel skips it meanwhile for every other task on that CPU. So on a kernel that preempts, only a way that runs programs
with preemption off is exact. docs/design.md has the table.
"""

import contextlib
import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import hooks, libbpf
from killsnoopd.probe.hooks import FENTRY, FEXIT, HOOKS, KPROBE, TP_BTF, TRACEPOINT, Hook
from killsnoopd.settings import Settings

_DEBUG = Path("/sys/kernel/debug/sched/preempt")
# r2 = 1; r1 = &cell, whose map's fd goes to byte 12; lock *(u64 *)r1 += r2; r0 = 0; exit
_COUNT_ONE = bytes.fromhex(
    "b702000001000000 1821000000000000 0000000000000000 db21000000000000 b700000000000000 9500000000000000"
)


def choose(settings: Settings) -> dict[str, str]:
    """The way of each program; none of an optional one that has none here.

    Where no exact way is to be had, the one that remains: see inexact(). Raises Failure.
    """
    libbpf.vmlinux_btf()  # everything below needs it
    ways = {hook.program: hook.ways[0] for hook in HOOKS if not hook.optional}
    calls = [hook for hook in HOOKS if hook.at_return]  # all, so that settings do not change the way
    ways["sys_exit"] = _way_of_calls(calls) if settings.attach == "auto" else settings.attach
    if settings.attach in (FEXIT, KPROBE) and not (ftrace_enabled() and _counts(settings.attach, calls, _call)):
        raise Failure(
            Exit.UNAVAILABLE,
            f"this kernel runs no program by {settings.attach}: leave out --probe.attach={settings.attach}",
        )
    if has_preemptible_tracepoints():
        ways["sched_process_exit"] = _way_of_exits(hooks.by_name("sched_process_exit"))
    # What its program notes is of no use without reads of kernel memory. Only an OOM kill would show whether it runs.
    if ftrace_enabled() and libbpf.may_read_kernel_memory() and _attaches(FENTRY, [hooks.by_name("out_of_memory")]):
        ways["out_of_memory"] = FENTRY
    return ways


def _way_of_calls(calls: list[Hook]) -> str:
    """Of the exact ways, one that slows no other system call, if there is one."""
    if not ftrace_enabled():
        return TRACEPOINT
    if not preemptible() and _counts(FEXIT, calls, _call):
        return FEXIT
    if not has_return_pool() and _counts(KPROBE, calls, _call):
        return KPROBE
    return TRACEPOINT


def _way_of_exits(hook: Hook) -> str:
    for way in (FENTRY, KPROBE) if ftrace_enabled() else ():
        if _counts(way, [hook], _exit):
            return way
    return TRACEPOINT if _counts(TRACEPOINT, [hook], _exit) else TP_BTF


def inexact(ways: dict[str, str], preemptible: bool) -> list[str]:
    """Programs whose runs the kernel skips while a task is preempted in them; with fexit, it may also miscount.

    `ways`: the way of each program. `preemptible`: whether a task may lose its CPU inside the kernel.
    """
    found = [program for program, way in ways.items() if way == FEXIT and preemptible]
    if has_preemptible_tracepoints():
        preempted = [("sys_exit", TRACEPOINT), ("sched_process_exit", TP_BTF)]
        if "PREEMPT_RT" in os.uname().version:  # where interrupts stay on under siglock
            preempted.append(("signal_generate", TP_BTF))
        found += [program for program, way in preempted if ways.get(program) == way]
    return found


@cache
def has_preemptible_tracepoints() -> bool:
    """Whether programs of tracepoints may be preempted: of BTF tracepoints, and of classic ones at system calls.

    Linux 7.0 and later, which has no mode without preemption on x86 and arm64.
    """
    return libbpf.has_name("trace_call_bpf_faultable")


def has_return_pool() -> bool:
    """Whether return probes share a pool of nodes, which tasks that wait in a call can use up: before Linux 6.14."""
    try:
        return "rethook" in libbpf.struct_offsets("fprobe")["fprobe"]
    except OSError:  # no CONFIG_FPROBE
        return True


def ftrace_enabled(path: Path = Path("/proc/sys/kernel/ftrace_enabled")) -> bool:
    """Whether the kernel calls what is attached to functions.

    While this is 0, Linux 6.1 and 6.12 attach a program that never runs, and warn in their log when it is detached.
    """
    try:
        return path.read_bytes().strip() != b"0"
    except OSError:  # a kernel without ftrace
        return False


def preemptible() -> bool:
    """Whether a task may lose its CPU inside the kernel; in doubt, yes."""
    return has_preemptible_tracepoints() or preemption_mode(os.uname())


def now_preemptible(debug: Path = _DEBUG) -> bool:
    """The same for the daemon, which reads only what may change while it runs; in doubt, no: the loader has asked."""
    try:
        return has_preemptible_tracepoints() or _preempts(debug.read_bytes())
    except OSError:
        return False


def _preempts(modes: bytes) -> bool:
    """From the content of sched/preempt, such as `none (voluntary) full`."""
    return not re.search(rb"\((none|voluntary)\)", modes)


def preemption_mode(
    kernel: os.uname_result,
    debug: Path = _DEBUG,
    command_line: Path = Path("/proc/cmdline"),
    boot: Path = Path("/boot"),
) -> bool:
    """Whether a kernel before Linux 7 runs in a preemptible mode."""
    version = kernel.version
    if "PREEMPT_DYNAMIC" not in version:
        return "PREEMPT" in version  # the others name no mode: none or voluntary
    with contextlib.suppress(OSError):
        return _preempts(debug.read_bytes())
    with contextlib.suppress(OSError):
        modes = re.findall(rb"\bpreempt=(\w+)", command_line.read_bytes())
        if modes:
            return modes[-1] not in (b"none", b"voluntary")
    with contextlib.suppress(OSError):
        return not re.search(
            rb"^CONFIG_PREEMPT_(NONE|VOLUNTARY)=y", (boot / f"config-{kernel.release}").read_bytes(), re.MULTILINE
        )
    return True


def counting(counter: int) -> bytes:
    """The instructions of a program that counts its runs. `counter`: see libbpf.create_counter()."""
    return _COUNT_ONE[:12] + counter.to_bytes(4, "little") + _COUNT_ONE[16:]


def _call() -> None:
    """tgkill(2) of ourselves: a pinned probe does not count it."""
    signal.pthread_kill(threading.get_ident(), 0)


def _exit() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


@contextlib.contextmanager
def _trial(way: str, tried: list[Hook]) -> Iterator[int]:
    """Attach a program to these hooks in this way; the counter of its runs. Raises OSError, Failure."""
    with contextlib.ExitStack() as opened:
        counter = libbpf.create_counter()
        opened.callback(os.close, counter)
        code = counting(counter)
        for hook in tried:
            points = hooks.points_of(hook, way)
            if not points:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), hook.name)
            for point in points:
                program = libbpf.load_program("trial", point.kind, code, "GPL")
                opened.callback(os.close, program)
                opened.callback(os.close, point.attach(program))
        yield counter


def _attaches(way: str, tried: list[Hook]) -> bool:
    """Whether a program can be attached to these hooks in this way."""
    try:
        with _trial(way, tried):
            return True
    except (OSError, Failure):
        return False


def _counts(way: str, tried: list[Hook], provoke: Callable[[], None]) -> bool:
    """Whether a program attached to these hooks in this way runs when it should.

    That it can be attached proves nothing: a compiler may have inlined the function, ftrace may be off.
    """
    try:
        with _trial(way, tried) as counter:
            before = libbpf.read_counter(counter)
            provoke()
            return libbpf.read_counter(counter) > before
    except (OSError, Failure):
        return False
