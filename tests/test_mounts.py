"""Tables of mounts, with any bytes in any name."""

from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd import mounts
from killsnoopd.mounts import Mount

MOUNTINFO = rb"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
24 22 0:30 /@home /home rw shared:2 master:1 - btrfs /dev/sdb rw,space_cache
26 22 8:1 /var/lib/x /with\040space rw - ext4 /dev/sda1 rw
27 22 0:31 / /no/device rw - tmpfs  rw
""".strip()


def parsed(text):
    return mounts.parse(text.split(b"\n"))


def test_a_table_of_mounts():
    """Numbers, roots, spaces written as octal, optional fields, a source that is empty."""
    assert parsed(MOUNTINFO) == [
        Mount(8 << 20 | 1, (), (), b"ext4", b"rw"),
        Mount(30, (b"@home",), (b"home",), b"btrfs", b"rw,space_cache"),
        Mount(8 << 20 | 1, (b"var", b"lib", b"x"), (b"with space",), b"ext4", b"rw"),
        Mount(31, (), (b"no", b"device"), b"tmpfs", b"rw"),
    ]


def test_what_cannot_be_understood_is_passed_over(tmp_path):
    """A broken line, a line that is too long, a file that is not there: the other mounts are found."""
    long = b"28 22 0:32 / /%s rw - fuse x rw" % (b"x" * 4000)
    broken = [b"", b"22", b"22 1 8:1 / / rw", b"22 1 8 / / rw - ext4 x rw", b"22 1 a:b / / rw - ext4 x rw", long]
    for line in broken:
        assert parsed(line + b"\n" + MOUNTINFO) == parsed(MOUNTINFO)
    path = tmp_path / "mountinfo"
    assert mounts.read(path) == []
    path.write_bytes(MOUNTINFO)
    assert mounts.read(path) == parsed(MOUNTINFO)


def test_there_is_a_limit():
    """Users can add mounts (FUSE); the machine's own come first."""
    assert len(mounts.parse([b"27 22 0:31 / /x rw - tmpfs x rw"] * 20_000)) == 10_000


# The kernel escapes these, and no others.
KERNEL_ESCAPES = {byte: b"\\%03o" % byte for byte in b" \t\n\\"}
file_names = st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & set(b"\0/"))


@settings(max_examples=300, deadline=None)
@given(st.lists(file_names, max_size=4), st.lists(file_names, max_size=4), file_names)
def test_any_names(root, at, source):
    """Every name is read as it is, also with CR, VT, U+0085, U+2028 or bytes that are not UTF-8."""

    def field(path):
        return b"/" + b"/".join(b"".join(KERNEL_ESCAPES.get(byte, bytes([byte])) for byte in name) for name in path)

    escaped = b"".join(KERNEL_ESCAPES.get(byte, bytes([byte])) for byte in source)
    line = b"30 22 0:40 %s %s rw shared:3 - tmpfs %s rw,size=1k\n" % (field(root), field(at), escaped)
    assert parsed(line + MOUNTINFO) == [Mount(40, tuple(root), tuple(at), b"tmpfs", b"rw,size=1k"), *parsed(MOUNTINFO)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(text):
    """Never an error."""
    parsed(text)
    parsed(MOUNTINFO[:60] + text)
