"""Fifty hosts, one real Prometheus: the recording rules give the fleet's exact totals."""

import time
from collections import Counter

import pytest
from fleet import Fleet, Host
from servers import RULES, Prometheus
from waiting import wait_for

HOSTS = 50


@pytest.fixture
def hosts():
    """Each has its own senders, counts and results."""
    found = []
    for number in range(HOSTS):
        host = Host(number)
        for sender in range(1 + number % 7):
            host.signals[f"sender{sender}", "SIGTERM", 0] = 1000 * number + sender
            host.signals[f"only-on-{number}", "SIGKILL", 0] = 1
            host.signals[f"sender{sender}", "0", 3] = 10**9 + number  # ESRCH
        host.deliveries = {("SIGTERM", "syscall"): 17 * number, ("SIGKILL", "oom"): number % 3}
        host.deaths = {("SIGKILL", "syscall"): number, ("SIGKILL", "self"): 1}
        host.escalations = number % 2
        host.logged = 10_000 + number
        found.append(host)
    return found


@pytest.fixture
def prometheus(hosts, tmp_path):
    with Fleet(hosts) as fleet:
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
            "rule_files": [str(RULES / "*.yml")],
            "scrape_configs": [fleet.scrape_config()],
        }
        with Prometheus(tmp_path / "prometheus", config) as server:
            yield server


def labels(**values):
    return frozenset({"job": "killsnoopd", **values}.items())


def totals(hosts):
    """{rule: {label set: sum over the hosts}}, computed here."""
    signals, deliveries, deaths = Counter(), Counter(), Counter()
    for host in hosts:
        for (_, sig, errno), calls in host.signals.items():
            signals[labels(signal=sig, result={0: "success", 3: "ESRCH"}[errno])] += calls
        for (sig, origin), count in host.deliveries.items():
            deliveries[labels(signal=sig, origin=origin, outcome="delivered")] += count
        for (sig, origin), count in host.deaths.items():
            deaths[labels(signal=sig, origin=origin)] += count
    return {
        "job_signal_result:killsnoop_signals:sum": dict(signals),
        "job_signal_origin_outcome:killsnoop_deliveries:sum": dict(deliveries),
        "job_signal_origin:killsnoop_deaths:sum": dict(deaths),
        "job:killsnoop_escalations:sum": {labels(): sum(host.escalations for host in hosts)},
        "job_status:killsnoop_events:sum": {labels(status="logged"): sum(host.logged for host in hosts)},
    }


def recorded(prometheus, hosts):
    """The same from the recording rules, without series that have been 0 from the start."""
    return {
        rule: {key: value for key, value in prometheus.query(rule).items() if value or key in counted}
        for rule, counted in totals(hosts).items()
    }


def settled(prometheus, hosts):
    """Whether Prometheus returns these totals within the deadline."""
    wait_for(lambda: recorded(prometheus, hosts) == totals(hosts), "the fleet's totals")
    return True


def test_exact_totals(prometheus, hosts):
    """At first; after one host has counted more, including a new sender; and after one has booted."""
    assert settled(prometheus, hosts)
    assert prometheus.query('count(up{job="killsnoopd"} == 1)') == {frozenset(): HOSTS}
    hosts[7].signals["sender0", "SIGTERM", 0] += 1
    hosts[7].signals["newcomer", "SIGKILL", 0] = 1
    hosts[7].deaths["SIGKILL", "syscall"] += 1
    hosts[7].died_ns["SIGKILL", "syscall"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    hosts[7].logged += 2
    assert settled(prometheus, hosts)
    hosts[9].signals = {("sender0", "SIGTERM", 0): 2}
    hosts[9].deliveries, hosts[9].deaths, hosts[9].escalations, hosts[9].logged = {("SIGTERM", "syscall"): 2}, {}, 0, 2
    assert settled(prometheus, hosts)
    # No process name is left in a recording of the fleet.
    assert (
        prometheus.query(
            'count({__name__=~"(job|instance)_?[a-z_]*:killsnoop_(signals|deliveries|deaths|events|escalations):.*",comm!=""})'
        )
        == {}
    )
    # The new host, and none whose counts are old.
    alerts = prometheus.query('ALERTS{alertname="KillsnoopUnexpectedSigkill",alertstate="firing"}')
    assert [(dict(found)["instance"], dict(found)["comm"]) for found in alerts] == [("host07", "newcomer")]
