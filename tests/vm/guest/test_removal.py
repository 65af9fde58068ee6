"""Removing the package leaves nothing."""

import pytest
from conftest import PINS, active, our_programs, run
from waiting import wait_for

pytestmark = pytest.mark.flags(None)


def test_removed():
    """apt stops everything; the file of flags stays."""
    run("apt-get", "remove", "-y", "killsnoopd")
    for unit in ("killsnoopd.service", "killsnoopd.socket", "killsnoopd-probe.service"):
        assert not active(unit)
    wait_for(lambda: not PINS.exists() and not our_programs(), "the probe to go")
    assert "killsnoop" not in run("ss", "-ltnp")
    assert ":10035" not in run("ss", "-ltn")


def test_purged():
    """No file with its name is left."""
    run("apt-get", "purge", "-y", "killsnoopd")
    found = run(
        "find", "/etc", "/usr", "/lib", "/var/lib", "/run", "/opt", "-xdev", "-name", "*killsnoop*"
    ).splitlines()
    assert [path for path in found if not path.startswith("/var/lib/vm-test")] == []
