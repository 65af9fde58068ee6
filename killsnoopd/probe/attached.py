"""The attached probe as the daemon sees it: file descriptors and mapped memory. The loader has exited by then."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

from killsnoopd import names
from killsnoopd.probe import libbpf
from killsnoopd.probe.hooks import FEXIT, HOOKS, KPROBE, PROGRAMS
from killsnoopd.probe.objects import Objects
from killsnoopd.probe.program import (
    DAEMON_STATUSES,
    KINDS,
    LEDGER_WORDS,
    PROBE_STATUSES,
    RESULTS,
    SELF_TEST_PID,
    SERIES_BYTES,
    SLOT_STATE,
    Layout,
)
from killsnoopd.probe.ring_buffer import RingBuffer
from killsnoopd.probe.ways import ftrace_enabled

_VERSION = SLOT_STATE.index("version")
_READINGS = 1000  # attempts at a reading during which no slot is recycled; the first nearly always succeeds
_SERIES = struct.Struct("=16sIi")  # struct series of maps.h: comm, signal, result


@dataclass(frozen=True)
class Counts:
    """One reading of the counters. The sum over `series`, `overflow` and `aged` is the exact number of calls.

    The sum over `deliveries` is the exact number of signals generated for a process, that over `deaths` the exact
    number of processes that died of one.
    """

    series: list[tuple[bytes, int, int, int]]  # comm (16 bytes), signal 0..65, result (0 or -errno), calls
    overflow: list[tuple[int, str, int]]  # signal 0..65, result's name, calls that found no free slot
    aged: list[tuple[int, str, int]]  # signal 0..65, result's name, calls of idle series that lost their slot
    series_taken: int  # series that have a slot; slots in the queue are left out
    series_recycled: int  # slots recycled since the probe started
    deliveries: list[tuple[int, str, str, int]]  # signal 1..64, origin (names.ORIGINS), outcome (names.OUTCOMES), n
    deaths: list[tuple[int, str, int]]  # signal 1..64, origin (names.DEATH_ORIGINS), n
    exits: list[tuple[int, int]]  # signal 1..64, processes that handled it and then exited, n
    escalations: int  # SIGKILLs that followed a SIGTERM to the same process

    @property
    def total(self) -> int:
        """Calls by all senders."""
        return sum(entry[-1] for table in (self.series, self.overflow, self.aged) for entry in table)

    def calls(self, comm: bytes, sig: int, res: int) -> int:
        """Calls with this signal and result, by processes of this name, plus those of the overflow table."""
        total = sum(n for c, s, r, n in self.series if (c.rstrip(b"\0"), s, r) == (comm, sig, res))
        return total + sum(n for s, r, n in self.overflow if (s, r) == (sig, names.result_name(res)))

    def delivered(self, *key: object) -> int:
        """Signals of this number, origin and outcome."""
        return sum(entry[-1] for entry in self.deliveries if entry[:-1] == key)


@dataclass(frozen=True)
class Ledger:
    """Events by status (PROBE_STATUSES, DAEMON_STATUSES), and the number that wait in the ring buffer."""

    statuses: dict[str, int]
    pending: int


class Probe:
    """All that the daemon reads from the kernel. Reads take no privilege; reads of counters take no system call."""

    def __init__(self, objects: Objects, layout: Layout, bcc_version: str) -> None:
        """`objects` are closed with the probe."""
        self.bcc_version = bcc_version
        self.layout = layout
        self.hooks = dict(link.split("@")[:2] for link in objects.links)
        """Names of the hooks, and the way in which each is attached."""
        self._objects = objects
        try:
            self._counts = self._map("counts", layout.cpus * layout.row * 8).cast("Q")
            self._series = self._map("series", layout.series_max * SERIES_BYTES)
            self._slot_state = self._map("slot_state", len(SLOT_STATE) * 8).cast("Q")
            self.ledger_words = self._map("ledger", LEDGER_WORDS * 8, mmap.PROT_READ | mmap.PROT_WRITE).cast("Q")
            """The daemon's half of the ledger, written by the event thread."""
            self._ring = RingBuffer(objects.maps["events"])
        except OSError:
            self.close()
            raise
        self.events_fd = self._ring.poll_fd
        """Readable when there are events."""

    def _map(self, name: str, size: int, protection: int = mmap.PROT_READ) -> memoryview:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapped = mmap.mmap(self._objects.maps[name], pages, mmap.MAP_SHARED, protection)
        return memoryview(mapped)[:size]

    def _rows(self) -> list[memoryview]:
        """The cells of each CPU, in live memory."""
        row = self.layout.row
        return [self._counts[cpu * row : (cpu + 1) * row] for cpu in range(self.layout.cpus)]

    def _sum(self, first: int, count: int, rows: list[memoryview] | None = None) -> list[int]:
        """Sums of cells over all CPUs, as of now or from a copy of _rows()."""
        # The cells of a CPU form one long number, so that one addition adds all of them. No cell carries into the next
        # before its sum reaches 2^64. This takes half the time of adding cell by cell, and next to none for a CPU that
        # does not exist.
        parts = (int.from_bytes(row[first : first + count], sys.byteorder) for row in rows or self._rows())
        return memoryview(sum(parts).to_bytes(count * 8, sys.byteorder)).cast("Q").tolist()

    def counts(self) -> Counts:
        """All counters, as of now. A concurrent call is in this reading or in the next one."""
        for _ in range(_READINGS):
            # Copy first, decode later, to keep the time short in which a slot may be recycled.
            version = self._slot_state[_VERSION]
            slot_state = dict(zip(SLOT_STATE, self._slot_state))
            taken = min(slot_state["taken"], self.layout.series_max)
            # Only slots in use: on a host with many possible CPUs, copying the free ones would take most of the time.
            # Before the keys: a slot gets its key before it counts.
            copies = [row[:taken].tobytes() + row[self.layout.overflow :].tobytes() for row in self._rows()]
            keys = bytes(self._series[: taken * SERIES_BYTES])
            if version % 2 == 0 and self._slot_state[_VERSION] == version:
                break
            time.sleep(0.001)
        layout, rows = Layout(self.layout.cpus, taken), [memoryview(copy).cast("Q") for copy in copies]
        counted = zip(_SERIES.iter_unpack(keys), self._sum(0, taken, rows))
        # Zero: the slot lost the race in take_slot() and never counts.
        series = [(comm, sig, res, calls) for (comm, sig, res), calls in counted if calls]
        overflow, aged = (self._by_result(first, rows) for first in (layout.overflow, layout.aged))
        deliveries, deaths = self._deliveries(layout, rows), self._deaths(layout, rows)
        exits = [(sig, n) for sig, n in enumerate(self._sum(layout.exits, len(names.SIGNALS), rows)) if n]
        (escalations,) = self._sum(layout.escalations, 1, rows)
        retired, recycled = slot_state["queue_tail"] - slot_state["queue_head"], slot_state["queue_head"]
        return Counts(series, overflow, aged, taken - retired, recycled, deliveries, deaths, exits, escalations)

    def _by_result(self, first: int, rows: list[memoryview]) -> list[tuple[int, str, int]]:
        cells = self._sum(first, len(names.SIGNALS) * len(RESULTS), rows)
        return [
            (index // len(RESULTS), RESULTS[index % len(RESULTS)], calls) for index, calls in enumerate(cells) if calls
        ]

    def _deliveries(self, layout: Layout, rows: list[memoryview]) -> list[tuple[int, str, str, int]]:
        cells = self._sum(layout.deliveries, layout.deaths - layout.deliveries, rows)
        outcomes, found = len(names.OUTCOMES), []
        for index, count in enumerate(cells):
            if count:
                rest, outcome = divmod(index, outcomes)
                sig, origin = divmod(rest, len(names.ORIGINS))
                found.append((sig, names.ORIGINS[origin], names.OUTCOMES[outcome], count))
        return found

    def _deaths(self, layout: Layout, rows: list[memoryview]) -> list[tuple[int, str, int]]:
        cells = self._sum(layout.deaths, layout.exits - layout.deaths, rows)
        origins = len(names.DEATH_ORIGINS)
        return [
            (index // origins, names.DEATH_ORIGINS[index % origins], count)
            for index, count in enumerate(cells)
            if count
        ]

    @contextlib.contextmanager
    def self_testing(self) -> Iterator[RingBuffer]:
        """Emit events for this process's test signals despite filters and limits; yields the buffer with the events."""
        self.ledger_words[SELF_TEST_PID] = os.getpid()
        try:
            yield self._ring
        finally:
            self.ledger_words[SELF_TEST_PID] = 0

    def ledger(self) -> Ledger:
        """Events by status so far."""
        own = dict(zip(DAEMON_STATUSES, self.ledger_words))  # before `emitted`: pending stays positive
        cells = self._sum(self.layout.ledger, KINDS * len(PROBE_STATUSES))
        kernel = {status: sum(cells[index :: len(PROBE_STATUSES)]) for index, status in enumerate(PROBE_STATUSES)}
        pending = kernel.pop("emitted") - sum(own.values())
        both = {status: own.get(status, 0) + kernel.get(status, 0) for status in own | kernel}
        return Ledger(both, max(0, pending))

    def not_handled(self) -> dict[str, int]:
        """How often the program array of each entry program was empty: those runs are counted nowhere else."""
        return dict(zip(PROGRAMS, self._sum(self.layout.not_handled, len(PROGRAMS))))

    def attached(self, hook: str) -> bool:
        """Whether the program is still attached to the hook, and the kernel runs it."""
        links = [fd for link, fd in self._objects.links.items() if link.split("@")[0] == hook]
        runs = self.hooks[hook] not in (FEXIT, KPROBE) or ftrace_enabled()
        return bool(links) and runs and all(map(libbpf.link_attached, links))

    def program(self, program: str) -> libbpf.ProgInfo:
        """The kernel's statistics of a program, one of hooks.PROGRAMS: the sum over its entries."""
        objects = self._objects
        infos = [libbpf.prog_info(fd) for entry, fd in objects.programs.items() if entry.split("@")[0] == program]
        run_time_ns, runs, misses = (sum(values) for values in zip(*map(astuple, infos)))
        own = [f"{hook.name}@{KPROBE}" for hook in HOOKS if hook.program == program]
        misses += sum(libbpf.kprobe_misses(objects.links[link]) for link in own if link in objects.links)
        return libbpf.ProgInfo(run_time_ns, runs, misses)

    def consume(self, take: Callable[[int, bytes], bool]) -> None:
        """Call take(position, record) for the records that wait in the ring buffer, until it returns False."""
        self._ring.consume(take)

    def detach(self) -> None:
        """Close the links. A pinned probe stays attached: its pins keep the links alive."""
        while self._objects.links:
            os.close(self._objects.links.popitem()[1])

    def close(self) -> None:
        """Close the ring buffer and all file descriptors."""
        if hasattr(self, "_ring"):
            self._ring.close()
        self._objects.close()
