"""Every alert fires when it should and only then: `promtool test rules` on successive scrapes."""

import re

import pytest
from pages import NO_PROMETHEUS, UNREACHABLE, death, evaluations, firing, input_series, page, promtool_test, text
from servers import RULES

TOP = RULES.parent.parent.parent
ALERTS = RULES / "alerts.yml"
SIGKILL = "KillsnoopUnexpectedSigkill"
BOOTED = {"events": 5}
NOW = 590  # s; the scrape at ten minutes is the first to see it
LONG_AGO = -86_400


def killed(*comms, at_s=NOW, **more):
    """A page on which these have sent SIGKILL to nginx."""
    return page(*(death(comm, at_s) for comm in comms), **more)


def minutes(count, what):
    return [what] * (4 * count)  # a scrape every 15 seconds


def steps(before, after):
    """Ten quiet minutes, then one minute of the other page."""
    return [*minutes(10, before), *minutes(1, after)]


QUIET = page()  # nobody has died
OLD = killed("old", at_s=LONG_AGO)


@pytest.mark.parametrize(
    ("scrapes", "fires"),
    [
        pytest.param(steps(QUIET, killed("new")), ["new"], id="the first one of a name"),
        pytest.param([*minutes(10, QUIET), killed("new")], ["new"], id="at the first scrape that sees it"),
        pytest.param(steps(OLD, page(death("old", NOW, count=2))), ["old"], id="once more"),
        pytest.param(minutes(80, OLD), [], id="long ago"),
        pytest.param(steps(QUIET, killed("new", "other")), ["new", "other"], id="two at once"),
        pytest.param(
            [*minutes(10, QUIET), *minutes(1, killed("new")), *minutes(1, page(death("new", NOW), death("other", 650)))],
            ["new", "other"], id="two, one after the other",
        ),
        pytest.param(steps(QUIET, page(death("(other)", NOW, "(other)", unit=""))), ["(other)"], id="without a counter"),
        pytest.param(steps(QUIET, page(death("runc2", NOW, origin="cgroup"))), ["runc2"], id="by cgroup.kill"),
        pytest.param(steps(QUIET, page(death("", NOW, origin="oom"))), [], id="by the kernel"),
        pytest.param(steps(QUIET, page(death("new", NOW, signal="SIGTERM"))), [], id="of SIGTERM"),
        # The list of senders, and that of the host.
        pytest.param(
            steps(QUIET, killed("systemd", "runc", "runc:[2:INIT]", "containerd-shim")), [], id="expected senders"
        ),
        pytest.param(
            steps(QUIET, killed("systemd2", "mysystemd")), ["mysystemd", "systemd2"], id="names that only hold an expected one"
        ),
        pytest.param(steps(QUIET, killed("systemd", "new")), ["new"], id="one expected, one not"),
        pytest.param(
            steps(QUIET, killed("backup", "new", more={'killsnoop_expected_sender_info{comm="backup"}': 1})), ["new"],
            id="expected on this host",
        ),
        # Failed scrapes.
        pytest.param([*minutes(10, QUIET), UNREACHABLE, *minutes(1, killed("new"))], ["new"], id="while a scrape failed"),
        pytest.param([*minutes(10, QUIET), killed("new"), UNREACHABLE, killed("new")], ["new"], id="a scrape fails after it"),
        pytest.param(
            [*minutes(10, QUIET), *minutes(30, UNREACHABLE), *minutes(1, killed("new", at_s=2300))], ["new"],
            id="in half an hour's outage, at its end",
        ),
        pytest.param(
            [*minutes(10, QUIET), *minutes(30, UNREACHABLE), *minutes(1, killed("new", at_s=1000))], [],
            id="in half an hour's outage, long before its end",
        ),
        # Prometheus itself is down: no staleness markers.
        pytest.param(
            [*minutes(10, QUIET), *minutes(10, NO_PROMETHEUS), *minutes(1, killed("new", at_s=1100))], ["new"],
            id="while Prometheus was away",
        ),
        # The machine boots or the probe is stopped: counts start at zero.
        pytest.param(
            [*minutes(10, OLD), *minutes(2, UNREACHABLE), *minutes(1, killed("old", at_s=715, **BOOTED))], ["old"],
            id="boots, and as much on the first page",
        ),
        # A target that is new to Prometheus.
        pytest.param(minutes(1, killed("old", at_s=LONG_AGO)), [], id="new target with old counts"),
        pytest.param(minutes(1, killed("old", at_s=-100)), ["old"], id="new target, where it just happened"),
        # The clock of the host is not that of Prometheus.
        pytest.param(steps(QUIET, killed("new", at_s=NOW + 30)), ["new"], id="the host's clock is ahead"),
        pytest.param(steps(QUIET, killed("new", at_s=NOW - 30)), ["new"], id="the host's clock is behind"),
    ],
)  # fmt: skip
def test_an_unexpected_sigkill(scrapes, fires, tmp_path):
    """The senders for which it fires at the last page."""
    checks = [firing(SIGKILL, 15 * (len(scrapes) - 1), "comm", *fires)]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


def test_the_label_of_a_team(tmp_path):
    """The rule in the comment of recording.yml: on hosts with this label, a sender is expected; on others it is not."""
    comment = re.search(r"^#( +- record: .*)\n#( +expr: .*)$", (RULES / "recording.yml").read_text(), re.M)
    own = tmp_path / "team.yml"
    own.write_text("groups:\n  - name: team\n    rules:\n" + "\n".join(comment.groups()) + "\n")
    series = input_series(steps(QUIET, killed("pg_ctl", "bash")), {"team": "db"})
    series += input_series(steps(QUIET, killed("pg_ctl")), {"instance": "web2", "team": "web"})
    expression = f'count by (instance, comm) (ALERTS{{alertname="{SIGKILL}",alertstate="firing"}})'
    found = [
        {"labels": text("", {"instance": host, "comm": comm}), "value": 1}
        for host, comm in (("web1", "bash"), ("web2", "pg_ctl"))
    ]
    check = {"expr": expression, "eval_time": "645s", "exp_samples": found}
    promtool_test(tmp_path, [own, ALERTS], series, 15, promql_expr_test=[check])


@pytest.mark.parametrize(
    "scrapes",
    [
        pytest.param(minutes(80, OLD), id="nothing happens"),
        pytest.param([*minutes(10, OLD), UNREACHABLE, *minutes(10, OLD)], id="a scrape fails"),
        pytest.param([*minutes(2, OLD), UNREACHABLE, *minutes(10, OLD)], id="a scrape of a new target fails"),
        pytest.param([*minutes(10, OLD), *([UNREACHABLE] * 3 + [OLD]) * 10, *minutes(9, OLD)], id="most scrapes fail"),
        pytest.param([*minutes(10, OLD), *minutes(180, UNREACHABLE), *minutes(10, OLD)], id="three hours' outage"),
        pytest.param([*minutes(10, OLD), *minutes(180, NO_PROMETHEUS), *minutes(10, OLD)], id="Prometheus is away for long"),
        pytest.param([*minutes(10, OLD), *minutes(2, UNREACHABLE), *minutes(10, page(**BOOTED))], id="boots"),
        pytest.param([*minutes(10, OLD), *minutes(10, killed("systemd", at_s=700, **BOOTED))], id="boots, and systemd kills"),
    ],
)  # fmt: skip
def test_nobody_is_paged_for_old_counts(scrapes, tmp_path):
    """It fires at no evaluation."""
    end_s = 15 * (len(scrapes) - 1)
    checks = [evaluations(SIGKILL, end_s, end_s, "comm")]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize("missed", [None, 1, 5, 18, 19, 20, 21])
def test_one_kill_is_one_alert(missed, tmp_path):
    """It fires for ten minutes without a gap, whichever scrape fails: an alert that returns would page twice."""
    scrapes = [*minutes(10, QUIET), *minutes(20, killed("new"))]
    first = 4 * 10
    if missed:
        scrapes[first + missed] = UNREACHABLE
    end_s = 15 * (len(scrapes) - 1)
    # Until five minutes after it happened, or the last good scrape before that, and five minutes more.
    lasts = 39 if missed != 19 else 38
    checks = [
        evaluations(SIGKILL, 15 * (first + lasts - 1), 15 * (lasts - 1) + 1, "comm", new=lasts),
        evaluations(SIGKILL, end_s, end_s, "comm", new=lasts + 1),
    ]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize("ahead_s", [-30, 30])
def test_one_kill_is_one_alert_whatever_the_hosts_clock(ahead_s, tmp_path):
    """It is half a minute ahead or behind; a scrape fails meanwhile. The alert ends so much later or earlier."""
    scrapes = [*minutes(10, QUIET), *minutes(20, killed("new", at_s=NOW + ahead_s))]
    scrapes[4 * 10 + 5] = UNREACHABLE
    end_s = 15 * (len(scrapes) - 1)
    lasts = 39 + ahead_s // 15
    checks = [
        evaluations(SIGKILL, 15 * (4 * 10 + lasts - 1), 15 * (lasts - 1) + 1, "comm", new=lasts),
        evaluations(SIGKILL, end_s, end_s, "comm", new=lasts + 1),
    ]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


@pytest.mark.parametrize("lost", [None, 71, 72])
def test_with_a_scrape_a_minute(lost, tmp_path):
    """Prometheus' default interval."""
    scrapes = [*[QUIET] * 70, *[killed("new", at_s=60 * 69 + 1)] * 4]
    if lost:
        scrapes[lost] = UNREACHABLE
    checks = [firing(SIGKILL, 60 * 73, "comm", "new")]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 60, promql_expr_test=checks)


def test_each_host_for_itself(tmp_path):
    """A sender on one host does not affect another host, which has had that series for long."""
    series = input_series(steps(QUIET, killed("old")))
    series += input_series(minutes(11, OLD), {"instance": "web2"})
    promtool_test(tmp_path, [ALERTS], series, 15, promql_expr_test=[firing(SIGKILL, 11 * 60 - 15, "instance", "web1")])


def crashes(*times_s):
    """Pages of twenty minutes on which a process has crashed at these times."""
    found = []
    for at_s in range(0, 1200, 15):
        past = [time_s for time_s in times_s if time_s < at_s]
        crash = (
            death("", past[-1], "app", unit="app.service", signal="SIGSEGV", origin="self", count=len(past))
            if past
            else {}
        )
        found.append(page(crash))
    return found


def died(tcomm, comm="bash", **how):
    return steps(QUIET, page(death(comm, NOW, tcomm, unit="", **how)))


SCAN, SCANNED = {("nmapish", "0"): 12}, {("nmapish", "0"): 25, ("nmapish", "SIGKILL"): 7}


@pytest.mark.parametrize(
    ("alert", "scrapes", "label", "fires"),
    [
        pytest.param("KillsnoopOomKill", steps(QUIET, page(death("", NOW, origin="oom"))), "tcomm", ["nginx"], id="oom"),
        pytest.param("KillsnoopOomKill", minutes(11, page(death("", LONG_AGO, origin="oom"))), "tcomm", [], id="oom, long ago"),
        pytest.param("KillsnoopUnknownSigkill", steps(QUIET, page(death("", NOW, origin="unknown"))), "tcomm", ["nginx"], id="a death without a sender"),
        pytest.param("KillsnoopUnknownSigkill", minutes(11, page(death("", LONG_AGO, origin="unknown"))), "tcomm", [], id="deaths without a sender, long ago"),
        pytest.param("KillsnoopCriticalProcessDied", died("sshd"), "tcomm", ["sshd"], id="sshd is killed"),
        pytest.param("KillsnoopCriticalProcessDied", died("postgres", "", signal="SIGSEGV", origin="self"), "tcomm", ["postgres"], id="postgres crashes"),
        pytest.param("KillsnoopCriticalProcessDied", died("dockerd", signal="SIGTERM"), "tcomm", [], id="dockerd is stopped"),
        pytest.param("KillsnoopCriticalProcessDied", died("sshd-alike"), "tcomm", [], id="not critical"),
        pytest.param("KillsnoopSecurityDaemonKilled", died("auditd", signal="SIGTERM"), "tcomm", ["auditd"], id="auditd is stopped"),
        pytest.param("KillsnoopSecurityDaemonKilled", died("falco", "", signal="SIGSEGV", origin="self"), "tcomm", [], id="falco crashes"),
        pytest.param("KillsnoopSecurityDaemonKilled", minutes(11, page(death("bash", LONG_AGO, "auditd"))), "tcomm", [], id="auditd, long ago"),
        pytest.param("KillsnoopOomDaemonKill", died("app", "earlyoom", signal="SIGTERM"), "comm", ["earlyoom"], id="earlyoom"),
        pytest.param("KillsnoopOomDaemonKill", died("app", "bash"), "comm", [], id="no OOM killer"),
        pytest.param("KillsnoopCrashLoop", crashes(300, 600, 1100), "tcomm", ["app"], id="three crashes"),
        pytest.param("KillsnoopCrashLoop", crashes(1100, 1130), "tcomm", [], id="two crashes"),
        pytest.param("KillsnoopCrashLoop", crashes(10, 100, 1100), "tcomm", [], id="three crashes, not so soon"),
        pytest.param("KillsnoopCrashLoop", crashes(100, 200, 300), "tcomm", [], id="it has stopped crashing"),
        pytest.param("KillsnoopCrashLoop", [*minutes(10, page(death("", LONG_AGO, origin="self", signal="SIGABRT"))), UNREACHABLE, *minutes(9, page(death("", LONG_AGO + 1, origin="self", signal="SIGABRT")))], "tcomm", [], id="long ago, and a restart moves it by a second"),
        pytest.param("KillsnoopEscalation", steps(QUIET, page(escalations=1)), "instance", ["web1"], id="escalation"),
        pytest.param("KillsnoopEscalation", minutes(11, page(escalations=4)), "instance", [], id="escalation, long ago"),
        pytest.param("KillsnoopEscalation", steps(page(escalations=4), page(**BOOTED)), "instance", [], id="escalation, then boots"),
        pytest.param("KillsnoopEscalation", [*minutes(10, QUIET), UNREACHABLE, page(escalations=1)], "instance", ["web1"], id="escalation, a scrape fails"),
        pytest.param("KillsnoopFailedKills", steps(QUIET, page(eperms=SCANNED)), "comm", ["nmapish"], id="scan"),
        pytest.param("KillsnoopFailedKills", steps(page(eperms=SCAN), page(eperms=SCANNED)), "comm", ["nmapish"], id="scan, by one known for it"),
        pytest.param("KillsnoopFailedKills", steps(QUIET, page(eperms=SCAN)), "comm", [], id="a few fail"),
        pytest.param("KillsnoopFailedKills", minutes(11, page(eperms=SCANNED)), "comm", [], id="scan, long ago"),
        pytest.param("KillsnoopFailedKills", [page(eperms={("slow", "0"): 2 * n}) for n in range(44)], "comm", [], id="8 a minute, all the time"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(kills={"loop": 20})), "comm", ["loop"], id="loop"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(terms={"loop": 20})), "comm", ["loop"], id="loop of SIGTERM"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(death("group", NOW, count=12), death("group", NOW, "sh", count=8), kills={"group": 1})), "comm", ["group"], id="kill(-1)"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(death("few", NOW, count=19), kills={"few": 19})), "comm", [], id="nineteen"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(terms={"systemd": 90})), "comm", [], id="systemd"),
        pytest.param("KillsnoopMassKill", steps(QUIET, page(kills={"backup": 90}, more={'killsnoop_expected_sender_info{comm="backup"}': 1})), "comm", [], id="expected on this host"),
        pytest.param("KillsnoopMassKill", minutes(11, page(death("loop", LONG_AGO, count=90), kills={"loop": 90})), "comm", [], id="loop, long ago"),
        pytest.param("KillsnoopMassKill", steps(page(kills={"loop": 90}), page(kills={"loop": 91})), "comm", [], id="one more"),
    ],
)  # fmt: skip
def test_alerts_on_deaths_and_senders(alert, scrapes, label, fires, tmp_path):
    """The names for which it fires at the last page."""
    checks = [firing(alert, 15 * (len(scrapes) - 1), label, *fires)]
    promtool_test(tmp_path, [ALERTS], input_series(scrapes), 15, promql_expr_test=checks)


MANY = page(death("loop", LONG_AGO, count=90), kills={"loop": 90}, eperms=SCANNED, escalations=9)


@pytest.mark.parametrize(
    "scrapes",
    [
        pytest.param(minutes(1, MANY), id="new target"),
        pytest.param([*minutes(10, MANY), UNREACHABLE, *minutes(3, MANY)], id="a scrape fails"),
        pytest.param([*minutes(10, MANY), *minutes(2, UNREACHABLE), *minutes(3, MANY)], id="two minutes' outage"),
        pytest.param([*minutes(10, MANY), *minutes(10, NO_PROMETHEUS), *minutes(3, MANY)], id="Prometheus is away"),
    ],
)
@pytest.mark.parametrize("alert", ["KillsnoopFailedKills", "KillsnoopMassKill", "KillsnoopEscalation"])
def test_old_counts_are_no_growth(alert, scrapes, tmp_path):
    """It fires at no evaluation."""
    end_s = 15 * (len(scrapes) - 1)
    promtool_test(
        tmp_path,
        [ALERTS],
        input_series(scrapes),
        15,
        promql_expr_test=[evaluations(alert, end_s, end_s + 1, "instance")],
    )


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


NONE_DELIVERED = {
    'killsnoop_deliveries_total{signal="SIGKILL",origin="syscall",outcome="delivered"}': 0
}  # always there


def missed(scrapes, seen, passed, already=0):
    """From one scrape to the next, this many calls are counted and this many are missed."""
    return [
        page(
            kills={"bash": seen * n},
            more={'killsnoop_probe_missed_total{program="sys_exit"}': already + passed * n} | NONE_DELIVERED,
        )
        for n in range(scrapes)
    ]


def series_taken(value):
    labels = '{family="signals"}'
    return page(more={f"killsnoop_series{labels}": value, f"killsnoop_series_limit{labels}": 10000})


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
DEATH = {"signal": "SIGKILL", "origin": "syscall", "tcomm": "nginx", "target_unit": "nginx.service"}


@pytest.mark.parametrize(
    ("alert", "scrapes", "severity", "labels", "summary", "description"),
    [
        (
            SIGKILL, steps(QUIET, killed("bash")), "critical", DEATH | {"comm": "bash"},
            "bash killed nginx (nginx.service) on web1",
            "bash sent SIGKILL to nginx on web1, and it died 55s ago. bash is not on the list of expected senders.",
        ),
        (
            SIGKILL, steps(QUIET, page(death("bash", NOW, unit="cri-*.scope", pod="shop/web-0"))), "critical",
            DEATH | {"comm": "bash", "target_unit": "cri-*.scope", "target_pod": "shop/web-0"},
            "bash killed nginx (shop/web-0) on web1",
            "bash sent SIGKILL to nginx on web1, and it died 55s ago. bash is not on the list of expected senders.",
        ),
        (
            "KillsnoopCriticalProcessDied", steps(QUIET, page(death("", NOW, "sshd", unit="ssh.service", origin="self", signal="SIGSEGV"))),
            "critical", {"tcomm": "sshd", "target_unit": "ssh.service", "origin": "self", "signal": "SIGSEGV"},
            "sshd (ssh.service) died of SIGSEGV on web1",
            "sshd died of SIGSEGV on web1, 55s ago. Sender: none, origin self.",
        ),
        (
            "KillsnoopSecurityDaemonKilled", steps(QUIET, page(death("rm", NOW, "auditd", unit="", signal="SIGTERM"))), "critical",
            {"comm": "rm", "tcomm": "auditd", "origin": "syscall", "signal": "SIGTERM"},
            "rm killed auditd with SIGTERM on web1",
            "auditd watches web1, and died of SIGTERM 55s ago. Sender: rm, origin syscall.",
        ),
        (
            "KillsnoopCrashLoop", crashes(300, 600, 1100), "warning",
            {"tcomm": "app", "target_unit": "app.service", "origin": "self", "signal": "SIGSEGV"},
            "app (app.service) crashes again and again on web1",
            "app died of SIGSEGV, its own fault, at least three times in fifteen minutes on web1.",
        ),
        (
            "KillsnoopOomKill", steps(QUIET, page(death("", NOW, origin="oom"))), "warning",
            DEATH | {"origin": "oom"},
            "Out of memory on web1: the kernel killed nginx (nginx.service)",
            "The kernel's OOM killer killed nginx on web1 55s ago.",
        ),
        (
            "KillsnoopOomDaemonKill", steps(QUIET, page(death("earlyoom", NOW))), "warning", DEATH | {"comm": "earlyoom"},
            "Short of memory on web1: earlyoom killed nginx (nginx.service)",
            "earlyoom killed nginx with SIGKILL on web1 55s ago.",
        ),
        (
            "KillsnoopUnknownSigkill", steps(QUIET, page(death("", NOW, origin="unknown"))), "warning", DEATH | {"origin": "unknown"},
            "nginx (nginx.service) died of SIGKILL on web1, and who sent it is not known",
            "nginx died of SIGKILL on web1 55s ago without a sender that killsnoopd knows: a tracer injected it, or a user's share of "
            "the memory of signals was full.",
        ),
        (
            "KillsnoopEscalation", steps(QUIET, page(death("bash", NOW), death("systemd", NOW, "app"), escalations=2)), "info", {},
            "SIGTERM was not enough on web1",
            "2 processes on web1 were sent SIGKILL after SIGTERM in the last five minutes. Killed there in that time: app (by systemd) "
            "nginx (by bash).",
        ),
        (
            "KillsnoopFailedKills", steps(QUIET, page(eperms=SCANNED)), "warning", {"comm": "nmapish"},
            "nmapish tries to signal processes without permission on web1",
            "32 calls by nmapish on web1 failed with EPERM within a minute.",
        ),
        (
            "KillsnoopMassKill", steps(QUIET, page(death("group", NOW, count=30), kills={"group": 1})), "critical", {"comm": "group"},
            "group sends SIGKILL or SIGTERM to many processes on web1",
            "group killed 30 processes on web1 within a minute, or asked as many to exit.",
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
            "KillsnoopSeriesLimitReached", minutes(1, series_taken(10000)), "warning", {"family": "signals"},
            "killsnoopd has no counter left for signals on web1",
            "All 10000 counters of signals are taken on web1. New names are counted as (other); the journal still has them.",
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


def test_the_lists_of_expected_senders_are_one():
    """Each alert on senders has the whole list."""
    lists = re.findall(r'comm!~"(systemd[^"]*)"', ALERTS.read_text())
    assert len(lists) == 3
    assert len(set(lists)) == 1


def test_a_line_is_short():
    """What has no list of names in it can be read at a glance."""
    expressions = re.findall(
        r"expr: (?:\|\n)?((?:.|\n)*?)\n +(?:for|keep_firing_for|labels|- record|- alert|#)", ALERTS.read_text()
    )
    assert len(expressions) >= 15
    for expression in expressions:
        assert len(re.sub(r'~"[^"]*"', "", expression).split()) < 40


def test_names_that_would_break_a_query(tmp_path):
    """Processes and targets may have a quote in their name; the query in the description still works."""
    name = 'a"}\\b'
    scrapes = steps(QUIET, page(death(name, NOW, name, unit=""), escalations=1))
    texts = {
        "summary": f"SIGTERM was not enough on {name}",
        "description": f"1 processes on {name} were sent SIGKILL after SIGTERM in the last five minutes. Killed there in that time: "
        f"{name} (by {name}).",
        "runbook_url": "docs/runbook.md#killsnoopescalation",
    }
    labels = {"job": "killsnoopd", "instance": name, "severity": "info"}
    alert = {
        "eval_time": "645s",
        "alertname": "KillsnoopEscalation",
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": texts}],
    }
    promtool_test(tmp_path, [ALERTS], input_series(scrapes, {"instance": name}), 15, alert_rule_test=[alert])
