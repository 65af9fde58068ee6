"""Turns counters into the metric families of the page."""

import contextlib
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from killsnoopd import __version__, names
from killsnoopd.probe.attached import Counts, Ledger, Probe
from killsnoopd.probe.program import RESULTS

OTHER = "(other)"
_STATS_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")


def _label(text: str) -> str:
    """A name as a label value; the first character of a process named `(other)` is escaped."""
    return rf"\x{ord(text[0]):02x}{text[1:]}" if text == OTHER else text


Labels = tuple[str, str, str]  # comm, signal, result


class MonotonicTotals:
    """Keeps the total of a label set from falling when one of the names folded into it is recycled.

    Prometheus would take the fall for a counter reset and count the rest again. The calls that the total lost are in
    killsnoop_signals_aged_total: they are added back to the total and subtracted there, so the sum stays exact.
    """

    def __init__(self) -> None:
        self._shown: dict[Labels, int] = {}
        self._corrections: dict[Labels, int] = {}
        self._recycled = 0

    def adjust(self, totals: dict[Labels, int], aged: dict[tuple[str, str], int], recycled: int) -> None:
        """Correct the totals of a page; `recycled` is the number of series recycled so far."""
        if recycled != self._recycled:
            for labels, calls in totals.items():
                fall = self._shown.get(labels, 0) - calls - self._corrections.get(labels, 0)
                if fall > 0:
                    self._corrections[labels] = self._corrections.get(labels, 0) + fall
            self._recycled = recycled
        self._corrections = {labels: calls for labels, calls in self._corrections.items() if labels in totals}
        for labels, calls in self._corrections.items():
            _, signal, result = labels
            totals[labels] += calls
            aged[signal, result if result in RESULTS else OTHER] -= calls
        self._shown = totals


def signals(counts: Counts, text: Callable[[bytes], str], monotonic: MonotonicTotals) -> Iterator[Metric]:
    """Calls by sender, and those of idle names. `text` maps a comm to its label; series with equal labels are summed."""
    totals: defaultdict[Labels, int] = defaultdict(int)
    for comm, sig, res, calls in counts.series:
        totals[_label(text(comm)), names.signal_name(sig), names.result_name(res)] += calls
    for sig, result, calls in counts.overflow:
        totals[OTHER, names.signal_name(sig), result] += calls
    aged = defaultdict(int, {("SIGKILL", RESULTS[0]): 0})  # never empty: a sum with it must not be
    aged |= {(names.signal_name(sig), result): calls for sig, result, calls in counts.aged}
    monotonic.adjust(totals, aged, counts.series_recycled)
    family = CounterMetricFamily(
        "killsnoop_signals",
        "Calls of the system calls that send signals, by the sender's process name, signal and result. "
        "Calls by 32-bit programs on a 64-bit kernel are not counted here; killsnoop_deliveries_total has the signals "
        "they sent. (other): senders that found every counter taken.",
        labels=("comm", "signal", "result"),
    )
    for labels in sorted(totals):
        family.add_metric(labels, totals[labels])
    yield family
    family = CounterMetricFamily(
        "killsnoop_signals_aged",
        "Past calls of names that lost their counter because they were idle (--metrics.series-ttl), by signal and "
        "result. With killsnoop_signals_total they are all calls.",
        labels=("signal", "result"),
    )
    for result in sorted(aged):
        family.add_metric(result, aged[result])
    yield family


def deliveries(counts: Counts) -> Metric:
    """killsnoop_deliveries_total. Series that alerts may use are 0 from the start, so increase() sees the first one."""
    totals = {(sig, "syscall", "delivered"): 0 for sig in names.FATAL}
    totals |= {(names.signal_number("SIGKILL"), origin, "delivered"): 0 for origin in names.ORIGINS}
    totals |= {(sig, origin, outcome): count for sig, origin, outcome, count in counts.deliveries}
    family = CounterMetricFamily(
        "killsnoop_deliveries",
        "Signals generated for a process, one for each target, by signal, origin and outcome.",
        labels=("signal", "origin", "outcome"),
    )
    for (sig, origin, outcome), count in sorted(totals.items()):
        family.add_metric((names.signal_name(sig), origin, outcome), count)
    return family


def deaths(counts: Counts) -> Iterator[Metric]:
    """Deaths by signal and origin, exits after a handled signal, and escalations."""
    totals = {(names.signal_number("SIGTERM"), "syscall"): 0}
    totals |= {(names.signal_number("SIGKILL"), origin): 0 for origin in names.DEATH_ORIGINS}
    totals |= {(sig, origin): count for sig, origin, count in counts.deaths}
    family = CounterMetricFamily(
        "killsnoop_deaths",
        "Processes killed by a signal, by signal and origin. self: a fault of their own, or a signal that they sent "
        "themselves. unknown: no signal was seen.",
        labels=("signal", "origin"),
    )
    for (sig, origin), count in sorted(totals.items()):
        family.add_metric((names.signal_name(sig), origin), count)
    yield family
    exits = {names.signal_number("SIGTERM"): 0} | dict(counts.exits)
    family = CounterMetricFamily(
        "killsnoop_exits",
        "Processes that exited by themselves within --events.grace-period of a signal that they handled: SIGTERM, "
        "SIGINT, SIGQUIT or SIGHUP.",
        labels=("signal",),
    )
    for sig, count in sorted(exits.items()):
        family.add_metric((names.signal_name(sig),), count)
    yield family
    yield CounterMetricFamily(
        "killsnoop_escalations",
        "SIGKILLs that followed a SIGTERM to the same process within --events.grace-period.",
        value=counts.escalations,
    )


def lookups(sources: dict[str, int]) -> Metric:
    """How cgroups were found. With `none` and `over_budget` there is no unit and no container."""
    family = CounterMetricFamily(
        "killsnoop_cgroup_lookups",
        "Senders and targets of events, by where their cgroup was found: named by the kernel, delivery (of a death), "
        "cgroup tree, /proc (proc), nowhere (none), or not looked for as too much time went into it (over_budget).",
        labels=("source",),
    )
    for source, count in sources.items():
        family.add_metric((source,), count)
    return family


def series(counts: Counts, limit: int) -> Iterator[Metric]:
    """Use of the series table, and calls that found it full."""
    yield GaugeMetricFamily(
        "killsnoop_series",
        "Sets of comm, signal and result that have their own counter and are not idle.",
        value=counts.series_taken,
    )
    yield GaugeMetricFamily(
        "killsnoop_series_limit", "Maximum of killsnoop_series (--metrics.max-series).", value=limit
    )
    yield CounterMetricFamily(
        "killsnoop_series_overflow",
        'Calls counted as comm="(other)" because every counter was taken.',
        value=sum(calls for _, _, calls in counts.overflow),
    )
    yield CounterMetricFamily(
        "killsnoop_series_recycled",
        "Counters of idle names that were given to new names; their past calls moved to killsnoop_signals_aged_total.",
        value=counts.series_recycled,
    )


def events(ledger: Ledger) -> Iterator[Metric]:
    """Events by status, and those that wait."""
    family = CounterMetricFamily(
        "killsnoop_events",
        "Events by status: logged, filtered (--events.exclude), rate_limited (--events.rate), "
        "ring_full (the journal is too slow), journal_error (could not be written), decode_error.",
        labels=("status",),
    )
    for status, count in ledger.statuses.items():
        family.add_metric((status,), count)
    yield family
    yield GaugeMetricFamily(
        "killsnoop_events_pending", "Events in the ring buffer that wait to be logged.", value=ledger.pending
    )


def programs(probe: Probe, run_stats: bool) -> Iterator[Metric]:
    """The state of the probe's hooks, and statistics of its programs."""
    attached = GaugeMetricFamily(
        "killsnoop_probe_attached",
        "Whether the probe is attached to the hook and runs there (1) or not (0). A system call means its exit.",
        labels=("hook",),
    )
    ways = GaugeMetricFamily(
        "killsnoop_probe_hook_info",
        "How the hook is attached: fexit, kprobe, tracepoint, or tp_btf, a BTF tracepoint; the value is always 1.",
        labels=("hook", "way"),
    )
    missed = CounterMetricFamily(
        "killsnoop_probe_missed",
        "Runs that the program missed: another program was running on that CPU (Linux 6.7 and later), or it is broken.",
        labels=("program",),
    )
    seconds = CounterMetricFamily(
        "killsnoop_probe_run_seconds",
        "Time spent in the program while kernel.bpf_stats_enabled is 1.",
        labels=("program",),
    )
    runs = CounterMetricFamily(
        "killsnoop_probe_runs", "Runs of the program while kernel.bpf_stats_enabled is 1.", labels=("program",)
    )
    for hook, way in probe.hooks.items():
        attached.add_metric((hook,), probe.attached(hook))
        ways.add_metric((hook, way), 1)
    for program, not_handled in probe.not_handled().items():
        info = probe.program(program)
        missed.add_metric((program,), info.misses + not_handled)
        seconds.add_metric((program,), info.run_time_ns / 1e9)
        runs.add_metric((program,), info.runs)
    yield attached
    yield ways
    yield missed
    if run_stats:
        yield seconds
        yield runs


class EventStats(Protocol):
    """Statistics of the event thread."""

    last_event_ns: int | None
    cgroup_sources: dict[str, int]


class Collector:
    """Reads the probe and the statistics of the event thread for each page."""

    def __init__(self, probe: Probe, event_stats: EventStats | None, text: Callable[[bytes], str] = names.text) -> None:
        self._probe = probe
        self._event_stats = event_stats
        self._text = lru_cache(probe.layout.series_max)(text)
        self._monotonic = MonotonicTotals()

    def collect(self) -> Iterator[Metric]:
        """All families except those of the process and the Python version."""
        ledger = self._probe.ledger()
        counts = self._probe.counts()
        yield from signals(counts, self._text, self._monotonic)
        yield deliveries(counts)
        yield from deaths(counts)
        yield from events(ledger)
        if self._event_stats:
            yield lookups(self._event_stats.cgroup_sources)
        yield from series(counts, self._probe.layout.series_max)
        run_stats = _STATS_ENABLED.exists() and _STATS_ENABLED.read_bytes().strip() == b"1"
        # Before Linux 5.19, bpf(2) shows programs only with CAP_BPF. Then these families are missing.
        with contextlib.suppress(PermissionError):
            yield from list(programs(self._probe, run_stats))
        if self._event_stats and (last_ns := self._event_stats.last_event_ns) is not None:
            yield GaugeMetricFamily(
                "killsnoop_last_event_timestamp_seconds",
                "When the newest logged event happened.",
                value=last_ns / 1e9,
            )
        info = GaugeMetricFamily(
            "killsnoop_build_info", "Versions; the value is always 1.", labels=("version", "python", "bcc", "kernel")
        )
        info.add_metric((__version__, platform.python_version(), self._probe.bcc_version, os.uname().release), 1)
        yield info


def registry(probe: Probe, event_stats: EventStats | None, text: Callable[[bytes], str]) -> CollectorRegistry:
    """The registry of all metrics on the page. `text` maps a comm to its label."""
    result = CollectorRegistry()
    result.register(Collector(probe, event_stats, text))
    ProcessCollector(registry=result)
    PlatformCollector(registry=result)
    return result
