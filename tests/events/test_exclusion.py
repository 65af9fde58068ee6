"""Rules of --events.exclude that name a unit; tests/kernel/test_exclusion.py has those that the probe applies."""

from dataclasses import replace

import pytest
from examples import BASH, KILL

from killsnoopd.cli import rule
from killsnoopd.events.exclusion import excluded
from killsnoopd.events.processes import Identity

SSH = Identity(unit="ssh.service", target_unit="nginx.service")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("unit=ssh", True),
        ("unit=ssh.service", True),
        ("unit=nginx", False),  # the target's
        ("unit=sshd", False),
        ("unit=ssh,signal=KILL", True),
        ("unit=ssh,signal=TERM,HUP", False),
        ("unit=ssh,comm=bash", True),
        ("unit=ssh,comm=bas", False),
        ("unit=ssh,comm=nginx", False),
        ("unit=ssh,uid=0", True),
        ("unit=ssh,uid=33", False),
        ("unit=ssh,uid=0,comm=bash,signal=9", True),
        ("unit=ssh,uid=0,comm=bash,signal=10", False),
    ],
)
def test_all_parts_of_a_rule_must_match(text, matches):
    """Each is about the sender, or the signal."""
    assert excluded([rule(text)], KILL, SSH) == matches
    assert excluded([rule("unit=none"), rule(text)], KILL, SSH) == matches


def test_signals_that_do_not_exist_are_invalid():
    """Whatever their number."""
    for number in (-1, 65, 99):
        assert excluded([rule("unit=ssh,signal=invalid")], replace(KILL, sig=number), SSH)
        assert not excluded([rule("unit=ssh,signal=9")], replace(KILL, sig=number), SSH)


def test_names_are_compared_as_bytes():
    """A rule spells a name as events do."""
    sender = replace(BASH, comm=r"a\x0a,\\")
    assert excluded([rule(r"unit=ssh,comm=a\x0a\x2c\\")], replace(KILL, sender=sender), SSH)


def test_neither_the_kernel_nor_an_unknown_unit():
    """An event that may be another's is logged."""
    assert not excluded([rule("unit=ssh")], replace(KILL, sender=None), Identity())
    assert not excluded([rule("unit=ssh")], KILL, Identity())
    assert not excluded([], KILL, SSH)
