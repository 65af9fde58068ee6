"""Successive scrapes of a page, as promtool's `input_series`."""

import json
import subprocess

from servers import tool

JOB_AND_INSTANCE = {"job": "killsnoopd", "instance": "web1"}
UNREACHABLE = "unreachable"  # a failed scrape: every series ends with a staleness marker
NO_PROMETHEUS = "no Prometheus"  # no scrape at all: nothing is written, not even a marker


def text(name, labels):
    return name + "{" + ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items()) + "}"


def death(comm, at_s, tcomm="nginx", *, unit="nginx.service", pod="", signal="SIGKILL", origin="syscall", count=1):
    """{series: value} of processes that died, the last one at this time; 0 is the start of the test."""
    labels = {"signal": signal, "origin": origin, "comm": comm, "tcomm": tcomm, "target_unit": unit, "target_pod": pod}
    labels = {name: value for name, value in labels.items() if value}  # Prometheus drops empty ones
    return {
        text("killsnoop_deaths_total", labels): count,
        text("killsnoop_deaths_last_timestamp_seconds", labels): at_s,
    }


def page(*died, kills=(), terms=(), eperms=(), events=1000, escalations=0, more=()):
    """{series: value}. `died`: of death(); `kills`, `terms`: {comm: calls}; `eperms`: {(comm, signal): calls}."""
    found = {
        text("killsnoop_escalations_total", {}): escalations,
        text("killsnoop_events_total", {"status": "logged"}): events,
        text("killsnoop_events_pending", {}): 0,
    }
    for series in died:
        found |= series
    for signal, calls in (("SIGKILL", dict(kills)), ("SIGTERM", dict(terms))):
        for comm, count in calls.items():
            found[text("killsnoop_signals_total", {"comm": comm, "signal": signal, "result": "success"})] = count
    for (comm, signal), count in dict(eperms).items():
        found[text("killsnoop_signals_total", {"comm": comm, "signal": signal, "result": "EPERM"})] = count
    return found | dict(more)


def input_series(scrapes, labels=None):
    """The samples that Prometheus writes for these pages (or UNREACHABLE, NO_PROMETHEUS), one per interval."""
    target = JOB_AND_INSTANCE | (labels or {})
    names = dict.fromkeys(name for found in scrapes if isinstance(found, dict) for name in found)
    rows = {name: [] for name in names}
    up = []
    for found in scrapes:
        up.append("_" if found is NO_PROMETHEUS else "0" if found is UNREACHABLE else "1")
        for name, row in rows.items():
            if isinstance(found, dict) and name in found:
                row.append(str(found[name]))
            else:
                row.append("_" if found is NO_PROMETHEUS else "stale")
    added = ",".join(f"{key}={json.dumps(value)}" for key, value in target.items())
    series = [
        {"series": name[:-1] + ("" if name.endswith("{}") else ",") + added + "}", "values": " ".join(row)}
        for name, row in rows.items()
    ]
    return [*series, {"series": text("up", target), "values": " ".join(up)}]


def promtool_test(folder, rules, series, interval_s, **checks):
    """Run `promtool test rules` once; its output if it fails."""
    test = {"interval": f"{interval_s}s", "input_series": series, **checks}
    whole = {"rule_files": [str(path) for path in rules], "evaluation_interval": f"{interval_s}s", "tests": [test]}
    file = folder / "test.yml"
    file.write_text(json.dumps(whole))  # JSON is YAML
    result = subprocess.run([tool("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def firing(alert, at_s, label, *values):
    """A check: at this time the alert fires once for each of these values of a label, and for no other."""
    return {
        "expr": f'count by ({label}) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
        "eval_time": f"{at_s}s",
        "exp_samples": [{"labels": text("", {label: value}) if value else "{}", "value": 1} for value in values],
    }


def evaluations(alert, at_s, since_s, label, **counts):
    """A check: the number of evaluations until that time at which the alert was firing, by the value of a label."""
    return {
        "expr": f'sum by ({label}) (count_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[{since_s}s]))',
        "eval_time": f"{at_s}s",
        "exp_samples": [{"labels": text("", {label: value}), "value": count} for value, count in counts.items()],
    }
