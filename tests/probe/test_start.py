"""What the daemon says if the loader cannot run or does not answer."""

import importlib.machinery
import importlib.util
import os
import sys

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import start
from killsnoopd.probe.program import Layout

LAYOUT = Layout(cpus=1, series_max=1, deaths_max=1)


@pytest.mark.parametrize(
    ("python", "exit_code", "says"),
    [
        ("/nonexistent/python", Exit.CONFIG, "cannot run /nonexistent/python (No such file or directory): install python3"),
        ("/etc/passwd", Exit.CONFIG, "cannot run /etc/passwd (Permission denied): install python3"),
        ("/bin/true", Exit.SOFTWARE, "the loader ended without an answer (status 0): see its output above"),
        ("/bin/false", Exit.SOFTWARE, "the loader ended without an answer (status 1): see its output above"),
    ],
)  # fmt: skip
def test_no_answer(python, exit_code, says):
    with pytest.raises(Failure) as failed:
        start.load([], LAYOUT, python)
    assert (failed.value.exit_code, str(failed.value)) == (exit_code, says)


def test_a_failure_of_the_loader(tmp_path):
    """It crosses from the other process with its text and exit code."""
    python = tmp_path / "python"
    drop = "setpriv --bounding-set=-all --inh-caps=-all " if os.getuid() == 0 else ""
    python.write_text(f'#!/bin/sh\nexec {drop}{start.loader_python()} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(Failure, match="not allowed to load the probe: it needs CAP_BPF") as failed:
        start.load([], LAYOUT, str(python))
    assert failed.value.exit_code == Exit.NOPERM


@pytest.mark.parametrize(
    ("files", "own"), [(["__init__.py", "libbcc.py"], True), (["__init__.py"], False), ([], False)]
)
def test_the_python_that_has_bcc(monkeypatch, tmp_path, files, own):
    """A package of that name that is another one, or only a namespace, is not bcc."""
    package = tmp_path / "bcc"
    package.mkdir()
    for name in files:
        (package / name).touch()
    found = importlib.machinery.PathFinder.find_spec("bcc", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    assert start.loader_python() == (sys.executable if own else "/usr/bin/python3")


def test_no_bcc(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert start.loader_python() == "/usr/bin/python3"
