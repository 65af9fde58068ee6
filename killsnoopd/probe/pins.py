"""The pinned probe on bpffs: pinned completely or not at all.

The daemon opens `DIR/HASH/`, which has a folder each for maps, links and attached programs. `DIR/private/HASH/` has
the maps that only the probe and the next loader need; the sandbox of killsnoopd.service hides it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from killsnoopd import event, mounts
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import libbpf
from killsnoopd.probe.attached import Probe
from killsnoopd.probe.hooks import points
from killsnoopd.probe.objects import Objects
from killsnoopd.probe.program import DAEMON_MAPS, PROBE_MAPS, Layout, layout_hash, probe_hash
from killsnoopd.probe.ring_buffer import RingBuffer
from killsnoopd.settings import Settings

_PRIVATE = "private"
_LAYOUT = "layout"  # a symbolic link: bpffs can store text in no other way


def pin(objects: Objects, bcc_version: str, directory: Path, settings: Settings, ways: dict[str, str]) -> None:
    """Pin all objects or none, then remove every other probe pinned in `directory`."""
    name = probe_hash(settings)
    umask = os.umask(0o077)
    os.umask(umask)
    fresh = f"new_{name}"  # bpffs allows no dot in a name
    private = Objects(maps={key: fd for key, fd in objects.maps.items() if key in PROBE_MAPS})
    public = Objects(
        {key: fd for key, fd in objects.maps.items() if key not in PROBE_MAPS}, objects.programs, objects.links
    )
    for folder, those in ((directory / _PRIVATE, private), (directory, public)):
        _unpin(folder / fresh)
        for kind, fds in those.kinds().items():
            (folder / fresh / kind).mkdir(mode=0o770 & ~umask, parents=True)
            (folder / fresh).chmod(0o770 & ~umask)  # mkdir(parents=True) ignores `mode` for parents
            for key, fd in fds.items():
                path = folder / fresh / kind / key
                libbpf.obj_pin(fd, str(path))
                path.chmod(0o660 & ~umask)  # the kernel creates it as 0600
    (directory / fresh / "bcc").symlink_to(bcc_version)
    (directory / fresh / _LAYOUT).symlink_to(layout_hash(settings, ways))
    for folder in (directory / _PRIVATE, directory):
        _unpin(folder / name)
        (folder / fresh).rename(folder / name)
    keep_only(directory, name)


def keep_only(directory: Path, name: str) -> None:
    """Remove everything else from the directory."""
    for folder in (directory / _PRIVATE, directory):
        for other in folder.iterdir():
            if other.name not in (name, _PRIVATE):
                _unpin(other)


def _unpin(path: Path) -> None:
    """Remove pins. The kernel frees an object when nothing refers to it any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def take_over(directory: Path, name: str, settings: Settings, ways: dict[str, str]) -> Objects | None:
    """The probe pinned as `name`, for a probe of `settings` to take over.

    Links that are not attached are left out, and entry programs that it never had. None if a map or an attached program
    is missing, or if the layout of the maps or the way of a program differs.
    """
    found = Objects()
    try:
        if str((directory / name / _LAYOUT).readlink()) != layout_hash(settings, ways):
            return None
        for key in DAEMON_MAPS:
            found.maps[key] = libbpf.obj_get(str(directory / name / "maps" / key))
        for key in PROBE_MAPS:
            found.maps[key] = libbpf.obj_get(str(directory / _PRIVATE / name / "maps" / key))
        for point in points(settings, ways):
            program, link = directory / name / "programs" / point.entry, directory / name / "links" / point.link
            if point.entry not in found.programs and (program.exists() or link.exists()):
                found.programs[point.entry] = libbpf.obj_get(str(program))
            if link.exists():
                found.links[point.link] = libbpf.obj_get(str(link))
    except OSError:
        found.close()
        return None
    for key in [key for key, link in found.links.items() if not libbpf.link_attached(link)]:
        os.close(found.links.pop(key))
    return found


def _is_self_test(record: bytes) -> bool:
    try:
        return event.decode(record).self_test
    except ValueError:  # an older version wrote it
        return False


def waiting_events(directory: Path, name: str) -> int:
    """How many events wait in the ring buffer of the probe pinned as `name`; 0 if that cannot be read."""
    try:
        fd = libbpf.obj_get(str(directory / name / "maps" / "events"))
    except OSError:
        return 0
    try:
        ring = RingBuffer(fd)
        waiting = ring.records(ring.position)
        ring.close()
    except OSError:
        return 0
    finally:
        os.close(fd)
    return sum(not _is_self_test(record) for record in waiting)


def open_pinned(directory: Path, layout: Layout) -> Probe:
    """Open the probe that the loader pinned in `directory`. Raises Failure."""
    found = Objects()
    try:
        for kind, fds in found.kinds().items():
            for path in sorted((directory / kind).iterdir()):
                fds[path.name] = libbpf.obj_get(str(path))
        version = str((directory / "bcc").readlink())
    except FileNotFoundError:
        found.close()
        raise Failure(
            Exit.UNAVAILABLE,
            f"no probe with these settings is pinned at {directory}: "
            "start killsnoopd-probe.service with the same flags",
        ) from None
    except PermissionError as error:
        found.close()
        raise Failure(
            Exit.NOPERM,
            f"not allowed to open {error.filename or directory}: run as its owner; "
            "Linux before 5.19 also requires CAP_BPF",
        ) from None
    return Probe(found, layout, version)


def names(directory: Path) -> list[str]:
    """Names of the probes pinned there, complete or not."""
    return [path.name for path in directory.iterdir() if path.name != _PRIVATE]


def prepare(directory: Path) -> None:
    """Create the directory of pins. Raises Failure if it is not on bpffs."""
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
    number = os.major(device) << 20 | os.minor(device)
    return any(mount.dev == number and mount.fstype == b"bpf" for mount in mounts.read())
