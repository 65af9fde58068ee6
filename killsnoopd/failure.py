"""Fatal errors: a line for people and an exit code for scripts."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of killsnoopd and of its loader; codes from 64 up are those of sysexits.h."""

    OK = 0  # stopped on request
    CRASH = 1  # a bug: Python prints a traceback
    USAGE = 2  # unknown flag or invalid value
    UNAVAILABLE = 69  # the kernel or a mount lacks something; the line names it
    SOFTWARE = 70  # the kernel rejected the probe, or the probe failed its self-test
    OSERR = 71  # cannot listen on an address, or cannot start a process
    NOPERM = 77  # a capability is missing; the line names it
    CONFIG = 78  # a library is missing or the wrong one, or --web.config.file is invalid


class Failure(Exception):
    """The daemon cannot continue. `str()` is one line: what failed, why, and what to do."""

    def __init__(self, exit_code: Exit, line: str, details: str = "") -> None:
        super().__init__(line)
        self.exit_code = exit_code
        self.details = details  # output of the compiler or the verifier; shown at debug level
