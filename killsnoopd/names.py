"""Names of signals, results and processes, spelled the same in flags, journal fields and labels."""

import errno
import re

_CLASSIC = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT "
    "CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()  # signal(7): 1..31 on x86-64 and arm64 alike
_RTMIN, _RTMAX = 34, 64  # glibc's values: it reserves 32 and 33

COMM_BYTES = 15
"""The longest process name: the kernel cuts longer ones."""

INVALID = 65
"""Stands for every number that is not a signal."""

SIGNALS: tuple[str, ...] = (
    "0",
    *(f"SIG{name}" for name in _CLASSIC),
    "32",
    "33",
    "SIGRTMIN",
    *(f"SIGRTMIN+{n}" for n in range(1, _RTMAX - _RTMIN + 1)),
    "invalid",
)
"""Signal names by number, 0..65."""

_NOT_FATAL = frozenset("SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGWINCH".split())
FATAL = frozenset(number for number, name in enumerate(SIGNALS) if 0 < number < INVALID and name not in _NOT_FATAL)
"""Signals whose default action ends the process (signal(7))."""

SYSCALLS = (
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_send_signal",
)
"""The system calls that send signals, in the order of the probe's `enum call`."""

ORIGINS = ("syscall", "cgroup", "oom", "pdeathsig", "autokill", "kernel")
"""Origins of a generated signal, in the order of the probe's `enum origin`."""

OUTCOMES = ("delivered", "ignored", "already_pending", "overflow_fail", "lose_info")
"""Outcomes of a generated signal, in the order of the kernel's enum (trace/events/signal.h)."""


def signal_name(number: int) -> str:
    """`SIGKILL` for 9, `SIGRTMIN+3` for 37, `0` for 0, `invalid` for a number that is not a signal."""
    return SIGNALS[number] if 0 <= number < INVALID else SIGNALS[INVALID]


def signal_number(text: str) -> int:
    """The number (0..65) of a signal in any common spelling: 9, KILL, sigkill, RTMIN+3, SIGRTMAX-1, invalid.

    Raises ValueError.
    """
    if text.isascii() and text.isdigit():
        number = int(text)
        if number < INVALID:
            return number
    elif text.lower() == SIGNALS[INVALID]:
        return INVALID
    else:
        name = text.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name in SIGNALS:
            return SIGNALS.index(name)
        base, sign, offset = name.partition("-")
        if base == "SIGRTMAX" and (not sign or offset.isdigit()):
            number = _RTMAX - int(offset or 0)
            if number >= _RTMIN:
                return number
    raise ValueError(f"no such signal: {text!r}")


def result_name(res: int) -> str:
    """`success` for 0, the errno's name for -errno, or its number if it has no name."""
    return "success" if res >= 0 else errno.errorcode.get(-res, str(-res))


def raw(text: str) -> bytes:
    """The process name of a text: the inverse of text(). Raises ValueError."""
    if not re.fullmatch(r"(?:[^\\]|\\\\|\\x[0-9a-f]{2})*", text):
        raise ValueError(f"{text!r} has a backslash that begins neither \\xNN nor \\\\")
    escaped = text.encode("utf-8", "surrogateescape")
    return re.sub(
        rb"\\(?:x([0-9a-f]{2})|\\)", lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\", escaped
    )


def text(raw: bytes) -> str:
    r"""The text for a process name: any bytes up to the first NUL.

    Printable UTF-8 is unchanged; every other byte, and every byte of an unprintable character, becomes `\xNN`; a
    backslash becomes `\\`. Different names have different texts, and no text can break a line, a label or a terminal.
    """
    decoded = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if decoded.isprintable() and "\\" not in decoded:
        return decoded
    out = []
    for char in decoded:
        code = ord(char)
        if char == "\\":
            out.append("\\\\")
        elif 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8"))
    return "".join(out)
