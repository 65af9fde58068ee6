"""Fatal errors: a line for people and an exit code for scripts."""

import traceback
from enum import IntEnum
from pathlib import Path

from killsnoopd import names


class Exit(IntEnum):
    """Exit codes of killsnoopd and of its loader; codes from 64 up are those of sysexits.h."""

    OK = 0
    CRASH = 1
    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    OSERR = 71
    NOPERM = 77
    CONFIG = 78


MEANINGS = {
    Exit.OK: "Stopped by SIGTERM or SIGINT, after logging the last events. With --check: nothing is missing.",
    Exit.CRASH: "A bug. Report it, with the traceback that --log.level=debug shows.",
    Exit.USAGE: "A flag is unknown, or its value is wrong.",
    Exit.UNAVAILABLE: "A requirement is missing: BTF, a BPF feature, a tracepoint, tracefs, bpffs or the pinned probe.",
    Exit.SOFTWARE: "The kernel or the compiler refused the probe, or the probe does not count.",
    Exit.OSERR: "Cannot listen on an address, or cannot start a process.",
    Exit.NOPERM: "A capability or a permission is missing.",
    Exit.CONFIG: "A library is missing or is the wrong one, or --web.config.file is wrong.",
}
"""For --help and the man page."""


class Failure(Exception):
    """The daemon cannot continue. `str()` is one line: what failed, why, and what to do."""

    def __init__(self, exit_code: Exit, line: str, details: str = "") -> None:
        super().__init__(line)
        self.exit_code = exit_code
        self.details = details  # output of the compiler or the verifier; shown at debug level


def unforeseen(error: BaseException) -> Failure:
    """The Failure for an exception that no code expects: a bug. Its details are the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "killsnoopd" in Path(frame.filename).parts] or frames
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    text = names.text(str(error).encode("utf-8", "backslashreplace"))  # it may quote a process
    return Failure(
        Exit.CRASH,
        f"a bug: {type(error).__name__}{': ' if text else ''}{text}{where}; report it to killsnoopd's developers, "
        "with the traceback that --log.level=debug (of killsnoop: KILLSNOOP_DEBUG=1) shows",
        "".join(traceback.format_exception(error)),
    )
