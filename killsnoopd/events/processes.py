"""Identifies processes by cgroup and executable: unit, container, path."""

import contextlib
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from killsnoopd import names
from killsnoopd.event import Event, Place, Sender

_CACHE_MAX = 10_000  # entries in each cache of paths
_PROC_CACHE_MAX = 500  # processes
_PROC_CACHE_S = 0.1  # how long an answer of /proc is cached: a lookup costs twice as much as the rest of an event
_TICK_NS = 10_000_000  # unit of times in /proc/PID/stat: USER_HZ is 100 on all supported machines
_UNIT = re.compile(r"_?(.+\.(?:service|scope|socket|mount|swap|device|timer|path|target|automount))")
# docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, SLICE:cri-containerd:ID, or the bare ID;
# conmon watches a container from outside.
_CONTAINER = re.compile(r"(?:(?!.*conmon).*[-:])?([0-9a-f]{64})(?:\.scope)?")
SOURCES = ("kernel", "cache", "tree", "proc", "none")
"""How a target's cgroup was found: from the kernel, in the cache, in the cgroup tree, in /proc, not at all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Names for an event's ids; None: not known, or there is none."""

    exe: str | None = None
    unit: str | None = None
    container: str | None = None
    target_unit: str | None = None
    target_container: str | None = None


# A storm has one sender and few targets. Without this cache, identify() takes twice as long.
_remembered = lru_cache(1000)


@_remembered
def unit(cgroup: str) -> str | None:
    """The systemd unit of a cgroup path, by the rules of sd_pid_get_unit(3): the first part that is not a slice."""
    for part in cgroup.split("/"):
        if part and not part.endswith(".slice"):
            match = _UNIT.fullmatch(part)
            return match[1] if match else None
    return None


@_remembered
def container(cgroup: str) -> str | None:
    """The container's id, 64 hexadecimal digits, of a cgroup path of docker, containerd, CRI-O or podman."""
    for part in reversed(cgroup.split("/")):
        if match := _CONTAINER.fullmatch(part):
            return match[1]
    return None


@_remembered
def joined(parts: tuple[bytes, ...]) -> str:
    """The path of a file from the names up to the root. A single name that is not a root (`memfd:x`) is unchanged."""
    *rest, top = parts
    if not rest and top not in (b"", b"/"):
        return names.text(top)
    return "/" + "/".join(names.text(part) for part in reversed(rest))


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    dev: int
    root: str  # the mounted folder of the file system
    at: str
    fstype: str


def mounts(mountinfo: str) -> list[Mount]:
    """The mounts in a text like /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split()
        major, minor = map(int, fields[2].split(":"))
        root, at = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field) for field in fields[3:5])
        found.append(Mount(major << 20 | minor, root, at, fields[fields.index("-") + 1]))
    return found


def visible_path(path: str, dev: int, mounted: list[Mount]) -> str:
    """The path in our mount namespace of a path on file system `dev`; unchanged if that is not mounted here.

    The root of a container is such a file system. The path is then the one that the container sees.
    """
    candidates = []
    for mount in mounted:
        root = mount.root.rstrip("/")
        if mount.dev == dev and path.startswith(root + "/"):
            candidates.append((len(mount.at), mount.at.rstrip("/") + path[len(root) :]))
    return min(candidates)[1] if candidates else path


def _bytes_of(path: str) -> bytes:
    """The content of a small file. Not by pathlib, which interns parts of paths: each new pid would leak memory."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


class Processes:
    """Identifies senders and targets, with caches. Not thread-safe."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._exes: dict[tuple[int, int], str] = {}
        self.sources: Counter[str] = Counter(dict.fromkeys(SOURCES, 0))
        """Targets by how their cgroup was found."""
        self.stale = False
        """Set by any thread to reread mounts and cgroups before the next event."""
        self._read()

    def _read(self) -> None:
        self._mounts = mounts((self._proc / "self/mountinfo").read_text())
        self._tree = next((Path(mount.at) for mount in self._mounts if mount.fstype == "cgroup2"), None)
        self._cgroups: dict[int, str | None] = {}
        self._executable = lru_cache(_CACHE_MAX)(self._where)
        self._from_proc_cached = lru_cache(_PROC_CACHE_MAX)(self._from_proc)
        self._walk()

    def identify(self, event: Event) -> Identity:
        """The names for the ids of an event's sender and target."""
        if self.stale:
            self.stale = False
            self._read()
        exe = sender_cgroup = target_cgroup = None
        if event.sender:
            sender = event.sender
            sender_cgroup, _ = self._cgroup(sender.place, sender.pid, sender.start_ns)
            exe = self._exe(sender)
        if event.target:
            target = event.target
            target_cgroup, source = self._cgroup(target.place, target.pid, target.start_ns)
            self.sources[source] += 1
        sender_cgroup, target_cgroup = sender_cgroup or "", target_cgroup or ""
        return Identity(
            exe, unit(sender_cgroup), container(sender_cgroup), unit(target_cgroup), container(target_cgroup)
        )

    def _exe(self, sender: Sender) -> str | None:
        """The sender's executable. A death has no names; they came with its delivery."""
        key = sender.pid, sender.start_ns
        if sender.exe_names:
            if len(self._exes) >= _CACHE_MAX:
                self._exes.clear()
            self._exes[key] = self._executable(sender.exe_names, sender.exe_dev)
        return self._exes.get(key)

    def _where(self, leaf_first: tuple[bytes, ...], dev: int) -> str:
        path = joined(leaf_first)
        return visible_path(path, dev, self._mounts) if path.startswith("/") else path

    def _cgroup(self, place: Place, pid: int, start_ns: int) -> tuple[str | None, str]:
        """The path of a process's cgroup, and how it was found (SOURCES)."""
        path, source = self._path(place)
        # If systemd keeps its tree in cgroup v1, every process is at the root of v2.
        if path in (None, "/"):
            window = int(time.monotonic() / _PROC_CACHE_S)
            if found := self._from_proc_cached(pid, start_ns, window):
                return found, "proc"
        return path, source

    def _path(self, place: Place) -> tuple[str | None, str]:
        source = "cache"
        if place.names:
            self._remember(place.cgroup, joined(place.names))
            source = "kernel"
        elif place.cgroup not in self._cgroups:
            self._walk()
            if place.cgroup not in self._cgroups:
                self._remember(place.cgroup, None)  # removed; ids are not reused
            source = "tree"
        path = self._cgroups[place.cgroup]
        return path, source if path else "none"

    def _remember(self, cgroup: int, path: str | None) -> None:
        if len(self._cgroups) >= _CACHE_MAX:
            self._cgroups.clear()
        self._cgroups[cgroup] = path

    def _walk(self) -> None:
        """Read the whole cgroup tree: a cgroup's id is the inode number of its folder."""
        if not self._tree:
            return
        self._remember(self._tree.stat().st_ino, "/")
        waiting = [("", str(self._tree))]
        while waiting:
            path, folder = waiting.pop()
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        child = f"{path}/{names.text(os.fsencode(entry.name))}"
                        self._remember(entry.inode(), child)
                        waiting.append((child, entry.path))

    def _from_proc(self, pid: int, start_ns: int, _window: int) -> str | None:
        """The cgroup in /proc, if the pid still belongs to that process. A zombie still has a cgroup."""
        try:
            lines = _bytes_of(f"{self._proc}/{pid}/cgroup").splitlines()
            stat = _bytes_of(f"{self._proc}/{pid}/stat")
        except OSError:
            return None
        if int(stat.rpartition(b")")[2].split()[19]) != start_ns // _TICK_NS:
            return None
        paths = {}
        for line in lines:
            _, controllers, path = line.split(b":", 2)
            paths[controllers] = names.text(path.removesuffix(b" (deleted)"))
        found = paths.get(b"name=systemd", "/")
        return found if found != "/" else paths.get(b"", "/")
