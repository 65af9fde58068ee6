"""What ends the daemon: one line for a person, and an exit code for a machine."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of killsnoopd and of its loader; those from 64 up mean what sysexits.h says of them."""

    OK = 0
    CRASH = 1
    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    OSERR = 71
    NOPERM = 77
    CONFIG = 78


MEANINGS = {
    Exit.OK: "Stopped by SIGTERM or SIGINT, after logging the last events.",
    Exit.CRASH: "A bug: Python prints a traceback.",
    Exit.USAGE: "A flag is unknown, or its value is wrong.",
    Exit.UNAVAILABLE: "A requirement is missing: Linux 5.15, BTF, a tracepoint, tracefs, bpffs or the pinned probe.",
    Exit.SOFTWARE: "The kernel or the compiler refused the probe, or the probe does not count.",
    Exit.OSERR: "Cannot listen on an address, or cannot start a process.",
    Exit.NOPERM: "A capability or a permission is missing.",
    Exit.CONFIG: "A library is missing or is the wrong one, or --web.config.file is wrong.",
}
"""For --help and the man page."""


class Failure(Exception):
    """The daemon cannot go on. `str()` is one line: what, why, what to do."""

    def __init__(self, exit_code: Exit, line: str, details: str = "") -> None:
        super().__init__(line)
        self.exit_code = exit_code
        self.details = details  # what a compiler or the verifier said; shown at debug level
