"""Reading the counters, without a kernel."""

import struct
from array import array

from killsnoopd.names import DEATH_ORIGINS, ORIGINS, OUTCOMES
from killsnoopd.probe.attached import Probe
from killsnoopd.probe.program import RESULTS, SLOT_STATE, TABLES, Layout

VERSION, QUEUE_HEAD, QUEUE_TAIL = map(SLOT_STATE.index, ("version", "queue_head", "queue_tail"))
SIGKILL, SIGTERM, CALLS = 9, 15, 5
UID = b"9f8a7c1e_0b2d_4c3e_8f10_a1b2c3d4e5f6"


def series(comm):
    return comm.ljust(16, b"\0") + SIGKILL.to_bytes(4, "little") + bytes(4)


def victim(comm, tcomm, unit, pod_uid=b""):
    return struct.pack("=16s16s64s40sII", comm, tcomm, unit, pod_uid, SIGKILL, DEATH_ORIGINS.index("syscall"))


class ChangesHands:
    """The keys of the slots; after its count was read, and before its key is, the only slot gets another name."""

    def __init__(self, recycle):
        self._recycle = recycle
        self.readings = 0

    def __getitem__(self, _):
        self.readings += 1
        if self.readings == 1:
            self._recycle()
        return series(b"new")


def test_a_slot_that_changes_hands_meanwhile():
    """The probe reads again: the old name's calls are not the new name's, and none is missing."""
    layout = Layout(cpus=1, series_max=2, deaths_max=1)
    cells, slot_state = array("Q", [0] * layout.row), array("Q", [0] * len(SLOT_STATE) * TABLES)
    aged = layout.aged + SIGKILL * len(RESULTS)
    cells[0] = CALLS
    last_used = array("Q", [0] * layout.aged)
    slot_state[SLOT_STATE.index("taken")] = slot_state[QUEUE_TAIL] = 1

    def recycle():
        cells[0], cells[aged] = 0, CALLS
        slot_state[QUEUE_HEAD], slot_state[VERSION] = 1, 2

    probe = Probe.__new__(Probe)  # its constructor would open maps of the kernel
    probe.layout, probe._counts, probe._slot_state = layout, memoryview(cells), memoryview(slot_state)
    probe._series, probe._victims, probe._last_used = ChangesHands(recycle), b"", memoryview(last_used)
    counts = probe.counts()
    assert probe._series.readings == 2
    assert counts.series == []
    assert counts.aged == [(SIGKILL, "success", CALLS)]
    assert counts.total == CALLS
    assert (counts.series_taken, counts.series_recycled) == (1, 1)


def test_cells_are_added_over_the_cpus():
    """Cell by cell, up to the largest number; a CPU that never ran adds nothing."""
    layout = Layout(cpus=3, series_max=4, deaths_max=3)
    largest = 2**64 - 1
    cells, slot_state = array("Q", [0] * layout.row * layout.cpus), array("Q", [0] * len(SLOT_STATE) * TABLES)
    slot_state[SLOT_STATE.index("taken")] = 3
    last_used = array("Q", [0] * layout.aged)
    last_used[0], last_used[1], last_used[2], last_used[layout.overflow + SIGKILL * len(RESULTS)] = 2**64 - 1, 5, 6, 7
    delivery = layout.deliveries + SIGKILL * len(ORIGINS) * len(OUTCOMES)
    slot_state[len(SLOT_STATE) + SLOT_STATE.index("taken")] = 2
    slot_state[len(SLOT_STATE) + QUEUE_HEAD], slot_state[len(SLOT_STATE) + QUEUE_TAIL] = 3, 4
    last_used[4], last_used[layout.overflow_deaths + SIGKILL * len(DEATH_ORIGINS)] = 8, 9
    death, overflow_death = 4, layout.overflow_deaths + SIGKILL * len(DEATH_ORIGINS)
    aged_death = layout.aged_deaths + SIGKILL * len(DEATH_ORIGINS) + 1
    for cpu, at, count in [
        (0, 0, 1), (2, 0, largest - 1),
        (0, 1, 2**53), (2, 1, 1),
        (0, layout.overflow, 3), (2, layout.overflow, 4), (0, layout.overflow + SIGKILL * len(RESULTS), 1),
        (2, delivery, 5), (0, death, 6), (2, death, 7), (0, layout.escalations, 8), (2, layout.escalations, 9),
        (1, layout.exits + SIGTERM, 10), (0, overflow_death, 11), (1, aged_death, 12), (1, 5, 13),
    ]:  # fmt: skip
        cells[cpu * layout.row + at] = count
    probe = Probe.__new__(Probe)
    probe.layout, probe._counts, probe._slot_state = layout, memoryview(cells), memoryview(slot_state)
    probe._series, probe._last_used = series(b"one") + series(b"two") + series(b"none"), memoryview(last_used)
    probe._victims = victim(b"bash", b"nginx", b"nginx.service", UID) + victim(b"", b"crash", b"")
    counts = probe.counts()
    assert [calls for *_, calls in counts.series] == [largest, 2**53 + 1]
    assert counts.series_used == [0, 5]  # the first one is in the queue
    assert counts.overflow == [(0, "success", 7), (SIGKILL, "success", 1)]
    assert counts.overflow_used == [0, 7]
    assert counts.deliveries == [(SIGKILL, "syscall", "delivered", 5)]
    assert counts.exits == [(SIGTERM, 10)]
    bash, nginx, unit = b"bash".ljust(16, b"\0"), b"nginx".ljust(16, b"\0"), b"nginx.service".ljust(64, b"\0")
    crash = b"crash".ljust(16, b"\0")
    assert counts.deaths == [
        (bash, nginx, unit, UID + bytes(4), SIGKILL, "syscall", 13),
        (bytes(16), crash, bytes(64), bytes(40), SIGKILL, "syscall", 13),
    ]
    assert counts.deaths_used == [8, 0]
    assert (counts.overflow_deaths, counts.overflow_deaths_used) == ([(SIGKILL, "syscall", 11)], [9])
    assert counts.aged_deaths == [(SIGKILL, "cgroup", 12)]
    assert (counts.deaths_taken, counts.deaths_recycled) == (1, 3)
    assert counts.escalations == 17
