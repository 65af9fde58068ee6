"""The metrics that killsnoopd can have on its page, with their labels."""

from types import SimpleNamespace

from fakes import FakeProbe

from killsnoopd.metrics import families
from killsnoopd.web.connections import Connections

_PATH = SimpleNamespace(last_event_ns=1, cgroup_sources={"kernel": 0})


def metrics() -> dict[str, set[str]]:
    """{name: labels} of every killsnoop_* metric, run statistics included."""
    probe = FakeProbe()
    found = [
        *families.Collector(probe, _PATH).collect(),
        *families.programs(probe, run_stats=True),
        *Connections(None, None, None).collect(),
    ]
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: set(family._labelnames) for family in found
    }
