"""From a real SIGKILL to a notification: the daemon, Prometheus with the shipped rules, Alertmanager, a webhook."""

import os
import signal

import pytest
from cases import Processes
from running import PRIVATE, UNSHARE, load
from senders import run
from servers import RULES, Alertmanager, Prometheus, Webhook, free_port
from waiting import wait_for

ALERT = "KillsnoopUnexpectedSigkill"
EXPECTED = "containerd-shim"  # in the list of alerts.yml
ALLOWED = "ks-allowed"  # by a flag of this host's daemon
INSTANCE = "web1"


def own_mounts(script):
    return [*UNSHARE, f"{PRIVATE}; {script}", "sh"]


@pytest.fixture
def webhook():
    """Receives the notifications."""
    with Webhook() as receiver:
        yield receiver


@pytest.fixture
def alertmanager(webhook, tmp_path):
    """Notifies at once, and of the end of an alert, too."""
    routes = {
        "route": {"receiver": "test", "group_by": ["alertname", "instance", "comm"], "group_wait": "1s", "group_interval": "1s"},
        "receivers": [{"name": "test", "webhook_configs": [{"url": webhook.url, "send_resolved": True}]}],
    }  # fmt: skip
    with Alertmanager(tmp_path / "alertmanager", routes, own_mounts) as server:
        yield server


def prometheus_of(alertmanager, port):
    """Its configuration, to scrape a daemon on this port. Only the intervals differ; the rules are the shipped ones."""
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": INSTANCE}}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]},
        "scrape_configs": [{"job_name": "killsnoopd", "static_configs": [target]}],
    }


def kill_as(sender, name):
    """A SIGKILL by a process of this name to one of another name."""
    processes = Processes()
    try:
        victim = processes.victim(name)
        run(lambda: os.kill(victim, signal.SIGKILL), sender.encode())
        os.waitpid(victim, 0)
    finally:
        processes.close()


def scrapes(prometheus):
    """The number of pages that Prometheus has scraped."""
    return sum(prometheus.query("count_over_time(killsnoop_escalations_total[10m])").values())


def wait_for_evaluations(prometheus, more):
    """Wait until all groups were evaluated this many times."""
    name = "prometheus_rule_evaluations_total"
    per_round = sum(len(group["rules"]) for group in prometheus.api("rules")["groups"])
    end = prometheus.own(name) + more * per_round
    wait_for(lambda: prometheus.own(name) >= end, "rules to be evaluated")


def told_of(webhook, comm):
    """The notifications that name this sender."""
    return [
        found
        for found in webhook.notifications
        if any(alert["labels"].get("comm") == comm for alert in found["alerts"])
    ]


def test_one_sigkill_is_one_notification(start, pins, webhook, alertmanager, tmp_path):
    """For a sender and a victim that nobody has seen before, and it names both. Expected senders, which kill first, cause
    none. A restart of the daemon, the scrapes that fail meanwhile, and a restart of Prometheus make no second one."""
    load(pins)
    port = free_port()
    flags = (f"--probe.pin={pins}", f"--metrics.expected-sender={ALLOWED}", f"--web.listen-address=127.0.0.1:{port}")
    daemon = start(*flags)
    config = prometheus_of(alertmanager, port)
    never_seen, victim = f"ks-{os.getpid()}", f"kv-{os.getpid()}"
    last = "killsnoop_deaths_last_timestamp_seconds"
    with Prometheus(tmp_path / "prometheus", config) as prometheus:
        wait_for(lambda: scrapes(prometheus) >= 2, "two scrapes")
        for expected in (EXPECTED, ALLOWED):
            kill_as(expected, "kv-expected")
        wait_for(
            lambda: len(prometheus.query(f'{last}{{tcomm="kv-expected"}}')) == 2, "the expected senders to be seen"
        )
        kill_as(never_seen, victim)
        wait_for(lambda: told_of(webhook, never_seen), "the notification")
        wait_for_evaluations(prometheus, 5)
        daemon.stop()
        wait_for(lambda: list(prometheus.query("up").values()) == [0], "a failed scrape")
        wait_for_evaluations(prometheus, 2)
        start(*flags)
        wait_for(lambda: list(prometheus.query("up").values()) == [1], "the daemon to be back")
        wait_for_evaluations(prometheus, 5)
        # increase() of a series that began at 1
        born = f'killsnoop_deaths_total{{comm="{never_seen}"}}'
        assert list(prometheus.query(born).values()) == [1]
        assert list(prometheus.query(f"increase({born}[5m])").values()) == [0]
    with Prometheus(tmp_path / "prometheus", config) as prometheus:
        wait_for(
            lambda: prometheus.query(f'ALERTS{{alertname="{ALERT}",alertstate="firing"}}'), "the alert to fire again"
        )
        wait_for_evaluations(prometheus, 5)
    (notification,) = told_of(webhook, never_seen)
    assert notification["status"] == "firing"
    (alert,) = notification["alerts"]
    assert (alert["labels"]["alertname"], alert["labels"]["severity"]) == (ALERT, "critical")
    assert alert["annotations"]["summary"].startswith(f"{never_seen} killed {victim}")
    assert alert["annotations"]["summary"].endswith(f"on {INSTANCE}")
    assert told_of(webhook, EXPECTED) == told_of(webhook, ALLOWED) == []
