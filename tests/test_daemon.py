"""The daemon's choices, and bugs in its threads and tasks."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fakes import FakeProbe

from killsnoopd import cli, daemon
from killsnoopd.events.journal import Journal
from killsnoopd.events.json_lines import JsonLines
from killsnoopd.events.stop_deadline import StopDeadline
from killsnoopd.probe.attached import Ledger


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


class FakeWriter:
    """An event thread that ends, or not."""

    def __init__(self, ended, done=False, sending=False, given_up=0):
        self.ended, self.sending, self.given_up = ended, sending, given_up
        self.done = threading.Event()
        if done:
            self.done.set()

    def stop(self, _timeout_s):
        return self.ended


class FakeOpened(FakeProbe):
    def detach(self):
        pass


@pytest.mark.parametrize(
    ("writer", "line"),
    [
        (FakeWriter(ended=True, done=True), None),
        (FakeWriter(ended=False, done=True), "journald is not accepting events: 3 stay in the pinned ring buffer"),
        (FakeWriter(ended=False, sending=True), "the last events could not be written: nothing reads stdout"),
        (FakeWriter(ended=False), "there was no time to log the last events: 3 are lost"),
        (FakeWriter(ended=True, done=True, given_up=5), "there was no time to log the last events: 8 are lost"),
    ],
    ids=["all logged", "journald hangs", "stdout hangs", "a slow thread", "the deadline"],
)
def test_why_events_were_not_logged_at_the_end(writer, line, monkeypatch, caplog):
    """The last line gives the reason."""
    ended = []
    monkeypatch.setattr(daemon.os, "_exit", ended.append)
    monkeypatch.setattr(daemon.logging, "shutdown", lambda: None)
    outcomes = dict.fromkeys(("logged", "rate_limited", "ring_full", "journal_error", "decode_error"), 0)
    daemon._stop(FakeOpened(ledger=Ledger(outcomes, pending=3)), writer)
    said = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert [text.startswith(line) for text in said] == ([True] if line else [])
    assert ended == ([] if writer.ended else [0])


def test_the_time_to_stop_is_documented():
    """The man page states it."""
    page = (Path(__file__).parent.parent / "docs/killsnoopd.8").read_text()
    assert f"Log the events that wait, for at most {daemon.DRAIN_S:.0f} second," in " ".join(page.split())


def test_a_thread_that_fails_ends_the_daemon():
    """Without its event thread it would go on and log nothing: one line and exit code 1, and systemd starts it again."""
    script = """
import threading, time
from killsnoopd import daemon
daemon._set_up_logging("info")
threading.excepthook = daemon._thread_failed
threading.Thread(target=lambda: {}["x"], daemon=True).start()
time.sleep(60)
"""
    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    assert result.returncode == 1
    assert result.stderr.startswith("killsnoopd: a bug: KeyError: 'x'")
    assert result.stderr.count("\n") == 1


def test_a_task_that_fails_does_not(caplog):
    """One connection's failure is one line in the log."""

    async def go_on():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(daemon._task_failed)
        loop.call_soon(lambda: {}["x"])
        await asyncio.sleep(0)
        loop.call_exception_handler({"message": "no exception"})

    asyncio.run(go_on())
    bug, other = caplog.messages
    assert bug.startswith("a bug: KeyError: 'x' at ")
    assert other == "no exception"
