"""Turns an Event into journal fields, among them the message."""

from datetime import UTC, datetime
from functools import lru_cache

from killsnoopd import names
from killsnoopd.event import Event, Sender, Target
from killsnoopd.events.processes import Identity

# MESSAGE_ID by kind of event; deploy/killsnoopd.catalog has the texts for `journalctl -x`.
SENT = "6ef50b79ef9645078bf77f74db2e322a"
FAILED = "d90354b8f65a4b51a8fc97ab86ea4051"
DIED = "5410a8730dd0432c8e1e921961037e7b"

_WARNING, _NOTICE, _INFO, _DEBUG = 4, 5, 6, 7  # syslog(3)


def priority(event: Event) -> int:
    """syslog priority: 4 SIGKILL, 5 other fatal signals, deaths and EPERM, 6 the rest, 7 signal 0."""
    if event.sig == 0:
        return _DEBUG
    fatal = event.sig in names.FATAL and event.outcome in ("delivered", "lose_info", "died")
    if fatal:
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


def _sender(event: Event) -> str:
    sender = event.sender
    if sender is None:
        return "kernel, out of memory," if event.origin == "oom" else "kernel"
    thread = f" (thread {sender.thread_comm}[{sender.tid}])" if sender.tid != sender.pid else ""
    return f"{sender.comm}[{sender.pid}]{thread} uid {sender.uid}"


def _target(target: Target, identity: Identity) -> str:
    units = (identity.target_unit, identity.target_user_unit)
    belongs = "/".join(filter(None, units)) or (identity.target_container or "")[:12]
    return f"{target.comm}[{target.pid}]" + (f" ({belongs})" if belongs else "")


def _signal(event: Event) -> str:
    if event.signal == "invalid":
        return f"signal {event.sig}"
    return f"signal {event.signal}" if event.signal in ("0", "32", "33") else event.signal


def duration(ns: int) -> str:
    """A duration in words: `0.04 ms`, `1.4 ms`, `10.0 s`."""
    if ns < 10**6:
        return f"{ns / 1e6:.2f} ms"
    return f"{ns / 1e6:.1f} ms" if ns < 10**9 else f"{ns / 1e9:.1f} s"


_ROUTES = {
    "cgroup": " through cgroup.kill",
    "pdeathsig": " by exiting (PR_SET_PDEATHSIG)",
    "autokill": " by closing its pidfd (CLONE_PIDFD_AUTOKILL)",
}


def message(event: Event, identity: Identity) -> str:
    """The text for people: sender, signal, target and outcome."""
    sender, signal = _sender(event), _signal(event)
    sent = "probably sent" if event.inferred else "sent"
    if event.kind == "death" and event.target:
        late = " (SIGTERM had not been enough)" if event.escalation_ns is not None else ""
        lapse = duration(event.died_after_ns or 0)
        return f"{_target(event.target, identity)} died of {signal}{late}, {lapse} after {sender} {sent} it"
    if event.target is None:
        verb = "sent" if event.res == 0 else "could not send"
        return f"{sender} {verb} {signal} to {meant(event)}: {event.result}"
    route = _ROUTES.get(event.origin, "")
    outcome = (event.outcome or "").replace("_", " ")
    line = f"{sender} {sent} {signal}{route} to {_target(event.target, identity)}: {outcome}"
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


def _of_sender(sender: Sender | None) -> dict[str, object]:
    if sender is None:
        return {"KILLSNOOP_PID": 0, "KILLSNOOP_COMM": "kernel"}
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


def _ms(ns: int | None) -> str | None:
    return None if ns is None else f"{ns / 1e6:.3f}"


def fields(event: Event, identity: Identity, boot_ns: int) -> dict[str, str]:
    """The journal fields of an event. `boot_ns`: the realtime clock at boot."""
    found: dict[str, object] = {
        "MESSAGE": message(event, identity),
        "PRIORITY": priority(event),
        "SYSLOG_IDENTIFIER": "killsnoopd",
        "MESSAGE_ID": DIED if event.kind == "death" else SENT if event.res == 0 else FAILED,
        "KILLSNOOP_EVENT": event.kind,
        "KILLSNOOP_TIMESTAMP": timestamp(event.time_ns + boot_ns),
        **_of_sender(event.sender),
        "KILLSNOOP_EXE": identity.exe,
        "KILLSNOOP_UNIT": identity.unit,
        "KILLSNOOP_USER_UNIT": identity.user_unit,
        "KILLSNOOP_CONTAINER": identity.container,
        "KILLSNOOP_SIGNAL": event.signal,
        "KILLSNOOP_SIG": event.sig,
        "KILLSNOOP_CODE": None if event.kind == "call" else event.code,
        "KILLSNOOP_TARGET_ARG": event.target_arg,
        **_of_target(event),
        "KILLSNOOP_TARGET_UNIT": identity.target_unit,
        "KILLSNOOP_TARGET_USER_UNIT": identity.target_user_unit,
        "KILLSNOOP_TARGET_CONTAINER": identity.target_container,
        "KILLSNOOP_RES": event.res,
        "KILLSNOOP_RESULT": event.result,
        "ERRNO": -event.res or None,
        "KILLSNOOP_OUTCOME": event.outcome,
        "KILLSNOOP_ORIGIN": event.origin,
        "KILLSNOOP_ORIGIN_INFERRED": 1 if event.inferred else None,
        "KILLSNOOP_SYSCALL": event.syscall,
        "KILLSNOOP_COMPAT": 1 if event.compat else None,
        "KILLSNOOP_DIED_AFTER_MS": _ms(event.died_after_ns),
        "KILLSNOOP_ESCALATION_MS": _ms(event.escalation_ns) if event.kind == "delivery" else None,
        # With this, `journalctl -u UNIT` shows the event among the unit's own lines.
        "OBJECT_SYSTEMD_UNIT": identity.target_unit,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
