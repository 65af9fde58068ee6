"""The killsnoop command with a file of JSON lines. tests/kernel/test_journal.py lets it read a journal."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from logged import death, record

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


def killsnoop(*arguments, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "killsnoopd.query.command", *map(str, arguments)],
        input=stdin, capture_output=True, text=True, check=False, env={**os.environ, "TZ": "UTC"},
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
    """The sentence, or one line that says that nothing is known."""
    found = killsnoop("who", "nginx", events)
    assert (found.returncode, found.stdout.count("\n")) == (0, 1)
    assert "nginx[812] (nginx.service) died of SIGKILL, which bash[3325]" in found.stdout
    missing = killsnoop("who", "\x1b[2J", events)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.endswith("no record of a signal that killed \\x1b[2J\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-s", "NOSUCH"], 2, "no such signal: 'NOSUCH'"),
        (["-p", "-3"], 2, "'-3' is not a process id"),
        (["-p", "x"], 2, "'x' is not a process id"),
        (["--nope"], 2, "unrecognized arguments: --nope"),
        (["/no/such/file"], 69, "cannot read /no/such/file: No such file or directory"),
        (["--since=today", "x"], 2, "--since and --until apply to the journal"),
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


def test_every_flag_is_in_the_man_page():
    """The man page has exactly these flags."""
    page = (Path(__file__).parent.parent.parent / "docs/killsnoop.8").read_text().replace("\\-", "-")
    section = page.partition(".SH FLAGS\n")[2].partition(".SH")[0]
    heads = [entry.partition("\n")[0] for entry in re.split(r"^\.T[PQ]\n", section, flags=re.M)[1:]]
    actions = command.table_parser()._actions + command.who_parser()._actions
    flags = {option for action in actions for option in action.option_strings} - {"-h"}
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
