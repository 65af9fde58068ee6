"""JSON lines on a stream."""

import json
import os
import select
import stat
from collections.abc import Callable

from killsnoopd.events.stop_deadline import StopDeadline


class JsonLines:
    """Writes one JSON object per line."""

    def __init__(self, deadline: StopDeadline, fd: int = 1, write: Callable[[int, bytes], int] = os.write) -> None:
        self._deadline = deadline
        self._fd = fd
        self._write = write
        # Only these can block a writer, and poll(2) tells when they will not.
        mode = os.fstat(fd).st_mode
        self._may_block = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)

    def send(self, fields: dict[str, str]) -> None:
        """Write one line. Raises OSError if the reader has gone or the disk is full."""
        data = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        while data:
            if self._may_block:
                self._deadline.wait(self._fd)
            # A pipe that poll(2) reports as writable takes PIPE_BUF bytes without blocking (pipe(7)).
            data = data[self._write(self._fd, data[: select.PIPE_BUF]) :]

    def close(self) -> None:
        """Nothing to do: the stream belongs to the caller."""
