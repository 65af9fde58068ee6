"""The attached probe as the daemon sees it: file descriptors and mapped memory. The loader has exited by then."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

from killsnoopd import names
from killsnoopd.probe import libbpf, ways
from killsnoopd.probe.hooks import BY_FUNCTION, HOOKS, KPROBE, PROGRAMS
from killsnoopd.probe.objects import Objects
from killsnoopd.probe.program import (
    DAEMON_STATUSES,
    KINDS,
    LEDGER_WORDS,
    POD_LABEL_BYTES,
    PROBE_STATUSES,
    RESULTS,
    SELF_TEST_PID,
    SERIES_BYTES,
    SLOT_STATE,
    TABLES,
    VICTIM_BYTES,
    Layout,
)
from killsnoopd.probe.ring_buffer import RingBuffer

_READINGS = 1000  # attempts at a reading during which no slot is recycled; the first nearly always succeeds
_SERIES = struct.Struct("=16sIi")  # struct series of maps.h: comm, signal, result
_VICTIM = struct.Struct("=16s16s64s40sII")  # struct victim: sender, victim, unit, pod, signal, origin
_QUEUED = (1 << 64) - 1  # in place of a slot's last use, in counters.c


@dataclass(frozen=True)
class Counts:
    """One reading of the counters. The sum over `series`, `overflow` and `aged` is the exact number of calls.

    That over `deaths`, `overflow_deaths` and `aged_deaths` is the exact number of processes that died of a signal, and
    that over `deliveries` the exact number of signals generated for a process.
    """

    series: list[tuple[bytes, int, int, int]]  # comm (16 bytes), signal 0..65, result (0 or -errno), calls
    series_used: list[int]  # of each series: its last call, CLOCK_BOOTTIME in ns, or 0 if it is long ago
    overflow: list[tuple[int, str, int]]  # signal 0..65, result's name, calls that found no free slot
    overflow_used: list[int]  # of each of `overflow`: the last call
    aged: list[tuple[int, str, int]]  # signal 0..65, result's name, calls of idle series that lost their slot
    series_taken: int  # series that have a slot; slots in the queue are left out
    series_recycled: int  # slots recycled since the probe started
    deaths: list[tuple[bytes, bytes, bytes, bytes, int, str, int]]
    # sender, victim, unit, uid of the pod, signal 1..64, origin, processes
    deaths_used: list[int]
    overflow_deaths: list[tuple[int, str, int]]  # signal, origin (names.DEATH_ORIGINS), processes
    overflow_deaths_used: list[int]
    aged_deaths: list[tuple[int, str, int]]
    deaths_taken: int
    deaths_recycled: int
    deliveries: list[tuple[int, str, str, int]]  # signal 1..64, origin (names.ORIGINS), outcome (names.OUTCOMES), n
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


def _sum(rows: Iterable[memoryview], first: int, count: int) -> list[int]:
    """Sums of cells over all CPUs."""
    # The cells of a CPU form one long number, so that one addition adds all of them. No cell carries into the next
    # before its sum reaches 2^64. This takes half the time of adding cell by cell, and next to none for a CPU that
    # does not exist.
    parts = (int.from_bytes(row[first : first + count], sys.byteorder) for row in rows)
    return memoryview(sum(parts).to_bytes(count * 8, sys.byteorder)).cast("Q").tolist()


class _Reading:
    """A copy of the counters, with the cells of slots in use only."""

    def __init__(self, layout: Layout, rows: Iterable[bytes], used: list[int]) -> None:
        """`layout` is that of the copy; `used` is the last use of each slot and overflow cell."""
        self.layout = layout
        self._rows = [memoryview(row).cast("Q") for row in rows]
        self._used = used

    def sums(self, first: int, count: int) -> list[int]:
        """Sums of cells over all CPUs."""
        return _sum(self._rows, first, count)

    def slots(self, keys: Iterable[tuple[Any, ...]], first: int, count: int) -> tuple[list[Any], list[int]]:
        """The keys of a table with their counts, and when each was last used; 0: long ago, it is in the queue."""
        counts, used = self.sums(first, count), self._used[first : first + count]
        # Zero: the slot lost the race in take_slot() and never counts.
        found = [(*key, n) for key, n in zip(keys, counts) if n]
        return found, [0 if when == _QUEUED else when for when, n in zip(used, counts) if n]

    def table(self, first: int, columns: tuple[str, ...]) -> tuple[list[tuple[int, str, int]], list[int]]:
        """Signal, column and count of the cells that are not 0, and when each was last used if that is known."""
        found, used = [], []
        for index, n in enumerate(self.sums(first, len(names.SIGNALS) * len(columns))):
            if n:
                found.append((index // len(columns), columns[index % len(columns)], n))
                used.append(self._used[first + index] if first + index < len(self._used) else 0)
        return found, used

    def deliveries(self) -> list[tuple[int, str, str, int]]:
        """Signal, origin, outcome and count."""
        layout, outcomes, found = self.layout, len(names.OUTCOMES), []
        for index, count in enumerate(self.sums(layout.deliveries, layout.exits - layout.deliveries)):
            if count:
                rest, outcome = divmod(index, outcomes)
                sig, origin = divmod(rest, len(names.ORIGINS))
                found.append((sig, names.ORIGINS[origin], names.OUTCOMES[outcome], count))
        return found


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
            self._victims = self._map("victims", layout.deaths_max * VICTIM_BYTES)
            self.pod_labels = self._map(
                "pod_labels", layout.deaths_max * POD_LABEL_BYTES, mmap.PROT_READ | mmap.PROT_WRITE
            )
            """Written by the thread that builds pages (metrics/pod_labels.py)."""
            self._last_used = self._map("last_used", layout.aged * 8).cast("Q")
            self._slot_state = self._map("slot_state", TABLES * len(SLOT_STATE) * 8).cast("Q")
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

    def _sum(self, first: int, count: int) -> list[int]:
        """Sums of cells over all CPUs, as of now."""
        return _sum(self._rows(), first, count)

    def _slot_states(self) -> tuple[dict[str, int], dict[str, int]]:
        """The state of the slots of calls, and that of the slots of deaths."""
        words = self._slot_state.tolist()
        calls, deaths = words[: len(SLOT_STATE)], words[len(SLOT_STATE) :]
        return dict(zip(SLOT_STATE, calls)), dict(zip(SLOT_STATE, deaths))

    def counts(self) -> Counts:
        """All counters, as of now. A concurrent call is in this reading or in the next one."""
        full = self.layout
        for _ in range(_READINGS):
            # Copy first, decode later, to keep the time short in which a slot may be recycled.
            calls, deaths = self._slot_states()
            taken, deaths_taken = min(calls["taken"], full.series_max), min(deaths["taken"], full.deaths_max)

            # Only slots in use: on a host with many possible CPUs, copying the free ones would take most of the time.
            def in_use(cells: memoryview, taken: int = taken, deaths_taken: int = deaths_taken) -> bytes:
                of_deaths = cells[full.series_max : full.series_max + deaths_taken]
                return cells[:taken].tobytes() + of_deaths.tobytes() + cells[full.overflow :].tobytes()

            # Before the keys: a slot gets its key before it counts.
            copies = [in_use(row) for row in self._rows()]
            series_keys = bytes(self._series[: taken * SERIES_BYTES])
            victim_keys = bytes(self._victims[: deaths_taken * VICTIM_BYTES])
            used = memoryview(in_use(self._last_used)).cast("Q").tolist()
            versions = [state["version"] for state in (calls, deaths)]
            if not any(version % 2 for version in versions) and versions == [
                state["version"] for state in self._slot_states()
            ]:
                break
            time.sleep(0.001)
        reading = _Reading(Layout(full.cpus, taken, deaths_taken), copies, used)
        series, series_used = reading.slots(_SERIES.iter_unpack(series_keys), 0, taken)
        victims, victims_used = reading.slots(_VICTIM.iter_unpack(victim_keys), taken, deaths_taken)
        layout = reading.layout
        overflow, overflow_used = reading.table(layout.overflow, RESULTS)
        overflow_deaths, overflow_deaths_used = reading.table(layout.overflow_deaths, names.DEATH_ORIGINS)
        (escalations,) = reading.sums(layout.escalations, 1)
        return Counts(
            series=series,
            series_used=series_used,
            overflow=overflow,
            overflow_used=overflow_used,
            aged=reading.table(layout.aged, RESULTS)[0],
            series_taken=taken - calls["queue_tail"] + calls["queue_head"],
            series_recycled=calls["queue_head"],
            deaths=[(*key, names.DEATH_ORIGINS[origin], n) for *key, origin, n in victims],
            deaths_used=victims_used,
            overflow_deaths=overflow_deaths,
            overflow_deaths_used=overflow_deaths_used,
            aged_deaths=reading.table(layout.aged_deaths, names.DEATH_ORIGINS)[0],
            deaths_taken=deaths_taken - deaths["queue_tail"] + deaths["queue_head"],
            deaths_recycled=deaths["queue_head"],
            deliveries=reading.deliveries(),
            exits=[(sig, n) for sig, n in enumerate(reading.sums(layout.exits, len(names.SIGNALS))) if n],
            escalations=escalations,
        )

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
        runs = self.hooks[hook] not in BY_FUNCTION or ways.ftrace_enabled()
        return bool(links) and runs and all(map(libbpf.link_attached, links))

    def inexact(self) -> list[str]:
        """Hooks whose program may miss runs: it is preempted. The kernel's mode can change after it was attached."""
        ways_of = {hook.program: self.hooks[hook.name] for hook in HOOKS if hook.name in self.hooks}
        programs = ways.inexact(ways_of, ways.now_preemptible())
        return [hook.name for hook in HOOKS if hook.name in self.hooks and hook.program in programs]

    def program(self, program: str) -> libbpf.ProgInfo:
        """The kernel's statistics of a program, one of hooks.PROGRAMS: the sum over its entries."""
        objects = self._objects
        infos = [libbpf.prog_info(fd) for entry, fd in objects.programs.items() if entry.split("@")[0] == program]
        if not infos:  # of an optional hook
            return libbpf.ProgInfo(0, 0, 0)
        run_time_ns, runs, misses = (sum(values) for values in zip(*map(astuple, infos)))
        own = [f"{hook.name}@{KPROBE}" for hook in HOOKS if hook.program == program]
        misses += sum(libbpf.kprobe_misses(objects.links[link]) for link in own if link in objects.links)
        return libbpf.ProgInfo(run_time_ns, runs, misses)

    def attached_ns(self) -> int:
        """Since when the probe has been attached: CLOCK_BOOTTIME. Entry programs outlive a takeover."""
        return min(map(libbpf.prog_load_ns, self._objects.programs.values()))

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
