"""Limits the CPU time of the event thread to a share of one core."""

import time
from collections.abc import Callable

# The whole daemon may use 10 % of a core in a flood: 6 % here, the rest for scrapes.
SHARE = 0.06
# Burst after a quiet time; with it, any 30 s of a flood still stay within 10 %.
_BURST_CPU_S = 0.6
# Pause between polls of the ring buffer: 5 ms for each event just handled, at most 20 ms. In a storm this batches
# events, since a wake-up costs as much as an event.
_PAUSE_S, _PAUSE_MAX_S = 0.005, 0.02
# Added to the pause when the budget is spent, for larger batches: single events cost several times as much each.
_PAUSE_IN_DEBT_S = 0.25


class CpuBudget:
    """A token bucket of CPU time, by the generic cell rate algorithm (as in bpf/rate_limits.c).

    It measures the thread that creates it, and only that thread may use it.
    """

    def __init__(
        self,
        share: float | None,
        cpu_s: Callable[[], float] = time.thread_time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share`: of one core; None: no limit."""
        self._share, self._cpu_s, self._now_s = share, cpu_s, now_s
        self._used_s = cpu_s()
        self._paid_until_s = now_s()

    def debt_s(self) -> float:
        """Seconds that the thread must pause now; 0: none."""
        if self._share is None:
            return 0.0
        now_s, used_s = self._now_s(), self._cpu_s()
        # Some machines count suspend as CPU time. Without this bound, an hour of it would silence the log for a day.
        spent_s = min(used_s - self._used_s, _BURST_CPU_S)
        self._paid_until_s = max(self._paid_until_s, now_s) + spent_s / self._share
        self._used_s = used_s
        return max(0.0, self._paid_until_s - now_s - _BURST_CPU_S / self._share)

    def pause_s(self, taken: int) -> float:
        """Seconds to pause after this many events."""
        debt_s = self.debt_s()
        return debt_s + _PAUSE_IN_DEBT_S if debt_s else min(taken * _PAUSE_S, _PAUSE_MAX_S)
