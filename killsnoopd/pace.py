"""How fast the event thread may go, so that events cost no more than a share of one core, however many there are."""

import time
from collections.abc import Callable

# A tenth of a core is what a flood may cost; the rest of that is for those who scrape meanwhile.
SHARE = 0.06
# What may be spent at once after a rest, so that half a minute of a flood is within that tenth, too.
_SAVED_CPU_S = 0.6
# Between two looks at the ring buffer, for each event that the last look found, and at most: in a storm events are
# taken some at a time, for waking up costs as much as an event; one alone makes the next one wait for next to nothing.
_REST_S, _LONGEST_REST_S = 0.005, 0.02
# Once all is spent, so much longer than it takes to owe nothing: one at a time, an event costs several times as much.
_REST_IN_DEBT_S = 0.25


class Pace:
    """The event thread's own: made and asked in it.

    What it has used of a CPU speaks for the time to come, as an event does in the probe (budgets.c): the generic cell
    rate algorithm.
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
        self._spoken_for_s = now_s()

    def owed_s(self) -> float:
        """For how long the thread must do nothing now; 0 if it need not."""
        if self._share is None:
            return 0.0
        now_s, used_s = self._now_s(), self._cpu_s()
        # A machine that was suspended calls that time used: an hour of it must not mean a day of silence.
        spent_s = min(used_s - self._used_s, _SAVED_CPU_S)
        self._spoken_for_s = max(self._spoken_for_s, now_s) + spent_s / self._share
        self._used_s = used_s
        return max(0.0, self._spoken_for_s - now_s - _SAVED_CPU_S / self._share)

    def rest_s(self, taken: int) -> float:
        """How long to rest after so many events."""
        owed_s = self.owed_s()
        return owed_s + _REST_IN_DEBT_S if owed_s else min(taken * _REST_S, _LONGEST_REST_S)
