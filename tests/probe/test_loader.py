"""The loader's messages for kernels that are not at hand; tests/kernel/test_refusals.py has the rest."""

import errno
import os

import pytest

from killsnoopd.failure import Exit
from killsnoopd.probe import libbpf, loader


@pytest.mark.parametrize(
    ("number", "said", "code", "line"),
    [
        (
            errno.EINVAL,
            "13: (85) call unknown#175\ninvalid func unknown#175\n",
            Exit.UNAVAILABLE,
            "kernel 5.10.0 is too old: killsnoopd needs Linux 5.15 or later (no bpf_175)",
        ),
        (
            errno.EINVAL,
            "unknown func bpf_task_pt_regs#175\n",
            Exit.UNAVAILABLE,
            "kernel 5.10.0 is too old: killsnoopd needs Linux 5.15 or later (no bpf_task_pt_regs)",
        ),
        (
            524,
            "",
            Exit.UNAVAILABLE,
            "kernel 5.10.0 is too old: its BPF JIT does not support atomic exchange; "
            "on arm64 killsnoopd needs Linux 5.18 or later",
        ),
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
