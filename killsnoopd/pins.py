"""The pinned probe on bpffs, whole or not at all.

`DIR/<hash>/` is what the daemon opens: maps, links, and the programs that are attached. `DIR/kept/<hash>/` is what only
the probe and the next loader need; killsnoopd.service hides it from the daemon.
"""

import os
import shutil
from pathlib import Path

from killsnoopd import libbpf
from killsnoopd.failure import Exit, Failure
from killsnoopd.program import KEPT, MAPS, PROGRAMS, Settings

_KEPT = "kept"
_MEMORY = "memory"  # a symbolic link: bpffs holds no other text


def pin(fds: dict[str, int], bcc_version: str, directory: Path, settings: Settings) -> None:
    """Pin everything, all or nothing, and let go of every other probe pinned in `directory`."""
    name = settings.hash()
    umask = os.umask(0o077)
    os.umask(umask)
    fresh = f"new_{name}"  # bpffs allows no dot in a name
    for folder in (directory / _KEPT, directory):
        _unpin(folder / fresh)
        (folder / fresh).mkdir(mode=0o770 & ~umask, parents=True)
        for key, fd in fds.items():
            if (key.removeprefix("map_") in KEPT) == (folder.name == _KEPT):
                libbpf.obj_pin(fd, str(folder / fresh / key))
                (folder / fresh / key).chmod(0o660 & ~umask)  # the kernel made it 0600
    (directory / fresh / "bcc").symlink_to(bcc_version)
    (directory / fresh / _MEMORY).symlink_to(settings.memory_hash())
    for folder in (directory / _KEPT, directory):
        _unpin(folder / name)
        (folder / fresh).rename(folder / name)
    keep_only(directory, name)


def keep_only(directory: Path, name: str) -> None:
    """Remove whatever else is in the directory."""
    for folder in (directory / _KEPT, directory):
        for other in folder.iterdir():
            if other.name not in (name, _KEPT):
                _unpin(other)


def _unpin(path: Path) -> None:
    """Remove pins; the kernel drops what nobody else holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def opened(directory: Path, name: str, settings: Settings) -> dict[str, int]:
    """Fds of the probe pinned as `name`, the links among them only if attached; empty if it is not whole besides.

    Its memory is that of `settings`, so that a probe of these may take it over.
    """
    fds: dict[str, int] = {}
    try:
        if str((directory / name / _MEMORY).readlink()) != settings.memory_hash():
            return {}
        for key in (*(f"map_{map_name}" for map_name in MAPS), *(f"prog_{program}" for program in PROGRAMS)):
            fds[key] = libbpf.obj_get(str(directory / name / key))
        for map_name in KEPT:
            fds[f"map_{map_name}"] = libbpf.obj_get(str(directory / _KEPT / name / f"map_{map_name}"))
    except OSError:
        for fd in fds.values():
            os.close(fd)
        return {}
    for tracepoint in settings.tracepoints:
        try:
            fds[f"link_{tracepoint}"] = libbpf.obj_get(str(directory / name / f"link_{tracepoint}"))
        except OSError:
            continue
        if not libbpf.link_attached(fds[f"link_{tracepoint}"]):
            os.close(fds.pop(f"link_{tracepoint}"))
    return fds


def names(directory: Path) -> list[str]:
    """What is pinned there, whole or not."""
    return [path.name for path in directory.iterdir() if path.name != _KEPT]


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
