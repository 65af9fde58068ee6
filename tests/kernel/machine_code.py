"""Loops of system calls in machine code: a process that spends nearly all its time in the kernel."""

import ctypes
import mmap
import platform
import struct

from senders import NUMBERS

X86_64 = platform.machine() == "x86_64"
_libc = ctypes.CDLL(None, use_errno=True)


def _arm(*words):
    return struct.pack(f"<{len(words)}I", *words)


def _arm_set(register, value):
    """Set a register to 32 bits: movz, movk."""
    return _arm(0x52800000 | (value & 0xFFFF) << 5 | register, 0x72A00000 | (value >> 16 & 0xFFFF) << 5 | register)


def _arm_call(number, *arguments):
    """The arguments in x0 and so on, the number in x8; svc 0."""
    setting = b"".join(_arm_set(register, value) for register, value in enumerate(arguments))
    return setting + _arm_set(8, number) + _arm(0xD4000001)


def call(name, *arguments):
    """Code of one call with up to four 32-bit arguments."""
    if not X86_64:
        return _arm_call(NUMBERS[name], *arguments)
    # mov edi, esi, edx, r10d, eax; syscall
    text = b"".join(opcode + struct.pack("<I", value & 0xFFFFFFFF) for opcode, value in zip(
        (b"\xbf", b"\xbe", b"\xba", b"\x41\xba"), arguments, strict=False))  # fmt: skip
    return text + b"\xb8" + struct.pack("<I", NUMBERS[name]) + b"\x0f\x05"


# clone(CLONE_VM | SIGCHLD) of a child that only waits: its registers are all it has. Then kill(child, SIGKILL) and wait4().
if X86_64:
    DEATH = bytes.fromhex(
        "bf11010000 31f6 31d2 4531d2 4531c0 b838000000 0f05"  # clone
        "85c0 7507"  # the child goes on here:
        "b822000000 0f05"  # pause
        "4189c1"  # mov r9d, eax
        "89c7 be09000000 b83e000000 0f05"  # kill
        "4489cf 31f6 31d2 4531d2 b83d000000 0f05"  # wait4
    )
else:
    _PAUSE = _arm_call(73, 0, 0, 0, 0)  # ppoll of nothing, for ever
    _KILL = _arm_set(1, 9) + _arm_set(8, NUMBERS["kill"]) + _arm(0xD4000001)
    _WAIT = _arm_call(260, 0, 0, 0, 0)[8:]  # without the first argument
    DEATH = (
        _arm_call(220, 0x111, 0, 0, 0, 0)  # clone
        + _arm(0xB5000000 | (len(_PAUSE) // 4 + 1) << 5)  # cbnz x0, past what the child does:
        + _PAUSE
        + _arm(0xAA0003EA)  # mov x10, x0
        + _KILL
        + _arm(0xAA0A03E0)  # mov x0, x10
        + _WAIT
    )


def function(body):
    """A function that does this so many times (its argument), and its memory, to be kept."""
    if X86_64:  # rbx counts
        loop = body + bytes.fromhex("48ffcb")  # dec rbx
        loop += b"\x0f\x85" + struct.pack("<i", -len(loop) - 6)  # jnz
        text = bytes.fromhex("53 4889fb") + loop + bytes.fromhex("5b c3")  # push rbx; mov rbx, rdi; ...; pop rbx; ret
    else:  # x9 counts: a system call changes x0 alone
        loop = body + _arm(0xF1000529)  # subs x9, x9, 1
        loop += _arm(0x54000001 | (-len(loop) // 4 & 0x7FFFF) << 5)  # b.ne
        text = _arm(0xAA0003E9) + loop + _arm(0xD65F03C0)  # mov x9, x0; ...; ret
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    memory.write(text)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Not executable before it is written: so the kernel flushes the instruction cache.
    assert _libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC) == 0
    return ctypes.CFUNCTYPE(None, ctypes.c_long)(address), memory
