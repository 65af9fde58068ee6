"""`killsnoop who`: one sentence that says who killed a process."""

from collections.abc import Iterable
from datetime import timedelta

from killsnoopd import names
from killsnoopd.query.records import Record, lapse, moment
from killsnoopd.query.table import safe

AROUND = timedelta(minutes=1)
_SHOWN = 10  # other victims named
_CONTAINER_MIN = 12  # digits of a container's id that identify it, as for docker


def is_about(record: Record, asked: str) -> bool:
    """Whether `asked` is the target's pid, process name, unit, or container id."""
    if asked.isdigit():
        return record.get("KILLSNOOP_TPID") == asked
    container = record.get("KILLSNOOP_TARGET_CONTAINER", "")
    return (
        record.get("KILLSNOOP_TCOMM") == asked
        or record.get("KILLSNOOP_TARGET_UNIT") in (asked, f"{asked}.service")
        or (len(asked) >= _CONTAINER_MIN and container.startswith(asked))
    )


def _may_kill(record: Record) -> bool:
    return (
        record["KILLSNOOP_EVENT"] == "delivery"
        and record.get("KILLSNOOP_OUTCOME") in ("delivered", "lose_info")
        and record.get("KILLSNOOP_SIG", "").isdigit()
        and int(record["KILLSNOOP_SIG"]) in names.FATAL
    )


def _sender(record: Record) -> tuple[str, str]:
    return record.get("KILLSNOOP_COMM", "?"), record.get("KILLSNOOP_PID", "?")


def _target(record: Record) -> tuple[str, str]:
    return record.get("KILLSNOOP_TCOMM", "?"), record.get("KILLSNOOP_TPID", "?")


def search(newest_first: Iterable[Record], asked: str) -> tuple[Record | None, list[Record]]:
    """The last death of the target, and the other deaths caused by its sender around that time.

    If no death was logged (it may have been rate-limited), the last fatal signal to the target.
    """
    found: Record | None = None
    likely: Record | None = None
    recent: list[Record] = []  # deaths at most AROUND after the current record
    for record in newest_first:
        when = moment(record)
        if found and moment(found) - when > AROUND:
            break
        if record["KILLSNOOP_EVENT"] == "death":
            if not found:
                recent = [other for other in recent if moment(other) - when <= AROUND]
                if is_about(record, asked):
                    found = record
                    continue
            recent.append(record)
        elif not likely and _may_kill(record) and is_about(record, asked):
            likely = record
    if not found:
        return likely, []
    return found, [other for other in recent if _sender(other) == _sender(found) and _target(other) != _target(found)]


def _described(record: Record) -> str:
    """The sender, with the fields that identify it."""
    if record.get("KILLSNOOP_PID") == "0":
        return "the kernel, out of memory," if record.get("KILLSNOOP_ORIGIN") == "oom" else "the kernel"
    about = [f"uid {record.get('KILLSNOOP_UID', '?')}"]
    for field, text in (
        ("LOGINUID", "logged in as uid {}"),
        ("EXE", "{}"),
        ("UNIT", "{}"),
        ("CONTAINER", "container {:.12}"),
        ("PARENT_COMM", "child of {}"),
    ):
        if value := record.get(f"KILLSNOOP_{field}"):
            about.append(text.format(value))
    comm, pid = _sender(record)
    return f"{comm}[{pid}] ({', '.join(about)})"


def sentence(record: Record, others: list[Record]) -> str:
    """The sender, the time, the route, and what else the same sender killed around that time."""
    comm, pid = _target(record)
    unit = record.get("KILLSNOOP_TARGET_UNIT") or record.get("KILLSNOOP_TARGET_CONTAINER", "")[:12]
    target = f"{comm}[{pid}]" + (f" ({unit})" if unit else "")
    origin, syscall = record.get("KILLSNOOP_ORIGIN"), record.get("KILLSNOOP_SYSCALL")
    route = {
        "syscall": f" by {syscall}(2)",
        "cgroup": " by a write to cgroup.kill",
        "pdeathsig": " by exiting (PR_SET_PDEATHSIG)",
        "autokill": " by closing its pidfd (CLONE_PIDFD_AUTOKILL)",
    }.get(origin or "", "")
    signal, when = record.get("KILLSNOOP_SIGNAL"), moment(record)
    line = f"{when:%Y-%m-%d %H:%M:%S %Z}: "
    probably = "probably " if record.get("KILLSNOOP_ORIGIN_INFERRED") else ""
    if record["KILLSNOOP_EVENT"] == "death":
        line += f"{target} died of {signal}, which {_described(record)} had {probably}sent{route}"
        line += f" {lapse(record)} before"
    else:
        line += f"{target} was {probably}sent {signal} by {_described(record)}{route}, and may have died of it"
    if others:
        shown = [f"{comm}[{pid}]" for comm, pid in dict.fromkeys(map(_target, others))]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        line += f"; within a minute of that it also killed {', '.join(shown[:_SHOWN])}{more}"
    return safe(line + ".")
