"""After a boot with the package installed."""

import re
from pathlib import Path

from conftest import active, journal, main_pid, run, scrape, show
from waiting import wait_for


def test_everything_is_up(record_property):
    """Enabled units start by themselves, and none of ours failed on the way."""
    wait_for(active, "killsnoopd to be READY")
    status = Path(f"/proc/{main_pid()}/status").read_text()
    record_property("mb_resident", round(int(re.search(r"^VmRSS:\s*(\d+)", status, re.M)[1]) / 1024, 1))
    assert active("killsnoopd.socket")
    assert "killsnoopd" not in run("systemctl", "--failed", "--plain", "--no-legend")
    assert all(value == 1 for name, value in scrape().items() if name.startswith("killsnoop_probe_attached"))


def test_the_probe_is_attached_before_services_start(record_property):
    """As early as bpffs and tracefs allow, before the first service of multi-user.target; the journal says when."""
    microseconds = {
        unit: int(show(unit, "ActiveEnterTimestampMonotonic"))
        for unit in (
            "local-fs.target",
            "killsnoopd-probe.service",
            "basic.target",
            "killsnoopd.service",
            "multi-user.target",
        )
    }
    record_property("s_after_boot", {unit: round(value / 1e6, 1) for unit, value in microseconds.items()})
    started = int(show("killsnoopd-probe.service", "ExecMainStartTimestampMonotonic"))
    assert started < microseconds["basic.target"]
    assert microseconds["killsnoopd-probe.service"] < microseconds["multi-user.target"]
    (line,) = journal("--boot", "-u", "killsnoopd-probe.service", "--grep", "probe attached")
    seen_from = float(re.search(r"it sees signals from ([\d.]+) s after boot", line["MESSAGE"])[1])
    assert started / 1e6 < seen_from <= microseconds["killsnoopd-probe.service"] / 1e6 + 0.1


def test_signals_of_the_boot_are_counted():
    """Including some that were sent before the daemon served: systemd's own, to services that stop or reload."""
    assert sum(value for name, value in scrape().items() if name.startswith("killsnoop_deliveries_total")) > 0


def test_status_reads_well():
    """`systemctl status`: one line with numbers, and the last lines of the journal."""
    status = run("systemctl", "status", "--no-pager", "killsnoopd")
    assert re.search(r'Status: "\d+ signals counted, \d+ events logged, 0 not logged"', status)
    assert "killsnoopd.service - Who sent that signal?" in status
