"""What is logged of an event."""

import dataclasses
import json
from pathlib import Path

import pytest

from killsnoopd import event, fields

KILL = event.Event(
    time_ns=1_500_000_123, pid=3325, tid=3325, uid=0, ppid=3300, loginuid=1000, sessionid=2, target_arg=812,
    sig=9, res=0, syscall="kill", comm="bash", thread_comm="bash", parent_comm="sshd",
)  # fmt: skip
BOOT_NS = 1_700_000_000 * 10**9


def changed(**changes):
    return dataclasses.replace(KILL, **changes)


def test_fields_are_those_of_the_golden_file():
    """The whole set of fields of one event, spelled out."""
    golden = json.loads(Path(__file__).with_name("golden").joinpath("event.json").read_text())
    assert fields.fields(KILL, BOOT_NS) == golden


def test_what_is_absent_is_absent():
    """No login: no field; a failure: its errno."""
    found = fields.fields(changed(loginuid=None, sessionid=None, res=-3), BOOT_NS)
    assert "KILLSNOOP_LOGINUID" not in found
    assert "KILLSNOOP_SESSIONID" not in found
    assert (found["ERRNO"], found["KILLSNOOP_RES"], found["KILLSNOOP_RESULT"]) == ("3", "-3", "ESRCH")
    assert found["MESSAGE_ID"] == fields.FAILED


@pytest.mark.parametrize(
    ("changes", "priority"),
    [
        ({}, 4),
        ({"sig": 15}, 5),
        ({"sig": 40}, 5),
        ({"sig": 15, "res": -1}, 5),
        ({"sig": 9, "res": -1}, 5),
        ({"sig": 9, "res": -3}, 6),
        ({"sig": 19}, 6),
        ({"sig": 17}, 6),
        ({"sig": 99, "res": -22}, 6),
        ({"sig": 0}, 7),
        ({"sig": 0, "res": -1}, 7),
    ],
)
def test_priority(changes, priority):
    """SIGKILL stands out, deadly signals and EPERM come next, signal 0 last."""
    assert fields.priority(changed(**changes)) == priority


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "bash[3325] uid 0 sent SIGKILL to pid 812: success"),
        ({"res": -1, "uid": 1000}, "bash[3325] uid 1000 could not send SIGKILL to pid 812: EPERM"),
        ({"tid": 3326, "thread_comm": "reaper"}, "bash[3325] (thread reaper[3326]) uid 0 sent SIGKILL to pid 812: success"),
        ({"target_arg": 0}, "bash[3325] uid 0 sent SIGKILL to its own process group: success"),
        ({"target_arg": -1}, "bash[3325] uid 0 sent SIGKILL to every process: success"),
        ({"target_arg": -42}, "bash[3325] uid 0 sent SIGKILL to process group 42: success"),
        ({"target_arg": -(2**31), "res": -3}, "bash[3325] uid 0 could not send SIGKILL to process group 2147483648: ESRCH"),
        ({"syscall": "pidfd_send_signal", "target_arg": 5}, "bash[3325] uid 0 sent SIGKILL to pidfd 5: success"),
        ({"syscall": "tkill"}, "bash[3325] uid 0 sent SIGKILL to thread 812: success"),
        ({"syscall": "tgkill", "target_arg": -1, "res": -22}, "bash[3325] uid 0 could not send SIGKILL to pid -1: EINVAL"),
        ({"sig": 0}, "bash[3325] uid 0 sent signal 0 to pid 812: success"),
        ({"sig": 99, "res": -22}, "bash[3325] uid 0 could not send signal 99 to pid 812: EINVAL"),
    ],
)  # fmt: skip
def test_message(changes, line):
    """The line reads well for every kind of target and outcome."""
    assert fields.message(changed(**changes)) == line


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000_000_000_999, "2023-11-14T22:13:20.000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456Z"),
    ],
)
def test_timestamp(ns, text):
    """Microseconds, cut off and never rounded into the future."""
    assert fields.timestamp(ns) == text
