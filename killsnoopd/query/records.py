"""Reads logged events back from the journal, a file or a pipe, and selects among them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, cast

from killsnoopd import names
from killsnoopd.events.fields import duration
from killsnoopd.failure import Exit, Failure

Record = dict[str, str]
"""All fields of one event."""

ENDS = ("death", "exit")
"""Events of the end of a process: by a signal, or by its own exit soon after a signal that it handled."""

KINDS = ("call", "delivery", *ENDS)
"""Values of KILLSNOOP_EVENT."""

_LONGEST_LINE = 1 << 20  # bytes; an event takes 2 KB, and a longer line must not fill the memory
_IN_MEMORY = 16 << 20  # of what comes through a pipe and is read twice; the rest is in a temporary file


@dataclass(frozen=True)
class Wanted:
    """A selection of events; a criterion that is None or empty selects all."""

    failed: bool = False
    pid: int | None = None
    tpid: int | None = None
    signals: frozenset[int] = frozenset()  # numbers; names.INVALID for all numbers that are not signals
    unit: str | None = None  # of the sender or of the target: a systemd unit, or NAMESPACE/POD
    kinds: tuple[str, ...] = KINDS

    def has(self, record: Record) -> bool:
        """Whether a record is selected."""
        if record["KILLSNOOP_EVENT"] not in self.kinds or (self.failed and record.get("KILLSNOOP_RES", "0") == "0"):
            return False
        if self.pid is not None and record.get("KILLSNOOP_PID") != str(self.pid):
            return False
        if self.tpid is not None and record.get("KILLSNOOP_TPID") != str(self.tpid):
            return False
        if self.signals and record.get("KILLSNOOP_SIGNAL") not in {names.signal_name(sig) for sig in self.signals}:
            return False
        units = record.get("KILLSNOOP_UNIT"), record.get("KILLSNOOP_TARGET_UNIT"), pod(record), pod(record, "TARGET_")
        return not self.unit or self.unit in units or f"{self.unit}.service" in units


def pod(record: Record, whose: str = "") -> str:
    """NAMESPACE/POD of the sender or of the target (`TARGET_`); empty: none, or not known."""
    name = record.get(f"KILLSNOOP_{whose}POD")
    return f"{record.get(f'KILLSNOOP_{whose}POD_NAMESPACE', '?')}/{name}" if name else ""


def belongs(record: Record, whose: str = "") -> str:
    """What the sender or the target (`TARGET_`) belongs to: a pod, or else a unit, a machine or a container."""
    return (
        pod(record, whose)
        or record.get(f"KILLSNOOP_{whose}UNIT")
        or record.get(f"KILLSNOOP_{whose}MACHINE")
        or record.get(f"KILLSNOOP_{whose}CONTAINER", "")[:12]
    )


def moment(record: Record) -> datetime:
    """The time of the event, in local time."""
    return datetime.fromisoformat(record["KILLSNOOP_TIMESTAMP"]).astimezone()


def lapse_ns(record: Record) -> int | None:
    """The time from the signal to the end of the process; None if it is not known."""
    try:
        return int(float(record["KILLSNOOP_ELAPSED_MS"]) * 1e6)
    except (KeyError, ValueError, OverflowError):
        return None


def lapse(record: Record) -> str:
    """The time from the signal to the end of the process, in words."""
    ns = lapse_ns(record)
    return "? ms" if ns is None else duration(ns)


def parse(line: str | bytes) -> Record | None:
    """The record in a line of JSON; None if it is not an event."""
    try:
        found = json.loads(line)
        if found["KILLSNOOP_EVENT"] in KINDS:
            # journalctl prints a list for a repeated field and for one that is not UTF-8: killsnoopd writes neither.
            record = {name: value for name, value in found.items() if isinstance(value, str)}
            moment(record)
            return record
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    return None


@dataclass(frozen=True)
class Journal:
    """Which journal, and which part of it; times as journalctl takes them."""

    since: str | None = None
    until: str | None = None
    directory: str | None = None
    merge: bool = False  # of all machines whose journals are here
    machine: str | None = None  # a container


def near(journal: Journal, record: Record, before: timedelta, after: timedelta) -> Journal:
    """The part of the journal that was written around a record of it."""
    try:
        written = int(record["__REALTIME_TIMESTAMP"]) // 1_000_000
    except (KeyError, ValueError):
        return journal
    since, until = written - before // timedelta(seconds=1), written + after // timedelta(seconds=1)
    return replace(journal, since=f"@{since}", until=f"@{until}")


Matches = tuple[tuple[str, ...], ...]
"""Alternatives of journalctl's FIELD=value, each of fields that must all match."""


def _journalctl(journal: Journal) -> list[str]:
    command = ["journalctl", "--no-pager"]
    if journal.directory:
        command.append(f"--directory={journal.directory}")
    elif journal.merge:
        command.append("--merge")
    else:
        # All that root and system users log is there, and a user who may read his own journal only gets an error.
        # --merge and --directory read files of other names, too.
        command.append("--system")
    if journal.machine:
        command.append(f"--machine={journal.machine}")
    return command


def check_command(journal: Journal) -> list[str]:
    """The journalctl command that says on stderr whether there is a journal and how much of it is seen.

    It says so in formats for people only, and exits with 0 (journal_access_check_and_warn of systemd).
    """
    return [*_journalctl(journal), "--lines=0"]


def check_journal(command: list[str]) -> None:
    """Raise Failure unless there is a journal and all of it may be read."""
    _require(command[0])
    found = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    said = found.stderr.decode(errors="replace").strip()
    if found.returncode != 0 and said:
        raise _journal_failure(said.splitlines()[-1])
    if "not seeing messages" in said:
        raise _not_permitted("it is seen only in part")
    if "No journal files were found" in said:
        raise Failure(Exit.UNAVAILABLE, f"no journal files here: {_GIVE_A_FILE}")


_GIVE_A_FILE = "give a FILE of JSON lines, or - for standard input"


def _require(program: str) -> None:
    if not shutil.which(program):
        raise Failure(Exit.UNAVAILABLE, f"no journal here ({program} not found): {_GIVE_A_FILE}")


def journal_command(
    journal: Journal, matches: Matches, *, follow: bool = False, newest_first: bool = False
) -> list[str]:
    """The journalctl command that prints matching events as JSON lines.

    Any process may log lines that look like killsnoopd's, but journald itself sets _UID and _SYSTEMD_UNIT.
    """
    command = [*_journalctl(journal), "--all", "--output=json"]
    if follow:
        command += ["--follow", "--lines=10"]
    if journal.since:
        command.append(f"--since={journal.since}")
    if journal.until:
        command.append(f"--until={journal.until}")
    if newest_first:
        command.append("--reverse")
    trusted = [[*fields, by] for fields in matches for by in ("_UID=0", "_SYSTEMD_UNIT=killsnoopd.service")]
    return [*command, *trusted[0], *(word for fields in trusted[1:] for word in ("+", *fields))]


def from_stream(stream: IO[bytes], complain: Callable[[str], object]) -> Iterator[Record]:
    """The events in a stream of JSON lines. Other lines are counted and reported at the end."""
    others = 0
    for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
        record = parse(line)
        if record:
            yield record
        elif line.strip():
            others += 1
    if others:
        complain(f"skipped {others} lines that are not killsnoopd events")


@contextlib.contextmanager
def from_journal(command: list[str]) -> Iterator[Iterator[Record]]:
    """The events that a journalctl command prints. Raises Failure if it cannot run or may not read the journal."""
    _require(command[0])
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def read(stream: IO[bytes], errors: IO[bytes]) -> Iterator[Record]:
        yield from filter(None, map(parse, stream))
        said = errors.read().decode(errors="replace").strip()
        if child.wait() != 0 and said:
            raise _journal_failure(said.splitlines()[-1])

    try:
        yield read(cast(IO[bytes], child.stdout), cast(IO[bytes], child.stderr))
    finally:
        child.terminate()
        child.communicate()


def _not_permitted(why: str) -> Failure:
    line = f"not allowed to read the system's journal ({why}): run as root or join group systemd-journal"
    return Failure(Exit.NOPERM, line)


def _journal_failure(said: str) -> Failure:
    if "ermission" in said:
        return _not_permitted(said.rstrip("."))
    if "privileges" in said:
        return Failure(Exit.NOPERM, f"{said.rstrip('.')}: run as root")
    if "timestamp" in said:
        return Failure(
            Exit.USAGE, f"{said}: write a time that journalctl accepts, such as '10 min ago' or '2026-11-22 03:00'"
        )
    return Failure(Exit.UNAVAILABLE, f"cannot read the journal: {said}")


def _opened(path: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> Failure:
    return Failure(Exit.UNAVAILABLE, f"cannot read {path}: {os.strerror(error.errno or 0)}")


def _guarded(found: Iterator[Record], path: str) -> Iterator[Record]:
    try:
        yield from found
    except OSError as error:
        raise _unreadable(path, error) from None


@contextlib.contextmanager
def from_file(path: str, complain: Callable[[str], object]) -> Iterator[Iterator[Record]]:
    """The events in a file, `-` for standard input. Raises Failure."""
    with _opened(path) as stream:
        yield _guarded(from_stream(stream, complain), path)


@contextlib.contextmanager
def twice_from_file(path: str, complain: Callable[[str], object]) -> Iterator[Callable[[], Iterator[Record]]]:
    """A function that reads the events in a file or pipe from the start, each time. Raises Failure."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_opened(path))
        try:
            if not stream.seekable():
                copy = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))
                shutil.copyfileobj(stream, copy)
                stream = cast(IO[bytes], copy)
        except OSError as error:
            raise Failure(
                Exit.UNAVAILABLE, f"cannot keep {path} in a temporary file ({error.strerror}): give a FILE on disk"
            ) from None
        reports = iter([complain])

        def read() -> Iterator[Record]:
            stream.seek(0)
            return _guarded(from_stream(stream, next(reports, lambda line: None)), path)

        yield read
