"""apt installs the package on a machine that has never had it."""

import time

from conftest import PINS, active, journal, kill_as, our_programs, programs_of_a_probe, run, scrape, show
from senders import NO_SUCH_PID, send
from waiting import wait_for


def test_apt_installs_and_starts_it(record_property):
    """The port is open, the probe attached, the daemon READY, and the units enabled for the next boot."""
    assert our_programs() == []
    before = time.monotonic()
    run("apt-get", "install", "-y", "/input/packages/killsnoopd.deb")
    wait_for(
        active,
        "killsnoopd to be READY",
        say=lambda: run(
            "journalctl", "-o", "cat", "-n", "40", "-u", "killsnoopd-probe.service", "-u", "killsnoopd.service"
        ),
    )
    record_property("s_of_installation", round(time.monotonic() - before, 1))
    for unit in ("killsnoopd.service", "killsnoopd.socket", "killsnoopd-probe.service"):
        assert active(unit), unit
    for unit in ("killsnoopd.service", "killsnoopd.socket"):
        assert run("systemctl", "is-enabled", unit) == "enabled\n"
    assert len(our_programs()) == programs_of_a_probe()
    assert len(list(PINS.iterdir())) == 2


def test_it_counts():
    """A signal to a process that does not exist, from a process with a name of its own."""
    kill_as("ks-first", lambda: send("kill", NO_SUCH_PID, 9))
    assert scrape()['killsnoop_signals_total{comm="ks-first",result="ESRCH",signal="SIGKILL"}'] == 1
    wait_for(lambda: journal("KILLSNOOP_COMM=ks-first"), "the event in the journal")


def test_units_are_well_formed():
    """`systemd-analyze verify` reports nothing."""
    units = ("killsnoopd.service", "killsnoopd-probe.service", "killsnoopd-probe-check.service", "killsnoopd.socket")
    assert run("systemd-analyze", "verify", *(show(unit, "FragmentPath") for unit in units)) == ""
