"""Names of users."""

import pytest
from logged import record

from killsnoopd.query import users


@pytest.mark.parametrize(
    ("uid", "name"),
    [("0", "root"), ("4294967294", "4294967294"), ("", ""), ("x", "x"), ("-2", "-2"), ("9" * 30, "9" * 30)],
)
def test_name(uid, name):
    """A uid without a name, and text that is no uid, stay as they are."""
    assert users.name(uid) == name


def test_users_of_a_container_have_no_name_here():
    """Their uids may be those of other users on this machine."""
    assert users.shown(record(), "UID", users.name) == "root"
    assert users.shown(record(CONTAINER="c" * 64), "UID", users.name) == "0"
    assert users.shown(record(MACHINE="web"), "UID", users.name) == "0"
    assert users.shown(record(UID=None), "UID", users.name) == ""
    assert users.shown(record(), "UID", users.number) == "0"
