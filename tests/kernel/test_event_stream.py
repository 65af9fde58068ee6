"""What the daemon writes to standard output matches docs/event.schema.json."""

import os
import signal

from cases import perform
from event_schema import faults
from senders import forked, run, send

CASES = (
    "kill",
    "kill(-pgid), 5 members",
    "tkill",
    "sigqueue",
    "pidfd_send_signal",
    "cgroup.kill, 3 processes",
    "memory cgroup OOM kill",
    "end of a pid namespace",
    "PR_SET_PDEATHSIG",
    "signal 0",
    "EPERM",
    "ESRCH",
    "ignored by the target",
    "SIGSTOP and SIGCONT",
    "sender in a pid namespace",
    "thread with another name",
    "zombie",
)


def test_a_live_stream(start):
    """Every event of each kind: failed calls, deliveries by many routes, deaths, faults, exits; with hostile names."""
    daemon = start("--events.rate=0", "--events.include-signal=0")
    for name in CASES:
        perform(name)
    os.waitpid(forked(lambda: os.kill(os.getpid(), signal.SIGSEGV), b"ks-\n\x1b\xff"), 0)
    ready, told = os.pipe()
    exits = forked(
        lambda: (signal.signal(signal.SIGTERM, lambda *_: os._exit(3)), os.write(told, b"!"), signal.pause())
    )
    os.read(ready, 1)
    run(lambda: send("kill", exits, 15), b'k"s\\')
    os.waitpid(exits, 0)
    os.close(ready)
    os.close(told)
    events = daemon.events()
    assert {event["KILLSNOOP_EVENT"] for event in events} == {"call", "delivery", "death", "exit"}
    assert {fault for event in events for fault in faults(event)} == set()
