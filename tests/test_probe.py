"""Reading the counters, without a kernel."""

from array import array

from killsnoopd.probe import Probe
from killsnoopd.program import DIRECTORY, RESULTS, Layout

VERSION, QUEUE_HEAD, QUEUE_TAIL = map(DIRECTORY.index, ("version", "queue_head", "queue_tail"))
SIGKILL, CALLS = 9, 5


def series(comm):
    return comm.ljust(16, b"\0") + SIGKILL.to_bytes(4, "little") + bytes(4)


class ChangesHands:
    """The keys of the slots; the one slot gets a new name after its count was read, and before its key is."""

    def __init__(self, recycle):
        self._recycle = recycle
        self.readings = 0

    def __getitem__(self, _):
        self.readings += 1
        if self.readings == 1:
            self._recycle()
        return series(b"new")


def test_a_slot_that_changes_hands_meanwhile():
    """The reading is made again: the calls of the old name are not the new one's, and none is missing."""
    layout = Layout(cpus=1, series_max=2)
    cells, directory = array("Q", [0] * layout.row), array("Q", [0] * len(DIRECTORY))
    aged = layout.aged + SIGKILL * len(RESULTS)
    cells[0] = CALLS
    directory[DIRECTORY.index("taken")] = directory[QUEUE_TAIL] = 1

    def recycle():
        cells[0], cells[aged] = 0, CALLS
        directory[QUEUE_HEAD], directory[VERSION] = 1, 2

    probe = Probe.__new__(Probe)  # it would open what the kernel holds
    probe.layout, probe._counts, probe._directory = layout, memoryview(cells), memoryview(directory)
    probe._series = ChangesHands(recycle)
    counts = probe.counts()
    assert probe._series.readings == 2
    assert counts.series == []
    assert counts.aged == [(SIGKILL, "success", CALLS)]
    assert counts.total == CALLS
    assert (counts.series_taken, counts.series_recycled) == (1, 1)
