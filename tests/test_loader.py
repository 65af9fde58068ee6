"""The loader's words for what no machine at hand can show; tests/kernel/test_refusals.py shows the rest."""

import struct

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

    def struct_offsets(*structs):
        raise FileNotFoundError(2, "No such file or directory", "/sys/kernel/btf/vmlinux")

    with pytest.raises(Failure, match="CONFIG_DEBUG_INFO_BTF") as refused:
        loader.task_macros(struct_offsets)
    assert refused.value.exit_code == Exit.UNAVAILABLE


def offsets(without=(), renamed=()):
    """A kernel whose fields are at 8, 16, 24, ... in the order of the loader's table."""
    found = {"file": {"f_path": 8}, "path": {"dentry": 8}, "qstr": {"len": 4, "name": 8}, "ns_common": {"inum": 4}}
    for number, (_, owner, *fields) in enumerate(loader._FIELDS + loader._FIELDS_OF_SOME, 1):
        name = fields[-1] if owner in renamed else fields[0]
        if name not in without:
            found.setdefault(owner, {})[name] = 8 * number
    found["user_namespace"]["ns"] = 320
    found["dentry"] |= {"d_name": 32, "d_op": found["dentry"].get("d_shortname", found["dentry"].get("d_iname")) + 40}
    return lambda *structs: {struct: found.get(struct, {}) for struct in structs}


def test_task_macros():
    """What is written of a field is its offset, wherever it comes from."""
    macros = loader.task_macros(offsets())
    assert macros["TASK_FLAGS"] == 8
    assert macros["FILE_DENTRY"] == 16
    assert (macros["DENTRY_NAME"], macros["DENTRY_NAME_LEN"]) == (40, 36)
    assert macros["SHORT_NAME_LEN"] == 40
    assert macros["USER_NS_INUM"] == 324
    assert {"TASK_LOGINUID", "TASK_SESSIONID", "THREAD_INFO_STATUS"} < set(macros)


def test_task_macros_of_older_kernels():
    """Fields have been renamed; others are there only with CONFIG_AUDIT, or on x86."""
    macros = loader.task_macros(offsets(without=("loginuid", "sessionid", "status"), renamed=("dentry", "kernfs_node")))
    assert macros["KERNFS_PARENT"] == loader.task_macros(offsets())["KERNFS_PARENT"]
    assert macros["DENTRY_SHORT_NAME"] == loader.task_macros(offsets())["DENTRY_SHORT_NAME"]
    assert not {"TASK_LOGINUID", "TASK_SESSIONID", "THREAD_INFO_STATUS"} & set(macros)


def test_a_kernel_without_a_field():
    """Is named in one line, with the field."""
    with pytest.raises(Failure, match=r"has no task_struct\.pdeath_signal") as refused:
        loader.task_macros(offsets(without=("pdeath_signal",)))
    assert refused.value.exit_code == Exit.UNAVAILABLE


def test_relocated():
    """Maps are exchanged by fd, the placeholder becomes a call of the kernel's function; all else stays."""

    def instruction(opcode, registers, number):
        return struct.pack("=BBhi", opcode, registers, 0, number)

    load, rest, call, cast = (
        instruction(0x18, 0x12, 7),  # r2 = map 7
        instruction(0, 0, 0),
        instruction(0x85, 0, 12),  # a helper
        instruction(0x85, 0, 0x6B73),
    )
    plain = instruction(0x18, 0x02, 7)  # r2 = 7
    program = load + rest + call + cast + plain + rest
    assert loader.relocated(program, {7: 70}, 1234) == (
        instruction(0x18, 0x12, 70) + rest + call + instruction(0x85, 0x20, 1234) + plain + rest
    )
