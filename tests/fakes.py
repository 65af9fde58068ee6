"""Stand-ins that record. Tests use the real thing where they can (journald's socket, HTTP)."""

import dataclasses

from killsnoopd.probe.attached import Counts, Ledger
from killsnoopd.probe.hooks import PROGRAMS
from killsnoopd.probe.libbpf import ProgInfo
from killsnoopd.probe.program import Layout


def counts(series=(), **more):
    """Counts of these series; every other field is empty, or as given."""
    empty = {field.name: 0 if field.type == "int" else [] for field in dataclasses.fields(Counts)}
    found = {"series": list(series), "series_used": [0] * len(series), "series_taken": len(series)} | more
    for name in ("deaths", "overflow_deaths"):
        found.setdefault(f"{name}_used", [0] * len(found.get(name, [])))
    found.setdefault("overflow_used", [0] * len(found.get("overflow", [])))
    return Counts(**empty | found)


class FakeProbe:
    """The part of a probe that the metrics and the writer use."""

    def __init__(self, read=None, ledger=None, records=()):
        self.layout = Layout(cpus=2, series_max=10, deaths_max=5)
        self.bcc_version = "0.26.0"
        self.hooks = {"kill": "fexit", "tkill": "fexit"}
        self.records = list(records)
        self._counts = read or counts()
        self._ledger = ledger or Ledger({}, 0)

    def counts(self):
        return self._counts

    def ledger(self):
        return self._ledger

    def attached(self, hook):
        return hook == "kill"

    def inexact(self):
        return ["tkill"]

    def not_handled(self):
        return dict.fromkeys(PROGRAMS, 0) | {"sys_exit": 3}

    def attached_ns(self):
        return 1_000_000_000

    def program(self, program):
        return ProgInfo(run_time_ns=1_500_000_000, runs=7, misses=2)

    def consume(self, take):
        while self.records and take(0, self.records.pop(0)):
            pass


class FakeInFlight:
    """Stands in for the ledger's memory: records the status of each event, in order."""

    def __init__(self):
        self.statuses = []

    def begin(self, position):
        return True

    def finish(self, status):
        self.statuses.append(status)
