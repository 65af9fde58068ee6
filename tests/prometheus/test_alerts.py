"""Every alert fires when it should and only then: `promtool test rules` on successive scrapes."""

import re

import pytest
from pages import NO_PROMETHEUS, UNREACHABLE, evaluations, firing, input_series, page, promtool_test, text
from servers import RULES

TOP = RULES.parent.parent.parent
ALERTS = RULES / "alerts.yml"
SIGKILL = "KillsnoopUnexpectedSigkill"
LATER = {"events": 1100}  # the events of a page that is not the first
BOOTED = {"events": 5}


def killed(**calls):
    """A page between other pages, with these senders of SIGKILL."""
    return page(kills=calls, **LATER)


def minutes(count, what):
    return [what] * (4 * count)  # a scrape every 15 seconds


QUIET = page()  # nobody has sent SIGKILL
OLD = page(kills={"old": 5})


@pytest.mark.parametrize(
    ("scrapes", "fires"),
    [
        pytest.param([*minutes(10, QUIET), *minutes(1, killed(new=1))], ["new"], id="born at 1"),
        pytest.param([*minutes(10, QUIET), *minutes(1, killed(new=7))], ["new"], id="born at 7"),
        pytest.param([*minutes(10, OLD), *minutes(1, killed(old=6))], ["old"], id="once more"),
        pytest.param(minutes(80, OLD), [], id="old counts"),
        pytest.param([*minutes(10, QUIET), *minutes(1, killed(new=1, other=1))], ["new", "other"], id="two at once"),
        pytest.param(
            [*minutes(10, QUIET), *minutes(1, killed(new=1)), *minutes(1, killed(new=1, other=1))],
            ["new", "other"], id="two, one after the other",
        ),
        # The list of senders.
        pytest.param(
            [*minutes(10, QUIET), *minutes(1, killed(systemd=1, runc=1, **{"runc:[2:INIT]": 1, "containerd-shim": 2}))],
            [], id="expected senders",
        ),
        pytest.param(
            [*minutes(10, QUIET), *minutes(1, killed(systemd2=1, mysystemd=1))],
            ["mysystemd", "systemd2"], id="names that only hold an expected one",
        ),
        pytest.param([*minutes(10, QUIET), *minutes(1, killed(systemd=1, new=1))], ["new"], id="one expected, one not"),
        # Failed scrapes.
        pytest.param(
            [*minutes(10, QUIET), UNREACHABLE, *minutes(1, killed(new=1))], ["new"], id="born while a scrape failed"
        ),
        pytest.param(
            [*minutes(10, QUIET), killed(new=1), UNREACHABLE, killed(new=1)], ["new"], id="a scrape fails after the birth"
        ),
        pytest.param(
            [*minutes(10, QUIET), UNREACHABLE, *minutes(4, QUIET), *[killed(new=1)] * 4], ["new"],
            id="born five minutes after a scrape failed",
        ),
        pytest.param(
            [*minutes(10, QUIET), *minutes(30, UNREACHABLE), *minutes(1, killed(new=1))], ["new"],
            id="born in half an hour's outage",
        ),
        pytest.param(
            [*minutes(10, OLD), *minutes(30, UNREACHABLE), *minutes(1, killed(old=6))], ["old"],
            id="once more in half an hour's outage",
        ),
        # Prometheus itself is down: no staleness markers.
        pytest.param(
            [*minutes(10, QUIET), *minutes(10, NO_PROMETHEUS), *minutes(1, killed(new=1))], ["new"],
            id="born while Prometheus was away",
        ),
        # The machine boots or the probe is stopped: counts start at zero.
        pytest.param(
            [*minutes(10, OLD), *minutes(2, UNREACHABLE), *minutes(1, page(kills={"old": 2}, **BOOTED))], ["old"],
            id="boots, and less on the first page",
        ),
        pytest.param(
            [*minutes(10, OLD), *minutes(2, UNREACHABLE), *minutes(1, page(kills={"old": 5}, **BOOTED))], ["old"],
            id="boots, and as much on the first page",
        ),
        pytest.param(
            [*minutes(10, OLD), *minutes(20, page(**BOOTED)), *minutes(1, page(kills={"old": 5}, events=10))], ["old"],
            id="boots, and as much twenty minutes later",
        ),
        pytest.param(
            [*minutes(10, OLD), *minutes(30, UNREACHABLE), *minutes(1, page(kills={"old": 5}, **BOOTED))], ["old"],
            id="is down for half an hour, boots, and as much on the first page",
        ),
        # A target that is new to Prometheus.
        pytest.param(minutes(1, killed(old=5)), [], id="new target with old counts"),
        pytest.param([*minutes(1, OLD), *minutes(1, killed(old=6))], ["old"], id="new target, once more"),
        pytest.param([*minutes(1, OLD), *minutes(1, killed(old=5, new=1))], ["new"], id="new target, born at 1"),
        pytest.param(
            [*minutes(10, OLD), *minutes(120, UNREACHABLE), *minutes(1, OLD), *minutes(1, killed(old=5, new=1))], ["new"],
            id="back after two hours, born at 1 after the first page",
        ),
    ],
)  # fmt: skip
def test_an_unexpected_sigkill(scrapes, fires, tmp_path):
    """The senders for which it fires at the last page."""
    checks = [firing(SIGKILL, 15 * (len(scrapes) - 1), "comm", *fires)]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize(
    "scrapes",
    [
        pytest.param(minutes(80, OLD), id="nothing happens"),
        pytest.param([*minutes(10, OLD), UNREACHABLE, *minutes(10, OLD)], id="a scrape fails"),
        pytest.param([*minutes(2, OLD), UNREACHABLE, *minutes(10, OLD)], id="a scrape of a new target fails"),
        pytest.param([*minutes(10, OLD), *([UNREACHABLE] * 3 + [OLD]) * 10, *minutes(9, OLD)], id="most scrapes fail"),
        pytest.param([*minutes(10, OLD), *minutes(30, UNREACHABLE), *minutes(10, OLD)], id="half an hour's outage"),
        pytest.param([*minutes(10, OLD), *minutes(180, UNREACHABLE), *minutes(10, OLD)], id="three hours' outage"),
        pytest.param([*minutes(10, OLD), *minutes(10, NO_PROMETHEUS), *minutes(10, OLD)], id="Prometheus is away"),
        pytest.param([*minutes(10, OLD), *minutes(180, NO_PROMETHEUS), *minutes(10, OLD)], id="Prometheus is away for long"),
        pytest.param([*minutes(10, OLD), *minutes(2, UNREACHABLE), *minutes(10, page(**BOOTED))], id="boots"),
        pytest.param(
            [*minutes(10, OLD), *minutes(10, page(kills={"systemd": 40}, **BOOTED))], id="boots, and systemd kills"
        ),
        pytest.param(
            [*minutes(10, page(kills={"old": 5, "systemd": 2})), *minutes(180, UNREACHABLE),
             *minutes(10, page(kills={"old": 2}, **BOOTED))],
            id="boots in three hours' outage",
        ),
    ],
)  # fmt: skip
def test_nobody_is_paged_for_old_counts(scrapes, tmp_path):
    """It fires at no evaluation."""
    end_s = 15 * (len(scrapes) - 1)
    checks = [evaluations(SIGKILL, end_s, end_s, "comm")]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize("missed", [None, 1, 5, 19, 20, 21])
def test_one_kill_is_one_alert(missed, tmp_path):
    """It fires for ten minutes without a gap, whichever scrape fails: an alert that returns would page twice."""
    scrapes = [*minutes(10, QUIET), *minutes(20, killed(new=1))]
    first = 4 * 10
    if missed:
        scrapes[first + missed] = UNREACHABLE
    end_s = 15 * (len(scrapes) - 1)
    checks = [
        evaluations(SIGKILL, 15 * (first + 38), 15 * 38 + 1, "comm", new=39),
        evaluations(SIGKILL, end_s, end_s, "comm", new=39 if missed == 19 else 40),
    ]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize("lost", [None, 71, 72])
def test_with_a_scrape_a_minute(lost, tmp_path):
    """Prometheus' default interval."""
    scrapes = [*[QUIET] * 70, *[killed(new=1)] * 4]
    if lost:
        scrapes[lost] = UNREACHABLE
    checks = [firing(SIGKILL, 60 * 73, "comm", "new")]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 60, promql_expr_test=checks)


def test_each_host_for_itself(tmp_path):
    """A sender on one host does not affect another host, which has had that series for long."""
    series = input_series([*minutes(10, QUIET), *minutes(1, killed(old=1))])
    series += input_series(minutes(11, OLD), {"instance": "web2"})
    promtool_test(tmp_path, [ALERTS], series, 15, promql_expr_test=[firing(SIGKILL, 11 * 60 - 15, "instance", "web1")])


def steps(before, after):
    """Ten quiet minutes, then one minute of the other page."""
    return [*minutes(10, before), *minutes(1, after)]


def unknown(deaths, **changes):
    """A page with this number of deaths by SIGKILL whose sender is not known, beside others."""
    labels = {"signal": "SIGKILL", "origin": "unknown"}
    known = {text("killsnoop_deaths_total", labels | {"origin": "syscall"}): 7 * deaths}
    return page(**(changes or LATER), more=known | {text("killsnoop_deaths_total", labels): deaths})


SCAN, SCANNED = {("nmapish", "0"): 12}, {("nmapish", "0"): 25, ("nmapish", "SIGKILL"): 7}


@pytest.mark.parametrize(
    ("alert", "scrapes", "label", "fires"),
    [
        pytest.param("KillsnoopOomKill", steps(page(), page(oom=1, **LATER)), "instance", ["web1"], id="oom"),
        pytest.param("KillsnoopOomKill", minutes(11, page(oom=3)), "instance", [], id="oom, long ago"),
        pytest.param("KillsnoopOomKill", [*minutes(10, page(oom=3)), UNREACHABLE, page(oom=3)], "instance", [], id="oom, a scrape fails"),
        pytest.param(
            "KillsnoopOomKill", [*minutes(10, page()), *minutes(10, UNREACHABLE), page(oom=1)], "instance", ["web1"],
            id="oom in an outage",
        ),
        pytest.param(
            "KillsnoopOomKill", steps(page(oom=1), page(oom=1, **BOOTED)), "instance", ["web1"], id="oom, and as many since it booted"
        ),
        pytest.param("KillsnoopOomKill", minutes(1, page(oom=1)), "instance", [], id="oom, new target"),
        pytest.param("KillsnoopUnknownSigkill", steps(unknown(0), unknown(1)), "instance", ["web1"], id="a death without a sender"),
        pytest.param("KillsnoopUnknownSigkill", minutes(11, unknown(3)), "instance", [], id="deaths without a sender, long ago"),
        pytest.param(
            "KillsnoopUnknownSigkill", [*minutes(10, unknown(0)), *minutes(10, UNREACHABLE), unknown(1)], "instance", ["web1"],
            id="a death without a sender in an outage",
        ),
        pytest.param(
            "KillsnoopUnknownSigkill", steps(unknown(1), unknown(1, **BOOTED)), "instance", ["web1"],
            id="a death without a sender, and as many since it booted",
        ),
        pytest.param("KillsnoopUnknownSigkill", minutes(1, unknown(1)), "instance", [], id="a death without a sender, new target"),
        pytest.param("KillsnoopEscalation", steps(page(), page(escalations=1, **LATER)), "instance", ["web1"], id="escalation"),
        pytest.param("KillsnoopEscalation", minutes(11, page(escalations=4)), "instance", [], id="escalation, long ago"),
        pytest.param("KillsnoopEscalation", steps(page(escalations=4), page(**BOOTED)), "instance", [], id="escalation, then boots"),
        pytest.param("KillsnoopFailedKills", steps(page(), page(eperms=SCANNED, **LATER)), "comm", ["nmapish"], id="scan"),
        pytest.param(
            "KillsnoopFailedKills", steps(page(eperms=SCAN), page(eperms=SCANNED, **LATER)), "comm", ["nmapish"],
            id="scan, by one known for it",
        ),
        pytest.param("KillsnoopFailedKills", steps(page(), page(eperms=SCAN, **LATER)), "comm", [], id="a few fail"),
        pytest.param("KillsnoopFailedKills", minutes(11, page(eperms=SCANNED)), "comm", [], id="scan, long ago"),
        pytest.param(
            "KillsnoopFailedKills", [*minutes(10, page(eperms=SCANNED)), UNREACHABLE, *minutes(2, page(eperms=SCANNED))], "comm", [],
            id="scan long ago, a scrape fails",
        ),
        pytest.param(
            "KillsnoopFailedKills",
            [page(eperms={("slow", "0"): 2 * n}, events=1000 + 2 * n) for n in range(44)], "comm", [], id="8 a minute, all the time",
        ),
        pytest.param(
            "KillsnoopMassKill", steps(page(), page(kills={"loop": 20}, victims=(20, 0), **LATER)), "comm", ["loop"], id="loop"
        ),
        pytest.param(
            "KillsnoopMassKill", steps(page(), page(terms={"loop": 20}, victims=(0, 20), **LATER)), "comm", ["loop"], id="loop of SIGTERM"
        ),
        pytest.param(
            "KillsnoopMassKill", steps(page(), page(kills={"group": 1}, victims=(21, 0), **LATER)), "comm", ["group"], id="kill(-1)"
        ),
        pytest.param(
            "KillsnoopMassKill", steps(page(), page(kills={"few": 19}, victims=(19, 0), **LATER)), "comm", [], id="nineteen"
        ),
        pytest.param(
            "KillsnoopMassKill", steps(page(), page(terms={"systemd": 90}, victims=(0, 90), **LATER)), "comm", [], id="systemd"
        ),
        pytest.param(
            "KillsnoopMassKill", minutes(11, page(kills={"loop": 90}, victims=(90, 0))), "comm", [], id="loop, long ago"
        ),
        pytest.param(
            "KillsnoopMassKill",
            steps(page(kills={"loop": 90}, victims=(90, 0)), page(kills={"loop": 91}, victims=(91, 0), **LATER)), "comm", [],
            id="one more",
        ),
    ],
)  # fmt: skip
def test_alerts_on_senders(alert, scrapes, label, fires, tmp_path):
    """The senders for which it fires at the last page."""
    checks = [firing(alert, 15 * (len(scrapes) - 1), label, *fires)]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


def events(**statuses):
    """A page with this number of events by status."""
    found = page()
    found.pop('killsnoop_events_total{status="logged"}')
    return found | {f'killsnoop_events_total{{status="{status}"}}': count for status, count in statuses.items()}


def growing(scrapes, **per_scrape):
    return [events(**{status: step * n for status, step in per_scrape.items()}) for n in range(scrapes)]


def attached(value):
    return page(
        more={
            'killsnoop_probe_attached{hook="kill"}': 1,
            'killsnoop_probe_attached{hook="signal_generate"}': value,
        }
    )


def missed(scrapes, seen, passed, already=0):
    """From one scrape to the next, this many calls are counted and this many are missed."""
    return [
        page(kills={"bash": seen * n}, more={'killsnoop_probe_missed_total{program="sys_exit"}': already + passed * n})
        for n in range(scrapes)
    ]


def series_taken(value):
    return page(more={"killsnoop_series{}": value, "killsnoop_series_limit{}": 10000})


@pytest.mark.parametrize(
    ("alert", "scrapes", "label", "fires"),
    [
        pytest.param("KillsnoopProbeDetached", [*minutes(5, attached(1)), *minutes(2, attached(0))], "hook", ["signal_generate"], id="detached"),
        pytest.param("KillsnoopProbeDetached", minutes(7, attached(1)), "hook", [], id="attached"),
        pytest.param("KillsnoopProbeDetached", [*minutes(5, attached(1)), attached(0), attached(1)], "hook", [], id="while it is exchanged"),
        pytest.param("KillsnoopSignalsMissed", missed(60, 98, 2), "instance", ["web1"], id="2 % missed"),
        pytest.param("KillsnoopSignalsMissed", missed(60, 0, 2), "instance", ["web1"], id="all missed"),
        pytest.param("KillsnoopSignalsMissed", missed(60, 998, 2), "instance", [], id="0.2 % missed"),
        pytest.param("KillsnoopSignalsMissed", missed(60, 98, 0), "instance", [], id="none missed"),
        pytest.param("KillsnoopSignalsMissed", [*missed(20, 0, 0), *missed(20, 0, 0, 9)], "instance", [], id="nine missed"),
        pytest.param("KillsnoopEventsLost", growing(60, logged=10, rate_limited=1, ring_full=0), "status", ["rate_limited"], id="9 % lost"),
        pytest.param("KillsnoopEventsLost", growing(60, logged=1000, rate_limited=10), "status", [], id="1 % lost"),
        pytest.param("KillsnoopEventsLost", growing(60, logged=1, filtered=50, journal_error=1), "status", ["journal_error"], id="half lost"),
        pytest.param("KillsnoopEventsLost", growing(60, logged=0, rate_limited=0), "status", [], id="no events"),
        pytest.param(
            "KillsnoopEventsLost", [*minutes(20, events(logged=5, ring_full=0)), *minutes(1, events(logged=6, ring_full=1))], "status", [],
            id="one of two lost",
        ),
        pytest.param("KillsnoopSeriesLimitReached", minutes(1, series_taken(10000)), "instance", ["web1"], id="limit reached"),
        pytest.param("KillsnoopSeriesLimitReached", minutes(1, series_taken(9999)), "instance", [], id="one left"),
        pytest.param("KillsnoopDown", [*minutes(9, QUIET), *minutes(6, UNREACHABLE)], "instance", ["web1"], id="down"),
        pytest.param("KillsnoopDown", [*minutes(9, QUIET), *minutes(3, UNREACHABLE)], "instance", [], id="down, not for long"),
        pytest.param("KillsnoopDown", minutes(9, QUIET), "instance", [], id="up"),
        pytest.param("KillsnoopDown", [*minutes(9, QUIET), *minutes(20, NO_PROMETHEUS)], "job", ["killsnoopd"], id="no target"),
    ],
)  # fmt: skip
def test_alerts_on_the_daemon(alert, scrapes, label, fires, tmp_path):
    """The label values for which it fires at the last page."""
    checks = [firing(alert, 15 * (len(scrapes) - 1), label, *fires)]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


WEB1 = {"job": "killsnoopd", "instance": "web1"}


@pytest.mark.parametrize(
    ("alert", "scrapes", "severity", "labels", "summary", "description"),
    [
        (
            SIGKILL, steps(QUIET, killed(new=2)), "critical", {"comm": "new", "signal": "SIGKILL", "result": "success"},
            "new sends SIGKILL on web1",
            "new sent SIGKILL in 2 calls on web1 in the last five minutes. It is not on the list of expected senders.",
        ),
        (
            "KillsnoopOomKill", steps(page(), page(oom=1, **LATER)), "warning",
            {"signal": "SIGKILL", "origin": "oom", "outcome": "delivered"},
            "Out of memory on web1",
            "The kernel's OOM killer sent SIGKILL to 1 processes on web1 in the last five minutes.",
        ),
        (
            "KillsnoopUnknownSigkill", steps(unknown(0), unknown(2)), "warning", {"signal": "SIGKILL", "origin": "unknown"},
            "Processes died of SIGKILL on web1, and who sent it is not known",
            "2 processes on web1 died of SIGKILL in the last five minutes without a sender that killsnoopd knows: a tracer "
            "injected it, or a user's share of the memory of signals was full.",
        ),
        (
            "KillsnoopEscalation", steps(page(), page(escalations=2, kills={"bash": 1, "systemd": 1}, **LATER)), "info", {},
            "SIGTERM was not enough on web1",
            "2 processes on web1 were sent SIGKILL after SIGTERM in the last five minutes. Senders of SIGKILL there in that time: bash systemd.",
        ),
        (
            "KillsnoopFailedKills", steps(page(), page(eperms=SCANNED, **LATER)), "warning", {"comm": "nmapish"},
            "nmapish tries to signal processes without permission on web1",
            "32 calls by nmapish on web1 failed with EPERM within a minute. Signals: 0 SIGKILL.",
        ),
        (
            "KillsnoopMassKill", steps(page(), page(terms={"group": 1}, victims=(0, 30), **LATER)), "critical",
            {"comm": "group", "signal": "SIGTERM"},
            "group sends SIGTERM to many processes on web1",
            "group sent SIGTERM in 1 calls on web1 within a minute. All senders of it there together reached 30 processes.",
        ),
        (
            "KillsnoopProbeDetached", [*minutes(5, attached(1)), *minutes(2, attached(0))], "critical", {"hook": "signal_generate"},
            "killsnoopd is detached from signal_generate on web1",
            "The probe is not attached to signal_generate on web1. Signals that pass there are neither counted nor logged.",
        ),
        (
            "KillsnoopSignalsMissed", missed(60, 0, 2), "critical", {},
            "killsnoopd does not count all signals on web1",
            "The probe missed 100% of the signals and calls on web1 in the last ten minutes. They are neither counted nor logged: "
            "other BPF programs were running on those CPUs, or the probe is broken.",
        ),
        (
            "KillsnoopEventsLost", growing(60, logged=10, rate_limited=10), "warning", {"status": "rate_limited"},
            "killsnoopd does not log all events on web1",
            "50% of the events on web1 in the last ten minutes were not logged (rate_limited). Their signals are counted, but the "
            "journal does not say who sent them.",
        ),
        (
            "KillsnoopSeriesLimitReached", minutes(1, series_taken(10000)), "warning", {},
            "killsnoopd has no counter left on web1",
            "All 10000 counters are taken on web1. New senders, and new signals of known senders, are counted as "
            'comm="(other)"; the journal still has their names.',
        ),
        (
            "KillsnoopDown", [*minutes(9, QUIET), *minutes(6, UNREACHABLE)], "critical", {},
            "killsnoopd cannot be scraped on web1",
            "Prometheus could not scrape web1 for five minutes. Alerts about signals there cannot fire.",
        ),
    ],
)  # fmt: skip
def test_what_an_alert_says(alert, scrapes, severity, labels, summary, description, tmp_path):
    """All labels and annotations, with the sender and the signal by name."""
    texts = {"summary": summary, "description": description, "runbook_url": f"docs/runbook.md#{alert.lower()}"}
    expected = {"exp_labels": WEB1 | labels | {"severity": severity}, "exp_annotations": texts}
    check = {"eval_time": f"{15 * (len(scrapes) - 1)}s", "alertname": alert, "exp_alerts": [expected]}
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, alert_rule_test=[check])


def test_every_alert_has_a_section_in_the_runbook():
    """Under its own name; the runbook has no section for an alert that does not exist."""
    alerts = re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(), re.M)
    urls = re.findall(r"runbook_url: docs/runbook.md#(\S+)$", ALERTS.read_text(), re.M)
    sections = re.findall(r"^## (Killsnoop\w+)$", (TOP / "docs/runbook.md").read_text(), re.M)
    assert urls == [alert.lower() for alert in alerts]
    assert sections == alerts


def test_the_three_increases_are_one_expression():
    """They differ in the window, in how far they look back, and in what they count."""
    text = ALERTS.read_text()
    found = [
        re.search(rf"record: {name}\n +expr: \|\n(.*?)\n\n? +(?=#|- )", text, re.S)[1]
        for name in (
            "instance_comm:killsnoop_sigkills:increase5m",
            "instance_comm_signal:killsnoop_kills:increase1m",
            "instance_comm_signal:killsnoop_eperms:increase1m",
        )
    ]
    forms = {
        re.sub(
            r"\[5m\]|\[1m\]",
            "[W]",
            re.sub(
                r"offset \dm",
                "offset W",
                re.sub(r"bool\dm", "boolW", re.sub(r"\[(1h|10m)\]", "[L]", re.sub(r"signals_total\{.*?\}", "M", form))),
            ),
        )
        for form in found
    }
    assert len(forms) == 1


def test_names_that_would_break_a_query(tmp_path):
    """A process name may contain a quote; the queries in the descriptions still work."""
    name = 'a"}\\b'
    scrapes = steps(page(), page(eperms={(name, "0"): 30}, **LATER))
    checks = [firing("KillsnoopFailedKills", 15 * (len(scrapes) - 1), "comm", name)]
    texts = {
        "summary": f"{name} tries to signal processes without permission on web1",
        "description": f"30 calls by {name} on web1 failed with EPERM within a minute. Signals: 0.",
        "runbook_url": "docs/runbook.md#killsnoopfailedkills",
    }
    expected = {"exp_labels": WEB1 | {"comm": name, "severity": "warning"}, "exp_annotations": texts}
    alert = {"eval_time": checks[0]["eval_time"], "alertname": "KillsnoopFailedKills", "exp_alerts": [expected]}
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks, alert_rule_test=[alert])
