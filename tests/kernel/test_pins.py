"""The pinned hand-over: the loader leaves the probe on bpffs and is gone; daemons come and go, the counts stay."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from running import wait_for
from senders import NO_SUCH_PID, run, send
from test_exactness import kill_loop
from test_powerless import our_programs

from killsnoopd import cli


@pytest.fixture
def pins():
    """A folder on bpffs of our own."""
    directory = Path(tempfile.mkdtemp(prefix="ks_", dir="/sys/fs/bpf"))
    yield directory
    shutil.rmtree(directory)


def load(pins, *flags):
    result = subprocess.run(
        [sys.executable, "-m", "killsnoopd.loader", "--pin", str(pins), *flags],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert result.stdout == ""
    return result.stderr


def test_counts_and_events_outlive_the_daemon(start, pins):
    """Signals sent while no daemon runs are counted, and logged by the next one; its ledger goes on, too."""
    said = load(pins, "--events.rate=0")
    name = cli.parse(["--events.rate=0"]).probe.hash()
    assert said == f"killsnoopd-loader: probe attached, pinned at {pins}/{name}\n"
    flags = ("--events.rate=0", f"--probe.pin={pins}")
    first = start(*flags)
    run(lambda: kill_loop(100), b"ks-one")
    assert len(first.events("ks-one")) == 100
    assert first.stop() == 0
    run(lambda: kill_loop(200), b"ks-none")
    second = start(*flags)
    run(lambda: kill_loop(300), b"ks-two")
    assert second.signals("ks-one", "ks-none", "ks-two") == {
        ("ks-one", "SIGTERM", "ESRCH"): 100,
        ("ks-none", "SIGTERM", "ESRCH"): 200,
        ("ks-two", "SIGTERM", "ESRCH"): 300,
    }
    assert [len(second.events(comm)) for comm in ("ks-one", "ks-none", "ks-two")] == [0, 200, 300]
    ledger = second.settled_ledger()
    assert ledger["logged"] >= 600
    assert sum(ledger.values()) == sum(second.signals().values())
    assert second.value("killsnoop_build_info", **build_labels(second)) == 1


def build_labels(daemon):
    (labels,) = [dict(labels) for name, labels in daemon.samples() if name == "killsnoop_build_info"]
    assert labels["bcc"].count(".") == 2
    return labels


def test_a_killed_daemon_loses_no_count_and_no_event(start, pins):
    """SIGKILL under way: what the next daemon finds is complete, and no event is logged twice but the one in hand."""
    load(pins, "--events.rate=0")
    flags = ("--events.rate=0", f"--probe.pin={pins}")
    first = start(*flags)
    run(lambda: kill_loop(3000), b"ks-crash")
    first.process.kill()
    first.process.wait()
    second = start(*flags)
    assert second.signals("ks-crash") == {("ks-crash", "SIGTERM", "ESRCH"): 3000}
    second.settled_ledger()
    logged = first.stdout.read_text().count('"ks-crash"') // 2 + second.stdout.read_text().count('"ks-crash"') // 2
    assert 3000 <= logged <= 3001


def test_the_same_probe_is_not_loaded_twice(pins):
    """A second run of the loader finds the pins whole and leaves them as they are."""
    load(pins)
    before = our_programs()
    assert "is pinned at" in load(pins)
    assert our_programs() == before


def test_other_settings_make_another_probe_and_let_go_of_the_first(pins):
    """The hash changes with the flags; the old pins, and with them the old programs, go."""
    load(pins, "--events.rate=1")
    (old,) = pins.iterdir()
    programs = our_programs()
    load(pins, "--events.rate=2")
    (new,) = pins.iterdir()
    assert new != old
    wait_for(lambda: not (our_programs() & programs), "the old programs to go")


@pytest.mark.parametrize("broken", ["link_kill", "link_signal_generate", "map_counts", "prog_sys_exit"])
def test_partial_pins_are_replaced(start, pins, broken):
    """Something removed a pin: the loader puts a whole probe in their place."""
    load(pins)
    (whole,) = pins.iterdir()
    (whole / broken).unlink()
    assert "probe attached" in load(pins)
    daemon = start(f"--probe.pin={pins}")
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-healed")
    assert daemon.signals("ks-healed") == {("ks-healed", "SIGKILL", "ESRCH"): 1}


def test_a_loader_that_died_half_way_is_cleaned_up_after(pins):
    """Left-overs of an unfinished run do not stand in the way."""
    name = cli.parse([]).probe.hash()
    (pins / f"new_{name}").mkdir()
    (pins / "0123456789abcdef").mkdir()
    assert "probe attached" in load(pins)
    assert list(pins.iterdir()) == [pins / name]


def test_removing_the_pins_lets_go_of_everything(pins):
    """What `systemctl stop killsnoopd-probe` does: no program of ours is left."""
    before = our_programs()
    load(pins)
    assert len(our_programs() - before) == 4
    shutil.rmtree(next(pins.iterdir()))
    wait_for(lambda: our_programs() <= before, "the programs to go")


def test_a_daemon_without_any_capability_opens_the_pins(start, pins):
    """As under systemd: uid 0, capabilities none, from the first instruction on."""
    load(pins)
    daemon = start(
        f"--probe.pin={pins}", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    )
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-bare")
    assert daemon.signals("ks-bare") == {("ks-bare", "SIGKILL", "ESRCH"): 1}
