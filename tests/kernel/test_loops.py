"""Loops that older kernels accept: on any kernel, without booting an old one."""

import struct

import pytest

from killsnoopd.probe import compiler, hooks
from killsnoopd.settings import Settings

_JUMPS, _JUMP, _EXIT, _CALL = (5, 6), 0x05, 0x95, 0x85  # classes of jumps; opcodes


@pytest.fixture(scope="module")
def module():
    ways = {hook.program: hook.ways[-1] for hook in hooks.HOOKS}
    return compiler.compiled(compiler.import_bcc(), compiler.macros(Settings(), ways))


def back_edges(code):
    """The instructions that are no jump and fall through to an earlier part of the path: check_cfg() of Linux 6.1."""
    instructions = [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]

    def successors(at):
        opcode, _, offset, _ = instructions[at]
        if opcode & 7 not in _JUMPS:
            return [(at + 1, False)]
        if opcode == _EXIT:
            return []
        if opcode == _CALL:
            return [(at + 1, False)]
        return [(at + offset + 1, True)] if opcode == _JUMP else [(at + 1, True), (at + offset + 1, True)]

    found, on_path, seen = [], {0}, {0}
    stack = [(0, iter(successors(0)))]
    while stack:
        at, rest = stack[-1]
        for after, is_jump in rest:
            if after in on_path and not is_jump:
                found.append((at, after))
            if after not in seen:
                seen.add(after)
                on_path.add(after)
                stack.append((after, iter(successors(after))))
                break
        else:
            on_path.discard(at)
            stack.pop()
    return found


@pytest.mark.parametrize("program", hooks.PROGRAMS)
def test_no_loop_is_entered_in_its_middle(module, program):
    """Linux 6.1 refuses a program with such a loop."""
    assert back_edges(module.dump_func(f"on_{program}".encode())) == []
