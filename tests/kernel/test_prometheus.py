"""From a real SIGKILL to a notification: the daemon, Prometheus with the shipped rules, Alertmanager, a webhook."""

import os
import signal

import pytest
from running import PRIVATE, UNSHARE
from senders import run, victim
from servers import RULES, Alertmanager, Prometheus, Webhook
from waiting import wait_for

ALERT = "KillsnoopUnexpectedSigkill"
EXPECTED = "containerd-shim"  # in the list of alerts.yml


def own_mounts(script):
    return [*UNSHARE, f"{PRIVATE}; {script}", "sh"]


@pytest.fixture
def pipeline(start, tmp_path):
    """The daemon, the Prometheus that scrapes it, and the receiver of notifications."""
    daemon = start()
    with Webhook() as webhook:
        routes = {
            "route": {"receiver": "test", "group_by": ["alertname", "instance", "comm"], "group_wait": "1s", "group_interval": "1s"},
            "receivers": [{"name": "test", "webhook_configs": [{"url": webhook.url, "send_resolved": True}]}],
        }  # fmt: skip
        with Alertmanager(tmp_path / "alertmanager", routes, own_mounts) as alertmanager:
            # Only the intervals differ; the rules are the shipped ones.
            config = {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES / "*.yml")],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]},
                "scrape_configs": [
                    {"job_name": "killsnoopd", "static_configs": [{"targets": [daemon.url.removeprefix("http://")]}]}
                ],
            }
            with Prometheus(tmp_path / "prometheus", config) as prometheus:
                yield daemon, prometheus, webhook


def kill_as(name):
    """One SIGKILL by a process of this name."""
    with victim() as pid:
        run(lambda: os.kill(pid, signal.SIGKILL), name.encode())


def scrapes(prometheus):
    """The number of pages that Prometheus has scraped."""
    found = prometheus.query("count_over_time(killsnoop_escalations_total[10m])")
    return sum(found.values())


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


def test_one_sigkill_is_one_notification(pipeline):
    """For a name that has never sent one. An expected sender, which kills first, causes none."""
    daemon, prometheus, webhook = pipeline
    never_seen = f"ks-{os.getpid()}"
    wait_for(lambda: scrapes(prometheus) >= 2, "two scrapes")
    kill_as(EXPECTED)
    increase = f'instance_comm:killsnoop_sigkills:increase5m{{comm="{EXPECTED}"}}'
    wait_for(lambda: prometheus.query(increase), "the expected sender to be seen")
    kill_as(never_seen)
    assert daemon.signals(never_seen) == {(never_seen, "SIGKILL", "success"): 1}
    wait_for(lambda: told_of(webhook, never_seen), "the notification")
    wait_for_evaluations(prometheus, 10)
    (notification,) = told_of(webhook, never_seen)
    assert notification["status"] == "firing"
    (alert,) = notification["alerts"]
    assert (alert["labels"]["alertname"], alert["labels"]["severity"]) == (ALERT, "critical")
    assert alert["annotations"]["summary"] == f"{never_seen} sends SIGKILL on {daemon.url.removeprefix('http://')}"
    assert "1 calls" in alert["annotations"]["description"]
    assert told_of(webhook, EXPECTED) == []
    # increase() of a series that began at 1
    born = f'killsnoop_signals_total{{comm="{never_seen}"}}'
    assert list(prometheus.query(born).values()) == [1]
    assert list(prometheus.query(f"increase({born}[5m])").values()) == [0]
