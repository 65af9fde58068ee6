"""Paths of executables, as root sees them, with a mark where root cannot find the file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd import mounts
from killsnoopd.events import executables
from killsnoopd.events.executables import Executables

MOUNTINFO = rb"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /usr rw - ext4 /dev/sda2 rw
24 22 0:30 /@home /home rw shared:2 master:1 - btrfs /dev/sdb rw
26 22 8:1 /var/lib/x /with\040space rw - ext4 /dev/sda1 rw
27 22 0:41 / /mnt/\303\244 rw - tmpfs t rw
""".strip()
MOUNTED = mounts.parse(MOUNTINFO.split(b"\n"))
ROOT, USR, HOME, TMP = 8 << 20 | 1, 8 << 20 | 2, 30, 41


def names(path):
    """The names that the probe reads for a path on a file system: from the file up to the root."""
    return (*reversed(path.encode().split(b"/")[1:]), b"/")


def found(leaf_first, dev):
    return executables.path(leaf_first, dev, [mount for mount in MOUNTED if mount.dev == dev])


@pytest.mark.parametrize(
    ("leaf_first", "dev", "path"),
    [
        (names("/opt/bash"), ROOT, "/opt/bash"),
        (names("/bin/bash"), USR, "/usr/bin/bash"),
        (names("/@home/u/tool"), HOME, "/home/u/tool"),
        (names("/var/lib/x/tool"), ROOT, "/with space/tool"),
        (names("/var/lib/xy/tool"), ROOT, "/var/lib/xy/tool"),
        (names("/x"), TMP, "/mnt/ä/x"),
        ((b"a\nb\xff", b"/"), ROOT, r"/a\x0ab\xff"),
        ((b"memfd:x",), 5, "memfd:x"),
        (names("/usr/bin/tini"), 99, "elsewhere:/usr/bin/tini"),
        (names("/@root/bin/x"), HOME, "elsewhere:/@root/bin/x"),
        ((b"x", b"c", b"b"), ROOT, ".../b/c/x"),
        ((b"x", b"c", b"b"), 99, "elsewhere:.../b/c/x"),
        ((b"/", b"c", b"/"), ROOT, "/c/..."),
        ((b"x", b"/", b"c", b"/"), ROOT, "/c/.../x"),
        ((b"x", b"...", b"c", b"/"), ROOT, r"/c/\x2e../x"),
    ],
    ids=[
        "root", "a mount below", "a subvolume", "the shorter of two ways", "not a prefix of a name", "escaped by the kernel",
        "any bytes", "from memory", "a file system that is not mounted", "a subvolume that is not mounted", "deeper than read",
        "and elsewhere", "a name that is not readable", "a folder that is not readable", "a folder that looks like it",
    ],
)  # fmt: skip
def test_path(leaf_first, dev, path):
    """A path on a file system becomes one from here, or is marked; a shortened one keeps its end."""
    assert found(leaf_first, dev) == path


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=32), st.sampled_from([ROOT, TMP, 99]))
def test_any_names(leaf_first, dev):
    """One line of printable text, of a bounded length."""
    text = found((*leaf_first, b"/"), dev)
    assert text.isprintable()
    assert len(text) <= 1024 + len(executables.ELSEWHERE)


def test_a_path_that_is_too_long():
    """Keeps whole names at its end."""
    text = found((b"leaf", *[bytes([number]) * 250 for number in range(1, 6)], b"/"), ROOT)
    assert text == ".../" + r"\x01" * 250 + "/leaf"


class Poll:
    """In place of poll(2) on mountinfo."""

    changed = False

    def poll(self, _timeout):
        changed, self.changed = self.changed, False
        return [(3, 10)] if changed else []


def test_mounts_that_change(tmp_path, monkeypatch):
    """They are read again before the next path, for the kernel reuses device numbers; but not in more than 1 % of the time."""
    now_s, read = [1000.0], executables.mounts.read

    def slow_read(mountinfo):
        now_s[0] += 0.04
        return read(mountinfo)

    monkeypatch.setattr(executables.mounts, "read", slow_read)
    path = tmp_path / "self/mountinfo"
    path.parent.mkdir()
    path.write_bytes(MOUNTINFO)
    here = Executables(tmp_path, lambda: now_s[0])
    try:
        here._poll = Poll()
        shown = "/mnt/ä/x"
        assert here.find(names("/x"), TMP) == shown
        for content, at_once in ((b"", "elsewhere:/x"), (MOUNTINFO, "/mnt/ä/x"), (b"", "/mnt/ä/x")):
            path.write_bytes(content)
            assert here.find(names("/x"), TMP) == shown  # poll(2) shows no change yet
            here._poll.changed = True
            shown = here.find(names("/x"), TMP)
            assert shown == at_once
        now_s[0] += 2.1  # the readings took 20 ms more than may be used at once
        assert here.find(names("/x"), TMP) == "elsewhere:/x"
    finally:
        here.close()


def test_no_mountinfo(tmp_path):
    """Only the mount point is missing from the path."""
    here = Executables(tmp_path)
    assert here.find(names("/bin/x"), ROOT) == "elsewhere:/bin/x"
    here.close()


def test_the_mounts_of_the_host(tmp_path):
    """They count, not those of the daemon's sandbox, if /proc shows them."""
    for pid, text in (("1", MOUNTINFO), ("self", b"")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "mountinfo").write_bytes(text)
    here = Executables(tmp_path)
    assert here.find(names("/bin/bash"), USR) == "/usr/bin/bash"
    here.close()
