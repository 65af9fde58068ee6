"""Exit codes have the same meaning wherever they are documented."""

import re
from pathlib import Path

from killsnoopd import cli
from killsnoopd.failure import MEANINGS, Exit
from killsnoopd.query import command

TOP = Path(__file__).parent.parent
COMMAND_CODES = [0, 1, Exit.USAGE, Exit.UNAVAILABLE, Exit.NOPERM]


def in_the_man_page(name):
    """{code: meaning} under EXIT STATUS."""
    page = (TOP / "docs" / name).read_text().replace("\\-", "-")
    section = page.partition(".SH EXIT STATUS\n")[2].partition(".SH")[0]
    plain = re.sub(r"^\.BR (\w+) :$", r"\1:", section, flags=re.M)
    entries = [entry.split("\n", 1) for entry in plain.split(".TP\n")[1:]]
    return {int(code): " ".join(text.split()) for code, text in entries}


def in_the_help(parser):
    """{code: meaning} in --help."""
    lines = parser.epilog.partition("exit codes:\n")[2].splitlines()
    return {int(code): text for code, text in (line.split(maxsplit=1) for line in lines)}


def test_every_exit_code_of_the_daemon_is_documented():
    """In the same words in --help and in the man page."""
    assert list(MEANINGS) == list(Exit)
    assert in_the_help(cli.parser()) == in_the_man_page("killsnoopd.8") == MEANINGS


def test_every_exit_code_of_the_command_is_documented():
    """In the same words in --help and in killsnoop(8)."""
    assert in_the_help(command.table_parser()) == in_the_man_page("killsnoop.8")
    assert list(in_the_man_page("killsnoop.8")) == COMMAND_CODES


def test_what_a_restart_cannot_fix_is_not_restarted():
    """The unit lists the codes of wrong flags, missing permissions and missing libraries, and no other."""
    unit = (TOP / "deploy/killsnoopd.service").read_text()
    (codes,) = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.M)
    assert [int(code) for code in codes.split()] == [Exit.USAGE, Exit.NOPERM, Exit.CONFIG]
