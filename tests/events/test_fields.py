"""The fields of a logged event."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from examples import BASH, KILL, NGINX

from killsnoopd import names
from killsnoopd.event import Memory, Place, Trigger
from killsnoopd.events import fields
from killsnoopd.events.processes import Identity

KNOWN = Identity(
    exe="/usr/bin/bash",
    unit="ssh.service",
    container="c" * 64,
    target_unit="nginx.service",
    target_container="d" * 64,
)
GOLDEN = dataclasses.replace(
    KNOWN, cmdline="/bin/bash /root/reap.sh nginx", ancestors="sshd[3300] sshd[3299] sshd[700] systemd[1]"
)
USERS = dataclasses.replace(
    GOLDEN, unit="user@1.service", user_unit="a.scope", target_unit="user@1.service", target_user_unit="nginx.service"
)
POD = dataclasses.replace(
    KNOWN,
    container_name="kubectl",
    pod="ops-0",
    pod_namespace="ops",
    pod_uid="0123456789abcdef0123456789abcdef",
    target_container_name="nginx",
    target_pod="web-7d9c5b-x2x4q",
    target_pod_namespace="shop",
    target_pod_uid="9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6",
)
EVERYTHING = dataclasses.replace(
    POD, user_unit="a.scope", target_user_unit="b.scope", machine="a", target_machine="b", cmdline="a", ancestors="b[1]"
)
BOOT_NS = 1_700_000_000 * 10**9
DIED = {"kind": "death", "outcome": "died"}
CALL = {"kind": "call", "target": None, "outcome": None}


def changed(sender=BASH, **changes):
    """The SIGKILL above with other fields; `thread`: the name of the sending thread."""
    return dataclasses.replace(KILL, sender=sender, **changes)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("delivery", KILL),
        ("pods", KILL),
        ("call", changed(**CALL, res=-3)),
        ("death", changed(kind="death", outcome="died", elapsed_ns=1_400_000, escalation_ns=0)),
        ("fault", changed(None, **DIED, origin="self", sig=11, code=1, syscall=None, target_arg=None)),
        ("exit", changed(kind="exit", outcome="exited", elapsed_ns=1_400_000, sig=15, status=0)),
    ],
)
def test_fields_are_those_of_the_golden_file(name, event):
    """Every field of each kind of event."""
    golden = json.loads(Path(__file__).parent.parent.joinpath("golden").joinpath("events.json").read_text())
    known = GOLDEN if event.target else dataclasses.replace(GOLDEN, target_unit=None, target_container=None)
    if event.sender is None:
        known = dataclasses.replace(known, cmdline=None, ancestors=None)
    known = POD if name == "pods" else known
    assert fields.fields(event, known, BOOT_NS) == golden[name]


TOP = Path(__file__).parent.parent.parent
STANDARD = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "OBJECT_SYSTEMD_UNIT"}


def every_field():
    """The names of all fields that an event can have."""
    everything = changed(
        dataclasses.replace(BASH, ns_pid=7), target=dataclasses.replace(NGINX, ns_pid=1), res=-1,
        compat=True, inferred=True, elapsed_ns=1, escalation_ns=1, handled=True, status=1, tty="pts/4",
        trigger=Trigger(1, "nc"), memory=Memory(1, 2, 3, 4, 5, Place(0, (b"db.service",), 1)),
        oom_scope="cgroup",
    )  # fmt: skip
    found = set(fields.fields(everything, EVERYTHING, BOOT_NS))
    named = re.findall(r'"((?:KILLSNOOP|OBJECT)_[A-Z_]+|ERRNO)"', Path(fields.__file__).read_text())
    assert found == {*named, *STANDARD}
    return found


def test_every_field_is_in_the_man_page():
    """The man page lists exactly these fields."""
    page = (TOP / "docs/killsnoopd.8").read_text()
    section = page.partition(".SH JOURNAL FIELDS\n")[2].partition(".SH")[0]
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b|\b(?:MESSAGE|PRIORITY|ERRNO)\b", section)) == every_field()
    assert f"({', '.join(names.ORIGINS)}; of a death, also self and unknown)" in section
    assert f"({', '.join(names.OUTCOMES)}; of a death, died; of an exit, exited)" in section


def test_every_field_is_in_the_tables_of_the_documents():
    """The tables list exactly these fields. `_X` after another field stands for KILLSNOOP_X."""
    texts = [path.read_text() for path in (TOP / "README.md", *(TOP / "docs").glob("*.md"))]
    cells = [row.split("|")[1] for text in texts for row in re.findall(r"^\| `(?:KILLSNOOP_|ERRNO).*", text, re.M)]
    words = re.findall(r"`([A-Z_]+)`", " ".join(cells))
    documented = {f"KILLSNOOP{word}" if word.startswith("_") else word for word in words}
    assert documented | STANDARD == every_field()


def test_the_catalog():
    """`journalctl -x` explains each kind of event and each origin, with fields that exist."""
    catalog = (TOP / "deploy/killsnoopd.catalog").read_text()
    assert set(re.findall(r"^-- (\w{32})$", catalog, re.M)) == {fields.SENT, fields.FAILED, fields.DIED, fields.EXITED}
    assert tuple(re.findall(r"^([a-z_]+): ", catalog, re.M)) == names.DEATH_ORIGINS
    assert set(re.findall(r"KILLSNOOP_[A-Z_]+", catalog)) <= every_field()


@pytest.mark.parametrize(
    ("changes", "cmdline", "text"),
    [
        ({}, "bash /root/reap.sh", "bash[3325] (bash /root/reap.sh, by sshd[3300]) uid 0 sent SIGKILL to nginx[812]: delivered"),
        ({}, "-bash", "bash[3325] uid 0 sent SIGKILL to nginx[812]: delivered"),
        ({}, None, "bash[3325] uid 0 sent"),
        ({"ppid": 1}, "bash x", "bash[3325] (bash x) uid 0 sent"),
        ({"pid": 1, "tid": 1}, "/sbin/init", "bash[1] uid 0 sent"),
        ({"tid": 7, "thread_comm": "w"}, "bash x", "bash[3325] (thread w[7]) (bash x, by sshd[3300]) uid 0 sent"),
    ],
)  # fmt: skip
def test_the_command_in_the_message(changes, cmdline, text):
    """Where it says more than the name; init's never does. The parent follows, unless it is init."""
    found = fields.message(changed(dataclasses.replace(BASH, **changes)), Identity(cmdline=cmdline))
    assert found.startswith(text)


@pytest.mark.parametrize("kind", ["delivery", "death", "exit", "call"])
def test_a_long_command_is_cut_in_the_message(kind):
    """The line has 200 characters. If names and units leave no room, there is no command in it."""
    end = {"outcome": "died", "elapsed_ns": 1, "status": 0} if kind in ("death", "exit") else {}
    event = changed(kind=kind, **end, **({"target": None, "res": -3} if kind == "call" else {}))
    found = fields.message(event, Identity(cmdline="bash " + "x" * 500))
    assert len(found) == fields.MESSAGE_MAX
    assert "x..., by sshd[3300]) uid 0" in found
    if event.target:
        crowded = Identity(cmdline="bash " + "x" * 500, target_unit="u" * 150)
        assert "bash[3325] uid 0" in fields.message(event, crowded)


def test_the_units_of_a_user():
    """They have fields of their own, and follow the manager's unit in the message: users choose their names."""
    found = fields.fields(KILL, USERS, BOOT_NS)
    assert (found["KILLSNOOP_UNIT"], found["KILLSNOOP_USER_UNIT"]) == ("user@1.service", "a.scope")
    assert (found["KILLSNOOP_TARGET_UNIT"], found["KILLSNOOP_TARGET_USER_UNIT"]) == ("user@1.service", "nginx.service")
    assert found["OBJECT_SYSTEMD_UNIT"] == "user@1.service"
    assert "to nginx[812] (user@1.service/nginx.service): delivered" in found["MESSAGE"]


def test_what_is_absent_is_absent():
    """Without login, unit, errno or namespace, the field is absent."""
    sender = dataclasses.replace(BASH, loginuid=None, sessionid=None)
    found = fields.fields(changed(sender), Identity(), BOOT_NS)
    absent = (
        "POD POD_UID POD_NAMESPACE CONTAINER_NAME MACHINE TARGET_POD TARGET_POD_UID TARGET_POD_NAMESPACE TARGET_CONTAINER_NAME "
        "TARGET_MACHINE USER_UNIT TARGET_USER_UNIT LOGINUID SESSIONID NS_PID EXE UNIT CONTAINER TARGET_UNIT TARGET_CONTAINER TARGET_NS_PID COMPAT ORIGIN_INFERRED"
    ).split()
    assert not {f"KILLSNOOP_{name}" for name in absent} & set(found)
    assert not {"ERRNO", "OBJECT_SYSTEMD_UNIT"} & set(found)


def test_what_is_rare_is_there():
    """Pid namespaces, 32-bit senders, escalations."""
    sender = dataclasses.replace(BASH, ns_pid=7)
    target = dataclasses.replace(NGINX, ns_pid=1)
    rare = changed(sender, target=target, compat=True, inferred=True, escalation_ns=10**10)
    found = fields.fields(rare, Identity(), BOOT_NS)
    assert found["KILLSNOOP_ORIGIN_INFERRED"] == "1"
    assert found["KILLSNOOP_NS_PID"] == "7"
    assert found["KILLSNOOP_TARGET_NS_PID"] == "1"
    assert found["KILLSNOOP_COMPAT"] == "1"
    assert found["KILLSNOOP_ESCALATION_MS"] == "10000.000"


def test_an_oom_kill():
    """What the victim held; a kill by a service that watches the memory says so, unless it only has its name."""
    memory = Memory(40 << 20, 7 << 20, 1 << 20, 4096, -5)
    oom = changed(None, origin="oom", syscall=None, target_arg=None, memory=memory)
    found = fields.fields(oom, KNOWN, BOOT_NS)
    held = "kernel, out of memory, sent SIGKILL to nginx[812] (nginx.service), which held 48 MiB in memory: delivered"
    assert found["MESSAGE"] == held
    sizes = [found[f"KILLSNOOP_OOM_{name}_BYTES"] for name in ("ANON", "FILE", "SHMEM", "PAGE_TABLES")]
    assert (sizes, found["KILLSNOOP_OOM_SCORE_ADJ"]) == (["41943040", "7340032", "1048576", "4096"], "-5")
    for scope, who in (
        ("machine", "the machine out of memory"),
        ("cpuset", "a cpuset's memory nodes out of memory"),
        ("memory_policy", "a memory policy's nodes out of memory"),
        ("cgroup", "a cgroup out of memory"),
        ("sysrq", "asked by SysRq"),
    ):
        found = fields.fields(dataclasses.replace(oom, oom_scope=scope), KNOWN, BOOT_NS)
        assert found["KILLSNOOP_OOM_SCOPE"] == scope
        assert found["MESSAGE"].startswith(f"kernel, {who}, sent SIGKILL to nginx")
    for place, cgroup, who in (
        (Place(0, (b"system.slice", b"db.service"), 2), "/system.slice/db.service", "db.service "),
        (Place(0, (b"x of memory",), 1), "/x of memory", "a cgroup "),
    ):
        exhausted = dataclasses.replace(oom, memory=dataclasses.replace(memory, exhausted=place), oom_scope="cgroup")
        found = fields.fields(exhausted, KNOWN, BOOT_NS)
        assert found["KILLSNOOP_OOM_CGROUP"] == cgroup
        assert found["MESSAGE"].startswith(f"kernel, {who}out of memory, sent SIGKILL to nginx")
    sender = dataclasses.replace(BASH, comm="systemd-oomd")
    for unit, text in (
        ("systemd-oomd.service", " uid 0, for lack of memory, sent SIGKILL"),
        (None, " uid 0 sent SIGKILL"),
    ):
        assert fields.message(changed(sender), Identity(unit=unit)).startswith(f"systemd-oomd[3325]{text}")


def test_the_kernel_as_sender():
    """The sender has pid 0, and none of the fields of a process."""
    found = fields.fields(changed(None, origin="oom", syscall=None, target_arg=None), Identity(), BOOT_NS)
    assert (found["KILLSNOOP_PID"], found["KILLSNOOP_COMM"], found["KILLSNOOP_ORIGIN"]) == ("0", "kernel", "oom")
    assert not {"KILLSNOOP_UID", "KILLSNOOP_TID", "KILLSNOOP_SYSCALL", "KILLSNOOP_TARGET_ARG"} & set(found)


@pytest.mark.parametrize(
    ("changes", "priority"),
    [
        ({}, 4),
        ({"outcome": "ignored"}, 6),
        ({"outcome": "already_pending"}, 6),
        ({"sig": 15}, 5),
        ({"sig": 15, "handled": True}, 6),
        ({"kind": "exit", "outcome": "exited", "sig": 15}, 6),
        ({**DIED, "sig": 11, "origin": "self", "sender": None}, 5),
        ({"sig": 40}, 5),
        ({"sig": 40, "outcome": "lose_info"}, 5),
        ({"sig": 15, "outcome": "ignored"}, 6),
        ({"sig": 19}, 6),
        ({"sig": 17}, 6),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 1}, 4),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 1, "sig": 15}, 5),
        ({**CALL, "sig": 15, "res": -1}, 5),
        ({**CALL, "res": -1}, 5),
        ({**CALL, "res": -3}, 6),
        ({**CALL, "sig": 99, "res": -22}, 6),
        ({**CALL, "sig": 0}, 7),
        ({**CALL, "sig": 0, "res": -1}, 7),
    ],
)
def test_priority(changes, priority):
    """SIGKILL is most important, then fatal signals and EPERM; signal 0 is least."""
    assert fields.priority(changed(**changes)) == priority


REAPER = dataclasses.replace(BASH, tid=3326, thread_comm="reaper")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "bash[3325] uid 0 sent SIGKILL to nginx[812] (nginx.service): delivered"),
        ({"sender": REAPER}, "bash[3325] (thread reaper[3326]) uid 0 sent SIGKILL to nginx[812] (nginx.service): delivered"),
        ({"sig": 40, "outcome": "already_pending"},
         "bash[3325] uid 0 sent SIGRTMIN+6 to nginx[812] (nginx.service): already pending"),
        ({"origin": "cgroup"}, "bash[3325] uid 0 sent SIGKILL through cgroup.kill to nginx[812] (nginx.service): delivered"),
        ({"origin": "oom", "sender": None},
         "kernel, out of memory, sent SIGKILL to nginx[812] (nginx.service): delivered"),
        ({"origin": "kernel", "sender": None, "namespace_end": True},
         "kernel sent SIGKILL to nginx[812] (nginx.service): delivered, as its pid namespace ended"),
        ({"origin": "pdeathsig"},
         "bash[3325] uid 0 sent SIGKILL by exiting (PR_SET_PDEATHSIG) to nginx[812] (nginx.service): delivered"),
        ({"origin": "autokill"},
         "bash[3325] uid 0 sent SIGKILL by closing its pidfd (CLONE_PIDFD_AUTOKILL) to nginx[812] (nginx.service): delivered"),
        ({"origin": "autokill", "sender": None, "inferred": True},
         "kernel probably sent SIGKILL by closing its pidfd (CLONE_PIDFD_AUTOKILL) to nginx[812] (nginx.service): delivered"),
        ({"origin": "kernel", "sender": None, "inferred": True},
         "kernel probably sent SIGKILL to nginx[812] (nginx.service): delivered"),
        ({"origin": "cgroup", "inferred": True},
         "bash[3325] uid 0 probably sent SIGKILL through cgroup.kill to nginx[812] (nginx.service): delivered"),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 10**6, "sender": None, "origin": "oom", "inferred": True},
         "nginx[812] (nginx.service) died of SIGKILL, 1.0 ms after kernel, out of memory, probably sent it"),
        ({"escalation_ns": 10_040_000_000},
         "bash[3325] uid 0 sent SIGKILL to nginx[812] (nginx.service): delivered, 10.0 s after SIGTERM"),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 1_400_000},
         "nginx[812] (nginx.service) died of SIGKILL, 1.4 ms after bash[3325] uid 0 sent it"),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 42_000, "escalation_ns": 0},
         "nginx[812] (nginx.service) died of SIGKILL (SIGTERM had not been enough), 0.04 ms after bash[3325] uid 0 sent it"),
        ({"kind": "death", "outcome": "died", "elapsed_ns": 10**6, "sender": None, "origin": "oom"},
         "nginx[812] (nginx.service) died of SIGKILL, 1.0 ms after kernel, out of memory, sent it"),
        ({**DIED, "sig": 11, "code": 1, "origin": "self", "sender": None},
         "nginx[812] (nginx.service) died of SIGSEGV, its own fault (SEGV_MAPERR)"),
        ({**DIED, "sig": 13, "origin": "self", "sender": None}, "nginx[812] (nginx.service) died of SIGPIPE, its own doing"),
        ({**DIED, "sig": 14, "code": -2, "origin": "self", "sender": None},
         "nginx[812] (nginx.service) died of SIGALRM, its own doing (SI_TIMER)"),
        ({**DIED, "sig": 6, "origin": "self", "elapsed_ns": 5}, "nginx[812] (nginx.service) died of SIGABRT, which it sent itself"),
        ({**DIED, "origin": "unknown", "sender": None}, "nginx[812] (nginx.service) died of SIGKILL, sender not seen"),
        ({**DIED, "origin": "ptrace", "inferred": True},
         "nginx[812] (nginx.service) died of SIGKILL, probably sent by its tracer bash[3325] uid 0"),
        ({**DIED, "origin": "syscall", "elapsed_ns": 10**9, "sig": 15, "inferred": True, "trigger": Trigger(9, "gdb")},
         "nginx[812] (nginx.service) died of SIGTERM, 1.0 s after bash[3325] uid 0 probably sent it, while traced by gdb[9]"),
        ({"kind": "exit", "outcome": "exited", "sig": 15, "elapsed_ns": 8 * 10**8, "status": 0},
         "nginx[812] (nginx.service) exited with status 0, 800.0 ms after bash[3325] uid 0 sent it SIGTERM"),
        ({"trigger": Trigger(9, "gdb[1]")},
         'bash[3325] uid 0, traced by "gdb[1]"[9], sent SIGKILL to nginx[812] (nginx.service): delivered'),
        ({"origin": "tty", "sender": None, "sig": 2, "tty": "pts/4"},
         "terminal pts/4 sent SIGINT to nginx[812] (nginx.service): delivered"),
        ({"origin": "tty", "sender": None, "sig": 1, "trigger": Trigger(9, "sshd")},
         "a terminal sent SIGHUP, triggered by sshd[9], to nginx[812] (nginx.service): delivered"),
        ({"origin": "tty", "sender": None, "sig": 2}, "a terminal sent SIGINT to nginx[812] (nginx.service): delivered"),
        ({"origin": "tty", "sig": 1, "tty": "pts/4"},
         "bash[3325] uid 0 sent SIGHUP through terminal pts/4 to nginx[812] (nginx.service): delivered"),
        ({"origin": "sigio", "sender": None, "trigger": Trigger(9, "nc")},
         "kernel sent SIGKILL for I/O on a file (F_SETOWN), triggered by nc[9], to nginx[812] (nginx.service): delivered"),
        ({"origin": "rlimit", "sender": None},
         "kernel, CPU time limit, sent SIGKILL to nginx[812] (nginx.service): delivered"),
        ({"origin": "rlimit", "sender": None, "sig": 25},
         "kernel, file size limit, sent SIGXFSZ to nginx[812] (nginx.service): delivered"),
        ({"origin": "ptrace"}, "bash[3325] uid 0 sent SIGKILL by ptrace to nginx[812] (nginx.service): delivered"),
        ({"origin": "exit_signal"},
         "bash[3325] uid 0 sent SIGKILL by exiting (the exit signal of clone) to nginx[812] (nginx.service): delivered"),
        ({**CALL, "res": -1}, "bash[3325] uid 0 could not send SIGKILL to pid 812: EPERM"),
        ({**CALL, "target_arg": 0, "res": -1}, "bash[3325] uid 0 could not send SIGKILL to its own process group: EPERM"),
        ({**CALL, "target_arg": -1, "res": -1}, "bash[3325] uid 0 could not send SIGKILL to every process: EPERM"),
        ({**CALL, "target_arg": -42, "res": -3}, "bash[3325] uid 0 could not send SIGKILL to process group 42: ESRCH"),
        ({**CALL, "target_arg": -(2**31), "res": -3},
         "bash[3325] uid 0 could not send SIGKILL to process group 2147483648: ESRCH"),
        ({**CALL, "syscall": "pidfd_send_signal", "target_arg": 5, "res": -9},
         "bash[3325] uid 0 could not send SIGKILL to pidfd 5: EBADF"),
        ({**CALL, "syscall": "tkill", "res": -3}, "bash[3325] uid 0 could not send SIGKILL to thread 812: ESRCH"),
        ({**CALL, "syscall": "tgkill", "target_arg": -1, "res": -22},
         "bash[3325] uid 0 could not send SIGKILL to pid -1: EINVAL"),
        ({**CALL, "sig": 0}, "bash[3325] uid 0 sent signal 0 to pid 812: success"),
        ({**CALL, "sig": 99, "res": -22}, "bash[3325] uid 0 could not send signal 99 to pid 812: EINVAL"),
    ],
)  # fmt: skip
def test_message(changes, line):
    """The line reads well for every kind of event, target and outcome."""
    assert fields.message(changed(**changes), KNOWN) == line


def test_a_message_without_a_unit_names_the_container():
    """Its first twelve digits, as docker shows them; nothing if there is no container either. A machine has a name."""
    assert "nginx[812] (web):" in fields.message(KILL, Identity(target_machine="web"))
    assert "nginx[812] (dddddddddddd):" in fields.message(KILL, Identity(target_container="d" * 64))
    assert "nginx[812]:" in fields.message(KILL, Identity())


def test_a_message_names_the_pod():
    """Rather than the unit, whose name is the container's id there; not if the pod's name is not known."""
    assert "to nginx[812] (pod shop/web-7d9c5b-x2x4q): delivered" in fields.message(KILL, POD)
    assert "nginx[812] (nginx.service):" in fields.message(KILL, dataclasses.replace(KNOWN, target_pod_uid="9f8a7c1e"))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000_000_000_999, "2023-11-14T22:13:20.000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456Z"),
    ],
)
def test_timestamp(ns, text):
    """In microseconds, rounded down, so that it is never in the future."""
    assert fields.timestamp(ns) == text
