"""The pinned probe on bpffs: maps, programs and links under `DIR/<hash>/`, whole or not at all."""

import os
import shutil
from pathlib import Path

from killsnoopd import libbpf
from killsnoopd.failure import Exit, Failure
from killsnoopd.program import MAPS, PROGRAMS, Settings


def pin(fds: dict[str, int], bcc_version: str, directory: Path, name: str) -> None:
    """Pin everything under `directory/name`, all or nothing, and let go of any other probe pinned there."""
    fresh = directory / f"new_{name}"  # bpffs allows no dot in a name
    unpin(fresh)
    fresh.mkdir(mode=0o700)
    for key, fd in fds.items():
        libbpf.obj_pin(fd, str(fresh / key))
    (fresh / "bcc").symlink_to(bcc_version)  # bpffs holds no text but this
    unpin(directory / name)
    fresh.rename(directory / name)
    for other in directory.iterdir():
        if other.name != name:
            unpin(other)


def unpin(directory: Path) -> None:
    """Remove a directory of pins; the kernel drops what nobody else holds."""
    if directory.is_dir():
        shutil.rmtree(directory)


def whole(directory: Path, settings: Settings) -> bool:
    """Whether a whole probe of these settings is pinned there and attached."""
    expected = [f"map_{name}" for name in MAPS]
    expected += [f"prog_{name}" for name in PROGRAMS]
    expected += [f"link_{name}" for name in settings.tracepoints]
    try:
        for name in expected:
            fd = libbpf.obj_get(str(directory / name))
            try:
                if name.startswith("link_") and not libbpf.link_attached(fd):
                    return False
            finally:
                os.close(fd)
    except OSError:
        return False
    return True


def prepare(directory: Path) -> None:
    """Make the directory of pins; it must be on bpffs."""
    if not _is_bpffs(directory):
        raise Failure(Exit.UNAVAILABLE, f"{directory} is not on bpffs: mount -t bpf bpf /sys/fs/bpf, then start again")
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except PermissionError:
        raise Failure(Exit.NOPERM, f"not allowed to write {directory}: run the loader as root") from None
    except OSError as error:
        raise Failure(Exit.UNAVAILABLE, f"cannot write {directory}: {error.strerror}") from None


def _is_bpffs(path: Path) -> bool:
    """Whether the nearest existing folder of a path is on bpffs; source: /proc/self/mountinfo."""
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == numbers:
            return fields[fields.index("-") + 1] == "bpf"
    return False
