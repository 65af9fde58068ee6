"""`killsnoop top`: which senders, targets, or units and pods have the most kills."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from killsnoopd.query import users, who
from killsnoopd.query.records import ENDS, Record, belongs, moment
from killsnoopd.query.table import Style, fitted, safe

BY = ("sender", "target", "unit")
"""What kills are counted by."""

KINDS = ("delivery", *ENDS)
"""The kinds of events that are counted."""

OTHER = "(other)"
"""Stands for all names that came when so many were known that the memory of the command would grow."""

_NAMES = 10_000


@dataclass
class Kills:
    """What was counted for one name."""

    name: str
    belongs: str  # of a sender the user, of a target the unit, pod or container
    killed: int = 0  # deaths by a signal
    exited: int = 0  # exits soon after a signal
    signals: int = 0  # deadly signals delivered
    last: datetime | None = None

    def count(self, record: Record) -> None:
        """Count an event."""
        self.killed += record["KILLSNOOP_EVENT"] == "death"
        self.exited += record["KILLSNOOP_EVENT"] == "exit"
        self.signals += record["KILLSNOOP_EVENT"] == "delivery"
        self.last = max(self.last or moment(record), moment(record))


def _names(record: Record, by: str, style: Style) -> tuple[str, str] | None:
    unit = belongs(record, "TARGET_")
    if by == "unit":
        return (unit, "") if unit else None
    if by == "target":
        return who.target(record)[0], unit
    sender = who.sender(record)
    return sender and (sender[0], users.shown(record, "UID", style.named))


def tally(records: Iterable[Record], by: str, style: Style) -> list[Kills]:
    """The counts by sender, target or unit, most kills first. What has no such name, such as a fault, is left out."""
    found: dict[tuple[str, str], Kills] = {}
    for record in records:
        if record["KILLSNOOP_EVENT"] not in ENDS and not who.deadly(record):
            continue
        if names := _names(record, by, style):
            if names not in found and len(found) >= _NAMES:
                names = OTHER, ""
            found.setdefault(names, Kills(*names)).count(record)
    return sorted(found.values(), key=lambda kills: (-kills.killed, -kills.exited, -kills.signals, kills.name))


def lines(found: list[Kills], by: str, total: int, style: Style) -> Iterator[str]:
    """The table, its heading first."""
    belongs = {"sender": "USER", "target": "UNIT", "unit": ""}[by]
    yield f"{'KILLED':>7} {'EXITED':>7} {'SIGNALS':>8} {'LAST':14} {by.upper():15} {belongs}".rstrip()
    for kills in found:
        last = f"{kills.last:%m-%d %H:%M:%S}" if kills.last else ""
        name, belongs = safe(kills.name, style.encoding), safe(kills.belongs, style.encoding)
        name = name if by == "unit" else fitted(name, 15, style.encoding)
        line = f"{kills.killed:7} {kills.exited:7} {kills.signals:8} {last:14} {name} {belongs}"
        yield fitted(line, total, style.encoding).rstrip()


def as_json(kills: Kills, by: str) -> dict[str, str | int | None]:
    """The counts of one name, for `-o json`."""
    belongs = {"sender": {"user": kills.belongs}, "target": {"unit": kills.belongs}, "unit": {}}[by]
    last = kills.last.isoformat() if kills.last else None
    counts = {"killed": kills.killed, "exited": kills.exited, "signals": kills.signals}
    return {by: kills.name, **belongs, **counts, "last": last}
