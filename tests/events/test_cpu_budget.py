"""The event thread's share of a core."""

from pathlib import Path

import pytest

from killsnoopd import cli
from killsnoopd.events.cpu_budget import SHARE, CpuBudget


class Machine:
    """A clock, and the CPU time that a thread has used; `event` is the work for one event."""

    def __init__(self, share, event_cpu_s):
        self.now_s = self.cpu_s = 1000.0
        self.event_cpu_s = event_cpu_s
        self.budget = CpuBudget(share, cpu_s=lambda: self.cpu_s, now_s=lambda: self.now_s)

    def event(self):
        self.cpu_s += self.event_cpu_s
        self.now_s += self.event_cpu_s

    def storm(self, seconds):
        """Endless events, handled as the writer does; their number, and the share of a core that they took."""
        began_s, used_s, events = self.now_s, self.cpu_s, 0
        while self.now_s < began_s + seconds:
            taken = 0
            while taken == 0 or (taken < 10_000 and self.budget.debt_s() == 0):
                self.event()
                taken += 1
            events += taken
            self.now_s += self.budget.pause_s(taken)
        return events, (self.cpu_s - used_s) / (self.now_s - began_s)


@pytest.mark.parametrize("event_cpu_s", [20e-6, 100e-6, 0.01])
def test_a_storm_takes_its_share_and_no_more(event_cpu_s):
    """On a fast or a slow machine: the burst at once, then the share."""
    machine = Machine(0.06, event_cpu_s)
    machine.storm(30)
    _, share = machine.storm(30)
    assert share == pytest.approx(0.06, rel=0.05)


def test_what_is_saved_up_is_spent_at_once():
    """After any silence, it uses 0.6 s of CPU without a pause, plus what accrues meanwhile."""
    machine = Machine(0.06, 100e-6)
    for silence_s in (0, 3600):
        machine.now_s += silence_s
        events = 0
        while machine.budget.debt_s() == 0:
            machine.event()
            events += 1
        assert events == pytest.approx(6000 / (1 - 0.06), rel=0.01)


def test_who_has_spent_it_all_rests_until_there_is_work_for_many():
    """It pauses for a quarter of a second, and the CPU time that accrues is for the next events."""
    machine = Machine(0.06, 100e-6)
    machine.storm(30)
    for _ in range(3):
        taken = 0
        while machine.budget.debt_s() == 0:
            machine.event()
            taken += 1
        machine.now_s += machine.budget.pause_s(taken)
    assert taken == pytest.approx(0.25 * 0.06 / 100e-6, rel=0.1)


def test_without_a_share_there_is_no_bound():
    """It takes all the CPU time that it needs, with a pause between polls."""
    machine = Machine(None, 100e-6)
    _, share = machine.storm(30)
    assert share > 0.95


def test_a_lone_event_makes_the_next_one_wait_less_than_a_storm():
    """The pause is milliseconds, at most 20."""
    machine = Machine(0.06, 50e-6)
    assert [machine.budget.pause_s(taken) for taken in (0, 1, 3, 4, 1000)] == [0, 0.005, 0.015, 0.02, 0.02]


def test_a_suspended_machine_has_used_no_cpu():
    """If a guest is suspended while the thread runs, its CPU time leaps; at most the burst is lost."""
    machine = Machine(0.06, 100e-6)
    machine.event()
    machine.cpu_s += 3600
    machine.now_s += 3600
    assert machine.budget.debt_s() <= 0.6 / 0.06


def test_the_share_is_documented():
    """--help and the man page state it."""
    page = (Path(__file__).parent.parent.parent / "docs/killsnoopd.8").read_text()
    for text in (page, cli.parser().format_help()):
        assert f"what {SHARE:.0%}".replace("%", " %") + " of one core can log" in " ".join(text.split())
