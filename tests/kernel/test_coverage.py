"""Every way in which a signal reaches a process, or fails to: one event for each target, with both ends named."""

import os

import pytest
from cases import CASES, KERNEL, perform


def told(event):
    """What an event says, in the terms of cases.Row."""
    reached = "KILLSNOOP_OUTCOME" in event
    return (
        (event["KILLSNOOP_COMM"], int(event["KILLSNOOP_PID"])),
        event["KILLSNOOP_SIGNAL"],
        (event["KILLSNOOP_TCOMM"], int(event["KILLSNOOP_TPID"])) if reached else None,
        event.get("KILLSNOOP_SYSCALL") or event["KILLSNOOP_ORIGIN"],
        event["KILLSNOOP_OUTCOME"] if reached else event["KILLSNOOP_RESULT"],
    )


@pytest.mark.parametrize("name", CASES)
def test_case(daemon, name):
    """Sender, signal, every target, route and outcome, and nothing else of these processes."""
    rows = perform(name)
    senders = {row.sender for row in rows}
    targets = {row.target for row in rows}
    events = [
        event
        for event in daemon.events()
        if event["KILLSNOOP_EVENT"] != "death"
        and int(event["KILLSNOOP_PID"]) != os.getpid()  # what tidies up
        and (told(event)[0] in senders - {KERNEL} or told(event)[2] in targets - {None})
    ]
    assert sorted(map(told, events), key=str) == sorted(
        ((row.sender, row.signal, row.target, row.route, row.outcome) for row in rows), key=str
    )
    for row in rows:
        (event, *_) = [event for event in events if told(event)[2] == row.target]
        assert {key: event.get(key) for key in row.more} == row.more
