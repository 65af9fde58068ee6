"""The table: killsnoop's classic columns TIME PID COMM SIG TPID RES, and more if there is room."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

from killsnoopd.query import records, users
from killsnoopd.query.records import Record
from killsnoopd.query.users import Named

_RED, _YELLOW, _DIM, _PLAIN = "\033[31m", "\033[33m", "\033[2m", "\033[0m"


@dataclass(frozen=True)
class Style:
    """What the output can show."""

    coloured: bool = False
    encoding: str = "utf-8"
    named: Named = users.number


def escaped(char: str) -> str:
    r"""The bytes of a character, as `\xNN`."""
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))


def safe(text: str, encoding: str = "utf-8") -> str:
    r"""The text with all characters that a terminal might obey or hide, or cannot show, as `\xNN` of their UTF-8."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else escaped(char) for char in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(char if char.encode(encoding, "ignore") else escaped(char) for char in text)
    return text


def width(text: str) -> int:
    """The number of terminal columns that a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def fitted(text: str, columns: int, encoding: str = "utf-8") -> str:
    """The text in exactly `columns` columns: padded, or cut off with an ellipsis."""
    if width(text) > columns:
        text = text[:columns]
        while width(text) > columns - 1:
            text = text[:-1]
        text += "…" if "…".encode(encoding, "ignore") else "~"
    return text + " " * (columns - width(text))


@dataclass(frozen=True)
class Column:
    """A column: heading, width, and content."""

    head: str
    columns: int | None  # None: the last one, which is not cut
    value: Callable[[Record, Style], str]


def _result(record: Record, _: Style) -> str:
    return "0" if record.get("KILLSNOOP_RES", "0") == "0" else record.get("KILLSNOOP_RESULT", "?")


def _outcome(record: Record, _: Style) -> str:
    if record["KILLSNOOP_EVENT"] == "death":
        return "died" if "KILLSNOOP_ELAPSED_MS" not in record else f"died in {records.lapse(record)}"
    if record["KILLSNOOP_EVENT"] == "exit":
        return f"exited with {record.get('KILLSNOOP_EXIT_STATUS', '?')}"
    return record.get("KILLSNOOP_OUTCOME", "").replace("_", " ")


def _field(name: str) -> Callable[[Record, Style], str]:
    return lambda record, _: record.get(f"KILLSNOOP_{name}", "")


def _of_sender(name: str) -> Callable[[Record, Style], str]:
    def value(record: Record, _: Style) -> str:
        sent_by_nobody = record.get("KILLSNOOP_ORIGIN") in ("self", "unknown")
        return "-" if sent_by_nobody else record.get(f"KILLSNOOP_{name}", "")

    return value


def _route(record: Record, _: Style) -> str:
    return record.get("KILLSNOOP_SYSCALL") or record.get("KILLSNOOP_ORIGIN", "")


def _belongs(record: Record, _: Style) -> str:
    return records.belongs(record, "TARGET_")


def _user(record: Record, style: Style) -> str:
    return users.shown(record, "UID", style.named)


def _host(record: Record, _: Style) -> str:
    return record.get("_HOSTNAME", "")


COMMAND = Column("COMMAND", None, _of_sender("CMDLINE"))
ANCESTORS = Column("ANCESTORS", None, _of_sender("ANCESTORS"))
_LONG_MIN = 30  # width of a column of unlimited length, from which on it may take the place of the other columns


def columns(
    total: int, *, dated: bool, hosts: bool = False, long: tuple[Column, ...] = (), cut: bool = False
) -> list[Column]:
    """The columns for a terminal of width `total`: the classic six, and as many others as fit.

    `long`: columns for texts of any length, which come last and share the rest of the width. The last of them is cut
    only with `cut`.
    """
    time_format = "%m-%d %H:%M:%S" if dated else "%H:%M:%S"
    chosen = [
        Column("TIME", 14 if dated else 8, lambda record, _: records.moment(record).strftime(time_format)),
        *([Column("HOST", 12, _host)] if hosts else []),
        Column("PID", 7, _of_sender("PID")),
        Column("COMM", 15, _of_sender("COMM")),
        Column("SIG", 11, _field("SIGNAL")),
        Column("TPID", 8, _field("TPID")),
        Column("RES", 6, _result),
    ]
    others = [
        Column("TCOMM", 15, _field("TCOMM")),
        Column("OUTCOME", 15, _outcome),
        Column("ROUTE", 17, _route),
        Column("TARGET UNIT", 24, _belongs),
        Column("USER", 8, _user),
    ]
    used = sum((column.columns or 0) + 1 for column in chosen) - 1
    for column in others:
        needed = 1 + (column.columns or 0)
        if used + needed + len(long) * (1 + _LONG_MIN) > total:
            break
        chosen.append(column)
        used += needed
    if used > total:  # a narrow terminal: shorten the names
        at = [column.head for column in chosen].index("COMM")
        chosen[at] = Column("COMM", max(4, 15 - (used - total)), _of_sender("COMM"))
    for left, column in zip(range(len(long), 0, -1), long, strict=True):
        columns = max(len(column.head), (total - used) // left - 1)
        used += 1 + columns
        chosen.append(replace(column, columns=columns if cut or left > 1 else None))
    return chosen


def head(chosen: list[Column]) -> str:
    """The heading line."""
    heads = [column.head if column.columns is None else fitted(column.head, column.columns) for column in chosen]
    return " ".join(heads).rstrip()


def row(record: Record, chosen: list[Column], style: Style) -> str:
    """The line of an event."""
    cells = []
    for column in chosen:
        text = safe(column.value(record, style), style.encoding)
        cells.append(text if column.columns is None else fitted(text, column.columns, style.encoding))
    line = " ".join(cells).rstrip()
    colour = _colour(record) if style.coloured else ""
    return f"{colour}{line}{_PLAIN}" if colour else line


def _colour(record: Record) -> str:
    if record.get("KILLSNOOP_RES", "0") != "0":
        return _YELLOW
    if record.get("KILLSNOOP_OUTCOME") in ("ignored", "already_pending") or record.get("KILLSNOOP_SIG") == "0":
        return _DIM
    return _RED if record.get("KILLSNOOP_SIGNAL") == "SIGKILL" else ""
