"""When the machine booted, in Unix time."""

import time
from collections.abc import Callable

_STEP_NS = 500_000_000
_READINGS = 10  # until one is not interrupted for longer than this
_INTERRUPTED_NS = 1_000_000


def _boot_clock_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class BootTime:
    """What turns a time of CLOCK_BOOTTIME, which the probe notes, into Unix time by an addition.

    Both clocks run at one speed and go on in suspend, so the difference changes only when somebody sets the wall clock.
    It is kept until then: measured anew for each page, it would move every timestamp by some microseconds.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, boot_clock_ns: Callable[[], int] = _boot_clock_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._boot_clock_ns = boot_clock_ns
        self._known_ns = 0

    def ns(self) -> int:
        """Unix time at which CLOCK_BOOTTIME was 0."""
        for _ in range(_READINGS):
            before, wall, after = self._boot_clock_ns(), self._wall_ns(), self._boot_clock_ns()
            if after - before < _INTERRUPTED_NS:
                break
        found = wall - (before + after) // 2
        if abs(found - self._known_ns) >= _STEP_NS:
            self._known_ns = found
        return self._known_ns
