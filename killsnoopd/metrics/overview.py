"""The probe's state and its counts in brief, without the names of processes."""

from dataclasses import dataclass

from killsnoopd.metrics.boot_time import BootTime
from killsnoopd.probe.attached import Probe

LOST = ("rate_limited", "ring_full", "journal_error", "decode_error")
"""Statuses of events that were to be logged, and were not."""


@dataclass(frozen=True)
class Overview:
    """All counts: since the probe was attached."""

    attached_s: float | None  # when, on the realtime clock; None: this kernel does not say
    hooks: dict[str, str]  # and the way in which each is attached
    detached: tuple[str, ...]  # hooks that count nothing
    inexact: tuple[str, ...]  # hooks that may miss signals, as the kernel may preempt the probe there
    calls: int
    deliveries: int
    deaths: int
    exits: int
    logged: int
    pending: int
    lost: dict[str, int]  # by status


def look(probe: Probe) -> Overview:
    """The state of the probe, as of now."""
    counts, ledger = probe.counts(), probe.ledger()
    try:
        attached_s = (BootTime().ns() + probe.attached_ns()) / 1e9
        detached = tuple(hook for hook in probe.hooks if not probe.attached(hook))
    except PermissionError:  # Linux before 5.19, without CAP_BPF
        attached_s, detached = None, ()
    return Overview(
        attached_s,
        probe.hooks,
        detached,
        tuple(probe.inexact()),
        counts.total,
        sum(n for *_, n in counts.deliveries),
        sum(n for *_, n in counts.deaths),
        sum(n for *_, n in counts.exits),
        ledger.statuses.get("logged", 0),
        ledger.pending,
        {status: ledger.statuses[status] for status in LOST if ledger.statuses.get(status)},
    )
