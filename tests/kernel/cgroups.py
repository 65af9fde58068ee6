"""Cgroups of the tests' own, and the file systems that they need."""

import contextlib
import ctypes
import os
import tempfile
from pathlib import Path

from waiting import wait_for

_libc = ctypes.CDLL(None, use_errno=True)


def cgroup_tree(kind: str) -> Path | None:
    """Where cgroup2, or cgroup v1's memory controller, is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        fstype, _, options = fields[fields.index("-") + 1 :]
        if fstype == kind == "cgroup2" or (fstype == "cgroup" and kind in options.split(",")):
            return Path(fields[4])
    return None


def mount(path: Path, kind: bytes = b"tmpfs") -> None:
    """Mount a file system at a folder, which need not exist."""
    path.mkdir(exist_ok=True)
    assert _libc.mount(b"t", os.fsencode(path), kind, 0, None) == 0, os.strerror(ctypes.get_errno())


def unmount(path: Path) -> None:
    """Detach what is mounted there."""
    _libc.umount2(os.fsencode(path), 2)


def join(folder: Path) -> None:
    """Move this process to a cgroup."""
    (folder / "cgroup.procs").write_text("0")


@contextlib.contextmanager
def cgroup2():
    """The cgroup v2 tree; mounted for us if it is not."""
    found = cgroup_tree("cgroup2")
    if found:
        yield found
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mount(folder, b"cgroup2")
        try:
            yield folder
        finally:
            unmount(folder)


def pod_cgroup(driver: str, uid: str, container: str) -> list[str]:
    """The names of a container's cgroup, from the root down, as the kubelet's driver and containerd make them."""
    if driver == "cgroupfs":
        return ["kubepods", "burstable", f"pod{uid}", container]
    pod = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    return ["kubepods.slice", "kubepods-burstable.slice", pod, f"cri-containerd-{container}.scope"]


@contextlib.contextmanager
def cgroup(parent: Path, name: str):
    """A cgroup of our own, empty; removed when it is empty again."""
    folder = parent / name
    folder.mkdir()
    try:
        yield folder
    finally:

        def removed() -> bool:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return not folder.exists()

        wait_for(removed, f"{folder} to be empty")


@contextlib.contextmanager
def memory_cgroup(name: str, limit: int):
    """A cgroup that may use so many bytes."""
    v1, v2 = cgroup_tree("memory"), cgroup_tree("cgroup2")
    with cgroup(v1 or v2, name) as folder:
        if v1:
            (folder / "memory.limit_in_bytes").write_text(str(limit))
        else:
            (v2 / "cgroup.subtree_control").write_text("+memory")
            (folder / "memory.max").write_text(str(limit))
            if (folder / "memory.swap.max").exists():
                (folder / "memory.swap.max").write_text("0")
        yield folder


def has_memory_group() -> bool:
    """Whether a cgroup (v2) can be killed as a whole when it is out of memory."""
    tree = cgroup_tree("cgroup2")
    return tree is not None and "memory" in (tree / "cgroup.controllers").read_text().split()
