"""Every kernel pointer that the probe follows is tested first, as kernels built by Clang require.

There, BTF says which pointers RCU protects, and the verifier treats those as possibly NULL. A kernel built by GCC has no
such tags (before GCC 16), so its verifier does not find a missing test, but this file does. Like the verifier, it follows
every path through the instructions, and knows of each register and stack slot whether it holds a pointer that was loaded
from a kernel structure and not tested since.
"""

import struct

import pytest

from killsnoopd.probe import compiler
from killsnoopd.probe.hooks import HOOKS, PROGRAMS
from killsnoopd.settings import Settings

LDX, ST, STX, ALU, JMP, JMP32, ALU64 = 1, 2, 3, 4, 5, 6, 7
LOAD_64_BITS, LOAD_IMMEDIATE, CALL, EXIT, ADD_IMMEDIATE, MOVE = 0x79, 0x18, 0x85, 0x95, 0x07, 0xBF
JUMP_ALWAYS, JUMP_IF_ZERO, JUMP_UNLESS_ZERO = 0x05, 0x15, 0x55
ROOTS = (158, 175, compiler.RDONLY_CAST)  # bpf_get_current_task_btf, bpf_task_pt_regs
STEPS_MAX = 3_000_000
# Values of a register, besides ("loaded", at), ("offset", at) and ("stack", offset); None is anything else.
KERNEL, CONTEXT = "kernel", "context"


def changed(state, key, value):
    """The state with one register or stack slot changed."""
    kept = {k: v for k, v in state if k != key}
    if value is not None:
        kept[key] = value
    return frozenset(kept.items())


def replaced(state, old, new):
    """The state with one value replaced by another."""
    return frozenset((key, new if value == old else value) for key, value in state if value != old or new is not None)


def unchecked(code, typed_context):
    """Indexes of the instructions that follow a pointer that may be NULL.

    `typed_context`: the program's arguments are pointers to kernel structures.
    """
    instructions = list(struct.iter_unpack("<BBhi", code))
    found, seen = set(), set()
    todo = [(0, frozenset({(1, CONTEXT), (10, ("stack", 0))}))]
    while todo:
        at, state = todo.pop()
        while (at, state) not in seen:
            seen.add((at, state))
            assert len(seen) < STEPS_MAX
            opcode, registers, offset, immediate = instructions[at]
            to, source = registers & 15, registers >> 4
            values = dict(state)
            kind, pointer = opcode & 7, values.get(source)
            following = at + 1
            if opcode == LOAD_IMMEDIATE:
                state, following = changed(state, to, None), at + 2
            elif kind == LDX:
                value = None
                if isinstance(pointer, tuple) and pointer[0] != "stack":
                    found.add(at)
                elif isinstance(pointer, tuple):
                    value = values.get(("slot", pointer[1] + offset)) if opcode == LOAD_64_BITS else None
                elif opcode == LOAD_64_BITS and pointer == KERNEL:
                    value = ("loaded", at)
                    state = replaced(state, value, ("loaded", -at))  # of an earlier iteration of a loop
                elif opcode == LOAD_64_BITS and pointer == CONTEXT and typed_context:
                    value = KERNEL
                state = changed(state, to, value)
            elif kind in (ST, STX):
                base = values.get(to)
                if isinstance(base, tuple) and base[0] == "stack":
                    state = changed(state, ("slot", base[1] + offset), pointer if opcode == 0x7B else None)
            elif opcode == MOVE:
                state = changed(state, to, pointer)
            elif opcode == ADD_IMMEDIATE and isinstance(values.get(to), tuple):
                what, where = values[to]
                # The verifier refuses an offset before the test; if it is a number, it is never followed.
                state = changed(state, to, (what, where + immediate) if what == "stack" else ("offset", at))
            elif opcode == ADD_IMMEDIATE:
                pass  # a field of a structure
            elif kind in (ALU, ALU64):
                state = changed(state, to, None)
            elif opcode == EXIT:
                break
            elif opcode == CALL:
                state = frozenset((key, value) for key, value in state if key not in range(6))
                state = changed(state, 0, KERNEL if immediate in ROOTS else None)
            elif opcode == JUMP_ALWAYS:
                following = at + 1 + offset
            else:
                assert kind in (JMP, JMP32)
                taken, fell = state, state
                tested = values.get(to)
                if immediate == 0 and isinstance(tested, tuple) and tested[0] == "loaded":
                    zero, pointer = replaced(state, tested, None), replaced(state, tested, KERNEL)
                    if opcode == JUMP_IF_ZERO:
                        taken, fell = zero, pointer
                    elif opcode == JUMP_UNLESS_ZERO:
                        taken, fell = pointer, zero
                todo.append((at + 1 + offset, taken))
                state = fell
            at = following
    return found


def instruction(opcode, to=0, source=0, offset=0, immediate=0):
    return struct.pack("<BBhi", opcode, source << 4 | to, offset, immediate)


CURRENT = instruction(CALL, immediate=158)  # r0 = the current task
FIELD = instruction(LOAD_64_BITS, 1, 0, 16)  # r1 = r0->field
FOLLOW = instruction(LOAD_64_BITS, 2, 1)  # r2 = r1->field
SKIP_IF_ZERO = instruction(JUMP_IF_ZERO, 1, offset=1)  # if (r1 == 0) skip the next one
END = instruction(EXIT)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        pytest.param(CURRENT + FIELD + SKIP_IF_ZERO + FOLLOW + END, set(), id="tested"),
        pytest.param(CURRENT + FIELD + FOLLOW + END, {2}, id="not tested"),
        pytest.param(CURRENT + FIELD + instruction(MOVE, 3, 1) + SKIP_IF_ZERO + FOLLOW + END, set(), id="a copy"),
        pytest.param(
            CURRENT + FIELD + instruction(0x7B, 10, 1, -8) + instruction(JUMP_IF_ZERO, 1, offset=2)
            + instruction(LOAD_64_BITS, 1, 10, -8) + FOLLOW + END,
            set(), id="spilled before the test",
        ),
        pytest.param(CURRENT + FIELD + SKIP_IF_ZERO + FIELD + FOLLOW + END, {4}, id="loaded anew after the test"),
        pytest.param(CURRENT + FIELD + instruction(ADD_IMMEDIATE, 1, immediate=8) + SKIP_IF_ZERO + FOLLOW + END, {4},
                     id="tested after an offset was added"),
    ],
)  # fmt: skip
def test_the_check_itself(code, found):
    """The code that it accepts, and the code that it does not."""
    assert unchecked(code, typed_context=False) == found


WAYS = {hook.program: hook.ways[0] for hook in HOOKS}


@pytest.fixture(scope="module")
def functions():
    return compiler.compile_probe(Settings(self_signals=True), WAYS).functions


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_pointer_is_tested(functions, program):
    """Before it is followed, each pointer is tested."""
    assert unchecked(functions[f"on_{program}"], typed_context=WAYS[program] == "tp_btf") == set()
