"""The rules of --events.exclude that name a unit: the probe knows no units, so the event thread applies them."""

from collections.abc import Iterable

from killsnoopd import names
from killsnoopd.event import Event
from killsnoopd.events.processes import Identity
from killsnoopd.settings import Rule


def excluded(rules: Iterable[Rule], event: Event, identity: Identity) -> bool:
    """Whether a rule excludes the event. Its sender is not the kernel then, which has no unit."""
    return any(_matches(rule, event, identity) for rule in rules)


def _matches(rule: Rule, event: Event, identity: Identity) -> bool:
    sender = event.sender
    return (
        sender is not None
        and rule.unit == identity.unit
        and (event.sig if 0 <= event.sig < names.INVALID else names.INVALID) in rule.signals
        and (rule.comm is None or names.text(rule.comm) == sender.comm)
        and rule.uid in (None, sender.uid)
    )
