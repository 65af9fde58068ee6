"""Pins: the loader leaves the probe on bpffs and exits; daemons start and stop, the counts stay."""

import contextlib
import ctypes
import errno
import itertools
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from running import load
from senders import NO_SUCH_PID, forked, run, send, siginfo
from test_attaching import works
from test_exactness import kill_loop
from test_powerless import our_programs, programs_of_a_probe
from waiting import DEADLINE_S, wait_for

from killsnoopd import cli
from killsnoopd.probe import libbpf
from killsnoopd.probe.program import probe_hash
from killsnoopd.settings import ATTACH


def test_counts_and_events_outlive_the_daemon(start, pins):
    """Signals sent while no daemon runs are counted, and logged by the next one; its ledger continues too."""
    said = load(pins, "--events.rate=0")
    name = probe_hash(cli.parse(["--events.rate=0"]).probe)
    seen = r"it sees signals from \d+\.\d s after boot"
    assert re.fullmatch(rf"killsnoopd-loader: probe attached, pinned at {pins}/{name}: {seen}\n", said)
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
    assert sum(ledger.values()) == second.attempted()
    assert second.value("killsnoop_build_info", **build_labels(second)) == 1


def build_labels(daemon):
    (labels,) = [dict(labels) for name, labels in daemon.samples() if name == "killsnoop_build_info"]
    assert labels["bcc"].count(".") == 2
    return labels


def test_a_killed_daemon_loses_no_count_and_no_event(start, pins):
    """After SIGKILL, the next daemon finds everything, and only the event in flight may be logged twice."""
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


def test_the_same_probe_is_not_loaded_twice(start, pins):
    """A second run of the loader tests the pinned probe, under its own name, and leaves it as it is."""
    load(pins)
    before = our_programs()
    assert "is already pinned at" in load(pins)
    assert our_programs() == before
    daemon = start(f"--probe.pin={pins}")
    assert daemon.signals("killsnoopd-load") == {
        ("killsnoopd-load", "0", "success"): 1,
        ("killsnoopd-load", "SIGURG", "success"): 1,
    }


def test_another_version_takes_over_between_two_signals(start, pins):
    """Other settings make another program. It continues where the first one was: each signal is counted once, each event
    is logged once, and only the last program stays."""
    flags = ("--events.rate=0", "--probe.ring-size=16M")  # on a busy machine the daemon may stand still for seconds
    others = our_programs()
    load(pins, *flags)
    daemon = start(*flags, f"--probe.pin={pins}")
    stop, told = os.eventfd(0, os.EFD_NONBLOCK), os.pipe()

    def numbered():
        sent, end = 0, time.monotonic() + 2 * DEADLINE_S
        while time.monotonic() < end:
            began = time.monotonic()
            assert send("kill", NO_SUCH_PID - sent, 9) == -errno.ESRCH
            sent += 1
            time.sleep(max(500e-6, 19 * (time.monotonic() - began)))  # one CPU must do for loader and daemon, too
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(stop)
                break
        os.write(told[1], str(sent).encode())

    sender = forked(numbered, b"ks-upgrade")
    try:
        for number in range(1, 8):
            said = load(pins, *flags, f"--events.grace-period={number}")
            assert "it replaces the pinned one and keeps its counts" in said
    finally:
        os.eventfd_write(stop, 1)
    assert os.waitpid(sender, 0)[1] == 0
    targets = [str(NO_SUCH_PID - number) for number in range(int(os.read(told[0], 20)))]
    wait_for(lambda: len(our_programs() - others) == programs_of_a_probe(), "the programs in between to go")
    assert daemon.signals("ks-upgrade") == {("ks-upgrade", "SIGKILL", "ESRCH"): len(targets)}
    assert len(targets) > 1000
    assert daemon.settled_ledger()["ring_full"] == 0
    assert [event["KILLSNOOP_TPID"] for event in daemon.events("ks-upgrade")] == targets


def test_more_calls_to_watch(start, pins):
    """A probe that watches another call takes over; the counts go on, and that call is counted from now on."""
    load(pins, "--probe.syscalls=kill")
    run(lambda: (send("kill", NO_SUCH_PID, 9), send("tkill", NO_SUCH_PID, 9)), b"ks-calls")
    assert "keeps its counts" in load(pins, "--probe.syscalls=kill,tkill")
    daemon = start("--probe.syscalls=kill,tkill", f"--probe.pin={pins}")
    run(lambda: (send("kill", NO_SUCH_PID, 9), send("tkill", NO_SUCH_PID, 9)), b"ks-calls")
    assert daemon.signals("ks-calls") == {("ks-calls", "SIGKILL", "ESRCH"): 3}
    daemon.stop()  # it holds links, too
    assert "keeps its counts" in load(pins, "--probe.syscalls=tkill")
    fewer = start("--probe.syscalls=tkill", f"--probe.pin={pins}")
    run(lambda: (send("kill", NO_SUCH_PID, 9), send("tkill", NO_SUCH_PID, 9)), b"ks-calls")
    assert fewer.signals("ks-calls") == {("ks-calls", "SIGKILL", "ESRCH"): 4}


WAYS = [f"--probe.attach={way}" for way in ATTACH if os.geteuid() == 0 and works(way)]


@pytest.mark.parametrize(
    "flags",
    [("--metrics.max-series=10", "--metrics.max-series=11"), *itertools.permutations(WAYS, 2)],
    ids=" to ".join,
)
def test_another_layout_or_way_starts_anew(pins, flags):
    """What cannot be taken over is lost; the log says so. One kernel may have several ways, another one."""
    before, after = flags
    load(pins, before)
    programs = our_programs()
    run(lambda: kill_loop(7), b"ks-unlogged")
    said = load(pins, after)
    assert "the pinned probe has another map layout" in said
    lost = re.search(r"(\d+) events that were waiting to be logged are lost", said)
    assert int(lost[1]) >= 7  # others on this machine may have sent some
    assert len(pins_in(pins)) == 1
    wait_for(lambda: not (our_programs() & programs), "the old programs to go")


def pins_in(pins):
    return [path for path in pins.iterdir() if path.name != "private"]


@pytest.mark.parametrize(
    "broken", ["links/kill@*", "links/signal_generate@*", "maps/counts", "programs/sys_exit*", "layout*"]
)
def test_partial_pins_are_replaced(start, pins, broken):
    """If a pin is missing, the loader repairs the probe. Counts continue if only a link is missing."""
    load(pins)
    run(lambda: send("rt_sigqueueinfo", NO_SUCH_PID, 9, siginfo(9)), b"ks-before")
    (whole,) = pins_in(pins)
    for path in list(whole.glob(broken)):
        path.unlink()
    link = broken.startswith("link")
    assert ("keeps its counts" if link else "is incomplete") in load(pins)
    daemon = start(f"--probe.pin={pins}")
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-healed")
    before = {("ks-before", "SIGKILL", "ESRCH"): 1} if link else {}
    assert daemon.signals("ks-healed", "ks-before") == {("ks-healed", "SIGKILL", "ESRCH"): 1} | before


def test_silent_pins_are_replaced(start, pins):
    """Attached, but the program array of an entry was emptied: its runs are counted as missed. At the next start the
    probe is loaded again, and counting continues."""
    load(pins)
    watching = start(f"--probe.pin={pins}")
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-before")
    (whole,) = pins_in(pins)
    table = libbpf.obj_get(str(pins / "private" / whole.name / "maps/to_sys_exit"))
    key = (ctypes.c_uint32 * 1)(0)
    assert ctypes.CDLL("libbpf.so.1").bpf_map_delete_elem(table, key) == 0
    os.close(table)
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-silence")
    assert watching.value("killsnoop_probe_missed_total", program="sys_exit") >= 1
    assert watching.value("killsnoop_probe_missed_total", program="signal_generate") == 0
    watching.stop()
    refused = subprocess.run(
        [sys.executable, "-m", "killsnoopd", f"--probe.pin={pins}", "--web.listen-address=127.0.0.1:0"],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert refused.returncode == 70
    assert "our own signal 0 was not counted; our own signal 0 made no event" in refused.stderr
    assert "keeps its counts" in load(pins)
    daemon = start(f"--probe.pin={pins}")
    assert daemon.signals("ks-before", "ks-silence") == {("ks-before", "SIGKILL", "ESRCH"): 1}


def test_foreign_things_among_the_pins_go(pins):
    """Foreign files among the pins do no harm and are removed."""
    name = probe_hash(cli.parse([]).probe)
    (pins / f"new_{name}").mkdir()
    (pins / "0123456789abcdef").mkdir()
    (pins / "link").symlink_to("nowhere")
    assert "probe attached" in load(pins)
    assert sorted(path.name for path in pins.iterdir()) == sorted([name, "private"])


def test_removing_the_pins_lets_go_of_everything(pins):
    """The effect of `systemctl stop killsnoopd`: no program of ours is left."""
    before = our_programs()
    load(pins)
    assert len(our_programs() - before) == programs_of_a_probe()
    for path in pins.iterdir():
        shutil.rmtree(path)
    wait_for(lambda: our_programs() <= before, "the programs to go")


def test_a_daemon_without_any_capability_opens_the_pins(start, pins):
    """As under systemd: uid 0 without capabilities, from the first instruction on."""
    load(pins)
    daemon = start(
        f"--probe.pin={pins}", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    )
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-bare")
    assert daemon.signals("ks-bare") == {("ks-bare", "SIGKILL", "ESRCH"): 1}
