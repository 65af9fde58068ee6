"""From counters to the metric families on the page."""

import contextlib
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from killsnoopd import __version__, names
from killsnoopd.probe import Counts, Ledger, Probe

OTHER = "(other)"
_STATS_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")


def _label(comm: bytes) -> str:
    """The name as a label; a process that calls itself `(other)` is not mistaken for the rest."""
    label = names.text(comm)
    return rf"\x{ord(label[0]):02x}{label[1:]}" if label == OTHER else label


def signals(counts: Counts) -> Metric:
    """killsnoop_signals_total: label sets that read the same are added up."""
    totals: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for comm, sig, res, calls in counts.series:
        totals[_label(comm), names.signal_name(sig), names.result_name(res)] += calls
    for sig, result, calls in counts.overflow:
        totals[OTHER, names.signal_name(sig), result] += calls
    family = CounterMetricFamily(
        "killsnoop_signals",
        "Calls of the system calls that send signals, by the sender's process name, signal and result.",
        labels=("comm", "signal", "result"),
    )
    for labels, calls in sorted(totals.items()):
        family.add_metric(labels, calls)
    return family


def series(counts: Counts, limit: int) -> Iterator[Metric]:
    """How full the counters are, and how much was counted as comm="(other)" for want of room."""
    yield GaugeMetricFamily(
        "killsnoop_series",
        "Sets of comm, signal and result that have a counter of their own.",
        value=counts.series_taken,
    )
    yield GaugeMetricFamily(
        "killsnoop_series_limit", "How many of them there can be (--metrics.max-series).", value=limit
    )
    yield CounterMetricFamily(
        "killsnoop_series_overflow",
        'Calls counted as comm="(other)" because every counter was taken.',
        value=sum(calls for _, _, calls in counts.overflow),
    )


def events(ledger: Ledger) -> Iterator[Metric]:
    """What became of every event."""
    family = CounterMetricFamily(
        "killsnoop_events",
        "Events by what became of them: logged, filtered (--events.exclude-signal), rate_limited (--events.rate), "
        "ring_full (the journal is too slow), journal_error (could not be written), decode_error.",
        labels=("outcome",),
    )
    for outcome, count in ledger.outcomes.items():
        family.add_metric((outcome,), count)
    yield family
    yield GaugeMetricFamily(
        "killsnoop_events_pending", "Events that wait in the ring buffer to be logged.", value=ledger.pending
    )


def programs(probe: Probe, run_stats: bool) -> Iterator[Metric]:
    """How the probe itself fares, by system call watched."""
    attached = GaugeMetricFamily(
        "killsnoop_probe_attached", "Whether the program is attached to the kernel: 1 or 0.", labels=("program",)
    )
    missed = CounterMetricFamily(
        "killsnoop_probe_missed",
        "Calls that the kernel did not show to the program, because another one held the CPU (Linux 6.7 and later).",
        labels=("program",),
    )
    seconds = CounterMetricFamily(
        "killsnoop_probe_run_seconds",
        "Time spent in the program, while kernel.bpf_stats_enabled is 1.",
        labels=("program",),
    )
    runs = CounterMetricFamily(
        "killsnoop_probe_runs", "Runs of the program, while kernel.bpf_stats_enabled is 1.", labels=("program",)
    )
    for syscall in probe.syscalls:
        info = probe.program(syscall)
        attached.add_metric((syscall,), probe.attached(syscall))
        missed.add_metric((syscall,), info.misses)
        seconds.add_metric((syscall,), info.run_time_ns / 1e9)
        runs.add_metric((syscall,), info.runs)
    yield attached
    yield missed
    if run_stats:
        yield seconds
        yield runs


class Collector:
    """Reads the probe whenever the page is asked for."""

    def __init__(self, probe: Probe, last_event_ns: Callable[[], int | None]) -> None:
        self._probe = probe
        self._last_event_ns = last_event_ns

    def collect(self) -> Iterator[Metric]:
        """Every family but the process's own."""
        ledger = self._probe.ledger()
        counts = self._probe.counts()
        yield signals(counts)
        yield from events(ledger)
        yield from series(counts, self._probe.layout.series_max)
        run_stats = _STATS_ENABLED.exists() and _STATS_ENABLED.read_text().strip() == "1"
        # Linux before 5.19 tells nothing of programs to those without CAP_BPF: then these families are not there.
        with contextlib.suppress(PermissionError):
            yield from list(programs(self._probe, run_stats))
        last_ns = self._last_event_ns()
        if last_ns is not None:
            yield GaugeMetricFamily(
                "killsnoop_last_event_timestamp_seconds",
                "When the newest event that was logged happened.",
                value=last_ns / 1e9,
            )
        info = GaugeMetricFamily(
            "killsnoop_build_info", "Versions; the value is always 1.", labels=("version", "python", "bcc", "kernel")
        )
        info.add_metric((__version__, platform.python_version(), self._probe.bcc_version, os.uname().release), 1)
        yield info


def registry(probe: Probe, last_event_ns: Callable[[], int | None]) -> CollectorRegistry:
    """Everything that is on the page."""
    result = CollectorRegistry()
    result.register(Collector(probe, last_event_ns))
    ProcessCollector(registry=result)
    PlatformCollector(registry=result)
    return result
