"""The compiler's message reaches the user, however the compiler ends; without bcc."""

import re
import signal
import sys

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import btf, compiler, libbpf, program
from killsnoopd.settings import Settings

XADD = "error: <unknown>:0:0: in function on_sys_exit i32 (ptr): Invalid usage of the XADD return value\n"


@pytest.mark.parametrize(
    ("status", "said", "code", "line"),
    [
        (
            1,
            XADD,
            Exit.SOFTWARE,
            f"bcc could not compile the probe: {XADD.strip()}; --log.level=debug shows its full output",
        ),
        (
            1,
            "warning: loop not unrolled\nkillsnoop.bpf.c:7:1: error: unknown type name 'x'\nException: Failed to compile\n",
            Exit.SOFTWARE,
            "bcc could not compile the probe: killsnoop.bpf.c:7:1: error: unknown type name 'x'; "
            "--log.level=debug shows its full output",
        ),
        (
            -signal.SIGSEGV,
            "",
            Exit.SOFTWARE,
            "bcc could not compile the probe: ended by SIGSEGV without output; --log.level=debug shows its full output",
        ),
        (
            1,
            "could not open bpf map: counts, error: Operation not permitted\n",
            Exit.NOPERM,
            "not allowed to load the probe: it needs CAP_BPF and CAP_PERFMON; run as root",
        ),
        (
            1,
            "4 warnings generated.\nLLVM ERROR: Cannot select: 0x1: i64,ch = AtomicSwap<(load store seq_cst 8 on %ir.814)> 0x2\n",
            Exit.CONFIG,
            f"bcc for {sys.executable} is too old: its LLVM does not compile atomic exchange; "
            "install a bcc that was built with LLVM 12 or later",
        ),
    ],
    ids=["LLVM 21", "clang", "a crash", "no capability", "LLVM 11"],
)
def test_refusal(status, said, code, line):
    """One line; the debug level logs the whole text."""
    failure = compiler.refusal(status, said)
    assert (failure.exit_code, str(failure), failure.details) == (code, line, said.strip())


def test_a_long_line_is_cut():
    """The debug level has the whole line."""
    failure = compiler.refusal(1, "error: " + "x" * 1000)
    assert len(str(failure)) < 400
    assert len(failure.details) == 1007


ENDS = {
    "exit(3)": ("ctypes.CDLL(None).exit(1)", "LLVM ERROR: it does not do", "LLVM ERROR: it does not do"),
    "a signal": ("os.kill(os.getpid(), 11)", "", "ended by SIGSEGV without output"),
    "an exception": ("raise Exception('Failed to compile')", "", "Exception: Failed to compile"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_library_that_ends_the_process(end, monkeypatch, tmp_path):
    """However the library ends the process, its last output is the message, and this process continues."""
    statement, words, line = ENDS[end]
    (tmp_path / "bcc.py").write_text(
        "import ctypes, faulthandler, os\n"
        "faulthandler.disable()\n"
        "class BPF:\n"
        "    def __init__(self, **_):\n"
        f"        os.write(2, {words!r}.encode())\n"
        f"        {statement}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    monkeypatch.setattr(compiler, "macros", lambda *_: {})
    with pytest.raises(Failure) as raised:
        compiler.compile_probe(Settings(), {})
    assert f"bcc could not compile the probe: {line}" in str(raised.value)
    assert words in raised.value.details


def test_a_failure_of_the_child(monkeypatch):
    """It fails the caller too: here there is no bcc."""
    monkeypatch.setitem(sys.modules, "bcc", None)
    monkeypatch.setattr(compiler, "macros", lambda *_: {})
    with pytest.raises(Failure, match="bcc is missing for ") as raised:
        compiler.compile_probe(Settings(), {})
    assert raised.value.exit_code == Exit.CONFIG


def test_every_macro_is_listed_in_the_source(monkeypatch):
    """The list at the top of killsnoop.bpf.c has exactly the compiler's macros; field offsets by their prefix."""
    prefixes = {macro.partition("_")[0] for macro, *_ in (*btf.FIELDS, *btf.OPTIONAL_FIELDS)}
    monkeypatch.setattr(btf, "task_macros", dict)
    monkeypatch.setattr(libbpf, "may_read_kernel_memory", lambda: True)
    monkeypatch.setattr(libbpf, "rdonly_cast_ids", lambda: (1, 2, 3))
    monkeypatch.setattr(libbpf, "has_typed_siginfo", lambda: True)
    monkeypatch.setattr(libbpf, "first_argument_is_pointer", lambda _: True)
    monkeypatch.setattr(compiler, "possible_cpus", lambda: 2)
    listed = program.MAIN.read_text().partition("The loader defines these macros")[2].partition("*/")[0]
    names = re.findall(r"^ \*   ([A-Z][A-Z_]+)(?:/(_[A-Z]+))?  ", listed, re.M)
    both = {name for name, _ in names} | {name.rpartition("_")[0] + other for name, other in names if other}
    assert both == set(compiler.macros(Settings(), {"sys_exit": "fexit"}))
    fields = re.search(r"^ \*   (TASK_\*.*) \.\.\. ", listed, re.M)[1]
    assert {field.strip(", *_") for field in fields.split()} <= prefixes
