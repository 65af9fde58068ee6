"""JSON lines, with a real pipe in the log collector's place."""

import json
import os

import pytest
from threads import in_thread

from killsnoopd.events.json_lines import JsonLines
from killsnoopd.events.stop_deadline import StopDeadline


@pytest.fixture
def deadline():
    deadline = StopDeadline(0.5)
    yield deadline
    deadline.close()


def test_json_lines(deadline):
    """One UTF-8 object per line, complete even if it is longer than a pipe takes at once."""
    reader, writer = os.pipe()
    sink = JsonLines(deadline, writer)
    rows = [{"MESSAGE": "naïve"}, {"MESSAGE": "x" * 200_000}]
    thread, outcome = in_thread(lambda: [sink.send(row) for row in rows])
    with os.fdopen(reader, encoding="utf-8") as file:
        assert [json.loads(file.readline()) for _ in rows] == rows
        thread.join(10)
        assert outcome == [None]
        os.close(writer)
    sink.close()


def test_json_lines_to_a_reader_that_is_gone(deadline):
    """EPIPE is passed to the caller, which counts it."""
    reader, writer = os.pipe()
    sink = JsonLines(deadline, writer)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        sink.send({"MESSAGE": "hello"})
    os.close(writer)
