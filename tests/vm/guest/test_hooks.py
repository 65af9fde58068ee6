"""How the probe is attached where the kernel, or whoever administers it, takes something away. Lockdown comes last: it stays."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import calls, drop_in, exposures, journal, kill_as, run, scrape, show
from senders import NO_SUCH_PID, NUMBERS, send
from waiting import wait_for

MODES = Path("/sys/kernel/debug/sched/preempt")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
WITHOUT = Path("/usr/share/doc/killsnoopd/without-sys-admin/killsnoopd-probe.service.conf").read_text()
# Neither the capability nor tracefs.
LEAST = WITHOUT + "InaccessiblePaths=/sys/kernel/tracing\n"


def start_again():
    """With a new probe."""
    run("systemctl", "stop", "killsnoopd")
    run("systemctl", "start", "killsnoopd")


def ways():
    """{hook: way}."""
    page = [line for line in scrape() if line.startswith("killsnoop_probe_hook_info")]
    return dict(line.split('"')[1:4:2] for line in page)


def it_works(name):
    """A failed call is counted, and a death has its killer."""
    assert {value for line, value in scrape().items() if line.startswith("killsnoop_probe_attached")} == {1}
    target = subprocess.Popen(["sleep", "infinity"])
    kill_as(name, lambda: (send("kill", NO_SUCH_PID, 9), send("kill", target.pid, 9)))
    target.wait()
    assert calls(name) == 2
    wait_for(lambda: journal(f"KILLSNOOP_TPID={target.pid}", "KILLSNOOP_EVENT=death"), "the death")


def exact():
    return {
        line.split('"')[1] for line, value in scrape().items() if line.startswith("killsnoop_probe_exact") and value
    }


def test_the_optional_hook():
    """Distributions' kernels have all that it needs, unless they are locked down."""
    assert ways()["out_of_memory"] == "fentry"


def test_the_kernel_begins_to_preempt():
    """Before Linux 7.0, root can change that at any time: the page and the status say so, and a restart mends it."""
    before = ways()
    assert exact() == set(before)
    modes = MODES.read_text().split()
    if "none" not in modes and "(none)" not in modes:
        assert before["kill"] != "fexit"  # it preempts anyway
        return
    (mode,) = [mode[1:-1] for mode in modes if mode.startswith("(")]
    try:
        MODES.write_text("full")
        lost = {hook for hook, way in before.items() if way == "fexit"}
        assert lost == set(NUMBERS)
        assert exact() == set(before) - lost
        wait_for(lambda: "may preempt the probe at kill" in show("killsnoopd.service", "StatusText"), "the status")
        run("systemctl", "restart", "killsnoopd")
        assert "fexit" not in ways().values()
        assert exact() == set(before)
        it_works("ks-preempt")
    finally:
        MODES.write_text(mode)
    run("systemctl", "restart", "killsnoopd")
    assert ways() == before


@pytest.mark.parametrize("lockdown", ["none", "integrity", "confidentiality"])
def test_lockdown(lockdown, record_property):
    """With the least privilege, without tracefs and under the strictest perf_event_paranoid: the way is the same.

    Where the probe may not read kernel memory, the optional hook is of no use, and left out.
    """
    paranoid, before = PARANOID.read_text(), ways()
    if lockdown != "none":
        LOCKDOWN.write_text(lockdown)
    assert f"[{lockdown}]" in LOCKDOWN.read_text()
    try:
        PARANOID.write_text("4")
        with drop_in(LEAST, "killsnoopd-probe.service"):
            start_again()
            record_property("ways", " ".join(sorted(set(ways().values()))))
            left_out = {"out_of_memory"} if lockdown == "confidentiality" else set()
            assert ways() == {hook: way for hook, way in before.items() if hook not in left_out}
            assert "tracepoint" not in before.values()
            it_works(f"ks-{lockdown[:9]}")
            assert exposures("killsnoopd-probe")["killsnoopd-probe"] <= 1.2
    finally:
        PARANOID.write_text(paranoid)


def test_coverage_under_lockdown():
    """Every case of the kernel tests, under lockdown=confidentiality."""
    assert "[confidentiality]" in LOCKDOWN.read_text()
    folder = "/input/checkout/tests/kernel"
    result = subprocess.run(
        ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "../../pyproject.toml", "--rootdir=../..",
         "test_coverage.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": "/usr/lib/killsnoopd"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout
