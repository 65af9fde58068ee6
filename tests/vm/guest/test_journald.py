"""journald stopped, killed, flooded or out of space: only the event thread waits, counts stay exact."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import active, calls, journal, kill_as, ledger, run, scrape, show
from senders import NO_SUCH_PID, forked, send
from waiting import wait_for

pytestmark = pytest.mark.flags("--events.rate=0 --probe.ring-size=32M")  # every event is logged

# Its audit socket is active only on Debian 12.
JOURNALD = [
    f"systemd-journald{kind}"
    for kind in (".service", ".socket", "-dev-log.socket", "-audit.socket")
    if active(f"systemd-journald{kind}")
]


def start_journald():
    """systemd does not start a socket while its service runs."""
    run("systemctl", "start", *JOURNALD[1:])
    run("systemctl", "start", JOURNALD[0])


def storm(comm, count):
    kill_as(comm, lambda: [send("kill", NO_SUCH_PID - number, 9) for number in range(count)])


def logged(comm):
    return [
        NO_SUCH_PID - int(event["KILLSNOOP_TPID"])
        for event in journal(f"KILLSNOOP_COMM={comm}", "--output-fields=KILLSNOOP_TPID")
    ]


def test_stopped_with_its_sockets():
    """Scrapes continue, counts are exact; when journald is back, everything is logged without a restart."""
    run("systemctl", "stop", *JOURNALD, check=False)
    try:
        storm("ks-away", 2000)
        page = scrape()
        assert page['killsnoop_signals_total{comm="ks-away",result="ESRCH",signal="SIGKILL"}'] == 2000
        assert page["killsnoop_events_pending"] > 0
    finally:
        start_journald()
    assert ledger()["journal_error"] == 0
    run("journalctl", "--sync")
    assert logged("ks-away") == list(range(2000))


def test_killed_under_load(record_property):
    """Events that journald had accepted but not written are lost unnoticed: at most what fits in its socket."""
    count = 3000
    sender = forked(lambda: [send("kill", NO_SUCH_PID - number, 9) for number in range(count)], b"ks-crash")
    for _ in range(2):
        run("systemctl", "kill", "-s", "KILL", "systemd-journald.service")
        wait_for(lambda: show("systemd-journald.service", "ActiveState") == "active", "journald")
    os.waitpid(sender, 0)
    assert calls("ks-crash") == count
    became = ledger()
    assert became["journal_error"] == became["ring_full"] == 0
    run("journalctl", "--sync")
    found = logged("ks-crash")
    assert len(set(found)) == len(found)
    record_property(f"lost_of_{count}", count - len(found))
    assert len(found) > count * 0.9


def test_its_rate_limit_is_not_for_us():
    """A service that logs as much loses lines; the unit switches that limit off for killsnoopd."""
    folder = Path("/run/systemd/journald.conf.d")
    folder.mkdir()
    # journald multiplies the burst by up to 6, depending on the free space.
    (folder / "test.conf").write_text("[Journal]\nRateLimitIntervalSec=10min\nRateLimitBurst=100\n")
    try:
        run("systemctl", "restart", "systemd-journald.service")
        run("systemd-run", "--wait", "--unit=ks-chatty", "sh", "-c", "seq 1000")
        storm("ks-flood", 1000)
        assert ledger()["ring_full"] == 0
        run("journalctl", "--sync")
        assert len(journal("-u", "ks-chatty", "SYSLOG_IDENTIFIER=sh")) < 1000
        assert len(logged("ks-flood")) == 1000
    finally:
        (folder / "test.conf").unlink()
        folder.rmdir()
        run("systemctl", "restart", "systemd-journald.service")


def test_no_space_left(tmp_path):
    """The journal's file system is full: journald drops lines, the daemon continues, and logs again afterwards."""
    folder = Path("/var/log/journal") / Path("/etc/machine-id").read_text().strip()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", str(folder)], check=True)
    try:
        run("systemctl", "restart", "systemd-journald.service")
        (folder / "ballast").write_bytes(bytes(1 << 20))
        with (folder / "ballast").open("ab", buffering=0) as ballast:  # close() would write a buffer a second time
            try:
                while True:
                    ballast.write(bytes(1 << 16))
            except OSError:
                pass
        storm("ks-full", 1000)
        assert calls("ks-full") == 1000
        assert ledger()["journal_error"] == 0
    finally:
        (folder / "ballast").unlink(missing_ok=True)
        run("systemctl", "stop", *JOURNALD, check=False)
        subprocess.run(["umount", str(folder)], check=True)
        start_journald()
    storm("ks-space", 10)
    wait_for(lambda: len(logged("ks-space")) == 10, "it to be logged again")
