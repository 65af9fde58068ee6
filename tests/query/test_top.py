"""Kills by sender, target and unit."""

import pytest
from logged import death, exit_after, record

from killsnoopd.query import top
from killsnoopd.query.table import Style

EVENTS = [
    record(),
    death(second=1),
    death("java", "7", 2, TARGET_UNIT="app.service"),
    exit_after("java", "8", 3, TARGET_UNIT=None, TARGET_CONTAINER="c" * 64),
    death("oom", "9", 4, PID="0", COMM="kernel", UID=None, ORIGIN="oom", TARGET_UNIT=None),
    death("segv", "10", 5, PID="0", COMM="kernel", UID=None, ORIGIN="self", TARGET_UNIT="app.service"),
    record(OUTCOME="ignored"),
    record("call", RES="-3"),
]


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("sender", [("bash", "0", 2, 0, 1), ("kernel", "", 1, 0, 0), ("systemd", "0", 0, 1, 0)]),
        ("target", [("nginx", "nginx.service", 1, 0, 1), ("java", "app.service", 1, 0, 0), ("oom", "", 1, 0, 0),
                    ("segv", "app.service", 1, 0, 0), ("java", "cccccccccccc", 0, 1, 0)]),
        ("unit", [("app.service", "", 2, 0, 0), ("nginx.service", "", 1, 0, 1), ("cccccccccccc", "", 0, 1, 0)]),
    ],
)  # fmt: skip
def test_counts(by, rows):
    """Deaths, exits and deadly signals, most kills first; a fault has no sender, and what was ignored killed nothing."""
    found = top.tally(EVENTS, by, Style())
    assert [(row.name, row.belongs, row.killed, row.exited, row.signals) for row in found] == rows


def test_pods():
    """They count as units: what their own are called says nothing."""
    pod = {"TARGET_POD": "web-1", "TARGET_POD_NAMESPACE": "shop"}
    found = top.tally([death(TARGET_UNIT=f"cri-containerd-{n}.scope", **pod) for n in range(3)], "unit", Style())
    assert [(row.name, row.killed) for row in found] == [("shop/web-1", 3)]


def test_table_and_json():
    """Names as the table of signals has them, cut to the terminal; the time of the last one."""
    style = Style(named=lambda uid: {"0": "root"}.get(uid, uid))
    found = top.tally([*EVENTS, death("x\n", "1", 59, TARGET_UNIT="y" * 90)], "sender", style)
    head, first, *_ = top.lines(found, "sender", 80, style)
    assert head.split() == ["KILLED", "EXITED", "SIGNALS", "LAST", "SENDER", "USER"]
    assert first.split()[:3] + first.split()[5:] == ["3", "0", "1", "bash", "root"]
    assert top.as_json(found[0], "sender") == {
        "sender": "bash", "user": "root", "killed": 3, "exited": 0, "signals": 1, "last": found[0].last.isoformat(),
    }  # fmt: skip
    targets = top.tally([death("x\n", "1", 59, TARGET_UNIT="y" * 90)], "target", style)
    assert [len(line) for line in top.lines(targets, "target", 60, style)][1] == 60
    assert all(line.isprintable() for line in top.lines(targets, "target", 60, style))
    assert top.as_json(targets[0], "target")["unit"] == "y" * 90


def test_names_without_number():
    """Anybody can make names: after 10,000 they are counted together, and no count is lost."""
    found = top.tally((death(f"n{number}") for number in range(10_500)), "target", Style())
    assert len(found) == 10_001
    assert (found[0].name, found[0].killed) == (top.OTHER, 500)
    assert sum(row.killed for row in found) == 10_500
