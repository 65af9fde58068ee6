#!/usr/bin/env python3
"""Prints the Grafana dashboard: `scripts/dashboard.py > deploy/grafana-dashboard.json` (`make dashboard`)."""

import json
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

Json = dict[str, Any]

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus_datasource}"}
LOKI = {"type": "loki", "uid": "${loki_datasource}"}
HOST = ('job=~"$job"', 'instance=~"$instance"')
COMM = 'comm=~"$comm"'
SIGNAL = 'signal=~"$signal"'
SIGKILL = 'signal="SIGKILL"'
DELIVERED = 'outcome="delivered"'
OOM, SELF = 'origin="oom"', 'origin="self"'
SENT_BY = 'comm!=""'
SENT, FAILED = 'result="success"', 'result!="success"'
LOST = 'status=~"rate_limited|ring_full|journal_error|decode_error"'
RANGE = "$__range"
STEP = "$__rate_interval"
WIDTH = 24
HUNDREDS, MANY = 0.8, 0.95  # of all possible counters
RED, ORANGE, YELLOW, GREEN, BLUE = "red", "orange", "yellow", "green", "blue"


def metric(name: str, *matchers: str) -> str:
    """A selector that filters by the chosen hosts."""
    return f"{name}{{{', '.join((*HOST, *matchers))}}}"


def counted(name: str, *matchers: str, window: str = RANGE) -> str:
    """How much counters grew in the window, including series that are new in it.

    A series begins with its first signal, at 1, which increase() does not see. It is new in the window if it has fewer
    samples there than its page, which killsnoop_events_pending represents; then it grew by its value. The greater of both
    applies, since a series may begin again after a reboot, and then increase() is right.
    """
    series, page = metric(name, *matchers), metric("killsnoop_events_pending")
    grown = f"increase({series}[{window}])"
    born = (
        f"(last_over_time({series}[{window}]) and count_over_time({series}[{window}]) "
        f"< on (job, instance) group_left () count_over_time({page}[{window}]))"
    )
    return f"({born} > {grown} or {grown} or {born})"


def first_in_range(name: str, *matchers: str) -> str:
    """When counters first moved in the range, in milliseconds."""
    series, page = metric(name, *matchers), metric("killsnoop_events_pending")
    moved = (
        f"({series} unless {series} == {series} offset $__interval) and on (job, instance) {page} offset $__interval"
    )
    return f"min_over_time((timestamp({series}) and ({moved}))[{RANGE}:$__interval]) * 1000"


def last_in_range(name: str, *matchers: str) -> str:
    """When counters last moved, in milliseconds, if that is in the range; `name` is that of their timestamps."""
    return f"({metric(name, *matchers)} > time() - $__range_s) * 1000"


def log_command(expression: str) -> str:
    """Adds the label `log`, a command to type on the host.

    It names the sender only if a shell sees a plain word in the name: a process may call itself `';reboot'`.
    """
    journal = "journalctl -t killsnoopd"
    pair = f'label_join({expression}, "pair", "/", "comm", "signal")'
    by_signal = f'label_replace({pair}, "log", "{journal} KILLSNOOP_SIGNAL=$1", "pair", ".*/(.+)")'
    both = f"{journal} KILLSNOOP_COMM=$1 KILLSNOOP_SIGNAL=$2"
    return f'label_replace({by_signal}, "log", "{both}", "pair", "([a-zA-Z0-9_.:@%+-]+)/(.+)")'


def target(expression: str, legend: str = "", ref: str = "A", **more: Any) -> Json:
    """A query over time."""
    return {
        "datasource": PROMETHEUS, "editorMode": "code", "expr": expression, "legendFormat": legend or "__auto",
        "range": True, "instant": False, "refId": ref, **more,
    }  # fmt: skip


def instant(expression: str, legend: str = "", ref: str = "A", form: str = "time_series") -> Json:
    """An instant query at the end of the range."""
    return target(expression, legend, ref, range=False, instant=True, format=form)


def color(name: str) -> Json:
    """One color for a series."""
    return {"mode": "fixed", "fixedColor": name}


def thresholds(*steps: tuple[float | None, str]) -> Json:
    """Colors from each value upward; the first has no lower bound."""
    return {"mode": "absolute", "steps": [{"value": value, "color": name} for value, name in steps]}


def override(matcher: str, name: str, **properties: Any) -> Json:
    """Settings that differ for one field."""
    return {
        "matcher": {"id": matcher, "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def panel(
    kind: str,
    title: str,
    description: str,
    targets: list[Json],
    defaults: Json,
    overrides: list[Json],
    options: Json,
    size: tuple[int, int],
) -> Json:
    """A panel without a position."""
    return {
        "type": kind, "title": title, "description": description, "datasource": PROMETHEUS, "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": overrides}, "options": options, "gridPos": {"w": size[0], "h": size[1]},
    }  # fmt: skip


def stat(title: str, description: str, *targets: Json, steps: Json, width: int = 4) -> Json:
    """A number for the whole range."""
    options = {
        "colorMode": "background", "graphMode": "none", "justifyMode": "center", "textMode": "auto", "wideLayout": True,
        "orientation": "auto", "percentChangeColorMode": "standard", "showPercentChange": False,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }  # fmt: skip
    defaults = {"unit": "short", "decimals": 0, "noValue": "0", "thresholds": steps, "color": {"mode": "thresholds"}}
    return panel("stat", title, description, list(targets), defaults, [], options, (width, 4))


def series(
    title: str, description: str, *targets: Json, unit: str = "short", bars: bool = False, width: int = 8,
    overrides: list[Json] | None = None, highest: float | None = None, steps: Json | None = None,
) -> Json:  # fmt: skip
    """Lines over time; or stacked bars, for rare events."""
    custom = {
        "drawStyle": "bars" if bars else "line", "fillOpacity": 80 if bars else 8, "lineWidth": 0 if bars else 1,
        "stacking": {"mode": "normal" if bars else "none", "group": "A"}, "showPoints": "never", "spanNulls": False,
        "axisSoftMin": 0, "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }  # fmt: skip
    defaults: Json = {"unit": unit, "min": 0, "custom": custom, "color": {"mode": "palette-classic-by-name"}}
    if unit == "short":
        defaults["decimals"] = 0
    if highest is not None:
        defaults["max"] = highest
    if steps:
        defaults["thresholds"] = steps
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if bars:
        description += (
            " Neighbouring bars overlap by one scrape: for totals, use the numbers at the top and in the tables."
        )
    made = panel("timeseries", title, description, list(targets), defaults, overrides or [], options, (width, 8))
    # Windows of neighbouring points then hardly overlap, so that a signal is one bar. See $__rate_interval.
    return made | ({"interval": "1m"} if bars else {})


def table(
    title: str,
    description: str,
    targets: list[Json],
    names: dict[str, str],
    overrides: list[Json],
    sort: str,
    height: int,
) -> Json:
    """Rows that several queries fill together; the names of its columns, in order."""
    hidden = {"Time": True} | {f"Time {number}": True for number in range(1, len(targets) + 1)}
    made = panel(
        "table", title, description, targets,
        {"custom": {"align": "auto", "filterable": True, "cellOptions": {"type": "auto"}}, "noValue": "-", "decimals": 0},
        overrides, {"showHeader": True, "cellHeight": "sm", "frameIndex": 0, "enablePagination": True, "sortBy": [{"displayName": sort, "desc": True}]},
        (WIDTH, height),
    )  # fmt: skip
    made["maxDataPoints"] = 300  # steps of a subquery; more of them cost more and show no more
    return made | {
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": hidden,
                    "indexByName": {name: number for number, name in enumerate(names)},
                    "renameByName": names,
                },
            },
        ]
    }


def choose(variable: str, title: str) -> list[Json]:
    """A link that filters the dashboard by the clicked value."""
    keep = "&".join(f"${{{name}:queryparam}}" for name in ("prometheus_datasource", "job") if name != variable)
    return [
        {
            "title": title,
            "url": f"/d/killsnoopd?${{__url_time_range}}&{keep}&var-{variable}=${{__value.raw:percentencode}}",
        }
    ]


def overview() -> list[Json]:
    """The first row: totals since the start of the range."""
    quiet, bad = thresholds((None, GREEN), (1, ORANGE)), thresholds((None, GREEN), (1, RED))
    return [
        stat("SIGKILLs", "SIGKILLs that reached a process, from every origin and sender.",
             instant(f"sum({counted('killsnoop_deliveries_total', SIGKILL, DELIVERED)})"), steps=quiet),
        stat("OOM kills", "SIGKILLs sent by the kernel's OOM killer.",
             instant(f"sum({counted('killsnoop_deliveries_total', SIGKILL, OOM, DELIVERED)})"), steps=bad),
        stat("Escalations", "SIGKILLs shortly after a SIGTERM to the same process: it did not stop in time.",
             instant(f"sum({counted('killsnoop_escalations_total')})"), steps=quiet),
        stat("Deaths", "Processes killed by one of the chosen signals, sent by another process or caused by a fault of their own.",
             instant(f"sum({counted('killsnoop_deaths_total', SIGNAL)})"), steps=quiet),
        stat("Failed calls", "Calls by the chosen senders, with the chosen signals, that failed. EPERM: no permission. ESRCH: no such process.",
             instant(f"sum({counted('killsnoop_signals_total', COMM, SIGNAL, FAILED)})"), steps=quiet),
        stat("Hosts", "Daemons that answer, of those that should.",
             instant(f"sum({metric('up')})", "up"), instant(f"count({metric('up')})", "of", "B"), steps=thresholds((None, BLUE))),
    ]  # fmt: skip


def in_words(expression: str) -> str:
    """The expression with a label `where`: unit and pod of the victim. A legend cannot say that there are none."""
    joined = f'label_join({expression}, "where", " ", "target_unit", "target_pod")'
    return f'label_replace({joined}, "where", "no unit, no pod", "where", " ")'


def deaths() -> list[Json]:
    """What died, and who killed it."""
    name, last = "killsnoop_deaths_total", "killsnoop_deaths_last_timestamp_seconds"
    labels = "comm, tcomm, target_unit, target_pod, signal, origin, instance"
    matchers = (COMM, SIGNAL)
    return [
        table("What died, and who killed it",
              "Processes that died of a signal, by sender and victim. No sender: a fault of its own, or the kernel. Last is when the newest of "
              "them died. Click a sender to filter the whole dashboard.",
              [instant(f"sum by ({labels}) ({counted(name, *matchers)}) > 0", ref="A", form="table"),
               instant(f"max by ({labels}) ({last_in_range(last, *matchers)})", ref="B", form="table")],
              {"comm": "Sender", "tcomm": "Victim", "target_unit": "Unit", "target_pod": "Pod", "signal": "Signal", "origin": "Origin",
               "instance": "Host", "Value #A": "Deaths", "Value #B": "Last"},
              [override("byName", "Sender", links=choose("comm", "Only ${__value.raw}")),
               override("byName", "Host", links=choose("instance", "Only ${__value.raw}")),
               override("byName", "Deaths", unit="short", custom__width=90),
               override("byName", "Last", unit="dateTimeAsIso", custom__width=170)],
              "Last", 10),
        series("Deaths by unit and pod", "Processes that died of a signal, by their systemd unit and pod.",
               target(in_words(f"sum by (target_unit, target_pod) ({counted(name, *matchers, window=STEP)}) > 0"), "{{where}}"), bars=True, width=12),
        series("Deaths by sender", "Processes that died of a signal that another process sent, by that process's name.",
               target(f"sum by (comm) ({counted(name, SENT_BY, *matchers, window=STEP)}) > 0", "{{comm}}"), bars=True, width=12),
        series("Crashes", "Processes that died of a fault of their own, or of a signal that they sent themselves.",
               target(f"sum by (tcomm, signal) ({counted(name, SELF, SIGNAL, window=STEP)}) > 0", "{{tcomm}} {{signal}}"), bars=True, width=12),
        series("OOM kills by victim", "Processes that the kernel's OOM killer killed, by name, unit and pod.",
               target(f"sum by (tcomm, target_unit, target_pod) ({counted(name, OOM, SIGNAL, window=STEP)}) > 0", "{{tcomm}} {{target_unit}} {{target_pod}}"), bars=True, width=12),
    ]  # fmt: skip


def who() -> list[Json]:
    """Who kills what, and since when."""
    by_sender = counted("killsnoop_signals_total", SIGKILL, COMM, SENT, window=STEP)
    by_origin = counted("killsnoop_deliveries_total", SIGKILL, DELIVERED, window=STEP)
    labels = "comm, signal, result, instance"
    matchers = (COMM, SIGNAL)
    total = f"sum by ({labels}, log) ({log_command(counted('killsnoop_signals_total', *matchers))}) > 0"
    first = f"min by ({labels}) ({first_in_range('killsnoop_signals_total', *matchers)})"
    last = f"max by ({labels}) ({last_in_range('killsnoop_signals_last_timestamp_seconds', *matchers)})"
    return [
        series("SIGKILLs by sender", "Calls that sent SIGKILL, by the sender's process name, per minute or step. A call to a process group counts once here; the panel by origin counts each member.",
               target(f"sum by (comm) ({by_sender}) > 0", "{{comm}}"), bars=True, width=12),
        series("SIGKILLs by origin", "SIGKILLs that reached a process, from a system call, cgroup.kill, the OOM killer, PR_SET_PDEATHSIG, a closed pidfd (autokill) or the kernel for another reason.",
               target(f"sum by (origin) ({by_origin}) > 0", "{{origin}}"), bars=True, width=12,
               overrides=[override("byName", name, color=color(hue)) for name, hue in (("oom", RED), ("cgroup", "purple"), ("syscall", BLUE), ("pdeathsig", YELLOW), ("autokill", GREEN), ("kernel", ORANGE))]),
        table("Who sent what, since when",
              "Calls by sender, signal and result on each host. First is accurate to one step of the range, Last to 10 s. Click a sender to "
              "filter the whole dashboard, including the log at the bottom. The last column is a command to run on that host.",
              [instant(total, ref="A", form="table"), instant(first, ref="B", form="table"), instant(last, ref="C", form="table")],
              {"comm": "Sender", "signal": "Signal", "result": "Result", "instance": "Host", "Value #A": "Calls",
               "Value #B": "First", "Value #C": "Last", "log": "Log"},
              [override("byName", "Sender", links=choose("comm", "Only ${__value.raw}")),
               override("byName", "Host", links=choose("instance", "Only ${__value.raw}")),
               override("byName", "Calls", unit="short", custom__width=90),
               override("byName", "First", unit="dateTimeAsIso", custom__width=170),
               override("byName", "Last", unit="dateTimeAsIso", custom__width=170),
               override("byName", "Log", custom__width=520, custom__inspect=True)],
              "Last", 10),
    ]  # fmt: skip


def signals() -> list[Json]:
    """The signals sent, and their outcomes."""

    def calls(*matchers: str, window: str = STEP) -> str:
        return counted("killsnoop_signals_total", COMM, SIGNAL, *matchers, window=window)

    deliveries = counted("killsnoop_deliveries_total", SIGNAL, window=STEP)
    deaths = counted("killsnoop_deaths_total", SIGNAL, window=STEP)
    top = panel(
        "bargauge", "Top senders", "The ten process names with the most calls, including failed ones, with the chosen signals.",
        [instant(f"topk(10, sum by (comm) ({calls(window=RANGE)}) > 0)", "{{comm}}")],
        {"unit": "short", "decimals": 0, "min": 0, "color": {"mode": "continuous-BlPu"}}, [],
        {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color", "namePlacement": "auto",
         "sizing": "auto", "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        (8, 8),
    )  # fmt: skip
    return [
        top,
        series("Calls by signal", "Calls that send signals, by the chosen senders, by signal.", target(f"sum by (signal) ({calls()}) > 0", "{{signal}}"), bars=True),
        series("Calls by result", "success, or why the call failed.", target(f"sum by (result) ({calls()}) > 0", "{{result}}"), bars=True,
               overrides=[override("byName", "success", color=color(GREEN)), override("byName", "EPERM", color=color(RED)), override("byName", "ESRCH", color=color(YELLOW))]),
        series("Failed calls by sender", "Many EPERM from one sender suggest that it looks for processes it can kill.",
               target(f"sum by (comm, result) ({calls(FAILED)}) > 0", "{{comm}} {{result}}"), bars=True),
        series("Deliveries by origin", "Signals that reached a process, one for each target, by origin.",
               target(f"sum by (origin) ({deliveries}) > 0", "{{origin}}"), bars=True),
        series("Deliveries by outcome", "What the kernel did with the signal.", target(f"sum by (outcome) ({deliveries}) > 0", "{{outcome}}"), bars=True),
        series("Deaths by signal", "Processes killed by a signal. Origin self: a fault of their own. Origin unknown: no sender was seen.",
               target(f"sum by (signal, origin) ({deaths}) > 0", "{{signal}}, {{origin}}"), bars=True, width=8),
        series("Exits after a signal", "Processes that handled SIGTERM, SIGINT, SIGQUIT or SIGHUP and exited soon after: most services stop this way.",
               target(f"sum by (signal) ({counted('killsnoop_exits_total', SIGNAL, window=STEP)}) > 0", "{{signal}}"), bars=True, width=8),
        series("Escalations by host", "SIGKILLs shortly after a SIGTERM to the same process, by host.",
               target(f"sum by (instance) ({counted('killsnoop_escalations_total', window=STEP)}) > 0", "{{instance}}"), bars=True, width=8),
    ]  # fmt: skip


def hosts() -> list[Json]:
    """The fleet, host by host."""

    def by_host(expression: str) -> str:
        return f"sum by (instance) ({expression})"

    kills = ("killsnoop_deliveries_total", SIGKILL, DELIVERED)
    columns = {
        "SIGKILLs": by_host(counted(*kills)),
        "OOM kills": by_host(counted(*kills, OOM)),
        "Escalations": by_host(counted("killsnoop_escalations_total")),
        "Failed calls": by_host(counted("killsnoop_signals_total", COMM, SIGNAL, FAILED)),
        "Events lost": by_host(counted("killsnoop_events_total", LOST)),
        "Hooks detached": by_host(f"{metric('killsnoop_probe_attached')} == bool 0"),
    }
    refs = dict(zip(columns, "ABCDEF", strict=True))
    return [
        series("SIGKILLs by host", "SIGKILLs that reached a process, by host.",
               target(f"sum by (instance) ({counted(*kills, window=STEP)}) > 0", "{{instance}}"), bars=True, width=12),
        series("Failed calls by host", "Failed calls by the chosen senders, with the chosen signals, by host.",
               target(f"sum by (instance) ({counted('killsnoop_signals_total', COMM, SIGNAL, FAILED, window=STEP)}) > 0", "{{instance}}"), bars=True, width=12),
        table("Hosts, one by one", "What happened on each host in the range, and the state of its daemon. Click a host to filter the whole dashboard.",
              [instant(expression, ref=refs[name], form="table") for name, expression in columns.items()],
              {"instance": "Host"} | {f"Value #{ref}": name for name, ref in refs.items()},
              [override("byName", "Host", links=choose("instance", "Only ${__value.raw}")),
               override("byRegexp", "Events lost|Hooks detached", custom__cellOptions={"type": "color-text"}, thresholds=thresholds((None, "text"), (1, RED)))],
              "SIGKILLs", 8),
    ]  # fmt: skip


def health() -> list[Json]:
    """The daemon itself."""

    def rate(name: str, *matchers: str) -> str:
        return f"rate({metric(name, *matchers)}[{STEP}])"

    def grown(name: str, *matchers: str) -> str:
        return f"increase({metric(name, *matchers)}[{STEP}])"

    attached = panel(
        "state-timeline", "Probe attached", "Whether the probe is attached to every hook, by host. A gap means that the daemon did not answer.",
        [target(f"min by (instance) ({metric('killsnoop_probe_attached')})", "{{instance}}")],
        {"custom": {"fillOpacity": 80, "lineWidth": 0}, "color": {"mode": "thresholds"}, "thresholds": thresholds((None, RED), (1, GREEN)), "unit": "bool_yes_no",
         "mappings": [{"type": "value", "options": {"0": {"text": "detached", "color": RED, "index": 0}, "1": {"text": "attached", "color": GREEN, "index": 1}}}]},
        [], {"showValue": "never", "rowHeight": 0.8, "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
             "tooltip": {"mode": "single", "sort": "none"}},
        (8, 8),
    )  # fmt: skip
    lost = f"sum by (instance) ({grown('killsnoop_events_total', LOST)}) / (sum by (instance) ({grown('killsnoop_events_total')}) > 0)"
    taken = f"{metric('killsnoop_series')} / {metric('killsnoop_series_limit')}"
    per_run = f"sum by (program) ({rate('killsnoop_probe_run_seconds_total')}) / (sum by (program) ({rate('killsnoop_probe_runs_total')}) > 0)"
    return [
        attached,
        series("Events by status", "What became of events. Only logged ones are in the journal; filtered ones are excluded by flags.",
               target(f"sum by (status) ({rate('killsnoop_events_total')})", "{{status}}"), unit="cps"),
        series("Events lost", "Share of events that were not logged: over the rate, ring buffer full, journal or decode error. Counters are not affected.",
               target(lost, "{{instance}}"), unit="percentunit", highest=1),
        series("Events pending", "Events that wait to be logged. If the line stays up, the journal is too slow.",
               target(f"sum by (instance) ({metric('killsnoop_events_pending')})", "{{instance}}")),
        series("Counters taken", "Share of the maximum (--metrics.max-series, --metrics.max-deaths). At 100 %, new names count as (other) until others have been idle for a day.",
               target(taken, "{{instance}} {{family}}"), unit="percentunit", highest=1, steps=thresholds((None, GREEN), (HUNDREDS, ORANGE), (MANY, RED))),
        series("Counted as (other)", "Calls and deaths that found every counter taken.",
               target(f"sum by (instance) ({grown('killsnoop_series_overflow_total')}) > 0", "{{instance}}"), bars=True),
        series("Counters given to new names", "Counters taken from names that were idle (--metrics.series-ttl).",
               target(f"sum by (instance) ({grown('killsnoop_series_recycled_total')})", "{{instance}}"), bars=True),
        series("Calls of idle names", "Past calls of names that just lost their counter.",
               target(f"sum by (instance) ({grown('killsnoop_signals_aged_total')})", "{{instance}}"), bars=True),
        series("Deaths of idle names", "Past deaths of names that just lost their counter.",
               target(f"sum by (instance) ({grown('killsnoop_deaths_aged_total')})", "{{instance}}"), bars=True),
        series("Missed by the probe", "Runs that a program missed: another BPF program was running on that CPU (Linux 6.7 and later), or the probe is broken.",
               target(f"sum by (program) ({grown('killsnoop_probe_missed_total')})", "{{program}}")),
        series("Expected senders", "Senders that the alerts leave out on some hosts (--metrics.expected-sender), by number of hosts.",
               target(f"count by (comm) ({metric('killsnoop_expected_sender_info')})", "{{comm}}")),
        series("Hooks by way", "How the probe is attached to its hooks (killsnoopd --probe.attach).",
               target(f"count by (way) ({metric('killsnoop_probe_hook_info')})", "{{way}}")),
        series("Exact hooks", "1 while the kernel runs the hook's program every time; 0 while it may preempt the program and skip others' runs.",
               target(f"min by (hook) ({metric('killsnoop_probe_exact')})", "{{hook}}")),
        series("Age of the newest event", "How long ago the newest logged event happened.",
               target(f"time() - {metric('killsnoop_last_event_timestamp_seconds')}", "{{instance}}"), unit="s"),
        series("Lookups by source", "Where the unit, the pod's names and the command line of senders and targets were found. none, over_budget: the event lacks them.",
               target(f"sum by (what, source) ({rate('killsnoop_lookups_total')})", "{{what}} {{source}}"), unit="cps"),
        series("CPU", "Share of one CPU used by the daemon. The probe's time is charged to the processes that call it.", target(f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}"), unit="percentunit"),
        series("Memory", "Resident memory of the daemon.", target(metric("process_resident_memory_bytes"), "{{instance}}"), unit="bytes"),
        series("Scrape", "How long a scrape took.", target(metric("scrape_duration_seconds"), "{{instance}}"), unit="s"),
        series("Connections", "Open connections to the metrics port, as a share of the maximum. At 100 %, a new one closes the oldest idle one.",
               target(f"{metric('killsnoop_http_connections')} / {metric('killsnoop_http_connections_limit')}", "{{instance}}"), unit="percentunit", highest=1),
        series("Connections refused", "Connections and requests refused, by reason. A well-behaved scraper never appears here.",
               target(f"sum by (reason) ({grown('killsnoop_http_refused_total')})", "{{reason}}")),
        series("Time per run of the probe", "By program, while kernel.bpf_stats_enabled is 1.", target(per_run, "{{program}}"), unit="s", width=12),
        series("Versions", "Number of hosts by daemon version and kernel version.", target(f"count by (version, kernel) ({metric('killsnoop_build_info')})", "{{version}} on {{kernel}}"), width=12),
    ]  # fmt: skip


def log() -> list[Json]:
    """The events themselves, if journald's lines go to Loki."""
    stream = (
        '{$log_stream} | json | KILLSNOOP_COMM =~ "$comm" | KILLSNOOP_SIGNAL =~ "$signal" | line_format "{{.MESSAGE}}"'
    )
    logs = {
        "type": "logs", "title": "Events", "datasource": LOKI, "gridPos": {"w": 16, "h": 14},
        "description": "Events of the chosen senders and signals, from journald through Loki.",
        "targets": [{"datasource": LOKI, "expr": stream, "queryType": "range", "refId": "A"}],
        "options": {
            "showTime": True, "showLabels": False, "showCommonLabels": False, "wrapLogMessage": True, "prettifyLogMessage": False,
            "enableLogDetails": True, "showLogContextToggle": True, "dedupStrategy": "none", "sortOrder": "Descending",
        },
    }  # fmt: skip
    words = """\
**With Loki.** Let Promtail (`json: true`) or Alloy (`format_as_json = true`) read the journal. Choose the data source above, and enter
the labels of killsnoopd's lines in *Log stream*.

**Without Loki.** The rest of this dashboard does not need it. On the host:

    killsnoop who nginx             # who killed it?
    killsnoop --since=-1h           # what was sent?
    journalctl -t killsnoopd KILLSNOOP_SIGNAL=SIGKILL
"""
    text = {
        "type": "text", "title": "Where to find the log", "gridPos": {"w": 8, "h": 14}, "description": "How to show events here.",
        "options": {"mode": "markdown", "content": words},
    }  # fmt: skip
    return [logs, text]


def placed(panels: list[Json], top: int, ids: Iterator[int]) -> int:
    """Place panels side by side, then below, on the first free line."""
    left, height = 0, 0
    for each in panels:
        grid = each["gridPos"]
        if left + grid["w"] > WIDTH:
            left, top, height = 0, top + height, 0
        each["gridPos"] = {"x": left, "y": top, **grid}
        each["id"] = next(ids)
        left, height = left + grid["w"], max(height, grid["h"])
    return top + height


def rows() -> list[Json]:
    """All panels with positions. A collapsed row queries nothing until it is opened."""
    ids = count(1)
    found = overview()
    top = placed(found, 0, ids)
    for title, panels, collapsed in (
        ("What died", deaths(), False),
        ("Who kills what, since when", who(), False),
        ("Signals and their outcomes", signals(), False),
        ("Hosts", hosts(), False),
        ("killsnoopd itself", health(), False),
        ("The log", log(), True),
    ):
        row: Json = {"type": "row", "title": title, "collapsed": collapsed, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}, "id": next(ids), "panels": []}  # fmt: skip
        top = placed(panels, top + 1, ids)
        found.append(row)
        if collapsed:
            row["panels"] = panels
        else:
            found += panels
    return found


def variable(name: str, label: str, query: str, everything: str) -> Json:
    """A choice among the values of a label; initially all."""
    return {
        "type": "query", "name": name, "label": label, "query": query, "datasource": PROMETHEUS, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": everything, "current": {"text": ["All"], "value": ["$__all"]}, "regex": "", "hide": 0,
    }  # fmt: skip


def variables() -> list[Json]:
    """The variables, with the names that Grafana's dashboard-linter requires."""
    named = '__name__=~"killsnoop_(signals|deliveries|deaths)_total"'
    datasource = {
        "type": "datasource",
        "multi": False,
        "includeAll": False,
        "refresh": 1,
        "regex": "",
        "hide": 0,
    }
    return [
        {**datasource, "name": "prometheus_datasource", "label": "Prometheus data source", "query": "prometheus"},
        variable("job", "Job", "label_values(killsnoop_build_info, job)", ".+"),
        variable("instance", "Instance", 'label_values(killsnoop_build_info{job=~"$job"}, instance)', ".+"),
        variable("comm", "Sender", f"label_values({metric('killsnoop_signals_total')}, comm)", ".*"),
        variable("signal", "Signal", f"label_values({metric('', named)}, signal)", ".+"),
        {**datasource, "name": "loki_datasource", "label": "Loki data source", "query": "loki"},
        {"type": "textbox", "name": "log_stream", "label": "Log stream", "query": 'unit="killsnoopd.service"', "hide": 0,
         "current": {"text": 'unit="killsnoopd.service"', "value": 'unit="killsnoopd.service"'}},
    ]  # fmt: skip


def annotations() -> list[Json]:
    """OOM kills as vertical lines in every panel."""
    kills = f"sum by (instance) (increase({metric('killsnoop_deliveries_total', SIGKILL, OOM)}[{STEP}])) > 0"
    return [
        {"builtIn": 1, "name": "Annotations & Alerts", "type": "dashboard", "enable": True, "hide": True, "iconColor": "rgba(0, 211, 255, 1)",
         "datasource": {"type": "grafana", "uid": "-- Grafana --"}},
        {"name": "OOM kills", "enable": True, "hide": False, "iconColor": RED, "datasource": PROMETHEUS,
         "target": {"expr": kills, "interval": "60s", "refId": "Anno"}, "titleFormat": "OOM kill", "textFormat": "on {{instance}}", "tagKeys": "instance", "useValueForTime": False},
    ]  # fmt: skip


def dashboard() -> Json:
    """The whole dashboard."""
    return {
        "uid": "killsnoopd",
        "title": "killsnoopd: who kills what, since when",
        "description": "Signals, who sent them, and what they killed. Generated by scripts/dashboard.py of killsnoopd.",
        "tags": ["killsnoopd", "signals", "ebpf"],
        "schemaVersion": 42,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": annotations()},
        "templating": {"list": variables()},
        "panels": rows(),
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    print()
