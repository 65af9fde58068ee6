"""From an Event to the fields that are logged, and the one line a person reads."""

from datetime import UTC, datetime

from killsnoopd import names
from killsnoopd.event import Event

# Kinds of event; deploy/killsnoopd.catalog explains each to `journalctl -x`.
SENT = "6ef50b79ef9645078bf77f74db2e322a"
FAILED = "d90354b8f65a4b51a8fc97ab86ea4051"

_WARNING, _NOTICE, _INFO, _DEBUG = 4, 5, 6, 7  # syslog(3)


def priority(event: Event) -> int:
    """How much it matters: 4 SIGKILL sent, 5 other deadly signals sent and EPERM, 6 the rest, 7 signal 0."""
    if event.sig == 0:
        return _DEBUG
    if event.signal == "SIGKILL" and event.result == "success":
        return _WARNING
    if event.result == "EPERM" or (event.result == "success" and event.sig in names.FATAL):
        return _NOTICE
    return _INFO


def target(event: Event) -> str:
    """Whom the sender meant, in words (kill(2), pidfd_send_signal(2))."""
    number = event.target_arg
    if event.syscall == "pidfd_send_signal":
        return f"pidfd {number}"
    if event.syscall == "tkill":
        return f"thread {number}"
    if event.syscall != "kill" or number > 0:
        return f"pid {number}"
    if number == 0:
        return "its own process group"
    return "every process" if number == -1 else f"process group {-number}"


def message(event: Event) -> str:
    """The line a person reads: who sent what to whom, and whether it went through."""
    signal = event.signal if event.signal not in ("0", "32", "33") else f"signal {event.signal}"
    signal = f"signal {event.sig}" if signal == "invalid" else signal
    thread = f" (thread {event.thread_comm}[{event.tid}])" if event.tid != event.pid else ""
    verb = "sent" if event.res == 0 else "could not send"
    return f"{event.comm}[{event.pid}]{thread} uid {event.uid} {verb} {signal} to {target(event)}: {event.result}"


def timestamp(realtime_ns: int) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    seconds, ns = divmod(realtime_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 1000:06d}Z"


def fields(event: Event, boot_ns: int) -> dict[str, str]:
    """What is logged of an event. `boot_ns`: the realtime clock when the monotonic one was 0."""
    optional = {
        "KILLSNOOP_LOGINUID": event.loginuid,
        "KILLSNOOP_SESSIONID": event.sessionid,
        "ERRNO": -event.res or None,
    }
    return {
        "MESSAGE": message(event),
        "PRIORITY": str(priority(event)),
        "SYSLOG_IDENTIFIER": "killsnoopd",
        "MESSAGE_ID": SENT if event.res == 0 else FAILED,
        "KILLSNOOP_TIMESTAMP": timestamp(event.time_ns + boot_ns),
        "KILLSNOOP_PID": str(event.pid),
        "KILLSNOOP_COMM": event.comm,
        "KILLSNOOP_TID": str(event.tid),
        "KILLSNOOP_THREAD_COMM": event.thread_comm,
        "KILLSNOOP_UID": str(event.uid),
        "KILLSNOOP_PPID": str(event.ppid),
        "KILLSNOOP_PARENT_COMM": event.parent_comm,
        "KILLSNOOP_SIGNAL": event.signal,
        "KILLSNOOP_SIG": str(event.sig),
        "KILLSNOOP_TARGET_ARG": str(event.target_arg),
        "KILLSNOOP_TPID": str(event.target_arg),
        "KILLSNOOP_RES": str(event.res),
        "KILLSNOOP_RESULT": event.result,
        "KILLSNOOP_ORIGIN": "syscall",
        "KILLSNOOP_SYSCALL": event.syscall,
        **{name: str(value) for name, value in optional.items() if value is not None},
    }
