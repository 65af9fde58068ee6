"""The event record: bytes in, Event out."""

import re
import struct

import pytest
from event_record import record

from killsnoopd import event, names
from killsnoopd.event import Cmdline, Event, Memory, Place, Sender, Target
from killsnoopd.names import DEATH_ORIGINS, ORIGINS
from killsnoopd.probe import program

UNSET = 2**32 - 1


def call(**changes):
    """The record of a call that failed."""
    return record(**{"kind": 0, "res": -1, "tpid": 0, "tuid": 0, "tstart_ns": 0, "tcomm": b""} | changes)


DELIVERY = Event(
    kind="delivery", time_ns=5_000_000_000, sig=9, code=0, res=0, origin="syscall", syscall="kill", target_arg=-42,
    outcome="delivered", compat=False, elapsed_ns=None, escalation_ns=None, namespace_end=False,
    inferred=False, self_test=False, handled=False, status=None, tty="", trigger=None, payer=1000,
    sender=Sender(
        pid=100, tid=101, uid=1000, ppid=1, loginuid=1000, sessionid=3, ns_pid=None, start_ns=1_000,
        comm="bash", thread_comm="worker", parent_comm="sshd", place=Place(11, (b"system.slice", b"ssh.service"), 2),
        exe_dev=8 << 20 | 1, exe_names=(b"bash", b"bin", b"usr", b"/"),
    ),
    target=Target(pid=42, uid=33, ns_pid=None, start_ns=2_000, comm="nginx", place=Place(12, (), 0)),
)  # fmt: skip


def test_command_line_and_ancestors():
    """What the probe read; without a command line, or with one that it could not read, there are no bytes."""
    found = event.decode(record(cmdline=b"kill\0-9\0", ancestors=((7, b"a b"), (1, b"init"))))
    assert found.sender.cmdline == Cmdline(b"kill\0-9\0", cut=False)
    assert found.sender.ancestors == ((7, "a b"), (1, "init"))
    assert event.decode(record(cmdline=b"kill", cmdline_state="cut")).sender.cmdline == Cmdline(b"kill", cut=True)
    assert event.decode(record(cmdline_state="unread")).sender.cmdline == Cmdline(None)
    assert event.decode(record()).sender.cmdline is None
    with pytest.raises(ValueError, match="of them text"):
        event.decode(record(ancestors=((7, b"a"),), ancestors_len=19, tcgroup_len=1))


def test_the_memory_of_an_oom_kill():
    """Of another SIGKILL that might have been one, it is left out. A counter below zero is 0."""
    part = struct.pack("=qqqqi4x", 1, -2, 3, 4, -1000)
    oom = event.decode(record(memory=part, origin=names.ORIGINS.index("oom")))
    assert oom.memory == Memory(1, 0, 3, 4, -1000)
    assert event.decode(record(memory=part)).memory is None
    oom = event.decode(record(memory=part + b"\0a.slice\0b\0/\0c\0", origin=names.ORIGINS.index("oom")))
    assert oom.memory.exhausted == Place(0, (b"a.slice", b"b", b"c"), 2)
    for number, scope in enumerate((None, "machine", "cpuset", "memory_policy", "cgroup", "sysrq")):
        assert event.decode(record(oom_scope=number)).oom_scope == scope
    with pytest.raises(ValueError, match="scope 6"):
        event.decode(record(oom_scope=6))
    with pytest.raises(ValueError, match="text"):
        event.decode(record(memory=part[:-1]))
    assert c_layout(c_body("struct memory"))[:5] == [
        ("anon", 0, "q"), ("file", 8, "q"), ("shmem", 16, "q"), ("page_tables", 24, "q"), ("oom_score_adj", 32, "i")
    ]  # fmt: skip


def c_body(what, text=None):
    """The text between the braces of a struct or an enum of maps.h, without comments."""
    plain = re.sub(r"/\*.*?\*/", "", program.MAPS_HEADER.read_text() if text is None else text, flags=re.S)
    return re.search(rf"\b{what} \{{(.*?)\}}", plain, re.S)[1]


C_FORMATS = {"u64": "Q", "s64": "q", "u32": "I", "s32": "i", "u16": "H", "u8": "B"}


def c_layout(body):
    """Name, offset and format of each field, as the C compiler lays a struct out; `""`: its end."""
    found, at, widest = [], 0, 1
    for kind, listed in re.findall(r"(?:struct )?(\w+) ([^;]+);", body):
        if kind in ("cause", "sender"):  # struct sender sender;
            inner = c_layout(c_body(f"struct {kind}"))
            found += [(name, at + offset, form) for name, offset, form in inner[:-1]]
            at += inner[-1][1]
            widest = 8
            continue
        for name, length in re.findall(r"(\w+)(?:\[(\w+)\])?", re.sub(r",\s*", " ", listed)):
            form = C_FORMATS.get(kind, "s")
            size = struct.calcsize(f"={form}")
            at = -(-at // size) * size
            count = {"": 1, "COMM_LEN": 16}.get(length) or int(length)
            found.append((name, at, f"{count * size}s" if length else form))
            at, widest = at + count * size, max(widest, size)
    return [*found, ("", -(-at // widest) * widest, "")]


def test_the_record_is_laid_out_as_in_the_probe():
    """Head has the fields of struct event: the same names, in the same order, at the same offsets, of the same types."""
    assert re.search(r"#define COMM_LEN 16\b", (program.BPF_DIR / "task.h").read_text())
    offset, layout = 0, []
    for name, form in zip(event.Head._fields, event.FORMATS, strict=True):
        layout.append((name, offset, form))
        offset += struct.calcsize(f"={form}")
    assert [*layout, ("", offset, "")] == c_layout(c_body("struct event"))
    assert event.HEAD.size == offset


def test_numbers_are_those_of_the_probe():
    """Kinds of event by number, and flags by bit."""
    assert re.findall(r"\w+", c_body("enum kind").lower()) == [*event.KINDS, "kinds"]
    assert re.findall(r"\w+", c_body("enum cmdline").lower()) == [*event.CMDLINES, "cmdlines"]
    header = program.MAPS_HEADER.read_text()
    for name in ("CMDLINE_MAX", "ANCESTORS_MAX"):
        assert re.search(rf"#define {name} (\d+)\n", header)[1] == str(getattr(event, name))
    flags = {name: int(bit) for name, bit in re.findall(r"(\w+) = (\d+)", c_body("enum flag"))}
    assert flags == {name: getattr(event, f"_{name}") for name in flags}
    assert sorted(flags.values()) == [1 << bit for bit in range(len(flags))]


def test_decode():
    """Every field is where it belongs."""
    texts = (b"bash", b"bin", b"usr", b"/"), (b"", b"system.slice", b"ssh.service"), (b"",)
    assert event.decode(record(texts)) == DELIVERY


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ((), Place(12, None, 0)),
        ((b"", b"user.slice", b"user@1.service", b"/", b"a.scope"), Place(12, (b"user.slice", b"user@1.service", b"a.scope"), 2)),
        ((b"", b"x.service", b"/"), Place(12, (b"x.service",), 1)),
    ],
    ids=["not readable", "below a folder of a user's", "in it"],
)  # fmt: skip
def test_whose_names_a_place_has(text, place):
    """A mark follows the first cgroup that does not belong to root."""
    assert event.decode(record(((), (), text))).target.place == place


def test_a_call_that_reached_nobody():
    """The target is what the sender wrote, and there is no outcome, only the call's result."""
    decoded = event.decode(call(res=-3))
    assert (decoded.kind, decoded.target, decoded.target_arg, decoded.outcome, decoded.res) == (
        "call", None, -42, None, -3
    )  # fmt: skip
    assert (decoded.result, decoded.signal) == ("ESRCH", "SIGKILL")


def test_a_death():
    """It has the time since the signal, and the sender's fields."""
    decoded = event.decode(record(kind=2, elapsed_ns=7))
    assert (decoded.kind, decoded.outcome, decoded.elapsed_ns, decoded.escalation_ns) == ("death", "died", 7, None)
    assert (decoded.sender.comm, decoded.target.comm) == ("bash", "nginx")
    assert event.decode(record(kind=2, elapsed_ns=7, flags=2)).escalation_ns == 0


def test_a_death_without_a_sender():
    """A fault of the process's own, or a signal that was not seen: no sender, and no time since a signal."""
    for number, origin in enumerate(DEATH_ORIGINS):
        decoded = event.decode(record(kind=2, origin=number, pid=0, loginuid=UNSET, code=1))
        assert (decoded.origin, decoded.sender, decoded.elapsed_ns, decoded.code) == (origin, None, None, 1)


def test_an_exit():
    """It has the status, and the fields of the signal that the process handled."""
    decoded = event.decode(record(kind=3, elapsed_ns=7, status=143, sig=15))
    assert (decoded.kind, decoded.outcome, decoded.elapsed_ns, decoded.status) == ("exit", "exited", 7, 143)
    assert (decoded.sender.comm, decoded.signal) == ("bash", "SIGTERM")


def test_terminal_and_trigger():
    """The terminal's name, and the process in whose context the kernel sent the signal."""
    decoded = event.decode(record(tty=b"pts/4", trigger_pid=7, trigger_comm=b"nc"))
    assert (decoded.tty, decoded.trigger) == ("pts/4", event.Trigger(7, "nc"))


def test_flags():
    """Each bit of the flags."""
    assert event.decode(record(flags=1)).compat
    assert event.decode(record(flags=2, elapsed_ns=9)).escalation_ns == 9
    assert event.decode(record(flags=4)).namespace_end
    assert event.decode(record(flags=8)).inferred
    assert event.decode(record(flags=16)).self_test
    assert event.decode(record(flags=32)).handled


def test_the_kernel_as_sender():
    """It has no pid and no call, and wrote no target."""
    decoded = event.decode(record(pid=0, origin=ORIGINS.index("kernel")))
    assert (decoded.sender, decoded.origin, decoded.syscall, decoded.target_arg) == (None, "kernel", None, None)


def test_unset_ids_are_none():
    """A daemon has no login uid and no session; a pid namespace may be the host's, or nested too deeply."""
    sender = event.decode(record(loginuid=UNSET, sessionid=UNSET, ns_pid=-1)).sender
    assert (sender.loginuid, sender.sessionid, sender.ns_pid) == (None, None, None)
    decoded = event.decode(record(ns_pid=7, tns_pid=8))
    assert (decoded.sender.ns_pid, decoded.target.ns_pid) == (7, 8)


@pytest.mark.parametrize(
    ("number", "name"),
    list(enumerate(["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"])),
)
def test_syscall(number, name):
    """System calls have the probe's numbers."""
    assert event.decode(record(call=number)).syscall == name


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        record()[:-1],
        record() + b"\0",
        record(kind=4),
        record(call=6),
        record(origin=len(DEATH_ORIGINS)),
        record(outcome=5),
        record(exe_len=4),
    ],
    ids=["empty", "short", "long", "kind", "call", "origin", "outcome", "text"],
)
def test_a_record_that_the_probe_cannot_have_written(broken):
    """It is refused, not interpreted."""
    with pytest.raises(ValueError, match="record of"):
        event.decode(broken)
