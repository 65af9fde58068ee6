"""Limits the time that lookups in /proc and in the cgroup tree take: all together, and those that one uid causes."""

import time
from collections import OrderedDict
from collections.abc import Callable

_BURST_S = 0.2  # time that may be used at once, after a quiet while
_PAYERS_MAX = 1024


class LookupBudget:
    """Token buckets of time, one for all and one per payer, by the algorithm of bpf/rate_limits.c."""

    def __init__(self, share: float | None, now_s: Callable[[], float] = time.monotonic) -> None:
        """`share`: of the time, for all lookups together, half of it for those of one payer; None: no limit."""
        self._share, self._now_s = share, now_s
        self._paid_until_s = 0.0
        self._of_payer: OrderedDict[int, float] = OrderedDict()  # paid until; the payer of the last lookup comes last

    def allows(self, payer: int) -> bool:
        """Whether there is time left for a lookup."""
        if self._share is None:
            return True
        now_s = self._now_s()
        used_s = (self._paid_until_s - now_s) * self._share
        used_by_payer_s = (self._of_payer.get(payer, 0.0) - now_s) * self._share / 2
        return used_s < _BURST_S and used_by_payer_s < _BURST_S / 2

    def charge(self, payer: int, spent_s: float) -> None:
        """Charge a lookup of `spent_s` seconds of wall-clock time, since it may wait for a lock in the kernel."""
        if self._share is None:
            return
        now_s = self._now_s()
        self._paid_until_s = max(self._paid_until_s, now_s) + spent_s / self._share
        paid_until_s = max(self._of_payer.pop(payer, 0.0), now_s) + spent_s / (self._share / 2)
        if len(self._of_payer) >= _PAYERS_MAX:
            self._of_payer.popitem(last=False)
        self._of_payer[payer] = paid_until_s
