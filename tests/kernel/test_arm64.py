"""The probe for arm64, as far as x86-64 can show it: it compiles, and reads the right registers."""

import json
import os
import struct
import subprocess
import sys

import pytest

# Offsets in bytes of the saved registers that registers.h reads (struct pt_regs of both architectures).
REGISTERS = {
    "x86_64": {  # orig_ax; di, si, dx; bx, cx, dx
        "CALL_NUMBER": 120, "ARG0": 112, "ARG1": 104, "ARG2": 96, "COMPAT_ARG0": 40, "COMPAT_ARG1": 88, "COMPAT_ARG2": 96,
    },
    "arm64": {  # syscallno; orig_x0, x1, x2, for both kinds of programs
        "CALL_NUMBER": 280, "ARG0": 272, "ARG1": 8, "ARG2": 16, "COMPAT_ARG0": 272, "COMPAT_ARG1": 8, "COMPAT_ARG2": 16,
    },
}  # fmt: skip
SCRIPT = """
import json, sys
from killsnoopd.probe import compiler, hooks
from killsnoopd.settings import Settings
macros = sys.argv[1].split(",")
source = '#include "registers.h"\\n' + "".join(
    f"int read_{macro}(void *ctx) {{ return {macro}((struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf())); }}\\n"
    for macro in macros
)
defined = compiler.macros(Settings(), dict.fromkeys(hooks.PROGRAMS, "tracepoint"))
module = compiler.compiled(compiler.import_bcc(), defined, source)
print(json.dumps({macro: module.dump_func(f"read_{macro}".encode()).hex() for macro in macros}))
whole = compiler.compiled(compiler.import_bcc(), defined)
assert all(len(whole.dump_func(name)) > 100 for name in (b"on_sys_exit", b"on_signal_generate"))
"""
LOADS = (0x79, 0x61)  # *(u64 *)(register + offset), *(u32 *)


@pytest.mark.parametrize("architecture", REGISTERS)
def test_registers(architecture):
    """Each macro is one load of that architecture's register, and the whole probe compiles."""
    registers = REGISTERS[architecture]
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(registers)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "ARCH": architecture},
    ).stdout
    found = {}
    for macro, code in json.loads(output).items():
        (found[macro],) = [
            offset for op, _, offset, _ in struct.iter_unpack("<BBhi", bytes.fromhex(code)) if op in LOADS
        ]
    assert found == registers
