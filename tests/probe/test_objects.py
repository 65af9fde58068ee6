"""Objects own their file descriptors."""

import os

import pytest

from killsnoopd.probe.objects import Objects


def test_duplicate_and_close():
    """A duplicate outlives the original; closing twice closes nothing else."""
    reader, writer = os.pipe()
    original = Objects(maps={"events": reader}, links={"kill": writer})
    copy = original.duplicate()
    original.close()
    original.close()
    assert original == Objects()
    for fd in (reader, writer):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.write(copy.links["kill"], b"x")
    assert os.read(copy.maps["events"], 1) == b"x"
    copy.close()
