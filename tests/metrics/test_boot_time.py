"""From the probe's clock to Unix time."""

import time

from killsnoopd.metrics.boot_time import BootTime

S, US = 1_000_000_000, 1_000
BOOT = 1_700_000_000 * S


class Clocks:
    """Both clocks of a machine that booted at BOOT; reading one takes a microsecond, or as long as it is interrupted."""

    def __init__(self):
        self.up_ns = 100 * S
        self.stepped_ns = 0
        self.interruptions_ns = []

    def wall_ns(self):
        self.up_ns += US
        return BOOT + self.stepped_ns + self.up_ns

    def boot_clock_ns(self):
        self.up_ns += US + (self.interruptions_ns.pop(0) if self.interruptions_ns else 0)
        return self.up_ns


def test_it_is_the_machines():
    """As the kernel has it in /proc/stat, whose btime is in seconds."""
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
        (btime,) = (int(line.split()[1]) for line in file if line.startswith("btime "))
    assert abs(BootTime().ns() / 1e9 - btime) < 2
    assert abs(BootTime().ns() + time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.time_ns()) < S


def test_suspend_does_not_move_it():
    """Both clocks go on."""
    clocks = Clocks()
    boot = BootTime(clocks.wall_ns, clocks.boot_clock_ns)
    assert abs(boot.ns() - BOOT) < 10 * US
    first = boot.ns()
    clocks.up_ns += 8 * 3600 * S
    assert boot.ns() == first


def test_a_step_of_the_wall_clock_moves_it():
    """An event keeps its age: its time moves with the clock that it is compared with."""
    clocks = Clocks()
    boot = BootTime(clocks.wall_ns, clocks.boot_clock_ns)
    first = boot.ns()
    for step_s in (86_400, -3 * 86_400, 30):
        clocks.stepped_ns = step_s * S
        assert abs(boot.ns() - first - step_s * S) < 10 * US


def test_an_interrupted_reading_does_not_move_it():
    """A thread that loses its CPU between two clocks reads them again."""
    clocks = Clocks()
    boot = BootTime(clocks.wall_ns, clocks.boot_clock_ns)
    first = boot.ns()
    clocks.interruptions_ns = [0, 4 * S, 0, 3 * S]
    assert boot.ns() == first
    assert clocks.interruptions_ns == []
