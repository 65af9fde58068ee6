"""Logs each event exactly once, even if the daemon is killed at any point.

The ledger is a kernel map. It outlives the daemon, as the ring buffer does. Before the daemon logs an event, it writes
the event's position in the ring buffer to the ledger. Then it sends the event to journald by sendmmsg(2), whose
argument is in the ledger, too. The kernel writes the length sent into that argument within the system call, so SIGKILL
cannot come between. The next daemon finds the event at the same position, and knows from that length whether journald
has it.
"""

import ctypes
import os
from ctypes import c_int, c_size_t, c_uint32, c_void_p

from killsnoopd.probe.program import DAEMON_STATUSES

_POSITION, _FINISHED = 4, 5  # position in the ring buffer; number of events with a status when this one was taken
_MESSAGE = 8  # struct mmsghdr has the remaining words
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("len", c_size_t))


class _Msghdr(ctypes.Structure):  # sendmsg(2); Linux, 64 bits
    _fields_ = (
        ("name", c_void_p),
        ("namelen", c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", c_size_t),
        ("control", c_void_p),
        ("controllen", c_size_t),
        ("flags", c_int),
    )


class _Mmsghdr(ctypes.Structure):  # sendmmsg(2)
    _fields_ = (("message", _Msghdr), ("sent", c_uint32))


class InFlight:
    """The daemon's half of the ledger, with the event in flight."""

    def __init__(self, words: memoryview) -> None:
        """`words`: LEDGER_WORDS unsigned 64-bit numbers, initially zero, that outlive the daemon."""
        self._words = words
        self._message = _Mmsghdr.from_buffer(words, _MESSAGE * 8)
        self._inherited = True

    def begin(self, position: int) -> bool:
        """Begin the event at this position; False if a daemon that was killed since had already finished it."""
        finished = sum(self._words[: len(DAEMON_STATUSES)])
        inherited, self._inherited = self._inherited, False
        if inherited and self._words[_POSITION] == position:
            if finished != self._words[_FINISHED]:
                return False
            if self._message.sent:
                self.finish("logged")
                return False
        self._message.sent = 0  # first: a length without its position means nothing
        self._words[_FINISHED] = finished
        self._words[_POSITION] = position
        return True

    def finish(self, status: str | None) -> None:
        """Count the event's status, one of DAEMON_STATUSES; None for a test event, which is not counted."""
        if status is not None:
            self._words[DAEMON_STATUSES.index(status)] += 1

    def send(self, fd: int, datagram: bytes) -> None:
        """Send the event in flight over a connected datagram socket. Raises OSError."""
        part = _Iovec(datagram, len(datagram))
        self._message.message.iov = ctypes.pointer(part)
        self._message.message.iovlen = 1
        if _libc.sendmmsg(fd, ctypes.byref(self._message), 1, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
