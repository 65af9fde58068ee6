"""Turns an Event into journal fields, among them the message."""

from datetime import UTC, datetime
from functools import lru_cache

from killsnoopd import names
from killsnoopd.event import Event, Memory, Target
from killsnoopd.events.cgroups import membership
from killsnoopd.events.command_lines import says_more, shortened
from killsnoopd.events.processes import Identity

# MESSAGE_ID by kind of event; deploy/killsnoopd.catalog has the texts for `journalctl -x`.
SENT = "6ef50b79ef9645078bf77f74db2e322a"
FAILED = "d90354b8f65a4b51a8fc97ab86ea4051"
DIED = "5410a8730dd0432c8e1e921961037e7b"
EXITED = "5895531a62284904852f78a95ce8d8e7"

MESSAGE_MAX = 200
"""Characters of a message with a command; names alone can make it longer."""
_COMMAND = "\0"  # no name has it
_COMMAND_MIN = 12  # characters of a command that are worth reading

_WARNING, _NOTICE, _INFO, _DEBUG = 4, 5, 6, 7  # syslog(3)


def priority(event: Event) -> int:
    """syslog priority: 4 SIGKILL, 5 other fatal signals, deaths and EPERM, 6 the rest, 7 signal 0.

    A fatal signal that its target handles or ignores is one of the rest.
    """
    if event.sig == 0:
        return _DEBUG
    fatal = event.sig in names.FATAL and event.outcome in ("delivered", "lose_info", "died")
    if fatal and not event.handled:
        return _WARNING if event.signal == "SIGKILL" else _NOTICE
    return _NOTICE if event.result == "EPERM" else _INFO


def meant(event: Event) -> str:
    """The intended target of a call, in words (kill(2), pidfd_send_signal(2))."""
    number = event.target_arg or 0
    if event.syscall == "pidfd_send_signal":
        return f"pidfd {number}"
    if event.syscall == "tkill":
        return f"thread {number}"
    if event.syscall != "kill" or number > 0:
        return f"pid {number}"
    if number == 0:
        return "its own process group"
    return "every process" if number == -1 else f"process group {-number}"


_MEMORY_WATCHERS = ("systemd-oomd.service", "earlyoom.service")  # they kill for no other reason


_USED_UP = {
    "machine": "the machine",
    "cpuset": "a cpuset's memory nodes",
    "memory_policy": "a memory policy's nodes",
    "cgroup": "a cgroup",
}


def why_out_of_memory(scope: str | None, unit: str | None = None) -> str:
    """Why the OOM killer killed, as far as that is known: `scope` is one of event.OOM_SCOPES."""
    if scope == "sysrq":
        return "asked by SysRq"
    return f"{unit or _USED_UP[scope]} out of memory" if scope in _USED_UP else "out of memory"


def _exhausted(memory: Memory | None) -> str | None:
    """The unit whose cgroup reached its limit. Users choose names of cgroups, but not those of units."""
    place = memory and memory.exhausted
    return membership(place.names or (), place.trusted).unit if place else None


def _cgroup(memory: Memory | None) -> str | None:
    """The path of the cgroup that reached its limit."""
    place = memory and memory.exhausted
    return "/" + "/".join(map(names.text, place.names or ())) if place else None


def _sender(event: Event, unit: str | None) -> str:
    sender = event.sender
    if sender is None:
        if event.origin == "tty":
            return f"terminal {event.tty}" if event.tty else "a terminal"
        if event.origin == "rlimit":
            return f"kernel, {'file size' if event.signal == 'SIGXFSZ' else 'CPU time'} limit,"
        if event.origin == "oom":
            return f"kernel, {why_out_of_memory(event.oom_scope, _exhausted(event.memory))},"
        return "kernel"
    thread = f" (thread {names.with_pid(sender.thread_comm, sender.tid)})" if sender.tid != sender.pid else ""
    why = ", for lack of memory," if unit in _MEMORY_WATCHERS else ""
    return f"{names.with_pid(sender.comm, sender.pid)}{thread}{_COMMAND} uid {sender.uid}{why}"


def _command(event: Event, identity: Identity, room: int) -> str:
    """The command that sent it and whose child it is, in parentheses, in at most `room` characters.

    Empty if there is no room, or if the command says no more than the process's name. That of init never says more.
    """
    sender = event.sender
    if not sender or sender.pid == 1 or not identity.cmdline or not says_more(identity.cmdline, sender.comm):
        return ""
    parent = f", by {names.with_pid(sender.parent_comm, sender.ppid)}" if sender.ppid > 1 else ""
    room -= len(f" ({parent})")
    return f" ({shortened(identity.cmdline, room)}{parent})" if room >= _COMMAND_MIN else ""


def _target(target: Target, identity: Identity) -> str:
    if identity.target_pod:
        belongs = f"pod {identity.target_pod_namespace}/{identity.target_pod}"
    else:
        units = "/".join(filter(None, (identity.target_unit, identity.target_user_unit)))
        belongs = units or identity.target_machine or (identity.target_container or "")[:12]
    return names.with_pid(target.comm, target.pid) + (f" ({belongs})" if belongs else "")


def _signal(event: Event) -> str:
    if event.signal == "invalid":
        return f"signal {event.sig}"
    return f"signal {event.signal}" if event.signal in ("0", "32", "33") else event.signal


def duration(ns: int) -> str:
    """A duration in words: `0.04 ms`, `1.4 ms`, `10.0 s`."""
    if ns < 10**6:
        return f"{ns / 1e6:.2f} ms"
    return f"{ns / 1e6:.1f} ms" if ns < 10**9 else f"{ns / 1e9:.1f} s"


def _size(memory: Memory) -> str:
    """Resident memory in words."""
    return f"{(memory.anon + memory.file + memory.shmem) / (1 << 20):.0f} MiB"


_ROUTES = {
    "cgroup": " through cgroup.kill",
    "pdeathsig": " by exiting (PR_SET_PDEATHSIG)",
    "autokill": " by closing its pidfd (CLONE_PIDFD_AUTOKILL)",
    "ptrace": " by ptrace",
    "sigio": " for I/O on a file (F_SETOWN)",
    "exit_signal": " by exiting (the exit signal of clone)",
}


def _route(event: Event) -> str:
    route = _ROUTES.get(event.origin, "")
    if event.origin == "tty" and event.sender:
        route = f" through terminal {event.tty}" if event.tty else " through a terminal"
    if event.origin in ("sigio", "tty") and event.trigger and not event.sender:
        route += f", triggered by {names.with_pid(event.trigger.comm, event.trigger.pid)},"
    return route


def _end(event: Event, identity: Identity, target: str) -> str:
    """The text of a death or an exit."""
    sender, signal, route = _sender(event, identity.unit), _signal(event), _route(event)
    sent = "probably sent" if event.inferred else "sent"
    lapse = duration(event.elapsed_ns or 0)
    if event.kind == "exit":
        return f"{target} exited with status {event.status}, {lapse} after {sender} {sent} it {signal}{route}"
    died = f"{target} died of {signal}"
    if event.origin == "self":
        if event.sender:
            return f"{died}, which it sent itself"
        code = names.code_name(event.sig, event.code) if event.code else None
        return f"{died}, its own {'fault' if event.code > 0 else 'doing'}" + (f" ({code})" if code else "")
    if event.origin == "unknown":
        return f"{died}, sender not seen"
    if event.elapsed_ns is None:
        return f"{died}, {sent} by its tracer {sender}"
    late = " (SIGTERM had not been enough)" if event.escalation_ns is not None else ""
    traced = ""
    if event.trigger and event.sender:  # of a death from a process, the trigger is the tracer
        traced = f", while traced by {names.with_pid(event.trigger.comm, event.trigger.pid)}"
    return f"{died}{late}, {lapse} after {sender} {sent} it{route}{traced}"


def message(event: Event, identity: Identity) -> str:
    """The text for people: sender, signal, target and outcome.

    The sender's command gets the room that the rest leaves.
    """
    before, _, after = _message(event, identity).partition(_COMMAND)
    return before + _command(event, identity, MESSAGE_MAX - len(before) - len(after)) + after


def _message(event: Event, identity: Identity) -> str:
    """The message with _COMMAND in the place of the command."""
    if event.kind in ("death", "exit") and event.target:
        return _end(event, identity, _target(event.target, identity))
    sender, signal = _sender(event, identity.unit), _signal(event)
    sent = "probably sent" if event.inferred else "sent"
    if event.target is None:
        verb = "sent" if event.res == 0 else "could not send"
        return f"{sender} {verb} {signal} to {meant(event)}: {event.result}"
    route = _route(event)
    outcome = (event.outcome or "").replace("_", " ")
    if event.trigger and event.origin == "syscall":
        sender += f", traced by {names.with_pid(event.trigger.comm, event.trigger.pid)},"
    held = f", which held {_size(event.memory)} in memory" if event.memory else ""
    line = f"{sender} {sent} {signal}{route} to {_target(event.target, identity)}{held}: {outcome}"
    if event.namespace_end:
        line += ", as its pid namespace ended"
    if event.escalation_ns:
        line += f", {duration(event.escalation_ns)} after SIGTERM"
    return line


@lru_cache(1)
def _to_the_second(realtime_s: int) -> str:
    """Cached for one second: the events of a storm share it."""
    return f"{datetime.fromtimestamp(realtime_s, UTC):%Y-%m-%dT%H:%M:%S}"


def timestamp(realtime_ns: int) -> str:
    """RFC 3339, in UTC, with microseconds."""
    seconds, ns = divmod(realtime_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{ns // 1000:06d}Z"


def _of_sender(event: Event) -> dict[str, object]:
    sender = event.sender
    if sender is None:
        nobody = event.origin in ("self", "unknown")
        return {} if nobody else {"KILLSNOOP_PID": 0, "KILLSNOOP_COMM": "kernel"}
    return {
        "KILLSNOOP_PID": sender.pid,
        "KILLSNOOP_COMM": sender.comm,
        "KILLSNOOP_TID": sender.tid,
        "KILLSNOOP_THREAD_COMM": sender.thread_comm,
        "KILLSNOOP_NS_PID": sender.ns_pid,
        "KILLSNOOP_UID": sender.uid,
        "KILLSNOOP_LOGINUID": sender.loginuid,
        "KILLSNOOP_SESSIONID": sender.sessionid,
        "KILLSNOOP_PPID": sender.ppid,
        "KILLSNOOP_PARENT_COMM": sender.parent_comm,
    }


def _of_target(event: Event) -> dict[str, object]:
    target = event.target
    if target is None:
        return {"KILLSNOOP_TPID": event.target_arg}
    return {
        "KILLSNOOP_TPID": target.pid,
        "KILLSNOOP_TCOMM": target.comm,
        "KILLSNOOP_TARGET_NS_PID": target.ns_pid,
        "KILLSNOOP_TARGET_UID": target.uid,
    }


_ENDS = {"death": DIED, "exit": EXITED}


def _ms(ns: int | None) -> str | None:
    return None if ns is None else f"{ns / 1e6:.3f}"


def fields(event: Event, identity: Identity, boot_ns: int) -> dict[str, str]:
    """The journal fields of an event. `boot_ns`: the realtime clock at boot."""
    trigger, memory = event.trigger, event.memory
    code = None if event.kind == "call" or event.origin == "unknown" else event.code
    found: dict[str, object] = {
        "MESSAGE": message(event, identity),
        "PRIORITY": priority(event),
        "SYSLOG_IDENTIFIER": "killsnoopd",
        "MESSAGE_ID": _ENDS.get(event.kind) or (SENT if event.res == 0 else FAILED),
        "KILLSNOOP_EVENT": event.kind,
        "KILLSNOOP_TIMESTAMP": timestamp(event.time_ns + boot_ns),
        **_of_sender(event),
        "KILLSNOOP_ANCESTORS": identity.ancestors,
        "KILLSNOOP_EXE": identity.exe,
        "KILLSNOOP_CMDLINE": identity.cmdline,
        "KILLSNOOP_UNIT": identity.unit,
        "KILLSNOOP_USER_UNIT": identity.user_unit,
        "KILLSNOOP_CONTAINER": identity.container,
        "KILLSNOOP_CONTAINER_NAME": identity.container_name,
        "KILLSNOOP_POD": identity.pod,
        "KILLSNOOP_POD_NAMESPACE": identity.pod_namespace,
        "KILLSNOOP_POD_UID": identity.pod_uid,
        "KILLSNOOP_MACHINE": identity.machine,
        "KILLSNOOP_SIGNAL": event.signal,
        "KILLSNOOP_SIG": event.sig,
        "KILLSNOOP_CODE": code,
        "KILLSNOOP_CODE_NAME": None if code is None else names.code_name(event.sig, code),
        "KILLSNOOP_TARGET_ARG": event.target_arg,
        **_of_target(event),
        "KILLSNOOP_TARGET_UNIT": identity.target_unit,
        "KILLSNOOP_TARGET_USER_UNIT": identity.target_user_unit,
        "KILLSNOOP_TARGET_CONTAINER": identity.target_container,
        "KILLSNOOP_TARGET_CONTAINER_NAME": identity.target_container_name,
        "KILLSNOOP_TARGET_POD": identity.target_pod,
        "KILLSNOOP_TARGET_POD_NAMESPACE": identity.target_pod_namespace,
        "KILLSNOOP_TARGET_POD_UID": identity.target_pod_uid,
        "KILLSNOOP_TARGET_MACHINE": identity.target_machine,
        "KILLSNOOP_RES": event.res,
        "KILLSNOOP_RESULT": event.result,
        "ERRNO": -event.res or None,
        "KILLSNOOP_OUTCOME": event.outcome,
        "KILLSNOOP_ORIGIN": event.origin,
        "KILLSNOOP_ORIGIN_INFERRED": 1 if event.inferred else None,
        "KILLSNOOP_SYSCALL": event.syscall,
        "KILLSNOOP_COMPAT": 1 if event.compat else None,
        "KILLSNOOP_HANDLED": 1 if event.handled else None,
        "KILLSNOOP_TTY": event.tty or None,
        "KILLSNOOP_TRIGGER_PID": trigger and trigger.pid,
        "KILLSNOOP_TRIGGER_COMM": trigger and trigger.comm,
        "KILLSNOOP_OOM_SCOPE": event.oom_scope,
        "KILLSNOOP_OOM_CGROUP": _cgroup(memory),
        "KILLSNOOP_OOM_ANON_BYTES": memory and memory.anon,
        "KILLSNOOP_OOM_FILE_BYTES": memory and memory.file,
        "KILLSNOOP_OOM_SHMEM_BYTES": memory and memory.shmem,
        "KILLSNOOP_OOM_PAGE_TABLES_BYTES": memory and memory.page_tables,
        "KILLSNOOP_OOM_SCORE_ADJ": memory and memory.oom_score_adj,
        "KILLSNOOP_ELAPSED_MS": _ms(event.elapsed_ns),
        "KILLSNOOP_EXIT_STATUS": event.status,
        "KILLSNOOP_ESCALATION_MS": _ms(event.escalation_ns) if event.kind == "delivery" else None,
        # With this, `journalctl -u UNIT` shows the event among the unit's own lines.
        "OBJECT_SYSTEMD_UNIT": identity.target_unit,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
