"""The daemon's choices."""

from pathlib import Path

import pytest

from killsnoopd import cli, daemon
from killsnoopd.events.journal import Journal
from killsnoopd.events.json_lines import JsonLines
from killsnoopd.events.stop_deadline import StopDeadline


@pytest.mark.parametrize(
    ("target", "there", "kind"),
    [
        ("auto", True, Journal),
        ("auto", False, JsonLines),
        ("journal", False, Journal),
        ("stdout", True, JsonLines),
        ("none", True, type(None)),
    ],
)
def test_where_events_go(target, there, kind, tmp_path, monkeypatch):
    """`auto` looks for journald's socket; the other values name their target."""
    path = tmp_path / "socket"
    if there:
        path.touch()
    monkeypatch.setattr(daemon, "JOURNAL_SOCKET", path)
    deadline = StopDeadline(1)
    sink = daemon.choose_sink(
        cli.parse([f"--events.target={target}"]).events_target, deadline, lambda fd, datagram: None
    )
    deadline.close()
    assert isinstance(sink, kind)


def test_the_time_to_stop_is_documented():
    """The man page states it."""
    page = (Path(__file__).parent.parent / "docs/killsnoopd.8").read_text()
    assert f"Log the events that wait, for at most {daemon.DRAIN_S:.0f} second," in " ".join(page.split())
