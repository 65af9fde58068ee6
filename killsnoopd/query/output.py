"""Standard output, in any locale."""

import codecs
import contextlib
import locale
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from killsnoopd.failure import Exit, Failure
from killsnoopd.query.table import escaped


@dataclass(frozen=True)
class Output:
    """A stream of lines."""

    stream: IO[str]
    encoding: str
    terminal: bool

    def line(self, text: str, *, flush: bool = False) -> None:
        """Write a line. Raises Failure."""
        try:
            print(text, file=self.stream, flush=flush)
        except OSError as error:
            raise _unwritable(error) from None


def _unwritable(error: OSError) -> Failure:
    # What is still in memory is lost; Python would try to write it again, and print a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return Failure(Exit.UNAVAILABLE, f"cannot write the output: {os.strerror(error.errno or 0)}")


def _escape(error: UnicodeError) -> tuple[str, int]:
    broken = cast(UnicodeEncodeError, error)
    return "".join(map(escaped, broken.object[broken.start : broken.end])), broken.end


@contextlib.contextmanager
def standard() -> Iterator[Output]:
    r"""Standard output, flushed at the end; `\xNN` stands for what its locale cannot show. Raises Failure."""
    codecs.register_error("killsnoop", _escape)
    if sys.stdout is None:  # closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 -- until the end of the program
    # In the locale C, Python writes UTF-8 all the same.
    encoding = "ascii" if locale.getencoding() == "ANSI_X3.4-1968" else sys.stdout.encoding
    sys.stdout.reconfigure(encoding=encoding, errors="killsnoop")  # type: ignore[union-attr]
    yield Output(sys.stdout, encoding, sys.stdout.isatty())
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _unwritable(error) from None
