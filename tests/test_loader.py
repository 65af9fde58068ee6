"""The loader's words for what no machine at hand can show; tests/kernel/test_refusals.py shows the rest."""

import pytest

from killsnoopd import loader
from killsnoopd.failure import Exit, Failure


@pytest.mark.parametrize(
    ("error", "said", "code", "line"),
    [
        (
            "Failed to load BPF program b'exit_kill': Invalid argument",
            "13: (85) call unknown#175\ninvalid func unknown#175\n",
            Exit.UNAVAILABLE,
            "kernel 5.10.0 is too old: killsnoopd needs Linux 5.15 or later (no bpf_175)",
        ),
        (
            "Failed to load BPF program b'exit_kill': Invalid argument",
            "unknown func bpf_task_pt_regs#175\n",
            Exit.UNAVAILABLE,
            "kernel 5.10.0 is too old: killsnoopd needs Linux 5.15 or later (no bpf_task_pt_regs)",
        ),
        (
            "Need super-user privileges to run",
            "",
            Exit.NOPERM,
            "not allowed to load the probe: it takes CAP_BPF and CAP_PERFMON; run as root",
        ),
        (
            "Failed to compile BPF module b'killsnoop.bpf.c'",
            "error: use of undeclared identifier 'x'",
            Exit.SOFTWARE,
            "bcc could not compile the probe; --log.level=debug shows what clang said",
        ),
        (
            "Failed to load BPF program b'exit_kill': Permission denied",
            "R0 invalid mem access",
            Exit.SOFTWARE,
            "kernel 5.10.0 refused the probe (Failed to load BPF program b'exit_kill': Permission denied); "
            "--log.level=debug shows the verifier's last lines",
        ),
    ],
)
def test_refusal(error, said, code, line):
    """From what bcc raised and what was printed to the one line."""
    failure = loader.refusal(error, said, "5.10.0")
    assert (failure.exit_code, str(failure)) == (code, line)
    assert failure.details == said.strip()


def test_no_btf():
    """A kernel that describes nothing of itself."""

    def struct_offsets(name):
        raise FileNotFoundError(2, "No such file or directory", "/sys/kernel/btf/vmlinux")

    with pytest.raises(Failure, match="CONFIG_DEBUG_INFO_BTF") as refused:
        loader.task_macros(struct_offsets)
    assert refused.value.exit_code == Exit.UNAVAILABLE


TASK = {"": 9000, "tgid": 1, "comm": 2, "cred": 8, "group_leader": 3, "real_parent": 4, "thread_pid": 5}
OTHERS = {"cred": {"": 200, "uid": 9}, "pid": {"": 100, "level": 4, "numbers": 96}, "upid": {"": 16, "nr": 0}}


@pytest.mark.parametrize("audit", [{}, {"loginuid": 6, "sessionid": 7}], ids=["without audit", "with audit"])
def test_task_macros(audit):
    """Login and session are there only where the kernel has them (CONFIG_AUDIT)."""
    macros = loader.task_macros(({"task_struct": TASK | audit} | OTHERS).__getitem__)
    assert macros == {
        "TASK_TGID": 1, "TASK_COMM": 2, "TASK_CRED": 8, "CRED_UID": 9, "TASK_GROUP_LEADER": 3, "TASK_REAL_PARENT": 4, "TASK_THREAD_PID": 5,
        **({"TASK_LOGINUID": 6, "TASK_SESSIONID": 7} if audit else {}),
        "PID_LEVEL": 4, "PID_NUMBERS": 96, "UPID_SIZE": 16,
    }  # fmt: skip
