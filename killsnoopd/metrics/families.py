"""Turns counters into the metric families of the page."""

import contextlib
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from killsnoopd import __version__, names
from killsnoopd.metrics.boot_time import BootTime
from killsnoopd.probe.attached import Counts, Ledger, Probe
from killsnoopd.probe.program import RESULTS, UNIT_BYTES, Layout

OTHER = "(other)"
_STATS_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")


def _label(text: str) -> str:
    """A name as a label value; the first character of a process named `(other)` is escaped."""
    return rf"\x{ord(text[0]):02x}{text[1:]}" if text == OTHER else text


Labels = tuple[str, ...]


class MonotonicTotals:
    """Keeps the total of a label set from falling when one of the names folded into it is recycled.

    Prometheus would take the fall for a counter reset and count the rest again. What the total lost is in the family of
    what is aged: it is added back to the total and subtracted there, so the sum stays exact.
    """

    def __init__(self) -> None:
        self._shown: dict[Labels, int] = {}
        self._corrections: dict[Labels, int] = {}
        self._recycled = 0

    def adjust(
        self, totals: dict[Labels, int], aged: dict[Labels, int], recycled: int, aged_labels: Callable[[Labels], Labels]
    ) -> None:
        """Correct the totals of a page; `recycled` is the number of series recycled so far."""
        if recycled != self._recycled:
            for labels, count in totals.items():
                fall = self._shown.get(labels, 0) - count - self._corrections.get(labels, 0)
                if fall > 0:
                    self._corrections[labels] = self._corrections.get(labels, 0) + fall
            self._recycled = recycled
        self._corrections = {labels: count for labels, count in self._corrections.items() if labels in totals}
        for labels, count in self._corrections.items():
            totals[labels] += count
            aged[aged_labels(labels)] -= count
        self._shown = totals


def counter(name: str, documentation: str, labels: tuple[str, ...], totals: dict[Labels, int]) -> Metric:
    """A family of counters."""
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values in sorted(totals):
        family.add_metric(values, totals[values])
    return family


def timestamps(name: str, documentation: str, labels: tuple[str, ...], last: dict[Labels, int], boot_ns: int) -> Metric:
    """A family of times, in whole seconds, from those of CLOCK_BOOTTIME; 0 is not a time."""
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for values, used in sorted(last.items()):
        if used:
            family.add_metric(values, (boot_ns + used) // 1_000_000_000)
    return family


def signals(
    counts: Counts, text: Callable[[bytes], str], monotonic: MonotonicTotals, boot_ns: int | None = None
) -> Iterator[Metric]:
    """Calls by sender, and those of idle names. `text` maps a comm to its label; equal labels are one series.

    `boot_ns` is the Unix time at which the machine booted; None leaves the timestamps out.
    """
    totals: defaultdict[Labels, int] = defaultdict(int)
    last: defaultdict[Labels, int] = defaultdict(int)
    for (comm, sig, res, calls), used in zip(counts.series, counts.series_used, strict=True):
        labels = _label(text(comm)), names.signal_name(sig), names.result_name(res)
        totals[labels] += calls
        last[labels] = max(last[labels], used)
    for (sig, result, calls), used in zip(counts.overflow, counts.overflow_used, strict=True):
        labels = OTHER, names.signal_name(sig), result
        totals[labels] += calls
        last[labels] = used
    aged: defaultdict[Labels, int] = defaultdict(int, {("SIGKILL", RESULTS[0]): 0})  # a sum with it must not be empty
    aged |= {(names.signal_name(sig), result): calls for sig, result, calls in counts.aged}
    monotonic.adjust(
        totals, aged, counts.series_recycled, lambda labels: (labels[1], labels[2] if labels[2] in RESULTS else OTHER)
    )
    yield counter(
        "killsnoop_signals",
        "Calls of the system calls that send signals, by the sender's process name, signal and result. "
        "Where the calls are watched by tracepoints, those of 32-bit programs are not counted here; "
        "killsnoop_deliveries_total has the signals that they sent. (other): senders that found every counter taken.",
        ("comm", "signal", "result"),
        totals,
    )
    yield counter(
        "killsnoop_signals_aged",
        "Past calls of names that lost their counter because they were idle (--metrics.series-ttl), by signal and "
        "result. With killsnoop_signals_total they are all calls.",
        ("signal", "result"),
        aged,
    )
    if boot_ns is not None:
        yield timestamps(
            "killsnoop_signals_last_timestamp_seconds",
            "When such a call was last counted, at most 10 s late.",
            ("comm", "signal", "result"),
            last,
            boot_ns,
        )


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


_DEATH_LABELS = ("signal", "origin", "comm", "tcomm", "target_unit", "target_pod")


def _unit(unit: bytes) -> str:
    """A unit's name; the probe has shortened that of a scope, and those that are too long."""
    whole = unit.partition(b"\0")[0]
    name = names.text(whole.removeprefix(b"_"))  # systemd's escape of some names of cgroups
    return f"{name}*.scope" if name.endswith("-") and len(whole) < UNIT_BYTES - 1 else name


PodLabelsOf = Callable[[Set[bytes]], Mapping[bytes, str]]


def deaths(
    counts: Counts,
    text: Callable[[bytes], str],
    pod_labels: PodLabelsOf,
    monotonic: MonotonicTotals,
    boot_ns: int | None = None,
) -> Iterator[Metric]:
    """Deaths by sender, victim and the victim's unit and pod, and those of idle names, as signals() has calls.

    `pod_labels` finds the labels of pods by their uids.
    """

    def name(comm: bytes) -> str:
        return _label(text(comm)) if comm.strip(b"\0") else ""  # nobody, whatever --metrics.fold says

    totals: defaultdict[Labels, int] = defaultdict(int)
    last: defaultdict[Labels, int] = defaultdict(int)
    pods = pod_labels({death[3] for death in counts.deaths if death[3].strip(b"\0")})
    for (comm, tcomm, unit, pod, sig, origin, count), used in zip(counts.deaths, counts.deaths_used, strict=True):
        labels = names.signal_name(sig), origin, name(comm), name(tcomm), _unit(unit), pods.get(pod, "")
        totals[labels] += count
        last[labels] = max(last[labels], used)
    for (sig, origin, count), used in zip(counts.overflow_deaths, counts.overflow_deaths_used, strict=True):
        labels = names.signal_name(sig), origin, OTHER, OTHER, "", ""
        totals[labels] += count
        last[labels] = used
    aged: defaultdict[Labels, int] = defaultdict(int, {("SIGKILL", names.DEATH_ORIGINS[0]): 0})
    aged |= {(names.signal_name(sig), origin): count for sig, origin, count in counts.aged_deaths}
    monotonic.adjust(totals, aged, counts.deaths_recycled, lambda labels: labels[:2])
    yield counter(
        "killsnoop_deaths",
        "Processes killed by a signal, by signal, origin, the sender's process name (empty: nobody else sent it), the "
        "victim's, and the victim's systemd unit and pod. self: a fault of their own, or a signal that they sent "
        "themselves. unknown: no signal was seen. (other): victims that found every counter taken.",
        _DEATH_LABELS,
        totals,
    )
    yield counter(
        "killsnoop_deaths_aged",
        "Past deaths of names that lost their counter because they were idle (--metrics.series-ttl), by signal and "
        "origin. With killsnoop_deaths_total they are all deaths.",
        ("signal", "origin"),
        aged,
    )
    if boot_ns is not None:
        yield timestamps(
            "killsnoop_deaths_last_timestamp_seconds",
            "When a process last died so.",
            _DEATH_LABELS,
            last,
            boot_ns,
        )


def ends(counts: Counts) -> Iterator[Metric]:
    """Exits after a handled signal, and escalations."""
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


def expected(senders: Iterable[str]) -> Metric:
    """The senders that alerts leave out on this host."""
    family = GaugeMetricFamily(
        "killsnoop_expected_sender_info",
        "Senders that are expected to kill on this host (--metrics.expected-sender); the value is always 1.",
        labels=("comm",),
    )
    for comm in senders:
        family.add_metric((comm,), 1)
    return family


def lookups(found: dict[Labels, int]) -> Metric:
    """How units, pods and command lines were found. With `none` and `over_budget` the event's fields are missing."""
    return counter(
        "killsnoop_lookups",
        "Senders and targets of events, by what was looked for (unit: also the container) and where it was found: "
        "named by the kernel, delivery (of a death), cgroup tree, /proc (proc), the kubelet's listing of logs, nowhere "
        "(none), or not looked for as too much time went into it (over_budget).",
        ("what", "source"),
        found,
    )


def series(counts: Counts, layout: Layout) -> Iterator[Metric]:
    """Use of the counters of the families with names, and what found no counter."""
    labels = ("family",)

    def gauge(name: str, documentation: str, signals: int, deaths: int) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=labels)
        family.add_metric(("signals",), signals)
        family.add_metric(("deaths",), deaths)
        return family

    yield gauge(
        "killsnoop_series",
        "Sets of names, signal and result or origin that have their own counter and are not idle.",
        counts.series_taken,
        counts.deaths_taken,
    )
    yield gauge(
        "killsnoop_series_limit",
        "Maximum of killsnoop_series (--metrics.max-series, --metrics.max-deaths).",
        layout.series_max,
        layout.deaths_max,
    )
    overflow, overflow_deaths = (sum(row[-1] for row in rows) for rows in (counts.overflow, counts.overflow_deaths))
    yield counter(
        "killsnoop_series_overflow",
        "Calls and deaths counted as (other) because every counter was taken.",
        labels,
        {("signals",): overflow, ("deaths",): overflow_deaths},
    )
    yield counter(
        "killsnoop_series_recycled",
        "Counters of idle names that were given to new names; their past calls and deaths moved to "
        "killsnoop_signals_aged_total "
        "and killsnoop_deaths_aged_total.",
        labels,
        {("signals",): counts.series_recycled, ("deaths",): counts.deaths_recycled},
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
        "How the hook is attached: fexit, fentry, kprobe, tracepoint, or tp_btf, a BTF tracepoint; always 1.",
        labels=("hook", "way"),
    )
    exact = GaugeMetricFamily(
        "killsnoop_probe_exact",
        "Whether the kernel runs the hook's program every time (1), or may preempt it and then skip others' runs (0).",
        labels=("hook",),
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
    inexact = probe.inexact()
    for hook, way in probe.hooks.items():
        attached.add_metric((hook,), probe.attached(hook))
        ways.add_metric((hook, way), 1)
        exact.add_metric((hook,), hook not in inexact)
    for program, not_handled in probe.not_handled().items():
        info = probe.program(program)
        missed.add_metric((program,), info.misses + not_handled)
        seconds.add_metric((program,), info.run_time_ns / 1e9)
        runs.add_metric((program,), info.runs)
    yield attached
    yield ways
    yield exact
    yield missed
    if run_stats:
        yield seconds
        yield runs


class EventStats(Protocol):
    """Statistics of the event thread."""

    last_event_ns: int | None
    lookups: dict[Labels, int]  # by what was looked for, and where it was found


class Collector:
    """Reads the probe and the statistics of the event thread for each page."""

    def __init__(
        self,
        probe: Probe,
        event_stats: EventStats | None,
        text: Callable[[bytes], str] = names.text,
        boot_ns: Callable[[], int | None] | None = None,
        *,
        expected_senders: Iterable[str] = (),
        pod_labels: PodLabelsOf = lambda uids: {},
    ) -> None:
        self._probe = probe
        self._event_stats = event_stats
        self._text = lru_cache(probe.layout.series_max + 2 * probe.layout.deaths_max)(text)
        self._calls, self._deaths = MonotonicTotals(), MonotonicTotals()
        self._boot_ns = boot_ns or BootTime().ns
        self._expected_senders = expected_senders
        self._pod_labels = pod_labels

    def collect(self) -> Iterator[Metric]:
        """All families except those of the process and the Python version."""
        ledger = self._probe.ledger()
        counts = self._probe.counts()
        boot_ns = self._boot_ns()
        yield from deaths(counts, self._text, self._pod_labels, self._deaths, boot_ns)
        yield from ends(counts)
        yield from signals(counts, self._text, self._calls, boot_ns)
        yield deliveries(counts)
        yield expected(self._expected_senders)
        yield from events(ledger)
        if self._event_stats:
            yield lookups(self._event_stats.lookups)
        yield from series(counts, self._probe.layout)
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


def registry(
    probe: Probe,
    event_stats: EventStats | None,
    text: Callable[[bytes], str],
    *,
    with_timestamps: bool,
    expected_senders: Iterable[str],
    pod_labels: PodLabelsOf,
) -> CollectorRegistry:
    """The registry of all metrics on the page. `text` maps a comm to its label."""
    result = CollectorRegistry()
    boot_ns = None if with_timestamps else lambda: None
    collector = Collector(probe, event_stats, text, boot_ns, expected_senders=expected_senders, pod_labels=pod_labels)
    result.register(collector)
    ProcessCollector(registry=result)
    PlatformCollector(registry=result)
    return result
