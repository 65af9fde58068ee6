"""Tests on a booted Debian: as root, with systemd as PID 1 and killsnoopd installed from its package."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from waiting import DEADLINE_S, wait_for

PROGRAMS = Path("/input/programs").read_text().split()
PINS = Path("/sys/fs/bpf/killsnoopd")
DEFAULTS = Path("/etc/default/killsnoopd")


def run(*command, check=True):
    """The output of a command, including its standard error."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert not check or result.returncode == 0, f"{' '.join(command)}: {result.stdout}"
    return result.stdout


def show(unit, *properties):
    """Properties of a unit; a single one without its name."""
    values = dict(
        line.split("=", 1) for line in run("systemctl", "show", unit, *(f"-p{p}" for p in properties)).splitlines()
    )
    return values[properties[0]] if len(properties) == 1 else values


def active(unit="killsnoopd.service"):
    return show(unit, "ActiveState") == "active"


def main_pid():
    return int(show("killsnoopd.service", "MainPID"))


def wait_for_another(*gone):
    """Wait until a daemon is READY whose pid is none of these."""

    def is_there():
        daemon = show("killsnoopd.service", "ActiveState", "MainPID")
        return daemon["ActiveState"] == "active" and int(daemon["MainPID"]) not in (0, *gone)

    wait_for(is_there, f"another daemon than {gone}")


def journal(*matches):
    """Entries of the journal, oldest first; by fields and other arguments of `journalctl`."""
    output = run("journalctl", "--quiet", "--no-pager", "--output=json", *matches)
    return [json.loads(line) for line in output.splitlines()]


def scrape():
    """The page, as {line up to the value: value}."""
    with urllib.request.urlopen("http://127.0.0.1:10035/metrics", timeout=DEADLINE_S) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def calls(comm):
    """The number of counted calls of a process name."""
    return sum(value for name, value in scrape().items() if name.startswith(f'killsnoop_signals_total{{comm="{comm}"'))


def ledger():
    """{status: events}, once the ring buffer is empty."""

    def settled():
        page = scrape()
        return page["killsnoop_events_pending"] == 0 and page

    page = wait_for(settled, "the ring buffer to be empty")
    start = 'killsnoop_events_total{status="'
    return {name.removeprefix(start)[:-2]: int(value) for name, value in page.items() if name.startswith(start)}


def our_programs(key="name"):
    """Names, or ids, of our programs in the kernel."""
    ours = {name[:15] for plain in PROGRAMS for name in (plain, f"on_{plain}")}
    return [program[key] for program in json.loads(run("bpftool", "-j", "prog")) if program.get("name") in ours]


def programs_of_a_probe():
    """How many programs it has: entries, which are pinned, and a worker for those of each name."""
    entries = [entry.name for entry in PINS.glob("[0-9a-f]*/programs/*")]
    return len(entries) + len({entry.partition("@")[0] for entry in entries})


SHIPPED = DEFAULTS.read_text() if DEFAULTS.exists() else None  # not installed yet


@pytest.fixture(autouse=True)
def flags(request):
    """Run killsnoopd with the flags of the test's mark, `flags("--one --two")`, or as shipped; None: with any flags.

    They are changed only if the previous test had others: a change takes an emulated machine half a minute.
    """
    mark = request.node.get_closest_marker("flags")
    wanted = SHIPPED if mark is None else mark.args[0] and f'ARGS="{mark.args[0]}"\n'
    if DEFAULTS.exists() and wanted is not None and DEFAULTS.read_text() != wanted:
        DEFAULTS.write_text(wanted)
        run("systemctl", "restart", "killsnoopd")


def exposures(*units):
    """The exposure of running services, from `systemd-analyze security`."""
    said = run("systemd-analyze", "security", "--no-pager", *(f"{unit}.service" for unit in units))
    return {
        unit: float(level) for unit, level in re.findall(r"Overall exposure level for (\S+)\.service: ([\d.]+)", said)
    }


@contextlib.contextmanager
def drop_in(text, unit="killsnoopd.service"):
    """A unit with more directives, until the next daemon-reload."""
    folder = Path("/run/systemd/system") / f"{unit}.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(folder)
        run("systemctl", "daemon-reload")


@pytest.fixture
def victim():
    """A service that sleeps: (its unit, its pid)."""
    unit = f"ks-victim-{time.monotonic_ns()}.service"
    run("systemd-run", f"--unit={unit}", "sleep", "infinity")
    pid = int(show(unit, "MainPID"))
    wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the program to be executed")
    yield unit, pid
    run("systemctl", "stop", unit, check=False)
    run("systemctl", "reset-failed", unit, check=False)


def kill_as(comm, action):
    """Run action() in a process of this name; its pid."""
    from senders import run as run_sender

    return run_sender(action, os.fsencode(comm))
