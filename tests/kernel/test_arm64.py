"""The probe for arm64, as far as an x86-64 machine can show it: compiled, and reading the right registers."""

import json
import os
import struct
import subprocess
import sys

import pytest

# Where the saved registers of a system call's arguments are, in bytes (struct pt_regs of the two architectures).
ARGUMENTS = {
    "x86_64": {"exit_kill": [112, 104], "exit_tgkill": [112, 96]},  # di, si, dx
    "arm64": {"exit_kill": [272, 8], "exit_tgkill": [272, 16]},  # orig_x0, regs[1], regs[2]
}
SCRIPT = """
import json
from killsnoopd import loader
from killsnoopd.program import Settings
module = loader.compiled(loader.import_bcc(), Settings(self_signals=True))
print(json.dumps({name: module.dump_func(name).hex() for name in ("exit_kill", "exit_tgkill")}))
"""


@pytest.mark.parametrize("architecture", ARGUMENTS)
def test_argument_registers(architecture):
    """The first two loads after bpf_task_pt_regs are the target and the signal."""
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "ARCH": architecture},
    ).stdout
    for name, code in json.loads(output).items():
        instructions = [struct.unpack("<BBhi", bytes.fromhex(code)[at : at + 8]) for at in range(0, len(code) // 2, 8)]
        call = next(at for at, (op, _, _, imm) in enumerate(instructions) if op == 0x85 and imm == 175)
        loads = [offset for op, _, offset, _ in instructions[call:] if op == 0x79]  # *(u64 *)(register + offset)
        assert loads[:2] == ARGUMENTS[architecture][name]
