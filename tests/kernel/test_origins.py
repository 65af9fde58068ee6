"""Every way in which the kernel comes to generate a signal: what it is called, who is named, and that no death is unseen.

By root, and by a user (uid 65534, no capability) who starts every process himself.
"""

import pytest
from origins import NEEDS_ROOT, ORIGINS, perform, said
from senders import NOBODY


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


@pytest.mark.parametrize(
    ("name", "uid"), [(name, 0) for name in ORIGINS] + [(name, NOBODY) for name in ORIGINS if name not in NEEDS_ROOT]
)
def test_origin(daemon, name, uid):
    """Each event of the victim has the right origin and sender, there is no other event, and no death is missing."""
    before = len(daemon.events())
    happened = perform(name, uid)
    events = daemon.events()[before:]
    found = [said(event) for event in events if event.get("KILLSNOOP_TCOMM") == happened.victim]
    assert sorted(found, key=str) == sorted(happened.said, key=str)
    deaths = {
        (int(event["KILLSNOOP_TPID"]), int(event["KILLSNOOP_SIG"]))
        for event in events
        if event["KILLSNOOP_EVENT"] == "death"
    }
    assert set(happened.dead) <= deaths
