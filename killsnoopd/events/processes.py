"""What can be said of a process from its cgroup and its executable: unit, container, path."""

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

_CACHE_MAX = 10_000  # cgroups whose paths are kept
_LATELY_MAX = 500  # processes in that time; more are asked anew
_LATELY_S = 0.1  # what /proc said is taken for true for so long: asking costs twice what all the rest of an event does
_TICK_NS = 10_000_000  # of /proc/PID/stat: USER_HZ is 100 on every machine that is left
_UNIT = re.compile(r"_?(.+\.(?:service|scope|socket|mount|swap|device|timer|path|target|automount))")
# docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, SLICE:cri-containerd:ID, or the bare ID;
# conmon watches a container from outside.
_CONTAINER = re.compile(r"(?:(?!.*conmon).*[-:])?([0-9a-f]{64})(?:\.scope)?")
SOURCES = ("kernel", "cache", "tree", "proc", "none")
"""How a target's cgroup was found: named by the kernel, known before, in the cgroup tree, in /proc, not at all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an event's ids stand for; None: not known, or there is none."""

    exe: str | None = None
    unit: str | None = None
    container: str | None = None
    target_unit: str | None = None
    target_container: str | None = None


# A storm has one sender, and few targets: what their names come to is worked out once. That is half of identify's time.
_remembered = lru_cache(1000)


@_remembered
def unit(cgroup: str) -> str | None:
    """The systemd unit of a cgroup path, by the rules of sd_pid_get_unit(3): the first part that is no slice."""
    for part in cgroup.split("/"):
        if part and not part.endswith(".slice"):
            match = _UNIT.fullmatch(part)
            return match[1] if match else None
    return None


@_remembered
def container(cgroup: str) -> str | None:
    """The container's id, 64 hexadecimal digits, of a cgroup path that docker, containerd, CRI-O or podman made."""
    for part in reversed(cgroup.split("/")):
        if match := _CONTAINER.fullmatch(part):
            return match[1]
    return None


@_remembered
def joined(parts: tuple[bytes, ...]) -> str:
    """The path of names that lead from a file up to the root; a lone name that is no root (`memfd:x`) is itself."""
    *rest, top = parts
    if not rest and top not in (b"", b"/"):
        return names.text(top)
    return "/" + "/".join(names.text(part) for part in reversed(rest))


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    dev: int
    root: str  # what of the file system is mounted
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
    """Where a path on a file system is seen from here; as it is, if that file system is not mounted here.

    A container's root is such a file system: the path is then the one that the container sees.
    """
    candidates = []
    for mount in mounted:
        root = mount.root.rstrip("/")
        if mount.dev == dev and path.startswith(root + "/"):
            candidates.append((len(mount.at), mount.at.rstrip("/") + path[len(root) :]))
    return min(candidates)[1] if candidates else path


def _bytes_of(path: str) -> bytes:
    """A small file's. pathlib would intern the parts of its path: pids that come and go make that table grow."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


class Processes:
    """Finds out, and remembers. One thread uses it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._exes: dict[tuple[int, int], str] = {}
        self.sources: Counter[str] = Counter(dict.fromkeys(SOURCES, 0))
        """How the targets' cgroups were found."""
        self.stale = False
        """Any thread may set it: what is mounted, and the cgroups, are read anew before the next event."""
        self._read()

    def _read(self) -> None:
        self._mounts = mounts((self._proc / "self/mountinfo").read_text())
        self._tree = next((Path(mount.at) for mount in self._mounts if mount.fstype == "cgroup2"), None)
        self._cgroups: dict[int, str | None] = {}
        self._executable = lru_cache(_CACHE_MAX)(self._where)
        self._asked_lately = lru_cache(_LATELY_MAX)(self._from_proc)
        self._walk()

    def identify(self, event: Event) -> Identity:
        """Everything that is known of sender and target."""
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
        """A death does not carry the names, but they were seen when the signal was sent."""
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
        # Where systemd keeps its tree in cgroup v1, every process is at the root of v2.
        if path in (None, "/") and (found := self._asked_lately(pid, start_ns, int(time.monotonic() / _LATELY_S))):
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
                self._remember(place.cgroup, None)  # it is gone, and ids do not come back
            source = "tree"
        path = self._cgroups[place.cgroup]
        return path, source if path else "none"

    def _remember(self, cgroup: int, path: str | None) -> None:
        if len(self._cgroups) >= _CACHE_MAX:
            self._cgroups.clear()
        self._cgroups[cgroup] = path

    def _walk(self) -> None:
        """Learn the whole cgroup tree: a folder's inode is the cgroup's id."""
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

    def _from_proc(self, pid: int, start_ns: int, _lately: int) -> str | None:
        """What /proc says, if the pid is still that process's; a zombie still has a cgroup."""
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
