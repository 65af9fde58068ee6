"""Commands in docs/runbook.md use flags, fields and units that exist."""

import re
import shlex

import pytest
from servers import RULES

from killsnoopd.query import command

TOP = RULES.parent.parent.parent
RUNBOOK = (TOP / "docs/runbook.md").read_text()
COMMANDS = [line.strip().partition(" #")[0].strip() for line in RUNBOOK.splitlines() if line.startswith("    ")]
FIELDS = set(re.findall(r'"(KILLSNOOP_\w+)"', (TOP / "killsnoopd/events/fields.py").read_text()))
JOURNALCTL_FLAGS = {"-o", "-t", "-u", "-k", "--since", "--grep", "--output-fields"}


def test_every_section_has_a_command():
    """Each alert's section."""
    sections = re.split(r"^## ", RUNBOOK, flags=re.M)[1:]
    assert [
        section.partition("\n")[0]
        for section in sections
        if section.startswith("Killsnoop") and "\n    " not in section
    ] == []


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("killsnoop ")])
def test_killsnoop(line):
    """killsnoop's parsers accept the command."""
    _, *argv = shlex.split(line)
    if argv[0] == "who":
        assert command.who_parser().parse_args(argv[1:])
    else:
        assert command.table_parser().parse_args(argv)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("journalctl ")])
def test_journalctl(line):
    """It matches fields that are logged, with values that occur."""
    _, *argv = shlex.split(line.partition(" | ")[0])
    matches = dict(word.split("=", 1) for word in argv if re.match("[A-Z_]+=", word))
    shown = [word.removeprefix("--output-fields=") for word in argv if word.startswith("--output-fields=")]
    assert {*matches, *shown} <= FIELDS
    assert matches.get("KILLSNOOP_EVENT", "call") in ("call", "delivery", "death")
    assert {word.partition("=")[0] for word in argv if word.startswith("-")} <= JOURNALCTL_FLAGS


def test_fields_and_units_are_there():
    """The fields and units in the text."""
    assert set(re.findall(r"KILLSNOOP_\w+", RUNBOOK)) <= FIELDS
    units = set(re.findall(r"killsnoopd(?:-[a-z]+)*(?:-probe|-check)\b|killsnoopd\.socket", RUNBOOK))
    assert {unit if "." in unit else f"{unit}.service" for unit in units} <= {
        path.name for path in (TOP / "deploy").iterdir()
    }


def test_what_it_greps_for_is_in_the_messages():
    """Compared with fields.message()."""
    source = (TOP / "killsnoopd/events/fields.py").read_text()
    (pattern,) = re.findall(r'-t killsnoopd --grep="([^"]+)"', RUNBOOK)
    assert all(words in source for words in pattern.split("|"))
