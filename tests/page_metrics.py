"""Every metric that a page can have."""

from fakes import FakeProbe

from killsnoopd.metrics import families
from killsnoopd.web.connections import Connections


class Told:
    """Statistics of the event path, as the writer has them."""

    last_event_ns = 1_700_000_000_500_000_000
    lookups = {("unit", "kernel"): 3, ("pod", "listing"): 2, ("cmdline", "over_budget"): 1}  # noqa: RUF012


def every_metric():
    """The labels of each metric of killsnoopd, by its name on the page."""
    found = list(families.Collector(FakeProbe(), Told()).collect())
    found += families.programs(FakeProbe(), run_stats=True)
    found += Connections(None, None, None).collect()
    return {family.name + "_total" * (family.type == "counter"): family._labelnames for family in found}
