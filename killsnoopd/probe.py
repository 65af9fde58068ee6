"""The attached probe, as the daemon sees it: file descriptors and mapped memory, from a loader that is gone."""

import contextlib
import importlib.util
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from killsnoopd import handover, libbpf, names
from killsnoopd.failure import Exit, Failure
from killsnoopd.in_hand import WORDS, InHand
from killsnoopd.program import DIRECTORY, KINDS, LEDGER, PROGRAMS, RESULTS, SERIES_BYTES, Layout

_VERSION = DIRECTORY.index("version")
_READINGS = 1000  # slots change hands as fast as they age: nearly always, the first reading is undisturbed
_PACKAGE = Path(__file__).parent
_SERIES = struct.Struct("=16sIi")  # struct series of memory.h: comm, signal, result
# Runs the loader under any Python, with this package importable and nothing else of the daemon's own path.
_BOOTSTRAP = """\
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location(
    "killsnoopd", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["killsnoopd"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
sys.argv = ["killsnoopd-loader"] + sys.argv[2:]
runpy.run_module("killsnoopd.loader", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Counts:
    """One reading of the counters. The sum over `series`, `overflow` and `aged` is the number of calls, exactly.

    So are the sums over `deliveries`, signals that reached a process, and over `deaths`, processes that died of one.
    """

    series: list[tuple[bytes, int, int, int]]  # comm (16 bytes), signal 0..65, result (0 or -errno), calls
    overflow: list[tuple[int, str, int]]  # signal 0..65, result's name, calls that found every series taken
    aged: list[tuple[int, str, int]]  # the same of names that were idle, and lost their series to new ones
    series_taken: int  # that are not idle
    series_recycled: int  # ever
    deliveries: list[tuple[int, str, str, int]]  # signal 1..64, origin (names.ORIGINS), outcome (names.OUTCOMES), n
    deaths: list[tuple[int, bool, int]]  # signal 1..64, whether its sender was seen, n
    escalations: int  # SIGKILLs that followed a SIGTERM to the same process

    @property
    def total(self) -> int:
        """Calls by anyone."""
        return sum(entry[-1] for table in (self.series, self.overflow, self.aged) for entry in table)

    def calls(self, comm: bytes, sig: int, res: int) -> int:
        """Calls with this signal and result, by processes of this name and by those that no name is counted for."""
        total = sum(n for c, s, r, n in self.series if (c.rstrip(b"\0"), s, r) == (comm, sig, res))
        return total + sum(n for s, r, n in self.overflow if (s, r) == (sig, names.result_name(res)))

    def delivered(self, *key: object) -> int:
        """Signals of this number, origin and outcome."""
        return sum(entry[-1] for entry in self.deliveries if entry[:-1] == key)


@dataclass(frozen=True)
class Ledger:
    """What became of every event: by the kernel (program.LEDGER) and the daemon (in_hand.OUTCOMES); and what waits."""

    outcomes: dict[str, int]
    pending: int


class Probe:
    """Everything the daemon holds of the kernel. Reading it takes no privilege, and counters no system call."""

    def __init__(self, fds: dict[str, int], layout: Layout, bcc_version: str) -> None:
        """`fds`: map_*, prog_* and link_* as the loader names them; they are closed with the probe."""
        self.bcc_version = bcc_version
        self.layout = layout
        self.tracepoints = [name.removeprefix("link_") for name in fds if name.startswith("link_")]
        self._fds = fds
        try:
            self._counts = self._map("counts", layout.cpus * layout.row * 8).cast("Q")
            self._series = self._map("series", layout.series_max * SERIES_BYTES)
            self._directory = self._map("directory", len(DIRECTORY) * 8).cast("Q")
            self.in_hand = InHand(self._map("ledger", WORDS * 8, mmap.PROT_READ | mmap.PROT_WRITE).cast("Q"))
            self._ring = libbpf.RingBuffer(fds["map_events"])
        except OSError:
            self.close()
            raise
        self.events_fd = self._ring.epoll_fd
        """Readable when there are events."""

    def _map(self, name: str, size: int, protection: int = mmap.PROT_READ) -> memoryview:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapped = mmap.mmap(self._fds[f"map_{name}"], pages, mmap.MAP_SHARED, protection)
        return memoryview(mapped)[:size]

    def _rows(self) -> list[memoryview]:
        """The cells of each CPU, as they change."""
        row = self.layout.row
        return [self._counts[cpu * row : (cpu + 1) * row] for cpu in range(self.layout.cpus)]

    def _sum(self, first: int, count: int, rows: list[memoryview] | None = None) -> list[int]:
        """Cells added up over the CPUs, as of now or out of a copy of _rows()."""
        # A CPU's cells are taken for one long number, so that one addition adds them all: no cell carries into the next
        # before its sum is 2^64. Half the time of adding them one by one, next to none for a CPU that is not there.
        parts = (int.from_bytes(row[first : first + count], sys.byteorder) for row in rows or self._rows())
        return memoryview(sum(parts).to_bytes(count * 8, sys.byteorder)).cast("Q").tolist()

    def counts(self) -> Counts:
        """Every counter, as of now. A call that happens meanwhile is in this reading or in the next one."""
        for _ in range(_READINGS):
            # Copied as fast as can be, and looked at afterwards: no slot should change hands meanwhile.
            version = self._directory[_VERSION]
            directory = dict(zip(DIRECTORY, self._directory, strict=True))
            taken = min(directory["taken"], self.layout.series_max)
            copies = [row.tobytes() for row in self._rows()]  # before the keys: no slot counts before it has one
            keys = bytes(self._series[: taken * SERIES_BYTES])
            if version % 2 == 0 and self._directory[_VERSION] == version:
                break
            time.sleep(0.001)
        rows = [memoryview(copy).cast("Q") for copy in copies]
        counted = zip(_SERIES.iter_unpack(keys), self._sum(0, taken, rows), strict=True)
        # A slot lost to a race never counts.
        series = [(comm, sig, res, calls) for (comm, sig, res), calls in counted if calls]
        overflow, aged = (self._by_result(first, rows) for first in (self.layout.overflow, self.layout.aged))
        deliveries, deaths = self._deliveries(rows), self._deaths(rows)
        (escalations,) = self._sum(self.layout.escalations, 1, rows)
        retired, recycled = directory["queue_tail"] - directory["queue_head"], directory["queue_head"]
        return Counts(series, overflow, aged, taken - retired, recycled, deliveries, deaths, escalations)

    def _by_result(self, first: int, rows: list[memoryview]) -> list[tuple[int, str, int]]:
        cells = self._sum(first, len(names.SIGNALS) * len(RESULTS), rows)
        return [
            (index // len(RESULTS), RESULTS[index % len(RESULTS)], calls) for index, calls in enumerate(cells) if calls
        ]

    def _deliveries(self, rows: list[memoryview]) -> list[tuple[int, str, str, int]]:
        cells = self._sum(self.layout.deliveries, self.layout.deaths - self.layout.deliveries, rows)
        outcomes, found = len(names.OUTCOMES), []
        for index, count in enumerate(cells):
            if count:
                rest, outcome = divmod(index, outcomes)
                sig, origin = divmod(rest, len(names.ORIGINS))
                found.append((sig, names.ORIGINS[origin], names.OUTCOMES[outcome], count))
        return found

    def _deaths(self, rows: list[memoryview]) -> list[tuple[int, bool, int]]:
        cells = self._sum(self.layout.deaths, self.layout.escalations - self.layout.deaths, rows)
        return [(index // 2, bool(index % 2), count) for index, count in enumerate(cells) if count]

    @contextlib.contextmanager
    def self_testing(self) -> Iterator[libbpf.RingTail]:
        """Make events of this process's signal 0 and SIGURG, to itself, whatever the flags; what reads them."""
        tail = libbpf.RingTail(self._fds["map_events"])
        self.in_hand.self_test_pid = os.getpid()
        try:
            yield tail
        finally:
            self.in_hand.self_test_pid = 0
            tail.close()

    def ledger(self) -> Ledger:
        """What became of the events so far."""
        own = self.in_hand.outcomes()  # before `emitted`, so that pending is not negative
        cells = self._sum(self.layout.ledger, KINDS * len(LEDGER))
        kernel = {fate: sum(cells[index :: len(LEDGER)]) for index, fate in enumerate(LEDGER)}
        pending = kernel.pop("emitted") - sum(own.values())
        return Ledger(own | kernel, max(0, pending))

    def not_handled(self) -> dict[str, int]:
        """How often each program had nothing to jump to, so that what it saw is not counted anywhere else."""
        return dict(zip(PROGRAMS, self._sum(self.layout.not_handled, len(PROGRAMS)), strict=True))

    def attached(self, tracepoint: str) -> bool:
        """Whether a program is still attached to the tracepoint."""
        return libbpf.link_attached(self._fds[f"link_{tracepoint}"])

    def program(self, program: str) -> libbpf.ProgInfo:
        """What the kernel says of a program, one of program.PROGRAMS."""
        return libbpf.prog_info(self._fds[f"prog_{program}"])

    def consume(self, log: Callable[[bytes], str | None], over: Callable[[], bool]) -> int:
        """Hand over the records that wait in the ring buffer until there is none, or it is over; how many it were.

        `log` returns what became of the record, one of in_hand.OUTCOMES, or None if the ledger does not wait for it;
        neither function may raise.
        """
        taken = 0

        def on_record(record: bytes) -> bool:
            nonlocal taken
            taken += 1
            if self.in_hand.take(self._ring.position):
                self.in_hand.settle(log(record))
            return not over()

        self._ring.consume(on_record)
        return taken

    def detach(self) -> None:
        """Let go of the tracepoints. A pinned probe stays attached: its pins hold it."""
        for name in [name for name in self._fds if name.startswith("link_")]:
            os.close(self._fds.pop(name))

    def close(self) -> None:
        """Let go of everything."""
        if hasattr(self, "_ring"):
            self._ring.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def loader_python() -> str:
    """The Python that has bcc: this one, or else the distribution's, for which bcc is packaged."""
    spec = importlib.util.find_spec("bcc")
    folders = spec.submodule_search_locations if spec else None
    if folders and (Path(folders[0]) / "libbcc.py").exists():
        return sys.executable
    return "/usr/bin/python3"


def load(argv: list[str], layout: Layout, python: str) -> Probe:
    """Run the loader with the daemon's own flags and take over what it attached."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [python, "-I", "-c", _BOOTSTRAP, str(_PACKAGE), f"--fd={theirs.fileno()}", *argv]
        try:
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except (BlockingIOError, MemoryError):  # EAGAIN: fork(2)
            raise Failure(
                Exit.OSERR,
                "no process can be started (Resource temporarily unavailable): raise the limit of processes "
                "(TasksMax=, pids.max, ulimit -u)",
            ) from None
        except OSError as error:
            raise Failure(Exit.CONFIG, f"{python} cannot be run ({error.strerror}): install python3") from None
        theirs.close()
        try:
            answer = handover.receive(ours)
        finally:
            status = child.wait()
    if answer is None:
        raise Failure(Exit.SOFTWARE, f"the loader ended without a word (status {status}); its output is above")
    values, fds = answer
    return Probe(fds, layout, values["bcc"])


def open_pinned(directory: Path, layout: Layout) -> Probe:
    """Open the probe that the loader has pinned in `directory`."""
    fds: dict[str, int] = {}
    with contextlib.ExitStack() as on_failure:
        try:
            for path in sorted(directory.iterdir()):
                if not path.is_symlink():
                    fds[path.name] = libbpf.obj_get(str(path))
                    on_failure.callback(os.close, fds[path.name])
            version = str((directory / "bcc").readlink())
        except FileNotFoundError:
            raise Failure(
                Exit.UNAVAILABLE,
                f"no probe of these settings is pinned at {directory}: start killsnoopd-probe.service, "
                "with the same flags",
            ) from None
        except PermissionError as error:
            raise Failure(
                Exit.NOPERM,
                f"not allowed to open {error.filename or directory}: run as the user that owns it, "
                "and on a kernel older than 5.19 with CAP_BPF",
            ) from None
        on_failure.pop_all()
    return Probe(fds, layout, version)
