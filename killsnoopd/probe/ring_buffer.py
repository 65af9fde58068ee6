"""The reader's end of a BPF ring buffer.

Source: kernel/bpf/ringbuf.c and libbpf's ringbuf.c. libbpf maps the data twice in a row, so that no record is cut,
and every mapped page counts as resident memory. This reader maps it once and joins the two parts.
"""

from __future__ import annotations

import mmap
import platform
import re
import threading
from collections.abc import Callable
from pathlib import Path

_BUSY, _DISCARDED = 1 << 31, 1 << 30  # bits of a record's length
_HEADER = 8  # bytes before a record: its length, and a number that only the kernel needs
_REORDERS = platform.machine() != "x86_64"  # whether this CPU may read memory in another order than the program


class RingBuffer:
    """One reader at a time consumes; anyone may look."""

    def __init__(self, map_fd: int) -> None:
        """Map the buffer. Raises OSError."""
        described = Path(f"/proc/self/fdinfo/{map_fd}").read_bytes()
        self._size = int(re.search(rb"^max_entries:\s*(\d+)", described, re.M)[1])  # type: ignore[index]
        page = mmap.PAGESIZE
        # First the reader's position, which the reader writes; then the writers' position; then the data.
        consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        producer = mmap.mmap(map_fd, page + self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = memoryview(consumer).cast("Q")
        self._produced = memoryview(producer)[:page].cast("Q")
        self._data = memoryview(producer)[page:]
        self._lengths = self._data.cast("I")
        self._barrier_lock = threading.Lock()
        self._barrier_lock.acquire()
        self.poll_fd = map_fd
        """Readable when there are records."""

    @property
    def position(self) -> int:
        """Bytes consumed since the buffer was made: where the next record is."""
        return self._consumed[0]

    @property
    def end(self) -> int:
        """Bytes written since the buffer was made."""
        return self._produced[0]

    @property
    def room(self) -> int:
        """Bytes that are free."""
        return self._size - (self.end - self.position)

    def consume(self, take: Callable[[int, bytes], bool]) -> None:
        """Hand over the records that are there, each with its position, until take() returns False.

        A record leaves the buffer when take() has returned.
        """
        position, more = self.position, True
        while more and (found := self._record(position)):
            following, record = found
            if record is not None:
                more = take(position, record)
            if _REORDERS:
                self._barrier()
            self._consumed[0] = position = following

    def records(self, position: int) -> list[bytes]:
        """The records from this position on, without consuming them, unless they were overwritten meanwhile."""
        records = []
        while found := self._record(position):
            if self.end - position > self._size:  # the writers have come round
                break
            position, record = found
            if record is not None:
                records.append(record)
        return records

    def _record(self, position: int) -> tuple[int, bytes | None] | None:
        """The position of the next record, and this one, None if it was discarded; None if none is complete here."""
        if position >= self._produced[0]:
            return None
        if _REORDERS:
            self._barrier()
        at = position % self._size
        length = self._lengths[at // 4]
        if length & _BUSY:
            return None
        if _REORDERS:
            self._barrier()
        size = length & ~_DISCARDED
        following = position + (size + _HEADER + 7) // 8 * 8
        if length & _DISCARDED:
            return following, None
        start = at + _HEADER
        record = bytes(self._data[start : start + size])
        if len(record) < size:  # it goes on at the start of the memory
            start = max(0, start - self._size)
            record += bytes(self._data[start : start + size - len(record)])
        return following, record

    def _barrier(self) -> None:
        """A release and an acquire: orders the accesses to memory before and after it."""
        self._barrier_lock.release()
        self._barrier_lock.acquire()

    def close(self) -> None:
        """Unmap the buffer. What was not consumed stays in the map."""
        for view in (self._consumed, self._produced, self._lengths, self._data):
            view.release()
