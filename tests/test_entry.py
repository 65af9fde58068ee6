"""What each program needs before it can start: one line and an exit code, from any Python 3."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import killsnoopd
from killsnoopd import entry
from killsnoopd.failure import Exit, Failure, unforeseen
from killsnoopd.probe import handover, start
from killsnoopd.probe.program import Layout

PYTHON = os.path.normpath(sys.executable)  # as a child has it whose parent was started by ../bin/python
PROGRAMS = {"daemon": "killsnoopd", "loader": "killsnoopd-loader", "command": "killsnoop"}
NEEDED = {"daemon": "3.11", "loader": "3.9", "command": "3.11"}
OLD = "sys.version_info = (3, 8, 18, 'final', 0)"


def run(program, before, *arguments, **options):
    """Run a program in a process of its own, after some Python."""
    code = f"import sys; {before}; from killsnoopd.entry import {program}; sys.exit({program}())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.mark.parametrize("file", ["__init__.py", "entry.py"])
def test_an_old_python_can_read_it(file):
    """Up to the check of the version there is nothing but what Python 3.6 knows; f-strings are from 3.6."""
    tree = ast.parse((Path(killsnoopd.__file__).parent / file).read_text(), feature_version=(3, 6))
    imported = {
        name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"importlib", "json", "os", "signal", "sys"}
    annotations = {
        ast.unparse(annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for annotation in (node.returns, *(argument.annotation for argument in node.args.args))
    }
    assert annotations <= {"ImportError", "int", "str"}


@pytest.mark.parametrize(("program", "name"), PROGRAMS.items())
def test_a_python_that_is_too_old(program, name):
    """Says which version there is, and which is needed."""
    result = run(program, OLD)
    assert (result.returncode, result.stdout) == (Exit.CONFIG, "")
    assert result.stderr == f"{name}: {name} needs Python {NEEDED[program]} or later; {PYTHON} is 3.8.18\n"


@pytest.mark.parametrize("missing", ["h11", "prometheus_client", "systemd"])
def test_a_library_that_is_missing(missing):
    """Says which, for which Python, and the package that has it."""
    result = run("daemon", f"sys.modules['{missing}'] = None")
    assert (result.returncode, result.stdout) == (Exit.CONFIG, "")
    assert result.stderr.startswith(f"killsnoopd: {missing} is missing for {PYTHON} (")
    assert "): install python3-" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_needs_no_library():
    """killsnoop reads events with the standard library alone."""
    result = run(
        "command", "sys.modules.update(dict.fromkeys(('h11', 'prometheus_client', 'systemd', 'bcc')))", "--version"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_daemon_gets_the_line_of_its_loader(tmp_path):
    """The loader's Python may be another one, and is too old: the failure comes through the socket."""
    python = tmp_path / "python3"
    python.write_text(
        f"""#!/bin/sh
shift 2
code=$1
shift
exec {sys.executable} -I -c "import sys; {OLD}
$code" "$@"
"""
    )
    python.chmod(0o755)
    with pytest.raises(Failure, match=r"^killsnoopd-loader needs Python 3\.9 or later; .* is 3\.8\.18$") as failed:
        start.load([], Layout(1, 1, 1), str(python))
    assert failed.value.exit_code == Exit.CONFIG


def test_the_loader_has_no_bytes_but_the_failure(monkeypatch):
    """What the entry point writes by itself is what handover.receive reads."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            monkeypatch.setattr(sys, "argv", ["killsnoopd-loader", f"--fd={theirs.fileno()}"])
            assert entry._fail("killsnoopd-loader", Exit.CONFIG, "no \u2603") == Exit.CONFIG
        with pytest.raises(Failure, match="no \u2603"):
            handover.receive(ours)


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_that_nobody_expected(debug):
    """One line: what, where, that it is to be reported; exit code 1. The traceback on request."""
    broken = "import killsnoopd.query.command as c; c.main = lambda: {}['a\\n\u2603']"
    result = run("command", broken, env=os.environ | {"KILLSNOOP_DEBUG": "1" if debug else ""})
    assert (result.returncode, result.stdout) == (Exit.CRASH, "")
    *traceback, line = result.stderr.splitlines()
    assert line.startswith("killsnoop: a bug: KeyError: ")
    assert "; report it" in line
    assert bool(traceback) == debug


def test_where_it_happened():
    """The innermost line of this package; of another package if none is."""
    try:
        Layout(1, "1", 1).row  # noqa: B018 # raises
    except TypeError as error:
        bug = unforeseen(error)
    assert " at program.py:" in str(bug)
    assert "\n" not in str(bug)
    assert bug.details.startswith("Traceback")
    assert str(unforeseen(ValueError())).startswith("a bug: ValueError; report it")


def test_interrupted_while_it_starts():
    """^C ends it by the signal, without a traceback."""
    broken = "import killsnoopd.query.command as c, os; c.main = lambda: os.kill(os.getpid(), 2)"
    result = run("command", broken)
    assert (result.returncode, result.stderr) == (-2, "")
