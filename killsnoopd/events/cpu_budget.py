"""Limits the CPU time of the event thread to a share of one core, however many events there are."""

import time
from collections.abc import Callable

# A flood may cost a tenth of a core in all; the rest is for scrapes meanwhile.
SHARE = 0.06
# What may be spent at once after a quiet time: half a minute of a flood stays within that tenth, too.
_BURST_CPU_S = 0.6
# Pause between two polls of the ring buffer: for each event just handled, and at most. In a storm, events are taken
# several at a time, because waking up costs as much as an event.
_PAUSE_S, _PAUSE_MAX_S = 0.005, 0.02
# Added to the pause when the budget is spent: events taken one at a time cost several times as much.
_PAUSE_IN_DEBT_S = 0.25


class CpuBudget:
    """A token bucket of CPU time, kept as one number (the generic cell rate algorithm, as in bpf/rate_limits.c).

    It belongs to the thread that makes it.
    """

    def __init__(
        self,
        share: float | None,
        cpu_s: Callable[[], float] = time.thread_time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share`: of one core; None: as much as it takes."""
        self._share, self._cpu_s, self._now_s = share, cpu_s, now_s
        self._used_s = cpu_s()
        self._paid_until_s = now_s()

    def debt_s(self) -> float:
        """Seconds that the thread must pause now; 0 if it need not."""
        if self._share is None:
            return 0.0
        now_s, used_s = self._now_s(), self._cpu_s()
        # A suspended machine may count that time as used: an hour of it must not mean a day of silence.
        spent_s = min(used_s - self._used_s, _BURST_CPU_S)
        self._paid_until_s = max(self._paid_until_s, now_s) + spent_s / self._share
        self._used_s = used_s
        return max(0.0, self._paid_until_s - now_s - _BURST_CPU_S / self._share)

    def pause_s(self, taken: int) -> float:
        """Seconds to pause after this many events."""
        debt_s = self.debt_s()
        return debt_s + _PAUSE_IN_DEBT_S if debt_s else min(taken * _PAUSE_S, _PAUSE_MAX_S)
