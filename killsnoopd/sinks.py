"""Where events go: journald, by its native protocol, or JSON lines on a stream. Waiting holds up nobody else."""

import json
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_RETRY_S = 0.2
# What a peer that is not there, or not there any more, looks like on a datagram socket.
_GONE = (ConnectionError, FileNotFoundError, PermissionError)


class Sink(Protocol):
    """Takes the fields of an event."""

    def send(self, fields: dict[str, str]) -> None:
        """Deliver, waiting as long as it takes. Raises OSError if that cannot be, Stopped when patience ends."""

    def close(self) -> None:
        """Let go of the connection."""


class Stopped(Exception):
    """Waiting was cut short: the daemon stops."""


class Patience:
    """How long a sink may wait: for ever until `stop`, then `grace_s` seconds more, in all."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._deadline: float | None = None
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once `stop` was called."""

    def stop(self) -> None:
        """From now on, hurry. Any thread may call it."""
        self._deadline = time.monotonic() + self._grace_s
        os.eventfd_write(self.stop_fd, 1)

    def over(self) -> bool:
        """Whether the grace is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def wait(self, fd: int | None, timeout_s: float | None = None) -> None:
        """Return when `fd` is writable or the time is up. Raises Stopped when patience is at its end."""
        poll = select.poll()
        if fd is not None:
            poll.register(fd, select.POLLOUT)
        if self._deadline is None:
            poll.register(self.stop_fd, select.POLLIN)
        elif self.over():
            raise Stopped
        else:
            left_s = max(0.0, self._deadline - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if fd is not None and [ready_fd for ready_fd, _ in ready] == [self.stop_fd]:
            self.wait(fd, timeout_s)  # the grace has begun

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.stop_fd)


def encode(fields: dict[str, str]) -> bytes:
    """A datagram of journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    lines = "".join([f"{name}={value}\n" for name, value in fields.items()])
    if lines.count("\n") == len(fields):  # as always, and encoded at once: in a third of the time
        return lines.encode("utf-8", "surrogateescape")
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "surrogateescape")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class Journal:
    """journald's socket. systemd.journal.send would do, but it holds the GIL while journald makes it wait."""

    def __init__(self, patience: Patience, transmit: Callable[[int, bytes], None], path: Path = JOURNAL_SOCKET) -> None:
        """`transmit(fd, datagram)` sends over a connected socket, or raises OSError: InHand.send."""
        self._patience = patience
        self._transmit = transmit
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, fields: dict[str, str]) -> None:
        """Deliver to journald; wait while it is slow, stopped or away, the events after this one in the ring buffer."""
        data = encode(fields)
        while True:
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(str(self._path))
                self._transmit(self._socket.fileno(), data)
                return
            except BlockingIOError:
                self._patience.wait(self._socket.fileno() if self._socket else None, 1.0)
            except _GONE:
                self.close()
                self._patience.wait(None, _RETRY_S)

    def close(self) -> None:
        """Close the socket; the next message opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class JsonLines:
    """One JSON object a line."""

    def __init__(self, patience: Patience, fd: int = 1, write: Callable[[int, bytes], int] = os.write) -> None:
        self._patience = patience
        self._fd = fd
        self._write = write
        # Only these can make a writer wait, and poll(2) tells when they will not.
        mode = os.fstat(fd).st_mode
        self._may_block = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)

    def send(self, fields: dict[str, str]) -> None:
        """Write one line. Raises OSError when the reader is gone or the disk is full."""
        data = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        while data:
            if self._may_block:
                self._patience.wait(self._fd)
            # A pipe that poll(2) calls writable takes PIPE_BUF bytes at once (pipe(7)).
            data = data[self._write(self._fd, data[: select.PIPE_BUF]) :]

    def close(self) -> None:
        """Nothing to do: the stream is not ours."""


def choose(
    target: str, patience: Patience, transmit: Callable[[int, bytes], None], journal_socket: Path = JOURNAL_SOCKET
) -> Sink | None:
    """The sink for `--events.target`; `auto` is the journal where there is one."""
    if target == "none":
        return None
    if target == "journal" or (target == "auto" and journal_socket.exists()):
        return Journal(patience, transmit, journal_socket)
    return JsonLines(patience)
