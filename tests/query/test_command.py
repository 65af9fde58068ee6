"""The killsnoop command with a file of JSON lines. tests/kernel/test_journal.py lets it read a journal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from logged import death, record
from waiting import wait_for

from killsnoopd.query import command

HOSTILE = record(COMM="\x1b[31mx\n", PID="7")


@pytest.fixture
def events(tmp_path):
    """Four events, and a line that is not an event."""
    path = tmp_path / "events.jsonl"
    failure = record("call", RES="-1", RESULT="EPERM", SIGNAL="SIGTERM", SIG="15", TPID="-42", TCOMM=None)
    lines = [json.dumps(found) for found in (record(), death(), failure, HOSTILE)]
    path.write_text("\n".join([*lines, "killsnoopd: stopped"]) + "\n")
    return path


def killsnoop(*arguments, stdin=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "killsnoopd.query.command", *map(str, arguments)],
        input=stdin, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False,
        env={**os.environ, "TZ": "UTC", **environment},
    )  # fmt: skip


def test_table(events):
    """bcc's columns, without deaths by default; other lines are reported on stderr."""
    found = killsnoop(events)
    assert found.returncode == 0
    rows = [line.split() for line in found.stdout.splitlines()]
    assert rows[0][:6] == ["TIME", "PID", "COMM", "SIG", "TPID", "RES"]
    assert [row[2:7] for row in rows[1:]] == [
        ["3325", "bash", "SIGKILL", "812", "0"],
        ["3325", "bash", "SIGTERM", "-42", "EPERM"],
        ["7", r"\x1b[31mx\x0a", "SIGKILL", "812", "0"],
    ]
    assert found.stderr == "killsnoop: skipped 1 lines that are not killsnoopd events\n"


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        (["-d"], 4),
        (["-x"], 1),
        (["-p", "7"], 1),
        (["-T", "812"], 2),
        (["-s", "TERM,int"], 1),
        (["-s", "9", "-s", "15"], 3),
        (["-u", "nginx"], 3),
        (["-u", "cron"], 0),
        (["-x", "-s", "KILL"], 0),
    ],
)
def test_filters(events, flags, rows):
    """bcc's flags, alone and combined."""
    assert len(killsnoop(*flags, events).stdout.splitlines()) == 1 + rows


def test_json(events):
    """One object per line, in ASCII, so that no name in it can control a terminal."""
    lines = killsnoop("-o", "json", "-", stdin=events.read_text()).stdout.splitlines()
    assert [json.loads(line)["KILLSNOOP_PID"] for line in lines] == ["3325", "3325", "7"]
    assert json.loads(lines[2]) == HOSTILE
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_who(events):
    """A few sentences in one line, or a line that says that nothing is known."""
    found = killsnoop("who", "nginx", events)
    assert (found.returncode, found.stdout.count("\n")) == (0, 1)
    assert (
        "nginx[812] (nginx.service) died of SIGKILL, 1.4 ms after bash[3325] (uid 0, ssh.service) sent it"
        in found.stdout
    )
    assert killsnoop("who", "nginx", "-", stdin=events.read_text()).stdout == found.stdout
    by_path = killsnoop("who", "/usr/sbin/nginx", events).stdout
    assert by_path == "matched processes named nginx.\n" + found.stdout
    missing = killsnoop("who", "\x1b[2J", events)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.endswith("no record of a signal that ended \\x1b[2J; an end without a signal is not logged\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-s", "NOSUCH"], 2, "no such signal: 'NOSUCH'"),
        (["-p", "-3"], 2, "'-3' is not a process id"),
        (["-p", "x"], 2, "'x' is not a process id"),
        (["--nope"], 2, "unrecognized arguments: --nope"),
        (["/no/such/file"], 69, "cannot read /no/such/file: No such file or directory"),
        (["--since=today", "x"], 2, "--since, --until, --directory, --merge and --machine apply to the journal"),
        (["who"], 2, "the following arguments are required"),
    ],
)
def test_bad_input(arguments, code, says):
    """One line: what, and why."""
    found = killsnoop(*arguments)
    assert (found.returncode, found.stdout) == (code, "")
    assert says in found.stderr
    assert found.stderr.count("\n") == 1


def test_help_has_examples_and_exit_codes():
    """And the flags of bcc's killsnoop."""
    text = killsnoop("--help").stdout
    for part in ("examples:", "exit codes:", "-x", "-p PID", "-T TPID", "-s SIG", "-u UNIT", "-f", "killsnoop who"):
        assert part in text


PARSERS = command.table_parser(), command.who_parser(), command.top_parser()


def test_every_flag_is_in_the_man_page():
    """The man page has exactly these flags."""
    page = (Path(__file__).parent.parent.parent / "docs/killsnoop.8").read_text().replace("\\-", "-")
    section = page.partition(".SH FLAGS\n")[2].partition(".SH")[0]
    heads = [entry.partition("\n")[0] for entry in re.split(r"^\.T[PQ]\n", section, flags=re.M)[1:]]
    flags = {option for parser in PARSERS for action in parser._actions for option in action.option_strings} - {"-h"}
    assert set(re.findall(r"--?[a-zA-Z]+", " ".join(heads))) == flags
    default = command.table_parser().get_default("output")
    assert f"Default: {default}." in section


def test_a_reader_that_has_seen_enough(events):
    """`killsnoop | head` ends silently."""
    many = events.read_text() * 5000
    found = subprocess.run(
        f"{sys.executable} -m killsnoopd.query.command - 2>&1 >/dev/full | cat; {sys.executable} -m killsnoopd.query.command - | head -1",
        shell=True, input=many, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in found.stderr


MANY = 60_000
MEASURED = """
import pathlib, sys
from killsnoopd.query import command
code = command.main(sys.argv[1:])
print(pathlib.Path("/proc/self/status").read_text(), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A file of 60,000 deaths within a minute, 100 MB."""
    path = tmp_path_factory.mktemp("many") / "events.jsonl"
    with path.open("w") as out:
        for number in range(MANY):
            found = death(
                f"w{number % 1000}", str(number), number // 1000, TARGET_CONTAINER="c" * 64, MESSAGE="m" * 1200
            )
            out.write(json.dumps(found) + "\n")
    return path


@pytest.mark.parametrize("arguments", [("who", "w7"), ("who", "absent"), ("-d",), ("-d", "-o", "json"), ("top",)])
@pytest.mark.parametrize("piped", [False, True])
def test_memory(many, arguments, piped):
    """The command holds a few events at a time, whatever the size of the file: here 100 MB."""
    program = [sys.executable, "-c", MEASURED, *arguments, "-" if piped else str(many)]
    command = ["sh", "-c", f'cat {many} | "$@" >/dev/null', "sh", *program] if piped else program
    found = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == (1 if "absent" in arguments else 0)
    assert many.stat().st_size > 100e6
    peak_kb = int(re.search(r"^VmHWM:\s+(\d+) kB$", found.stderr, re.M)[1])
    assert peak_kb < 60_000  # 16 MB of it are what a pipe may leave in memory


def test_a_line_without_an_end():
    """It is skipped in pieces, and not kept in memory."""
    found = killsnoop("-", stdin="x" * 3_000_000 + "\n" + json.dumps(record()))
    assert found.stdout.count("\n") == 2
    assert found.stderr == "killsnoop: skipped 3 lines that are not killsnoopd events\n"


def test_hosts(tmp_path):
    """A column, and a word of `who`, where the events name their machine."""
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(record() | {"_HOSTNAME": "web1"}))
    head, row = killsnoop(path).stdout.splitlines()
    assert head.split()[:3] == ["TIME", "HOST", "PID"]
    assert row.split()[2] == "web1"
    assert " on web1: nginx[812]" in killsnoop("who", "nginx", path).stdout


def test_top(events):
    """The table or JSON; following takes a terminal and a journal."""
    events.write_text("\n".join(json.dumps(found) for found in (record(), death())))
    head, row = killsnoop("top", events).stdout.splitlines()
    assert head.split() == ["KILLED", "EXITED", "SIGNALS", "LAST", "SENDER", "USER"]
    assert row.split() == ["1", "0", "1", "11-22", "03:00:00", "bash", "0"]
    (as_json,) = killsnoop("top", "-o", "json", "--by=unit", events).stdout.splitlines()
    assert json.loads(as_json)["unit"] == "nginx.service"
    refused = killsnoop("top", "-f", events)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("journal", "says"),
    [
        ("", "the journal has no event of killsnoopd at all for that time: check that it runs"),
        (json.dumps(record(TCOMM="x", TPID="1", TARGET_UNIT=None)), "an end without a signal is not logged"),
    ],
)
def test_who_without_an_answer(tmp_path, journal, says):
    """The line says whether the journal has other events."""
    script = tmp_path / "journalctl"
    script.write_text(f"#!/bin/sh\necho '{journal}'\n")
    script.chmod(0o755)
    found = killsnoop("who", "nginx", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == f"killsnoop: no record of a signal that ended nginx; {says}\n"


def test_top_on_a_terminal(tmp_path):
    """-f counts anew: a death that comes later appears."""
    journal = tmp_path / "journal"
    journal.write_text(json.dumps(death()) + "\n")
    script = tmp_path / "journalctl"
    script.write_text(f"#!/bin/sh\ncase $* in *lines=0*) ;; *) cat {journal} ;; esac\n")
    script.chmod(0o755)
    master, slave = pty.openpty()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COLUMNS": "60", "LINES": "20"}
    process = subprocess.Popen(
        [sys.executable, "-m", "killsnoopd.query.command", "top", "-f", "--by=target"], stdout=slave, env=environment
    )
    os.close(slave)
    shown = b""
    try:

        def seen(name):
            nonlocal shown
            shown += os.read(master, 65536)
            return name in shown

        wait_for(lambda: seen(b"nginx"), "the first table")
        assert b"late" not in shown
        journal.write_text("\n".join(json.dumps(found) for found in (death(), death("late", "7"))))
        wait_for(lambda: seen(b"late"), "the next one")
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(master)
    assert shown.count(b"\033[H\033[2J") >= 2


def test_on_a_terminal(events):
    """Coloured, with as many columns as fit."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "LINES": "20", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    shown_by = [sys.executable, "-m", "killsnoopd.query.command", str(events)]
    subprocess.run(shown_by, stdout=slave, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    lines = shown.replace("\r", "").splitlines()
    assert lines[1].startswith("\033[31m")
    assert "bash" in lines[1]
    assert "\x1b[31mx" not in shown
    assert (
        max(len(line.removeprefix("\033[31m").removeprefix("\033[33m").removesuffix("\033[0m")) for line in lines) <= 60
    )
