"""`killsnoop who`: which event ended a process, and what else is known about it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from killsnoopd import names
from killsnoopd.query.records import ENDS, Matches, Record, lapse_ns, moment, pod

AROUND = timedelta(minutes=1)
"""How far from the end other victims of the same sender are looked for. Also how far out of order events may be."""

BEFORE = timedelta(minutes=5)
"""How far before the end earlier signals to the same process are looked for."""

_CONTAINER = re.compile(r"[0-9a-f]{12,64}")  # as many digits of its id identify a container, as for docker
_COMM_BYTES = 15  # TASK_COMM_LEN - 1: the kernel keeps no more of a process's name
_POD = re.compile(r"[a-z0-9-]+/[a-z0-9.-]+")  # NAMESPACE/POD; the path of an executable begins with a slash
_UNIT = re.compile(r".+\.(service|scope|slice|socket|mount|swap)")
_MEANT_TO_END = ("SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT")  # others often have another meaning: SIGHUP is a reload
_VICTIMS_COUNTED = 10_000
_EARLIER = 3  # earlier signals that are named
_SAME = timedelta(milliseconds=1)  # times are rounded: so close, a signal is the one that the process died of
_FATAL = frozenset(map(str, names.FATAL))


@dataclass(frozen=True)
class Way:
    """One way to understand what was asked for."""

    fields: tuple[tuple[str, str], ...]  # one of them must have this value
    container: str = ""  # or the container's id must start so
    pod: str = ""  # or this must be its pod, as NAMESPACE/POD
    note: str = ""  # how it was matched, if not as it was asked

    def has(self, record: Record) -> bool:
        """Whether the target is meant."""
        return (
            any(record.get(name) == value for name, value in self.fields)
            or bool(self.container and record.get("KILLSNOOP_TARGET_CONTAINER", "").startswith(self.container))
            or bool(self.pod and pod(record, "TARGET_") == self.pod)
        )


def ways(asked: str) -> list[Way]:
    """The ways to understand `asked`, best first.

    As a pid; as NAMESPACE/POD; as a unit; as a process name, a pod, a machine or a container id; as a longer name.
    """
    if asked.isascii() and asked.isdigit() and not _CONTAINER.fullmatch(asked):
        return [Way((("KILLSNOOP_TPID", asked),))]
    found = []
    note = ""
    if _POD.fullmatch(asked):
        found.append(Way((), pod=asked))
    if _UNIT.fullmatch(asked):
        # A process can take any name of up to 15 bytes, but not any unit.
        found.append(Way((("KILLSNOOP_TARGET_UNIT", asked),)))
        note = f"no unit {asked}; matched a process of that name"
    last = asked.rstrip("/").rpartition("/")[2] or asked
    units = (("UNIT", asked), ("UNIT", f"{asked}.service"), ("POD", asked), ("MACHINE", asked)) if not note else ()
    raw = os.fsencode(last)
    if last != asked:
        note = f"matched processes named {last}"
    container = asked if _CONTAINER.fullmatch(asked) else ""
    # Names are logged escaped, and may be asked for as they are or as they were logged.
    spellings = dict.fromkeys((last, names.text(raw)))
    fields = [("TCOMM", name) for name in spellings] + [(f"TARGET_{name}", value) for name, value in units]
    found.append(Way(tuple((f"KILLSNOOP_{name}", value) for name, value in fields), container, note=note))
    if len(raw) > _COMM_BYTES:
        short = names.text(raw[:_COMM_BYTES])
        note = f"no process named {last}; matched the first {_COMM_BYTES} bytes, {short}"
        found.append(Way((("KILLSNOOP_TCOMM", short),), note=note))
    return found


@dataclass
class _Newest:
    """The newest events about what was asked for, understood in one way."""

    end: Record | None = None
    sent: dict[bool, Record] = field(default_factory=dict)  # deadly signals, by whether they are meant to end it


@dataclass(frozen=True)
class Answer:
    """What the record says about the end of a process."""

    last: Record  # the death or exit; or a deadly signal without a known end
    earlier: Record | None  # the last known end, if a deadly signal came after it
    note: str  # how it was matched, if not as it was asked


def deadly(record: Record) -> bool:
    """Whether it is a signal that may have ended its target."""
    return (
        record["KILLSNOOP_EVENT"] == "delivery"
        and record.get("KILLSNOOP_OUTCOME") in ("delivered", "lose_info")
        and record.get("KILLSNOOP_SIG") in _FATAL
    )


def sender(record: Record) -> tuple[str, str] | None:
    """Name and pid of the sender; pid `0` for the kernel; None if nobody sent it or the sender was not seen."""
    if record.get("KILLSNOOP_ORIGIN") in ("self", "unknown") or "KILLSNOOP_PID" not in record:
        return None
    return record.get("KILLSNOOP_COMM", "?"), record["KILLSNOOP_PID"]


def target(record: Record) -> tuple[str, str]:
    """Name and pid of the target."""
    return record.get("KILLSNOOP_TCOMM", "?"), record.get("KILLSNOOP_TPID", "?")


def _boot(record: Record) -> str | None:
    """The run of a machine in which pids mean the same; None if the record does not say."""
    return record.get("_BOOT_ID")


def search(records: Iterable[Record], asked: str, *, newest_first: bool = False) -> Answer | None:
    """The last thing that ended the process, unit or container that was asked for; None if nothing is known.

    It holds a few records at a time. Newest first, it stops soon after the end of what was meant best.
    """
    understood = [(way, _Newest()) for way in ways(asked)]
    for record in records:
        end = understood[0][1].end
        when = moment(record)
        if newest_first and end and moment(end) - when > AROUND:
            break
        is_end = record["KILLSNOOP_EVENT"] in ENDS
        if not is_end and not deadly(record):
            continue
        for way, newest in understood:
            if not way.has(record):
                continue
            if is_end:
                newest.end = _newer(newest.end, record, newest_first=newest_first)
            else:
                meant = record.get("KILLSNOOP_SIGNAL") in _MEANT_TO_END
                newest.sent[meant] = _newer(newest.sent.get(meant), record, newest_first=newest_first)
    for way, newest in understood:
        if last := _last(newest):
            return Answer(last, newest.end if last is not newest.end else None, way.note)
    return None


def _newer(known: Record | None, record: Record, *, newest_first: bool) -> Record:
    if known is None:
        return record
    later = moment(record) > moment(known) if newest_first else moment(record) >= moment(known)
    return record if later else known


def _last(newest: _Newest) -> Record | None:
    end, sent = newest.end, newest.sent.get(True)
    if end is None:
        return sent or newest.sent.get(False)
    if sent is None or moment(sent) <= moment(end):
        return end
    # A signal can still reach a process that is ending, or a zombie.
    same = target(sent) == target(end) and _boot(sent) == _boot(end)
    return end if same and moment(sent) - moment(end) <= AROUND else sent


def candidates(asked: str) -> Matches:
    """For journalctl: the events that `search` looks at, and maybe others."""
    found = ways(asked)
    kinds = tuple(f"KILLSNOOP_EVENT={kind}" for kind in ("delivery", *ENDS))
    if any(way.container for way in found):
        return (kinds,)  # journalctl matches whole values only
    fields = dict.fromkeys(f"{name}={value}" for way in found for name, value in way.fields)
    pods = [way.pod.split("/") for way in found if way.pod]
    return (
        *(
            (*kinds, f"KILLSNOOP_TARGET_POD_NAMESPACE={namespace}", f"KILLSNOOP_TARGET_POD={name}")
            for namespace, name in pods
        ),
        *((*kinds, match) for match in fields),
    )


@dataclass(frozen=True)
class Around:
    """What happened around the end of a process."""

    before: list[Record]  # the last earlier deadly signals to it, oldest first, one for each signal and sender
    others: list[tuple[str, str]]  # name and pid of others that its sender ended, within AROUND of it, the first few
    more: int  # and the number of those that are not in `others`
    all_died: bool  # false if one of them exited by itself


def company(last: Record) -> Matches:
    """For journalctl: the events that `around` looks at."""
    deliveries = ("KILLSNOOP_EVENT=delivery", f"KILLSNOOP_TPID={last.get('KILLSNOOP_TPID', '')}")
    if (by := sender(last)) is None:
        return (deliveries,)
    return deliveries, (*(f"KILLSNOOP_EVENT={kind}" for kind in ENDS), f"KILLSNOOP_PID={by[1]}")


def around(records: Iterable[Record], last: Record, shown: int = 10) -> Around:
    """What happened around `last`, in records of any order. It holds a bounded number of them."""
    end, by, whom = moment(last), sender(last), target(last)
    sent = end - timedelta(microseconds=(lapse_ns(last) or 0) // 1000)
    before: dict[tuple[object, ...], Record] = {}
    others: dict[tuple[str, str], bool] = {}
    for record in records:
        when = moment(record)
        if _boot(record) != _boot(last):
            continue  # the same pid is another process
        if record["KILLSNOOP_EVENT"] in ENDS:
            if abs(when - end) > AROUND or target(record) == whom or len(others) == _VICTIMS_COUNTED:
                continue
            # The kernel kills for many reasons: only what it killed for the same one belongs together.
            same_reason = record.get("KILLSNOOP_ORIGIN") == last.get("KILLSNOOP_ORIGIN")
            if by and sender(record) == by and (by[1] != "0" or same_reason):
                others[target(record)] = record["KILLSNOOP_EVENT"] == "death"
        elif deadly(record) and target(record) == whom and sent - BEFORE <= when < sent - _SAME:
            key = record.get("KILLSNOOP_SIGNAL"), sender(record)
            if key not in before or moment(before[key]) < when:
                before[key] = record
            if len(before) > _EARLIER:
                del before[min(before, key=lambda key: moment(before[key]))]
    named = list(others)[:shown]
    earlier = sorted(before.values(), key=moment)
    return Around(earlier, named, len(others) - len(named), all(others.values()))
