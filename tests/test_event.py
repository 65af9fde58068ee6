"""The event record: bytes in, Event out."""

import struct

import pytest

from killsnoopd import event


def record(**changes):
    """A record as the probe writes it."""
    values = {
        "time_ns": 5_000_000_000, "pid": 100, "tid": 101, "uid": 1000, "ppid": 1, "loginuid": 1000, "sessionid": 3,
        "target_arg": -42, "sig": 9, "res": -1, "kind": 0, "call": 0,
        "comm": b"bash", "thread_comm": b"worker", "parent_comm": b"sshd",
    } | changes  # fmt: skip
    return struct.pack("=Q6I3iBB2x16s16s16s", *values.values())


def test_decode():
    """Every field is where it belongs."""
    assert event.decode(record()) == event.Event(
        5_000_000_000, 100, 101, 1000, 1, 1000, 3, -42, 9, -1, "kill", "bash", "worker", "sshd"
    )  # fmt: skip


def test_unset_ids_are_none():
    """A daemon has no login uid and no session."""
    decoded = event.decode(record(loginuid=2**32 - 1, sessionid=2**32 - 1))
    assert (decoded.loginuid, decoded.sessionid) == (None, None)


@pytest.mark.parametrize(
    ("number", "name"),
    list(enumerate(["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"])),
)
def test_syscall(number, name):
    """System calls are numbered as in the probe."""
    assert event.decode(record(call=number)).syscall == name


@pytest.mark.parametrize("broken", [b"", record()[:-1], record() + b"\0", record(kind=1), record(call=6)], ids=len)
def test_a_record_that_the_probe_cannot_have_written(broken):
    """Is refused, not guessed at."""
    with pytest.raises(ValueError, match="record of"):
        event.decode(broken)
