"""Names of signals, results and processes, spelled the same in flags, journal fields and labels."""

from __future__ import annotations

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

ORIGINS = (
    "syscall",
    "cgroup",
    "oom",
    "pdeathsig",
    "autokill",
    "ptrace",
    "tty",
    "sigio",
    "exit_signal",
    "rlimit",
    "kernel",
)
"""Origins of a generated signal, in the order of the probe's `enum origin`."""

DEATH_ORIGINS = (*ORIGINS, "self", "unknown")
"""Origins of a death: also `self`, the process's own doing, and `unknown`, no signal was seen."""

OUTCOMES = ("delivered", "ignored", "already_pending", "overflow_fail", "lose_info")
"""Outcomes of a generated signal, in the order of the kernel's enum (trace/events/signal.h)."""


_CODES = {0: "SI_USER", 0x80: "SI_KERNEL"} | dict(
    zip(range(-1, -8, -1), "QUEUE TIMER MESGQ ASYNCIO SIGIO TKILL DETHREAD".split())
)
_CODES |= {code: f"SI_{name}" for code, name in _CODES.items() if code < 0}
_FAULT_CODES = {
    "SIGILL": "ILL_ILLOPC ILL_ILLOPN ILL_ILLADR ILL_ILLTRP ILL_PRVOPC ILL_PRVREG ILL_COPROC ILL_BADSTK",
    "SIGFPE": "FPE_INTDIV FPE_INTOVF FPE_FLTDIV FPE_FLTOVF FPE_FLTUND FPE_FLTRES FPE_FLTINV FPE_FLTSUB",
    "SIGSEGV": "SEGV_MAPERR SEGV_ACCERR SEGV_BNDERR SEGV_PKUERR SEGV_ACCADI SEGV_ADIDERR SEGV_ADIPERR SEGV_MTEAERR "
    "SEGV_MTESERR SEGV_CPERR",
    "SIGBUS": "BUS_ADRALN BUS_ADRERR BUS_OBJERR BUS_MCEERR_AR BUS_MCEERR_AO",
    "SIGTRAP": "TRAP_BRKPT TRAP_TRACE TRAP_BRANCH TRAP_HWBKPT TRAP_UNK TRAP_PERF",
    "SIGSYS": "SYS_SECCOMP SYS_USER_DISPATCH",
}
_OTHER_CODES = "POLL_IN POLL_OUT POLL_MSG POLL_ERR POLL_PRI POLL_HUP".split()  # by fcntl(2) F_SETSIG, with any signal


def code_name(sig: int, code: int) -> str | None:
    """The name of a si_code, like `SEGV_MAPERR` or `SI_USER` (sigaction(2)); None if it has none."""
    if code in _CODES:
        return _CODES[code]
    found = _FAULT_CODES.get(signal_name(sig))
    codes = found.split() if found else _OTHER_CODES
    return codes[code - 1] if 0 < code <= len(codes) else None


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


# Printable by Python's rule, but blank: Default_Ignorable_Code_Point of Unicode 16, and a Braille cell without dots.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def text(raw: bytes) -> str:
    r"""The text for a process name: any bytes up to the first NUL.

    Printable UTF-8 is unchanged; every other byte, and every byte of a character that is unprintable or blank (other
    than a space), becomes `\xNN`; a backslash becomes `\\`. Different names have different texts, and no text can
    break a line, a label or a terminal.
    """
    decoded = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if decoded.isascii() and decoded.isprintable() and "\\" not in decoded:
        return decoded
    out = []
    for char in decoded:
        code = ord(char)
        if char == "\\":
            out.append("\\\\")
        elif 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable() and not _BLANK.match(char):
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8"))
    return "".join(out)


def with_pid(comm: str, pid: object) -> str:
    r"""`nginx[812]`, for messages to people.

    A name that could pass for one with a pid is quoted: `"systemd[1] uid "[812]`.
    """
    if re.search(r'[\[\]"]|^ | $|^$', comm):
        quoted = comm.replace('"', '\\"')
        return f'"{quoted}"[{pid}]'
    return f"{comm}[{pid}]"
