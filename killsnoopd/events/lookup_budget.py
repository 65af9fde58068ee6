"""Limits the time that lookups take: those of one kind, all together, and those that one uid causes."""

import time
from collections import OrderedDict
from collections.abc import Callable

_BURST_S = 0.2  # time that may be used at once, after a quiet while
_PAYERS_MAX = 1024


class TimeBudget:
    """A token bucket of time, by the algorithm of bpf/rate_limits.c."""

    def __init__(self, share: float, burst_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        """`share`: of the time; `burst_s`: what may be used at once, after a quiet while."""
        self._share, self._burst_s, self._now_s = share, burst_s, now_s
        self._paid_until_s = 0.0

    def allows(self) -> bool:
        """Whether there is time left."""
        return (self._paid_until_s - self._now_s()) * self._share < self._burst_s

    def charge(self, spent_s: float) -> None:
        """Charge `spent_s` seconds of wall-clock time, since a lookup may wait for a lock in the kernel."""
        self._paid_until_s = max(self._paid_until_s, self._now_s()) + spent_s / self._share


class LookupBudget:
    """A budget for all lookups, and one for those of each payer."""

    def __init__(self, share: float | None, now_s: Callable[[], float] = time.monotonic) -> None:
        """`share`: of the time, for all lookups together, half of it for those of one payer; None: no limit."""
        self._share, self._now_s = share, now_s
        self._all = TimeBudget(share or 1, _BURST_S, now_s)
        self._of_payer: OrderedDict[int, TimeBudget] = OrderedDict()  # the payer of the last lookup comes last

    def allows(self, payer: int) -> bool:
        """Whether there is time left for a lookup."""
        own = self._of_payer.get(payer)
        return self._share is None or (self._all.allows() and (own is None or own.allows()))

    def charge(self, payer: int, spent_s: float) -> None:
        """Charge a lookup to a payer."""
        if self._share is None:
            return
        self._all.charge(spent_s)
        own = self._of_payer.pop(payer, None) or TimeBudget(self._share / 2, _BURST_S / 2, self._now_s)
        own.charge(spent_s)
        if len(self._of_payer) >= _PAYERS_MAX:
            self._of_payer.popitem(last=False)
        self._of_payer[payer] = own
