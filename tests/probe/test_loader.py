"""The loader's messages for kernels that are not at hand; tests/kernel/test_refusals.py has the rest."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import killsnoopd
from killsnoopd.failure import Exit
from killsnoopd.probe import libbpf, loader


@pytest.mark.parametrize(
    ("number", "said", "code", "line"),
    [
        (
            errno.EPERM,
            "",
            Exit.NOPERM,
            "not allowed to load the probe: it needs CAP_BPF and CAP_PERFMON; run as root",
        ),
        (
            errno.EACCES,
            "R0 invalid mem access",
            Exit.SOFTWARE,
            "kernel 5.10.0 refused the probe ([Errno 13] Permission denied: 'on_sys_exit'); "
            "--log.level=debug shows the verifier log",
        ),
    ],
)
def test_refusal(number, said, code, line):
    """The kernel's error becomes one line."""
    error = libbpf.Refused(number, os.strerror(number), "on_sys_exit")
    error.log = said
    failure = loader.refusal(error, "5.10.0")
    assert (failure.exit_code, str(failure)) == (code, line)
    assert failure.details == said.strip()


ROOT = Path(killsnoopd.__file__).parent


@pytest.fixture(scope="module")
def modules():
    """The package's files that the loader imports."""
    code = "import sys, killsnoopd.entry, killsnoopd.probe.loader; print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'killsnoopd'))"
    path = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); {code}"]
    result = subprocess.run(path, capture_output=True, text=True, check=True, timeout=60)
    found = [Path(file) for file in result.stdout.split()]
    assert {"entry.py", "loader.py", "event.py"} <= {file.name for file in found}
    return found


def test_syntax_of_python_3_9(modules):
    """Enterprise Linux 9 has bcc for Python 3.9 only; scripts/test-old-python runs the loader on it."""
    for file in modules:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)], file  # the version does not matter
        unions = [node for node in ast.walk(tree) if _is_union(node)]
        postponed = "from __future__ import annotations" in file.read_text()
        assert postponed or not unions, f"{file} evaluates X | None, which Python 3.9 cannot"


def _is_union(node):
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.BitOr)
        and any(isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right))
    )


def test_calls_that_python_3_9_lacks(modules):
    """Arguments that are newer and that this code has used."""
    for file in modules:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                newer = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}}.get(called, set())
                assert not newer & {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"
