"""Reads logged events back from the journal, a file or a pipe, and selects among them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from killsnoopd import names
from killsnoopd.event import KINDS
from killsnoopd.events.fields import duration
from killsnoopd.failure import Exit, Failure

Record = dict[str, str]
"""All fields of one event."""


@dataclass(frozen=True)
class Wanted:
    """A selection of events; a criterion that is None or empty selects all."""

    failed: bool = False
    pid: int | None = None
    tpid: int | None = None
    signals: frozenset[int] = frozenset()  # numbers; names.INVALID for all numbers that are not signals
    unit: str | None = None  # of the sender or of the target
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
        units = record.get("KILLSNOOP_UNIT"), record.get("KILLSNOOP_TARGET_UNIT")
        return not self.unit or self.unit in units or f"{self.unit}.service" in units


def moment(record: Record) -> datetime:
    """The time of the event, in local time."""
    return datetime.fromisoformat(record["KILLSNOOP_TIMESTAMP"]).astimezone()


def lapse(record: Record) -> str:
    """The time from the signal to the death, in words."""
    try:
        return duration(int(float(record["KILLSNOOP_ELAPSED_MS"]) * 1e6))
    except (KeyError, ValueError, OverflowError):
        return "? ms"


def parse(line: str | bytes) -> Record | None:
    """The record in a line of JSON; None if it is not an event."""
    try:
        found = json.loads(line)
        if found["KILLSNOOP_EVENT"] in KINDS:
            # journalctl prints a list for a repeated field and for one that is not UTF-8: killsnoopd writes neither.
            record = {name: value for name, value in found.items() if isinstance(value, str)}
            moment(record)
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def journal_command(
    kinds: tuple[str, ...],
    *,
    follow: bool = False,
    since: str | None = None,
    until: str | None = None,
    newest_first: bool = False,
) -> list[str]:
    """The journalctl command that prints these events as JSON lines.

    Any process may log lines that look like killsnoopd's, but journald itself sets _UID and _SYSTEMD_UNIT.
    """
    wanted = [f"KILLSNOOP_EVENT={kind}" for kind in kinds]
    command = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json"]
    if follow:
        command += ["--follow", "--lines=10"]
    if since:
        command.append(f"--since={since}")
    if until:
        command.append(f"--until={until}")
    if newest_first:
        command.append("--reverse")
    return [*command, *wanted, "_UID=0", "+", *wanted, "_SYSTEMD_UNIT=killsnoopd.service"]


def from_stream(stream: IO[bytes], complain: Callable[[str], object]) -> Iterator[Record]:
    """The events in a stream of JSON lines. Other lines are counted and reported at the end."""
    others = 0
    for line in stream:
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
    if not shutil.which(command[0]):
        raise Failure(
            Exit.UNAVAILABLE,
            "no journal here (journalctl not found): give a FILE of JSON lines, or - for standard input",
        )
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


def _journal_failure(said: str) -> Failure:
    if "ermission" in said:
        return Failure(
            Exit.NOPERM, f"not allowed to read the journal ({said}): run as root or join group systemd-journal"
        )
    if "timestamp" in said:
        return Failure(
            Exit.USAGE, f"{said}: write a time that journalctl accepts, such as '10 min ago' or '2026-11-22 03:00'"
        )
    return Failure(Exit.UNAVAILABLE, f"cannot read the journal: {said}")


@contextlib.contextmanager
def from_file(path: str, complain: Callable[[str], object]) -> Iterator[Iterator[Record]]:
    """The events in a file, `-` for standard input. Raises Failure."""
    if path == "-":
        yield from_stream(sys.stdin.buffer, complain)
        return
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise Failure(Exit.UNAVAILABLE, f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    with stream:
        yield from_stream(stream, complain)
