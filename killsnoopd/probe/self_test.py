"""The self-test at start: the daemon sends itself two signals and checks their counts and events.

An attached program proves nothing: the kernel may never run it, or may pass signals in a way that this version
attributes to another sender. Signal 0 tests the exits of the system calls. SIGURG, which is ignored by default, tests
signal_generate.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

from killsnoopd import event, names
from killsnoopd.event import Event
from killsnoopd.probe.attached import Counts, Probe

log = logging.getLogger("killsnoopd")

SIGNALS = {"call": 0, "delivery": int(signal.SIGURG)}
"""The signals of the test, by the kind of event that they make."""

_ROOM = 8192  # bytes of the ring buffer that the test needs: two events with long paths, and those of other senders


def faults(probe: Probe, syscalls: tuple[str, ...]) -> list[str]:
    """Send ourselves the signals; a clause for each wrong report of the probe, an empty list if all are right.

    `syscalls`: those that the probe watches. Without kill, signal 0 is not tested. Both signals stay in the counts.
    """
    pid, comm = os.getpid(), Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    kinds = [kind for kind in SIGNALS if kind == "delivery" or "kill" in syscalls]
    before = probe.counts()
    with probe.self_testing() as ring:
        start, room = ring.end, ring.room >= _ROOM
        if not room:  # the daemon was down for a long time: the probe is not at fault
            log.warning("the ring buffer is full: the self-test checks counts, not events")
        kinds = [kind for kind in kinds if _sent(pid, kind)]
        seen = [decoded for record in ring.records(start) if (decoded := _decoded(record)) and decoded.self_test]
    after = probe.counts()
    found = []
    for kind in kinds:
        name = f"our own {_signal(kind)}"
        if not _counted(kind, comm, before, after):
            found.append(f"{name} was not counted")
        if not room:
            continue
        events = [_described(decoded) for decoded in seen if decoded.kind == kind]
        expected = _expected(kind, names.text(comm))
        if not events:
            found.append(f"{name} made no event")
        elif not any(event in expected for event in events):
            found.append(f"{name} was reported as ({events[0]}), not as ({expected[0]})")
    return found


def _sent(pid: int, kind: str) -> bool:
    """Send ourselves a signal; whether the kernel let us."""
    try:
        os.kill(pid, SIGNALS[kind])
    except PermissionError as error:  # AppArmor, in a container of crun's with no_new_privs
        log.warning("the self-test skips %s: %s. A security module forbids it", _signal(kind), error.strerror)
        return False
    return True


def _decoded(record: bytes) -> Event | None:
    with suppress(ValueError):
        return event.decode(record)
    return None


def _signal(kind: str) -> str:
    return f"signal {names.SIGNALS[0]}" if kind == "call" else names.signal_name(SIGNALS[kind])


def _counted(kind: str, comm: bytes, before: Counts, after: Counts) -> bool:
    """Whether the right counter grew: of our name, signal and result, or of signal, origin and outcome."""
    sig = SIGNALS[kind]
    if kind == "delivery":
        keys = [(sig, "syscall", outcome) for outcome in _OUTCOMES]
        return any(after.delivered(*key) > before.delivered(*key) for key in keys)
    return after.calls(comm, sig, 0) > before.calls(comm, sig, 0)


# A traced process (strace) receives even signals that it ignores.
_OUTCOMES = ("ignored", "delivered")


def _described(decoded: Event) -> str:
    """The tested fields of an event, as text."""
    sender = decoded.sender
    pid = sender and (sender.ns_pid or sender.pid)
    who = f"{sender.comm}[{'us' if pid == os.getpid() else pid}]" if sender else "kernel"
    target = decoded.target and ("us" if sender and decoded.target.pid == sender.pid else str(decoded.target.pid))
    return (
        f"{decoded.signal} from {who} to {target or decoded.target_arg}, origin {decoded.origin}, "
        f"call {decoded.syscall}, result {decoded.result}, outcome {decoded.outcome}"
    )


def _expected(kind: str, comm: str) -> list[str]:
    start = f"{names.signal_name(SIGNALS[kind])} from {comm}[us] to "
    rest = "origin syscall, call kill, result success, outcome "
    if kind == "call":
        return [f"{start}{os.getpid()}, {rest}None"]
    return [f"{start}us, {rest}{outcome}" for outcome in _OUTCOMES]
