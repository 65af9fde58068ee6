"""Every query of the dashboard, sent to a real Prometheus that has scraped real daemons under a known load.

The load is known from its senders, whose names nobody else has, and from the raw samples, which are added up here a second
time. Other processes may send signals on this kernel meanwhile.
"""

import json
import os
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from cases import Processes, out_of_memory
from grafana import DASHBOARD, Prometheus, filled, panels, variables
from running import Daemon
from senders import NO_SUCH_PID, NOBODY, forked, run, send
from waiting import wait_for

BOARD = json.loads(DASHBOARD.read_text())
PANELS = {panel["title"]: panel for panel in panels(BOARD)}
HOSTILE = "kd-';reboot;'"
LOAD_S = 30  # at least: increase() is off by half a scrape interval over this many seconds
RARE, IGNORED, DEADLY = (signal.SIGRTMIN + number for number in (11, 12, 13))
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")


def chosen(labels, names):
    """Some of a series' labels, as a key."""
    return frozenset((name, labels[name]) for name in names if name in labels)


@dataclass
class Measured:
    """A Prometheus that has scraped everything, the time to ask for, and the length of the range."""

    prometheus: Prometheus
    at: float
    began: float  # the first scrape in the range
    load: tuple[float, float]  # its start, its end

    @property
    def range_s(self):
        return int(self.at - self.began) + 2

    def values(self, **chosen):
        window = f"{self.range_s}s"
        times = {"__range": window, "__range_s": str(self.range_s), "__rate_interval": window, "__interval": "1s"}
        return variables(BOARD, **chosen) | times

    def ask(self, title, ref="A", **chosen):
        """[(labels, value)] of a panel's query at the end of the range."""
        (target,) = [target for target in PANELS[title]["targets"] if target["refId"] == ref]
        return self.prometheus.query(filled(target["expr"], self.values(**chosen)), self.at)

    def counts(self, title, by, ref="A", **chosen):
        """{values of these labels: value}, rounded as the panel rounds it."""
        return {tuple(labels[name] for name in by): round(value) for labels, value in self.ask(title, ref, **chosen)}

    def samples(self, name, **matchers):
        """[(labels, samples)] of a metric in the range; `chosen`: text, or a function of the label's value."""
        for labels, values in self.prometheus.raw(name, self.at, self.range_s):
            if all(
                wanted(labels.get(label, "")) if callable(wanted) else labels.get(label) == wanted
                for label, wanted in matchers.items()
            ):
                yield labels, values

    def grown(self, name, by=(), **matchers):
        """{labels: how much counters grew}, sample by sample; a series that is newer than its page grew from 0."""
        pages = {labels["instance"]: values[0][0] for labels, values in self.samples("killsnoop_events_pending")}
        found = defaultdict(float)
        for labels, values in self.samples(name, **matchers):
            before = 0 if values[0][0] > pages[labels["instance"]] else values[0][1]
            total = 0
            for _, value in values:
                total += value - before if value >= before else value
                before = value
            found[chosen(labels, by)] += total
        return dict(found)

    def last(self, name, by=("instance",), fold=sum, **matchers):
        """{labels: newest value}."""
        found = defaultdict(list)
        for labels, values in self.samples(name, **matchers):
            found[chosen(labels, by)].append(values[-1][1])
        return {labels: fold(values) for labels, values in found.items()}


def load(prometheus, processes):
    """The known load. Prometheus scrapes between its parts: some series grow, some are new, some occur once."""

    def kills(sender, number):
        victims = [processes.victim("kv-dash") for _ in range(number)]
        run(lambda: [send("kill", victim, 9) for victim in victims], sender)
        for victim in victims:
            os.waitpid(victim, 0)

    def refused():
        for _ in range(5):
            assert send("kill", os.getppid(), signal.SIGUSR1) == -1  # EPERM

    def sends_much(target):
        for number, times in ((RARE, 6), (IGNORED, 2)):
            for _ in range(times):
                assert send("kill", target, number) == 0

    waits = processes.victim("kv-waits", lambda: signal.signal(signal.SIGTERM, lambda *_: None))
    takes = processes.victim(
        "kv-takes", lambda: (signal.pthread_sigmask(signal.SIG_BLOCK, {RARE}), signal.signal(IGNORED, signal.SIG_IGN))
    )
    kills(b"kd-many", 3)
    kills(b"kd-once", 1)
    run(lambda: send("kill", waits, 15), b"kd-asks")
    prometheus.wait_for_scrape()
    run(lambda: send("kill", waits, 9), b"kd-asks")
    stops = processes.victim("kv-stops", lambda: signal.signal(signal.SIGHUP, lambda *_: os._exit(0)))
    run(lambda: send("kill", stops, 1), b"kd-asks")
    os.waitpid(stops, 0)
    os.waitpid(waits, 0)
    kills(b"kd-many", 4)
    kills(HOSTILE.encode(), 1)
    for number in range(10):
        run(lambda: send("kill", os.getpid(), 0), f"kd-few{number}".encode())
    run(refused, b"kd-tries", NOBODY)
    run(lambda: [send("kill", NO_SUCH_PID, 9) for _ in range(2)], b"kd-tries")
    run(lambda: sends_much(takes), b"kd-many")
    for _ in range(2):
        doomed = processes.victim("kv-doomed")
        run(lambda: send("kill", doomed, DEADLY), b"kd-rt")  # noqa: B023
        os.waitpid(doomed, 0)
    os.waitpid(forked(os.abort, b"kv-crash"), 0)
    out_of_memory(processes, "kd-oom")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Three hosts for Prometheus; the third has few counters and a low rate."""
    folder = tmp_path_factory.mktemp("dashboard")
    daemons, processes, prometheus = [], Processes(), None
    stats = STATS.read_text()
    try:
        STATS.write_text("1")
        for name, flags in (
            ("a", ()), ("b", ()), ("small", ("--metrics.max-series=8", "--events.rate=1", "--events.burst=2")),
        ):  # fmt: skip
            daemons.append(
                Daemon(folder / name, ("--events.grace-period=120", "--metrics.expected-sender=kd-expected", *flags))
            )
            daemons[-1].wait_ready()
        targets = {name: daemon.url.removeprefix("http://") for name, daemon in zip("ab", daemons, strict=False)}
        targets["small"] = daemons[2].url.removeprefix("http://")
        prometheus = Prometheus(folder / "prometheus", targets)
        began = prometheus.newest_scrape()
        prometheus.wait_for_scrape()
        start = time.time()
        load(prometheus, processes)
        end = time.time()
        prometheus.wait_for_scrape()
        wait_for(lambda: prometheus.newest_scrape() > began + LOAD_S, f"{LOAD_S} s of scrapes", LOAD_S * 20)
        yield Measured(prometheus, prometheus.newest_scrape(), began, (start, end))
    finally:
        STATS.write_text(stats)
        processes.close()
        if prometheus:
            prometheus.stop()
        for daemon in daemons:
            daemon.stop()


def failed(result):
    return result != "success"


def share(parts, wholes):
    return {labels: parts[labels] / whole for labels, whole in wholes.items() if whole}


LOST = {"rate_limited", "ring_full", "journal_error", "decode_error"}.__contains__
KILLS = ("killsnoop_deliveries_total",)
KILLED = {"signal": "SIGKILL", "outcome": "delivered"}
HOST = ("instance",)
DEATH = ("comm", "tcomm", "target_unit", "target_pod", "signal", "origin", "instance")
# The expected result of each query, from the raw samples: {title: {ref: function of Measured}}.


def in_words(found):
    """With the label `where`: the unit and the pod, or that there are none."""
    said = {}
    for labels, value in found.items():
        unit, pod = (dict(labels).get(name, "") for name in ("target_unit", "target_pod"))
        said[labels | {("where", f"{unit} {pod}" if unit or pod else "no unit, no pod")}] = value
    return said


EXPECTED = {
    "SIGKILLs": {"A": lambda m: m.grown(*KILLS, **KILLED)},
    "OOM kills": {"A": lambda m: m.grown(*KILLS, origin="oom", **KILLED)},
    "Escalations": {"A": lambda m: m.grown("killsnoop_escalations_total")},
    "Deaths": {"A": lambda m: m.grown("killsnoop_deaths_total")},
    "Failed calls": {"A": lambda m: m.grown("killsnoop_signals_total", result=failed)},
    "Hosts": {"A": lambda m: {frozenset(): 3.0}, "B": lambda m: {frozenset(): 3.0}},
    "SIGKILLs by sender": {"A": lambda m: m.grown("killsnoop_signals_total", ("comm",), signal="SIGKILL", result="success")},
    "SIGKILLs by origin": {"A": lambda m: m.grown(*KILLS, ("origin",), **KILLED)},
    "Top senders": {"A": lambda m: m.grown("killsnoop_signals_total", ("comm",))},
    "Calls by signal": {"A": lambda m: m.grown("killsnoop_signals_total", ("signal",))},
    "Calls by result": {"A": lambda m: m.grown("killsnoop_signals_total", ("result",))},
    "Failed calls by sender": {"A": lambda m: m.grown("killsnoop_signals_total", ("comm", "result"), result=failed)},
    "Deliveries by origin": {"A": lambda m: m.grown(*KILLS, ("origin",))},
    "Deliveries by outcome": {"A": lambda m: m.grown(*KILLS, ("outcome",))},
    "SIGKILLs by host": {"A": lambda m: m.grown(*KILLS, HOST, **KILLED)},
    "Failed calls by host": {"A": lambda m: m.grown("killsnoop_signals_total", HOST, result=failed)},
    "Probe attached": {"A": lambda m: m.last("killsnoop_probe_attached", fold=min)},
    "Events by status": {"A": lambda m: {k: v / m.range_s for k, v in m.grown("killsnoop_events_total", ("status",)).items()}},
    "Events lost": {"A": lambda m: share(m.grown("killsnoop_events_total", HOST, status=LOST), m.grown("killsnoop_events_total", HOST))},
    "Events pending": {"A": lambda m: m.last("killsnoop_events_pending")},
    "Counters taken": {"A": lambda m: share(m.last("killsnoop_series", ("instance", "family")), m.last("killsnoop_series_limit", ("instance", "family")))},
    "Counted as (other)": {"A": lambda m: m.grown("killsnoop_series_overflow_total", HOST)},
    "Counters given to new names": {"A": lambda m: m.grown("killsnoop_series_recycled_total", HOST)},
    "Calls of idle names": {"A": lambda m: m.grown("killsnoop_signals_aged_total", HOST)},
    "Deaths of idle names": {"A": lambda m: m.grown("killsnoop_deaths_aged_total", HOST)},
    "Missed by the probe": {"A": lambda m: m.grown("killsnoop_probe_missed_total", ("program",))},
    "Expected senders": {"A": lambda m: m.last("killsnoop_expected_sender_info", ("comm",))},
    "Hooks by way": {"A": lambda m: m.last("killsnoop_probe_hook_info", ("way",))},
    "Exact hooks": {"A": lambda m: m.last("killsnoop_probe_exact", ("hook",), fold=min)},
    "Age of the newest event": {"A": lambda m: {k: m.at - v for k, v in m.last("killsnoop_last_event_timestamp_seconds").items()}},
    "Lookups by source": {"A": lambda m: {k: v / m.range_s for k, v in m.grown("killsnoop_lookups_total", ("what", "source")).items()}},
    "CPU": {"A": lambda m: {k: v / m.range_s for k, v in m.grown("process_cpu_seconds_total", HOST).items()}},
    "Memory": {"A": lambda m: m.last("process_resident_memory_bytes")},
    "Scrape": {"A": lambda m: m.last("scrape_duration_seconds")},
    "Connections": {"A": lambda m: share(m.last("killsnoop_http_connections"), m.last("killsnoop_http_connections_limit"))},
    "Connections refused": {"A": lambda m: m.grown("killsnoop_http_refused_total", ("reason",))},
    "Time per run of the probe": {"A": lambda m: share(m.grown("killsnoop_probe_run_seconds_total", ("program",)), m.grown("killsnoop_probe_runs_total", ("program",)))},
    "Versions": {"A": lambda m: m.last("killsnoop_build_info", ("version", "kernel"))},
    "Who sent what, since when": {"A": lambda m: m.grown("killsnoop_signals_total", ("comm", "signal", "result", "instance"))},
    "Hosts, one by one": {
        "A": lambda m: m.grown(*KILLS, HOST, **KILLED),
        "B": lambda m: m.grown(*KILLS, HOST, origin="oom", **KILLED),
        "C": lambda m: m.grown("killsnoop_escalations_total", HOST),
        "D": lambda m: m.grown("killsnoop_signals_total", HOST, result=failed),
        "E": lambda m: m.grown("killsnoop_events_total", HOST, status=LOST),
        "F": lambda m: dict.fromkeys(m.last("killsnoop_events_pending"), 0.0),
    },
    "What died, and who killed it": {"A": lambda m: m.grown("killsnoop_deaths_total", DEATH)},
    "Deaths by unit and pod": {
        "A": lambda m: in_words(m.grown("killsnoop_deaths_total", ("target_unit", "target_pod")))
    },
    "Deaths by sender": {"A": lambda m: m.grown("killsnoop_deaths_total", ("comm",), comm=bool)},
    "Crashes": {"A": lambda m: m.grown("killsnoop_deaths_total", ("tcomm", "signal"), origin="self")},
    "OOM kills by victim": {
        "A": lambda m: m.grown("killsnoop_deaths_total", ("tcomm", "target_unit", "target_pod"), origin="oom")
    },
    "Deaths by signal": {"A": lambda m: m.grown("killsnoop_deaths_total", ("signal", "origin"))},
    "Exits after a signal": {"A": lambda m: m.grown("killsnoop_exits_total", ("signal",))},
    "Escalations by host": {"A": lambda m: m.grown("killsnoop_escalations_total", HOST)},
}  # fmt: skip


def test_nothing_is_left_out():
    """Every query of a panel has an expectation; the times of the large table have their own test."""
    asked = {
        (title, target["refId"])
        for title, panel in PANELS.items()
        for target in panel.get("targets", [])
        if panel["type"] != "logs"
    }
    expected = {(title, ref) for title, refs in EXPECTED.items() for ref in refs}
    assert asked - expected == {
        ("Who sent what, since when", "B"), ("Who sent what, since when", "C"), ("What died, and who killed it", "B"),
    }  # fmt: skip
    assert expected <= asked


@pytest.mark.parametrize(("title", "ref"), [(title, ref) for title, refs in EXPECTED.items() for ref in refs])
def test_panel_agrees_with_the_raw_samples(measured, title, ref):
    """For all hosts, senders and signals, the panel equals a second computation from the samples."""
    expected = EXPECTED[title][ref](measured)
    assert expected
    found = {
        chosen(labels, labels.keys() - {"__name__", "job", "log"}): value for labels, value in measured.ask(title, ref)
    }
    if title == "Top senders":
        assert len(found) == 10 < len(expected)
        assert min(found.values()) >= max(expected[labels] for labels in expected.keys() - found.keys()) - 1
        expected = {labels: expected[labels] for labels in found}
    for labels in expected.keys() | found.keys():
        assert found.get(labels, 0) == pytest.approx(expected.get(labels, 0), rel=0.07), labels


MANY, ONCE, TRIES = {"comm": ["kd-many"]}, {"comm": ["kd-once"]}, {"comm": ["kd-tries"]}


@pytest.mark.parametrize(
    ("title", "choice", "by", "counts"),
    [
        ("SIGKILLs by sender", MANY, ("comm",), {("kd-many",): 7}),
        ("SIGKILLs by sender", ONCE, ("comm",), {("kd-once",): 1}),
        ("SIGKILLs by sender", {"comm": ["kd-many", "kd-once", HOSTILE]}, ("comm",), {("kd-many",): 7, ("kd-once",): 1, (HOSTILE,): 1}),
        ("Top senders", {"comm": ["kd-many", "kd-tries", "kd-asks"]}, ("comm",), {("kd-many",): 15, ("kd-tries",): 7, ("kd-asks",): 3}),
        ("Top senders", {"comm": ["kd-many"], "signal": ["SIGRTMIN+11"]}, ("comm",), {("kd-many",): 6}),
        ("Calls by signal", MANY, ("signal",), {("SIGKILL",): 7, ("SIGRTMIN+11",): 6, ("SIGRTMIN+12",): 2}),
        ("Calls by result", {"comm": ["kd-many", "kd-tries"]}, ("result",), {("success",): 15, ("EPERM",): 5, ("ESRCH",): 2}),
        ("Failed calls", TRIES, (), {(): 7}),
        ("Failed calls by sender", TRIES, ("comm", "result"), {("kd-tries", "EPERM"): 5, ("kd-tries", "ESRCH"): 2}),
        ("Failed calls by host", TRIES, ("instance",), {("a",): 7}),
        ("Deliveries by origin", {"signal": ["SIGRTMIN+11"]}, ("origin",), {("syscall",): 6}),
        ("Deliveries by outcome", {"signal": ["SIGRTMIN+11", "SIGRTMIN+12"]}, ("outcome",), {("delivered",): 6, ("ignored",): 2}),
        ("Deaths", {"signal": ["SIGRTMIN+13"]}, (), {(): 2}),
        ("Deaths by sender", {"comm": ["kd-many", "kd-once"]}, ("comm",), {("kd-many",): 7, ("kd-once",): 1}),
        ("Deaths by signal", {"signal": ["SIGRTMIN+13"]}, ("signal", "origin"), {("SIGRTMIN+13", "syscall"): 2}),
    ],
)  # fmt: skip
def test_known_load(measured, title, choice, by, counts):
    """The panel shows what was sent, and nothing for senders and signals that do not exist."""
    assert measured.counts(title, by, instance=["a"], **choice) == counts
    fleet = measured.counts(title, by, instance=["a", "b"], **choice)
    hosts = {("a",): 7, ("b",): 7} if by == ("instance",) else {labels: 2 * count for labels, count in counts.items()}
    assert fleet == hosts


@pytest.mark.parametrize(
    ("title", "ref", "at_least"),
    [("SIGKILLs", "A", 11), ("OOM kills", "A", 1), ("Escalations", "A", 1), ("Hosts, one by one", "A", 11),
     ("Hosts, one by one", "B", 1), ("Hosts, one by one", "C", 1)],
)  # fmt: skip
def test_what_others_may_add_to(measured, title, ref, at_least):
    """Without a name of our own to filter by: at least what was sent."""
    for host in "a", "b":
        ((_, value),) = measured.ask(title, ref, instance=[host])
        assert round(value) >= at_least


def test_who_killed_whom(measured):
    """A row for each sender and victim on each host."""
    for host in "a", "b":
        found = measured.counts("What died, and who killed it", ("comm", "tcomm", "signal"), instance=[host], **MANY)
        assert found == {("kd-many", "kv-dash", "SIGKILL"): 7}


def test_a_host_without_room(measured):
    """The third host's row says so: it counts as (other) and logs little."""
    assert measured.counts("Counters taken", ("instance", "family"))["small", "signals"] == 1
    assert measured.counts("Counted as (other)", ("instance",))["small",] >= 7 + 1 + 1
    (lost,) = [value for labels, value in measured.ask("Events lost") if labels["instance"] == "small"]
    assert 0 < lost < 1


def test_since_when(measured):
    """The first and the last time of each, in milliseconds. The first one is that of a scrape."""
    start, end = measured.load

    ((labels, died),) = measured.ask("What died, and who killed it", "B", comm=["kd-once"], instance=["a"])
    assert (labels["comm"], labels["tcomm"], labels["origin"]) == ("kd-once", "kv-dash", "syscall")
    assert start - 1 <= died / 1000 <= end

    def when(ref, comm):
        found = measured.ask("Who sent what, since when", ref, comm=[comm], signal=["SIGKILL"], instance=["a"])
        ((labels, value),) = found
        assert labels == {"comm": comm, "signal": "SIGKILL", "result": "success", "instance": "a"}
        return value / 1000

    assert start - 1 <= when("C", "kd-once") <= when("B", "kd-once") < end
    assert start <= when("B", "kd-many") <= when("C", "kd-many") + 1 <= end + 1
    assert when("B", "kd-many") < when("B", HOSTILE)
    assert when("C", "kd-once") < when("C", HOSTILE) <= end


def test_the_way_to_the_log(measured):
    """The command names the sender, unless a shell would interpret the name."""
    rows = measured.ask("Who sent what, since when", comm=["kd-once", HOSTILE], instance=["a"])
    assert {labels["comm"]: labels["log"] for labels, _ in rows} == {
        "kd-once": "journalctl -t killsnoopd KILLSNOOP_COMM=kd-once KILLSNOOP_SIGNAL=SIGKILL",
        HOSTILE: "journalctl -t killsnoopd KILLSNOOP_SIGNAL=SIGKILL",
    }


@pytest.mark.parametrize(
    "title", [title for title, panel in PANELS.items() if panel["type"] in ("timeseries", "state-timeline")]
)
def test_over_time(measured, title):
    """Queried as Grafana queries a graph, its last point is the same."""
    for target in PANELS[title]["targets"]:
        expression = filled(target["expr"], measured.values())
        graph = measured.prometheus.query_range(expression, measured.at - 20, measured.at, 5)
        newest = {frozenset(labels.items()): values[-1][1] for labels, values in graph if values[-1][0] == measured.at}
        once = {frozenset(labels.items()): value for labels, value in measured.ask(title, target["refId"])}
        assert newest == pytest.approx(once)
        assert newest


def test_annotation(measured):
    """The OOM kill, on each host."""
    (annotation,) = [each for each in BOARD["annotations"]["list"] if "target" in each]
    found = measured.prometheus.query(filled(annotation["target"]["expr"], measured.values()), measured.at)
    assert {labels["instance"] for labels, value in found if round(value) >= 1} == {"a", "b", "small"}


@pytest.mark.parametrize(
    ("name", "some"),
    [("job", {"killsnoopd"}), ("instance", {"a", "b", "small"}), ("comm", {"kd-many", "kd-tries", HOSTILE, "(other)"}), ("signal", {"SIGKILL", "SIGRTMIN+11", "0"})],
)  # fmt: skip
def test_variable(measured, name, some):
    """The options exist: label_values() is such a query."""
    (query,) = [each["query"] for each in BOARD["templating"]["list"] if each["name"] == name]
    selector, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    found = measured.prometheus.query(f"group by ({label}) ({filled(selector, measured.values())})", measured.at)
    assert some <= {labels[label] for labels, _ in found}
