"""Every way in which the kernel comes to generate a signal: what it is called, who is named, and that no death is unseen."""

import pytest
from origins import ORIGINS, perform, said


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


@pytest.mark.parametrize("name", ORIGINS)
def test_origin(daemon, name):
    """Each event of the victim has the right origin and sender, and there is no other event."""
    happened = perform(name)
    found = [said(event) for event in daemon.events() if event.get("KILLSNOOP_TCOMM") == happened.victim]
    assert sorted(found, key=str) == sorted(happened.said, key=str)
