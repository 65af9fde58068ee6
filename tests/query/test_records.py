"""Reading events back, from journald's JSON or from a file, and filtering them."""

import io
import json
import stat
import subprocess
from datetime import timedelta

import pytest
from logged import record

from killsnoopd import event
from killsnoopd.failure import Exit, Failure
from killsnoopd.query import records
from killsnoopd.query.records import Journal, Wanted


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        (Wanted(), True),
        (Wanted(failed=True), False),
        (Wanted(pid=3325, tpid=812), True),
        (Wanted(pid=812), False),
        (Wanted(tpid=3325), False),
        (Wanted(signals=frozenset({9, 15})), True),
        (Wanted(signals=frozenset({15})), False),
        (Wanted(unit="nginx"), True),
        (Wanted(unit="ssh.service"), True),
        (Wanted(unit="ngin"), False),
        (Wanted(kinds=("call",)), False),
        (Wanted(unit="ops/ops-0"), True),
        (Wanted(unit="shop/web-1"), True),
        (Wanted(unit="ops/web-1"), False),
        (Wanted(unit="web-1"), False),
    ],
)
def test_wanted(wanted, has):
    """Each flag alone, applied to one SIGKILL from ssh.service, in a pod, to nginx.service, in another."""
    pods = {"POD": "ops-0", "POD_NAMESPACE": "ops", "TARGET_POD": "web-1", "TARGET_POD_NAMESPACE": "shop"}
    assert wanted.has(record(**pods)) == has


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"UNIT": "x.scope", "CONTAINER": "c" * 64, "POD": "web-1", "POD_NAMESPACE": "shop"}, "shop/web-1"),
        ({"UNIT": "x.scope", "CONTAINER": "c" * 64, "POD_UID": "9f8a"}, "x.scope"),
        ({"UNIT": None, "CONTAINER": "c" * 64}, "c" * 12),
        ({"UNIT": None, "MACHINE": "web"}, "web"),
        ({"UNIT": "machine-web.scope", "MACHINE": "web"}, "machine-web.scope"),
        ({"UNIT": None}, ""),
    ],
)
def test_belongs(fields, text):
    """The name that says most, of the sender and of the target alike."""
    assert records.belongs(record(**fields)) == text
    target = {f"TARGET_{name}": value for name, value in fields.items()}
    assert records.belongs(record(**{"TARGET_UNIT": None} | target), "TARGET_") == text


def test_wanted_failures():
    """A failed call has an errno, even if the signal is invalid."""
    failure = record("call", RES="-22", RESULT="EINVAL", SIGNAL="invalid", SIG="99")
    assert Wanted(failed=True, signals=frozenset({65})).has(failure)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "7", "null", "{}", '{"KILLSNOOP_EVENT": "birth"}', '{"KILLSNOOP_EVENT": ["call"]}',
     json.dumps(record(TIMESTAMP=None)), json.dumps(record(TIMESTAMP="yesterday")), "[" * 10_000,
     json.dumps(record(TIMESTAMP="9999-12-31T23:59:59-23:59"))],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_event(line):
    """It is left out, whatever it is."""
    assert records.parse(line) is None


def test_kinds():
    """Every event that killsnoopd logs is read."""
    assert set(event.KINDS) <= set(records.KINDS)


def test_stream():
    """Other lines are counted and reported once."""
    lines = [json.dumps(record(PID=str(number))).encode() + b"\n" for number in range(3)]
    said = []
    stream = io.BytesIO(b"".join([lines[0], b"killsnoopd: hello\n", b"\n", lines[1], b"\xff\xfe\n", lines[2]]))
    assert [found["KILLSNOOP_PID"] for found in records.from_stream(stream, said.append)] == ["0", "1", "2"]
    assert said == ["skipped 2 lines that are not killsnoopd events"]


def test_journal_command():
    """It matches journald's own field for the sender of a line; journalctl handles the rest."""
    kinds = ("KILLSNOOP_EVENT=call", "KILLSNOOP_EVENT=death")
    command = records.journal_command(Journal(since="-1h", until="now"), (kinds,), newest_first=True)
    assert command[:5] == ["journalctl", "--no-pager", "--system", "--all", "--output=json"]
    assert {"--since=-1h", "--until=now", "--reverse"} < set(command)
    assert command[-7:] == [*kinds, "_UID=0", "+", *kinds, "_SYSTEMD_UNIT=killsnoopd.service"]
    assert "--follow" in records.journal_command(Journal(), (kinds,), follow=True)
    two = records.journal_command(Journal(), (("A=1",), ("B=2",)))
    assert " ".join(two).endswith(
        "A=1 _UID=0 + A=1 _SYSTEMD_UNIT=killsnoopd.service + B=2 _UID=0 + B=2 _SYSTEMD_UNIT=killsnoopd.service"
    )


@pytest.mark.parametrize(
    ("journal", "flags"),
    [
        (Journal(machine="web"), ["--system", "--machine=web"]),
        (Journal(merge=True), ["--merge"]),
        (Journal(directory="/mnt/journal", merge=True), ["--directory=/mnt/journal"]),
    ],
)
def test_other_journals(journal, flags):
    """Files of other machines have other names than the system's, which --system would leave out."""
    assert records.check_command(journal)[2:] == [*flags, "--lines=0"]
    assert records.journal_command(journal, (("A=1",),))[2 : 2 + len(flags)] == flags


def test_near():
    """Whole seconds around the time at which the record was written, not at which it happened."""
    stored = record() | {"__REALTIME_TIMESTAMP": "1795000000123456"}
    minute = timedelta(minutes=1)
    assert records.near(Journal(merge=True, until="now"), stored, minute, 2 * minute) == Journal(
        since="@1794999940", until="@1795000120", merge=True
    )
    assert records.near(Journal(), record(), minute, minute) == Journal()


@pytest.fixture
def journalctl(tmp_path, monkeypatch):
    """A journalctl that runs the test's script."""

    def write(script):
        path = tmp_path / "journalctl"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return [str(path)]

    return write


@pytest.mark.parametrize(
    ("says", "code", "line"),
    [
        ("No journal files were opened due to insufficient permissions.", Exit.NOPERM, "run as root or join group systemd-journal"),
        ("Using the --machine= switch requires root privileges.", Exit.NOPERM, "requires root privileges: run as root"),
        ("Failed to parse timestamp: nonsense", Exit.USAGE, "write a time that journalctl accepts"),
        ("Boom", Exit.UNAVAILABLE, "cannot read the journal: Boom"),
    ],
)  # fmt: skip
def test_a_journal_that_cannot_be_read(journalctl, says, code, line):
    """One line: what, why, what to do."""
    command = journalctl(f"echo '{says}' >&2; exit 1")
    with pytest.raises(Failure, match=line) as refused, records.from_journal(command) as found:
        list(found)
    assert refused.value.exit_code == code
    with pytest.raises(Failure, match=line):
        records.check_journal(command)


@pytest.mark.parametrize(
    ("says", "code", "line"),
    [
        ("Hint: You are currently not seeing messages from other users and the system.\n      Users in ...", Exit.NOPERM,
         r"not allowed to read the system.s journal \(it is seen only in part\): run as root or join group systemd-journal"),
        ("No journal files were found.", Exit.UNAVAILABLE, "no journal files here: give a FILE"),
    ],
)  # fmt: skip
def test_a_journal_that_is_not_seen(journalctl, says, code, line):
    """journalctl exits with 0, and shows the rest as if it were everything."""
    with pytest.raises(Failure, match=line) as refused:
        records.check_journal(journalctl(f"echo '{says}' >&2"))
    assert refused.value.exit_code == code


def test_other_words_of_journalctl(journalctl):
    """A damaged file costs its entries only."""
    command = journalctl(f"echo 'Journal file x is truncated, ignoring file.' >&2; echo '{json.dumps(record())}'")
    records.check_journal(command)
    with records.from_journal(command) as found:
        assert len(list(found)) == 1


def test_no_journalctl():
    """On a machine without systemd."""
    with pytest.raises(Failure, match="give a FILE"), records.from_journal(["no-such-journalctl"]):
        pass
    with pytest.raises(Failure, match="give a FILE"):
        records.check_journal(["no-such-journalctl"])


def test_a_journal_that_goes_on_is_let_go(journalctl):
    """A reader that has seen enough ends the journalctl that follows."""
    line = json.dumps(record())
    command = journalctl(f"echo '{line}'; exec sleep 60")
    with records.from_journal(command) as found:
        assert next(found)["KILLSNOOP_PID"] == "3325"
    assert subprocess.run(["pgrep", "-f", command[0]], capture_output=True, check=False).stdout == b""
