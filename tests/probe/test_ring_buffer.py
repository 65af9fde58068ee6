"""Reading a ring buffer: a file in the map's place, with the layout of kernel/bpf/ringbuf.c."""

import mmap
import os
import struct

import pytest

from killsnoopd.probe import ring_buffer
from killsnoopd.probe.ring_buffer import RingBuffer

SIZE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Ring:
    """The side that writes."""

    def __init__(self, folder, monkeypatch):
        self.path = folder / "map"
        self.path.write_bytes(bytes(2 * mmap.PAGESIZE + SIZE))
        self.end = 0
        content = ring_buffer.Path.read_bytes

        def described(path):
            return b"map_type:\t27\nmax_entries:\t%d\n" % SIZE if "/fdinfo/" in str(path) else content(path)

        monkeypatch.setattr(ring_buffer.Path, "read_bytes", described)
        self.fd = os.open(self.path, os.O_RDWR)
        self.reader = RingBuffer(self.fd)

    def put(self, record, flags=0):
        content = struct.pack("=II", len(record) | flags, 0) + record
        content += bytes(-len(content) % 8)
        for number, byte in enumerate(content):
            os.pwrite(self.fd, bytes([byte]), 2 * mmap.PAGESIZE + (self.end + number) % SIZE)
        self.end += len(content)
        os.pwrite(self.fd, struct.pack("=Q", self.end), mmap.PAGESIZE)

    def consumed(self):
        return struct.unpack("=Q", os.pread(self.fd, 8, 0))[0]


@pytest.fixture(params=[False, True], ids=["x86-64", "arm64"])
def ring(request, tmp_path, monkeypatch):
    monkeypatch.setattr(ring_buffer, "_REORDERS", request.param)
    result = Ring(tmp_path, monkeypatch)
    yield result
    result.reader.close()
    os.close(result.fd)


def taken(ring, most=1000):
    records = []
    ring.reader.consume(lambda position, record: records.append(record) or len(records) < most)
    return records


def test_records(ring):
    """In order, each once; the position moves past each record after it is handled."""
    for record in (b"one", b"", b"three and more"):
        ring.put(record)
    assert taken(ring) == [b"one", b"", b"three and more"]
    assert ring.consumed() == ring.end == ring.reader.position == ring.reader.end
    assert taken(ring) == []


def test_a_record_is_in_the_buffer_while_it_is_handled(ring):
    """It stays there if the daemon is killed."""
    ring.put(b"one")
    seen = []
    ring.reader.consume(lambda position, record: seen.append((position, ring.consumed())) or True)
    assert seen == [(0, 0)]
    assert ring.consumed() == 16


def test_until_it_says_no(ring):
    """Records after that one stay."""
    for record in (b"one", b"two", b"three"):
        ring.put(record)
    assert taken(ring, most=2) == [b"one", b"two"]
    assert taken(ring) == [b"three"]


def test_around_the_end(ring):
    """A record that wraps around the end of the memory is complete, and every byte of the ring is used."""
    for length in (1000, 999, 1001, 1003, 7, 2000, 4000):
        record = os.urandom(length)
        ring.put(record)
        assert taken(ring) == [record]
    assert ring.end > 2 * SIZE


def test_busy_and_discarded(ring):
    """A record that is still being written ends the reading; a discarded one is skipped."""
    ring.put(b"given up", DISCARDED)
    ring.put(b"done")
    ring.put(b"being written", BUSY)
    ring.put(b"later")
    assert taken(ring) == [b"done"]
    assert ring.consumed() == 32


def test_a_look_consumes_nothing(ring):
    """It shows the records from a position on."""
    ring.put(b"one")
    start = ring.end
    ring.put(b"two")
    assert ring.reader.records(start) == [b"two"]
    assert ring.reader.records(0) == [b"one", b"two"]
    assert ring.reader.room == SIZE - 32
    assert taken(ring) == [b"one", b"two"]
    assert ring.reader.room == SIZE


def test_a_look_too_late(ring):
    """Overwritten memory is not taken for a record."""
    for _ in range(40):
        ring.put(b"x" * 200)
    assert ring.reader.records(0) == []
