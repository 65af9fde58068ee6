"""Command lines and ancestors of senders, as text."""

import re
from functools import lru_cache
from pathlib import Path

from killsnoopd import names
from killsnoopd.event import ANCESTORS_MAX, CMDLINE_MAX, Cmdline
from killsnoopd.events.cgroups import TICK_NS, start_ticks

CUT = "..."
"""Follows a command line that was cut, and a chain of ancestors that goes on."""
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # as shlex.quote has it
_CHARACTER = re.compile(r"\\x[0-9a-f]{2}|\\.|.", re.DOTALL)  # as names.text writes it


def _quoted(argument: bytes) -> str:
    r"""An argument as a shell takes it. In `$'...'` a shell understands `\xNN` and `\\`, the escapes of names.text."""
    text = names.text(argument)
    if _PLAIN.fullmatch(text) and not text.endswith(CUT):
        return text
    if "\\" in text or "'" in text:
        return "$'" + text.replace("'", r"\'") + "'"
    return f"'{text}'"


@lru_cache(64)
def shell(cmdline: Cmdline) -> str | None:
    r"""The command line as a shell takes it, `...` where it was cut; None if it was not read.

    A program may set its title by overwriting its first argument, with NULs up to the end of the last one. Only the
    first one is shown then.
    """
    arguments = cmdline.arguments
    if arguments is None:
        return None
    first, end, rest = arguments.partition(b"\0")
    if not rest.strip(b"\0"):
        arguments = first + end
    text = " ".join(map(_quoted, arguments.removesuffix(b"\0").split(b"\0")))
    if not cmdline.cut:
        return text
    return f"{text} {CUT}" if arguments.endswith(b"\0") else text + CUT


def says_more(text: str, comm: str) -> bool:
    """Whether a command line, as shell() has it, says more than the name of its process."""
    name = text.lstrip("-").rpartition("/")[2]
    return name != comm and not (len(comm) == names.COMM_BYTES and name.startswith(comm) and " " not in name)


def shortened(text: str, length: int) -> str:
    """The text, if it is longer cut to `length` characters, but not within an escape."""
    if len(text) <= length:
        return text
    kept = ""
    for character in _CHARACTER.findall(text):
        if len(kept) + len(character) > length - len(CUT):
            break
        kept += character
    return kept + CUT


_MARKS = str.maketrans({" ": r"\x20", "[": r"\x5b", "]": r"\x5d"})


@lru_cache(64)
def chain(ancestors: tuple[tuple[int, str], ...]) -> str | None:
    """Ancestors as `sh[990] cron[989] systemd[1]`, nearest first; None if there are none.

    No name has a space or a bracket: these are escaped as the bytes are that names.text escapes.
    """
    found = [f"{comm.translate(_MARKS)}[{pid}]" for pid, comm in ancestors]
    if len(ancestors) == ANCESTORS_MAX and ancestors[-1][0] > 2:  # 1 and 2, init and kthreadd, have no parent
        found.append(CUT)
    return " ".join(found) or None


def from_proc(pid: int, start_ns: int, comm: str, proc: Path = Path("/proc")) -> Cmdline | None:
    """The command line from /proc, if the pid still belongs to that process, and it still has that name; else None."""
    try:
        with Path(proc, str(pid), "cmdline").open("rb", buffering=0) as file:
            found = file.read(CMDLINE_MAX + 1)
        stat = Path(proc, str(pid), "stat").read_bytes()
    except OSError:
        return None
    name = stat.partition(b"(")[2].rpartition(b")")[0]
    if start_ticks(stat) != start_ns // TICK_NS or names.text(name) != comm or not found:
        return None
    return Cmdline(found[:CMDLINE_MAX], len(found) > CMDLINE_MAX)
