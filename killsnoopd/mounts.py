r"""Mounts, from a text like /proc/self/mountinfo (proc_pid_mountinfo(5)).

The text is bytes, and only newlines and spaces separate anything in it. A user may mount a file system (FUSE) at a
folder of any name: the kernel escapes space, tab, newline and backslash, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
# Users can add mounts by fusermount(1), 1,000 each, with paths of 4 KiB.
_LINE_MAX = 2048  # bytes; longer lines are passed over
_MOUNTS_MAX = 10_000
_ESCAPED = re.compile(rb"\\([0-7]{3})")

Names = tuple[bytes, ...]
"""The names on a path, from the root down. The root itself has none."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo."""

    dev: int  # the kernel's dev_t: major << 20 | minor
    root: Names  # the mounted folder of the file system
    at: Names
    fstype: bytes
    options: bytes  # of the file system


def _names(field: bytes) -> Names:
    path = _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
    return tuple(name for name in path.split(b"/") if name)


def _mount(line: bytes) -> Mount | None:
    fields = line.rstrip(b"\n").split(b" ")
    try:
        end = fields.index(b"-", 6)  # of the optional fields
        major, minor = map(int, fields[2].split(b":"))
        return Mount(major << 20 | minor, _names(fields[3]), _names(fields[4]), fields[end + 1], fields[end + 3])
    except (ValueError, IndexError):
        return None


def parse(lines: Iterable[bytes]) -> list[Mount]:
    """The mounts in these lines, the first 10,000; a line that cannot be understood is passed over."""
    found: list[Mount] = []
    for line in lines:
        if len(line) <= _LINE_MAX and (mount := _mount(line)):
            found.append(mount)
            if len(found) == _MOUNTS_MAX:
                break
    return found


def read(path: Path = MOUNTINFO) -> list[Mount]:
    """The mounts in this file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file)
    except OSError:
        return []
