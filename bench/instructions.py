#!/usr/bin/env python3
"""Instructions that watching adds to a system call, to a death, and to a process that starts and ends.

Run it as root in a machine whose time stamp counter counts instructions: bench/vm.py boots one.

A measurement is the fewest of many passes: an interrupt only adds. What a process takes drifts in the course of
minutes, with the state of the kernel's caches. So what is added is the difference to the mean of two measurements with
nothing attached, one just before and one just after; and the median of three such differences.
"""

import contextlib
import ctypes
import mmap
import os
import platform
import signal
import statistics
import struct
import sys
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from killsnoopd.failure import Failure  # noqa: E402
from killsnoopd.probe import compiler, hooks, libbpf, start, ways  # noqa: E402
from killsnoopd.probe.program import Layout  # noqa: E402
from killsnoopd.settings import ATTACH, Settings  # noqa: E402

# A pass takes less than a tick of the timer, which would be counted as well.
PASSES, TIMES, TIMES_OF_PROCESSES = 200, 300, 15
ROUNDS = 3
WARM_UP = 50  # passes: the burst of events is over, the caches are filled
NO_SUCH_PID = 4_194_303
_TSC = "0f31 48c1e220 4809d0"  # rdtsc; rax |= rdx << 32


def timed(body: bytes) -> Callable[[int], int]:
    """A function that does this so many times, and returns how far the time stamp counter went. x86-64."""
    loop = body + bytes.fromhex("48ffcb")  # dec rbx
    loop += b"\x0f\x85" + struct.pack("<i", -len(loop) - 6)  # jnz
    text = bytes.fromhex(f"53 4889fb {_TSC} 50") + loop + bytes.fromhex(f"{_TSC} 5a 4829d0 5b c3")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(text)
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return lambda times: memory and function(times)


def kill(pid: int, sig: int) -> bytes:
    """kill(pid, sig)."""
    return b"\xbf" + struct.pack("<i", pid) + b"\xbe" + struct.pack("<i", sig) + bytes.fromhex("b83e000000 0f05")


_CLONE = (
    "31f6 31d2 4531d2 4531c0 b838000000 0f05 85c0 75"  # of a child that shares the memory; jump if it is not the child
)
_WAIT = "4489cf 31f6 31d2 4531d2 b83d000000 0f05"  # wait4(r9d, 0, 0, 0)
# clone(CLONE_VM | CLONE_FILES | SIGCHLD), whose child calls pause(); r9d = its pid; kill(r9d, SIGKILL)
_DEATH = f"bf11050000 {_CLONE}07 b822000000 0f05 4189c1 89c7 be09000000 b83e000000 0f05 {_WAIT}"
# clone(CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD), whose child calls exit(0)
_PROCESS = f"bf11450000 {_CLONE}09 31ff b83c000000 0f05 4189c1 {_WAIT}"


def loads(ignoring: int) -> dict[str, bytes]:
    """What is measured. `ignoring`: a process that ignores SIGUSR2."""
    return {
        "getppid": bytes.fromhex("b86e000000 0f05"),
        "failing kill": kill(NO_SUCH_PID, signal.SIGTERM),
        "delivered kill": kill(ignoring, signal.SIGUSR2),
        "killed process": bytes.fromhex(_DEATH),
        "process": bytes.fromhex(_PROCESS),
    }


@contextlib.contextmanager
def empty(way: str) -> Iterator[None]:
    """A program that does nothing, at killsnoopd's hooks and attached in the same ways."""
    settings = Settings(attach=way)
    module = compiler.compiled(compiler.import_bcc(), {}, (HERE / "empty.bpf.c").read_text())
    with contextlib.ExitStack() as opened:
        for point in hooks.points(settings, ways.choose(settings)):
            program = libbpf.load_program("empty", point.kind, module.dump_func("empty"), "GPL")
            opened.callback(os.close, program)
            opened.callback(os.close, point.attach(program))
        yield


@contextlib.contextmanager
def probe(way: str) -> Iterator[None]:
    """killsnoopd's probe, with nobody who reads its events."""
    opened = start.load([f"--probe.attach={way}"], Layout.of(Settings()), sys.executable)
    try:
        yield
    finally:
        opened.close()


def measured(functions: dict[str, Callable[[int], int]]) -> dict[str, float]:
    """Instructions of each load."""
    found = {}
    for name, function in functions.items():
        times = TIMES_OF_PROCESSES if "process" in name else TIMES
        for _ in range(WARM_UP):
            function(times)
        found[name] = min(function(times) for _ in range(PASSES)) / times
    return found


def ignore() -> None:
    """Ignore SIGUSR2, for ever."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    while True:
        signal.pause()


def answer(requests: Connection, functions: dict[str, Callable[[int], int]]) -> None:
    """Measure these at each request.

    The end of a process that shares its parent's memory takes a hundred instructions for each mapping in it
    (acct_collect(), kernel/acct.c). The process that attaches maps the compiler and the counters; this one does not.
    """
    while requests.recv():
        requests.send(measured(functions))


def main() -> int:
    """Entry point."""
    ignoring = Process(target=ignore, daemon=True)
    ignoring.start()
    functions = {name: timed(body) for name, body in loads(ignoring.pid or 0).items()}
    ours, theirs = Pipe()
    Process(target=answer, args=(theirs, functions), daemon=True).start()

    def measure() -> dict[str, float]:
        ours.send(True)
        found: dict[str, float] = ours.recv()
        return found

    def row(title: str, values: dict[str, float]) -> str:
        return f"{title:24}" + "".join(f"{value:>16.0f}" for value in values.values())

    measure()  # the first is dearer: it fills the kernel's caches
    print(f"Linux {platform.release()}, {platform.machine()}: instructions of a call, and those that are added")
    print(f"{'':24}" + "".join(f"{name:>16}" for name in functions), flush=True)
    nothing = measure()
    print(row("nothing attached", nothing), flush=True)
    for way in ATTACH:
        for title, attached in (("empty", empty), ("killsnoopd", probe)):
            added: dict[str, list[float]] = {name: [] for name in functions}
            try:
                for _ in range(ROUNDS):
                    with attached(way):
                        values = measure()
                    again = measure()
                    for name, found in added.items():
                        found.append(values[name] - (nothing[name] + again[name]) / 2)
                    nothing = again
            except Failure as failure:
                print(f"{title + ', ' + way:24}{failure}", flush=True)
                continue
            print(row(f"{title}, {way}", {name: statistics.median(found) for name, found in added.items()}))
            print(
                row("  give or take", {name: (max(found) - min(found)) / 2 for name, found in added.items()}),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
