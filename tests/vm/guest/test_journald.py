"""journald stopped, killed, flooded, and out of space: only the event thread waits; counts stay exact; what is lost is known."""

import os
import subprocess
from pathlib import Path

from conftest import calls, flags, journal, kill_as, ledger, run, scrape, show, wait_for
from senders import NO_SUCH_PID, forked, send

JOURNALD = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald-audit.socket")  # fmt: skip


def start_journald():
    """systemd does not start a socket whose service runs."""
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
    """Scrapes go on, counts are exact; when journald is back, all of it is logged, without a restart."""
    with flags("--events.rate=0 --probe.ring-size=8M"):
        run("systemctl", "stop", *JOURNALD, check=False)
        try:
            storm("ks-away", 2000)
            page = scrape()
            assert page['killsnoop_signals_total{comm="ks-away",result="ESRCH",signal="SIGKILL"}'] == 2000
            assert page["killsnoop_events_pending"] > 0
        finally:
            start_journald()
        assert ledger()["journal_error"] == 0
        wait_for(lambda: len(logged("ks-away")) >= 2000, "journald to have written")
        assert logged("ks-away") == list(range(2000))


def test_killed_under_load(record_property):
    """What journald had taken and not written yet is lost, and no one can tell; it is at most what fits in its socket."""
    with flags("--events.rate=0 --probe.ring-size=32M"):
        sender = forked(lambda: [send("kill", NO_SUCH_PID - number, 9) for number in range(10_000)], b"ks-crash")
        for _ in range(2):
            run("systemctl", "kill", "-s", "KILL", "systemd-journald.service")
            wait_for(lambda: show("systemd-journald.service", "ActiveState") == "active", "journald")
        os.waitpid(sender, 0)
        assert calls("ks-crash") == 10_000
        became = ledger()
        assert became["journal_error"] == became["ring_full"] == 0
        run("journalctl", "--sync")
        found = logged("ks-crash")
        assert len(set(found)) == len(found)
        record_property("lost_of_10000", 10_000 - len(found))
        assert len(found) > 9_000


def test_its_rate_limit_is_not_for_us():
    """More than journald takes from a service in 30 s (10,000): the unit switches that limit off."""
    with flags("--events.rate=0 --probe.ring-size=32M"):
        storm("ks-flood", 12_000)
        assert ledger()["ring_full"] == 0
        wait_for(lambda: len(logged("ks-flood")) >= 12_000, "journald to have written")
        assert len(logged("ks-flood")) == 12_000


def test_no_space_left(tmp_path):
    """The journal's file system is full: journald drops what it takes, the daemon goes on, and logs again afterwards."""
    folder = Path("/var/log/journal") / Path("/etc/machine-id").read_text().strip()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", str(folder)], check=True)
    try:
        run("systemctl", "restart", "systemd-journald.service")
        (folder / "ballast").write_bytes(bytes(1 << 20))
        with (folder / "ballast").open("ab") as ballast:
            try:
                while True:
                    ballast.write(bytes(1 << 16))
                    ballast.flush()
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
