"""The table: killsnoop's classic columns TIME PID COMM SIG TPID RES, and more if there is room."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from killsnoopd.query import records
from killsnoopd.query.records import Record

_RED, _YELLOW, _DIM, _PLAIN = "\033[31m", "\033[33m", "\033[2m", "\033[0m"


def safe(text: str) -> str:
    r"""The text with all unprintable characters, which a terminal might obey or hide, as `\xNN`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in text
    )


def width(text: str) -> int:
    """The number of terminal columns that a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def fitted(text: str, columns: int) -> str:
    """The text in exactly `columns` columns: padded, or cut off with an ellipsis."""
    if width(text) > columns:
        while width(text) > columns - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - width(text))


@dataclass(frozen=True)
class Column:
    """A column: heading, width, and content."""

    head: str
    columns: int
    value: Callable[[Record], str]


def _result(record: Record) -> str:
    return "0" if record.get("KILLSNOOP_RES", "0") == "0" else record.get("KILLSNOOP_RESULT", "?")


def _outcome(record: Record) -> str:
    if record["KILLSNOOP_EVENT"] == "death":
        return f"died in {records.lapse(record)}"
    return record.get("KILLSNOOP_OUTCOME", "").replace("_", " ")


def _field(name: str) -> Callable[[Record], str]:
    return lambda record: record.get(f"KILLSNOOP_{name}", "")


def _route(record: Record) -> str:
    return record.get("KILLSNOOP_SYSCALL") or record.get("KILLSNOOP_ORIGIN", "")


def _belongs(record: Record) -> str:
    return record.get("KILLSNOOP_TARGET_UNIT") or record.get("KILLSNOOP_TARGET_CONTAINER", "")[:12]


def columns(total: int, *, dated: bool) -> list[Column]:
    """The columns for a terminal of width `total`: the classic six, and as many others as fit."""
    time_format = "%m-%d %H:%M:%S" if dated else "%H:%M:%S"
    chosen = [
        Column("TIME", 14 if dated else 8, lambda record: records.moment(record).strftime(time_format)),
        Column("PID", 7, _field("PID")),
        Column("COMM", 15, _field("COMM")),
        Column("SIG", 11, _field("SIGNAL")),
        Column("TPID", 8, _field("TPID")),
        Column("RES", 6, _result),
    ]
    others = [
        Column("TCOMM", 15, _field("TCOMM")),
        Column("OUTCOME", 15, _outcome),
        Column("ROUTE", 17, _route),
        Column("TARGET UNIT", 24, _belongs),
    ]
    used = sum(column.columns + 1 for column in chosen) - 1
    for column in others:
        if used + 1 + column.columns > total:
            break
        chosen.append(column)
        used += 1 + column.columns
    if used > total:  # a narrow terminal: shorten the names
        chosen[2] = Column("COMM", max(4, 15 - (used - total)), _field("COMM"))
    return chosen


def head(chosen: list[Column]) -> str:
    """The heading line."""
    return " ".join(fitted(column.head, column.columns) for column in chosen).rstrip()


def row(record: Record, chosen: list[Column], *, coloured: bool) -> str:
    """The line of an event."""
    line = " ".join(fitted(safe(column.value(record)), column.columns) for column in chosen).rstrip()
    return f"{_colour(record)}{line}{_PLAIN}" if coloured and _colour(record) else line


def _colour(record: Record) -> str:
    if record.get("KILLSNOOP_RES", "0") != "0":
        return _YELLOW
    if record.get("KILLSNOOP_OUTCOME") in ("ignored", "already_pending") or record.get("KILLSNOOP_SIG") == "0":
        return _DIM
    return _RED if record.get("KILLSNOOP_SIGNAL") == "SIGKILL" else ""
