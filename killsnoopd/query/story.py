"""`killsnoop who` in words: what ended a process, sent by what, and what happened around it."""

from datetime import timedelta

from killsnoopd import names
from killsnoopd.events.fields import duration, why_out_of_memory
from killsnoopd.query import users
from killsnoopd.query.records import Record, belongs, lapse, lapse_ns, moment, pod
from killsnoopd.query.table import safe
from killsnoopd.query.users import Named
from killsnoopd.query.who import Answer, Around, sender, target

_ROUTES = {
    "cgroup": " by a write to cgroup.kill",
    "pdeathsig": " by exiting (PR_SET_PDEATHSIG)",
    "autokill": " by closing its pidfd (CLONE_PIDFD_AUTOKILL)",
}
# Where a sender runs. In a pod, the names of unit and container are long numbers.
_IN_A_POD = (("CONTAINER_NAME", "container {}"),)
_NOT_IN_A_POD = (("UNIT", "{}"), ("CONTAINER", "container {:.12}"), ("MACHINE", "machine {}"))


def _time(record: Record) -> str:
    return f"{moment(record):%Y-%m-%d %H:%M:%S %Z}"


def _target(record: Record) -> str:
    comm, pid = target(record)
    unit = belongs(record, "TARGET_")
    kind = "pod " if pod(record, "TARGET_") else ""
    return names.with_pid(comm, pid) + (f" ({kind}{unit})" if unit else "")


def _short(by: tuple[str, str] | None) -> str:
    if by is None:
        return "a sender that was not seen"
    return "the kernel" if by[1] == "0" else names.with_pid(*by)


def _user(record: Record, field: str, named: Named) -> str:
    shown = users.shown(record, field, named)
    return f"uid {shown}" if shown == record.get(f"KILLSNOOP_{field}") else f"user {shown}"


def _sender(record: Record, named: Named) -> str:
    """The sender, with the fields that identify it."""
    by = sender(record)
    if by is None or by[1] == "0":
        if by and record.get("KILLSNOOP_ORIGIN") == "oom":
            return f"the kernel, {why_out_of_memory(record.get('KILLSNOOP_OOM_SCOPE'))},"
        return _short(by)
    about = []
    if record.get("KILLSNOOP_UID"):
        about.append(_user(record, "UID", named))
    if record.get("KILLSNOOP_LOGINUID"):
        about.append("logged in as " + _user(record, "LOGINUID", named))
    if in_a_pod := pod(record):
        about.append(f"pod {in_a_pod}")
    for name, text in (
        ("SESSIONID", "session {}"),
        ("EXE", "{}"),
        *(_IN_A_POD if in_a_pod else _NOT_IN_A_POD),
        *(() if record.get("KILLSNOOP_ANCESTORS") else (("PARENT_COMM", "child of {}"),)),
    ):
        value = record.get(f"KILLSNOOP_{name}")
        if value:
            about.append(text.format(value))
    return _short(by) + (f" ({', '.join(about)})" if about else "")


def _command(record: Record) -> list[str]:
    """The sender's command and its ancestors, in a sentence each."""
    by = sender(record)
    if by is None or by[1] == "0":
        return []
    told = []
    if command := record.get("KILLSNOOP_CMDLINE"):
        told.append(f"The command of {_short(by)} was {command}")
    if chain := record.get("KILLSNOOP_ANCESTORS"):
        parent, *rest = chain.split(" ")
        below = f", below {', '.join(rest)}" if rest else ""
        told.append(f"{'It' if command else _short(by)} was a child of {parent}{below}")
    return told


def _ended(record: Record) -> str:
    """How it ended, without the sender."""
    if record["KILLSNOOP_EVENT"] == "exit":
        return f"exited with status {record.get('KILLSNOOP_EXIT_STATUS', '?')}"
    reason = record.get("KILLSNOOP_CODE_NAME")
    own = record.get("KILLSNOOP_ORIGIN") == "self" and reason
    return f"died of {record.get('KILLSNOOP_SIGNAL', '?')}" + (f" ({reason})" if own else "")


def _what_happened(record: Record, named: Named) -> str:
    """The target, its end or the signal to it, the sender, and the route."""
    origin, signal = record.get("KILLSNOOP_ORIGIN", ""), record.get("KILLSNOOP_SIGNAL", "?")
    route = f" by {record.get('KILLSNOOP_SYSCALL', '?')}(2)" if origin == "syscall" else _ROUTES.get(origin, "")
    probably = "probably " if record.get("KILLSNOOP_ORIGIN_INFERRED") else ""
    by = sender(record)
    if record["KILLSNOOP_EVENT"] == "delivery":
        sent = f"was {probably}sent {signal} by {_sender(record, named)}{route}"
        return f"{_target(record)} {sent}; there is no record of its end"
    line = f"{_target(record)} {_ended(record)}"
    is_exit = record["KILLSNOOP_EVENT"] == "exit"
    if by:
        what = f"it {signal}" if is_exit else "it"
        return f"{line}, {lapse(record)} after {_sender(record, named)} {probably}sent {what}{route}"
    if origin == "self":
        return f"{line}, its own fault"
    if is_exit:
        return f"{line}, {lapse(record)} after it was sent {signal}; the sender was not seen"
    return f"{line}; the sender was not seen"


def sentences(answer: Answer, around: Around, named: Named = users.number, *, hosts: bool = False) -> str:
    """What the record says, in one line of a few sentences.

    `hosts`: name the machine, if the record does.
    """
    last, by = answer.last, sender(answer.last)
    host = f" on {last['_HOSTNAME']}" if hosts and "_HOSTNAME" in last else ""
    told = [f"{_time(last)}{host}: {_what_happened(last, named)}", *_command(last)]
    if around.before:
        since = lapse_ns(last) or 0
        earlier = [
            f"{record.get('KILLSNOOP_SIGNAL', '?')} by {_short(sender(record))} "
            f"{duration(max(0, _ns_between(record, last) - since))} before"
            for record in around.before
        ]
        told.append(f"{_short(target(last))} had been sent {', '.join(earlier)}")
    if around.others:
        also = [names.with_pid(comm, pid) for comm, pid in around.others]
        more = f" and {around.more} more" if around.more else ""
        verb = "killed" if around.all_died else "ended"
        told.append(f"Within a minute of that, {_short(by)} also {verb} {', '.join(also)}{more}")
    if answer.earlier:
        told.append(
            f"The last end on record is older, {_time(answer.earlier)}: {_what_happened(answer.earlier, named)}"
        )
    return safe(". ".join(told) + ".")


def _ns_between(earlier: Record, later: Record) -> int:
    return (moment(later) - moment(earlier)) // timedelta(microseconds=1) * 1000
