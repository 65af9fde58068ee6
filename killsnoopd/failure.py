"""What ends the daemon: one line for a person, and an exit code for a machine."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of killsnoopd and of its loader; those from 64 up mean what sysexits.h says of them."""

    OK = 0  # told to stop, and stopped
    CRASH = 1  # a bug: Python prints a traceback
    USAGE = 2  # a flag is unknown, or its value is wrong
    UNAVAILABLE = 69  # this kernel, or what is mounted of it, lacks something: the line says what
    SOFTWARE = 70  # the kernel refused the probe, or the probe does not count
    OSERR = 71  # an address cannot be listened on
    NOPERM = 77  # a capability is missing: the line says which
    CONFIG = 78  # a library is missing or the wrong one, or --web.config.file is wrong


class Failure(Exception):
    """The daemon cannot go on. `str()` is one line: what, why, what to do."""

    def __init__(self, exit_code: Exit, line: str, details: str = "") -> None:
        super().__init__(line)
        self.exit_code = exit_code
        self.details = details  # what a compiler or the verifier said; shown at debug level
