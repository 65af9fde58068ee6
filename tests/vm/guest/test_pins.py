"""Stale, partial, foreign or silent pins are repaired at the next start, and the journal says so."""

import time

import pytest
from conftest import PINS, calls, journal, kill_as, main_pid, our_programs, programs_of_a_probe, run, wait_for_another
from senders import NO_SUCH_PID, send
from waiting import wait_for


def probe_folder():
    (found,) = [path for path in PINS.iterdir() if path.name != "private"]
    return found


def said_since(realtime_s):
    """The loader's messages since then; waits for the first."""
    matches = f"--since=@{realtime_s:.0f}", "-u", "killsnoopd-probe.service", "--grep=killsnoopd-loader"
    return [line["MESSAGE"] for line in wait_for(lambda: journal(*matches), "the loader's line")]


def empty_a_jump():
    jump = PINS / "private" / probe_folder().name / "maps/to_sys_exit"
    run("bpftool", "map", "delete", "pinned", str(jump), "key", "0", "0", "0", "0")


DAMAGE = {  # what damages the pins, and whether the counts survive it
    "partial: a link": (lambda: next(probe_folder().glob("links/kill@*")).unlink(), True),
    "partial: a map": (lambda: (probe_folder() / "maps/counts").unlink(), False),
    "silent": (empty_a_jump, True),
    "stale": (lambda: probe_folder().rename(PINS / "0123456789abcdef"), False),
}


@pytest.mark.parametrize(
    ("kind", "restart"),
    [("partial: a link", "restart"), ("partial: a map", "crash"), ("silent", "crash"), ("stale", "restart")],
)
def test_damage(kind, restart):
    """After a restart or a crash of the daemon, signals count again, and the old counts stay where possible."""
    damage, counts_go_on = DAMAGE[kind]
    comm = f"ks-{restart}-{list(DAMAGE).index(kind)}"
    kill_as(comm, lambda: send("kill", NO_SUCH_PID, 9))
    assert calls(comm) == 1
    began_s, pid = time.time(), main_pid()
    damage()
    run("systemctl", *(["restart"] if restart == "restart" else ["kill", "-s", "KILL"]), "killsnoopd")
    wait_for_another(pid)
    assert any("probe attached" in line for line in said_since(began_s))
    kill_as(comm, lambda: send("kill", NO_SUCH_PID, 9))
    assert calls(comm) == (2 if counts_go_on else 1)
    wait_for(lambda: len(our_programs()) == programs_of_a_probe(), "the old programs to go")
    assert {path.name for path in PINS.iterdir()} == {"private", probe_folder().name}


def test_a_whole_probe_stays_and_what_is_foreign_goes():
    """Anything foreign among the pins is removed; the programs are the same."""
    (PINS / "0123456789abcdef").mkdir()
    (PINS / "nowhere").symlink_to("else")
    programs, began_s = our_programs("id"), time.time()
    run("systemctl", "restart", "killsnoopd")
    assert any("already" in line for line in said_since(began_s))
    assert our_programs("id") == programs
    assert {path.name for path in PINS.iterdir()} == {"private", probe_folder().name}
