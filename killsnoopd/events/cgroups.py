"""Finds a process's systemd unit, container, pod, machine and user unit from its cgroup."""

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from killsnoopd import mounts, names
from killsnoopd.event import Place
from killsnoopd.events.lookup_budget import TimeBudget
from killsnoopd.mounts import Names

# A valid name (systemd.unit(5)), which is why it is text as it stands; systemd puts `_` before some in the cgroup tree.
_UNIT = re.compile(rb"_?([\w:.\\@-]+\.(?:service|scope|socket|mount|swap|device|timer|path|target|automount))")
_USER_MANAGER = re.compile(rb"user@\d+\.service")
# docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, SLICE:cri-containerd:ID, or the bare ID;
# conmon watches a container from outside.
_CONTAINER = re.compile(rb"(?:(?!.*conmon).*[-:])?([0-9a-f]{64})(?:\.scope)?", re.DOTALL)
# The kubelet's drivers: systemd, below its --cgroup-root: [PREFIX-]kubepods[-QOS]-podUID.slice, with `_` for `-` in the
# uid; cgroupfs: kubepods/[QOS/]podUID. A static pod's uid is a hash. If kubelet and containerd have different drivers,
# containerd makes SLICE:cri-containerd:ID of the slice.
_UID = rb"([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_POD_SLICE = re.compile(rb"(?:[^:]*-)?kubepods(?:-burstable|-besteffort)?-pod" + _UID + rb"\.slice(?::.*)?", re.DOTALL)
_POD = re.compile(rb"pod" + _UID)
# systemd-machined's scopes (systemd-nspawn, libvirt), nspawn as a service; LXC before 4.0, and Proxmox, have lxc/NAME.
_MACHINE = re.compile(rb"machine-(.+)\.scope|systemd-nspawn@(.+)\.service|lxc\.payload\.(.+)", re.DOTALL)
_LXC = (b"lxc", b"lxc.payload")
_UNIT_ESCAPE = re.compile(rb"\\x(?!00)([0-9a-f]{2})")
_DEPTH_MAX = 12  # names of a path that count, from the root; CGROUP_DEPTH_MAX in event_scratch.c
TICK_NS = 10_000_000  # unit of times in /proc/PID/stat: USER_HZ is 100 on all supported machines
_PROC_MAX = (
    1 << 16
)  # bytes read of a file in /proc: /proc/PID/cgroup has a path of up to 4 KiB for each of 13 hierarchies
_WALK_MAX = 5_000  # cgroups in one walk through the tree: some 50 ms
_WALK_SHARE, _WALK_BURST_S = 0.01, 0.2  # of the time, for these walks; what they may use at once
_REMOVED_MAX = 5_000  # cgroups that are gone


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process belongs to; None: nothing, or not known."""

    unit: str | None = None
    container: str | None = None
    user_unit: str | None = None  # as the user calls it, who may choose any name
    pod_uid: str | None = None
    machine: str | None = None  # a virtual machine, or a container that has a name and no id


def _unit(parts: Sequence[bytes]) -> str | None:
    """By the rules of sd_pid_get_unit(3): the first part that is not a slice."""
    for part in parts:
        if not part.endswith(b".slice"):
            match = _UNIT.fullmatch(part)
            return match[1].decode() if match else None
    return None


def _pod_uid(path: Names) -> str | None:
    """The uid of the pod whose cgroup is the last one on the path."""
    match = _POD_SLICE.fullmatch(path[-1]) or (_POD.fullmatch(path[-1]) if b"kubepods" in path else None)
    return match[1].decode().replace("_", "-") if match else None


def _machine(path: Names) -> str | None:
    """The machine whose cgroup is the last one on the path."""
    if len(path) == 2 and path[0] in _LXC:
        return names.text(path[1])
    match = _MACHINE.fullmatch(path[-1])
    if not match:
        return None
    *units, payload = match.groups()
    escaped = next(filter(None, units), None)
    raw = _UNIT_ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), escaped) if escaped else payload
    return names.text(raw)


# A storm has one sender and few targets. The probe bounds each key to 639 bytes.
@lru_cache(64)
def membership(path: Names, trusted: int) -> Membership:
    """What a cgroup belongs to; its path is given from the root down.

    Root has chosen the first `trusted` names; only these count, and only down to the outermost container, machine or
    service manager of a user: names below it come from inside. So a pod is one of the host's own kubelet.
    """
    pod_uid = None
    for number, part in enumerate(path[:trusted], 1):
        if _USER_MANAGER.fullmatch(part):
            return Membership(unit=_unit(path[:number]), user_unit=_unit(path[number:]))
        pod_uid = _pod_uid(path[:number]) or pod_uid
        if container := _CONTAINER.fullmatch(part):
            return Membership(_unit(path[:number]), container[1].decode(), pod_uid=pod_uid)
        if machine := _machine(path[:number]):
            return Membership(_unit(path[:number]), machine=machine)
    return Membership(_unit(path[:trusted]), pod_uid=pod_uid)


def of_proc(text: bytes) -> tuple[bytes, bytes]:
    """The path in a text like /proc/PID/cgroup, and its hierarchy: `name=systemd`, or b"" for cgroup v2.

    systemd keeps its tree in cgroup v1 on some machines; every process is then at the root of v2.
    """
    paths: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) == 3:
            paths.setdefault(fields[1], fields[2])
    for hierarchy in (b"name=systemd", b""):
        path = paths.get(hierarchy, b"/").removesuffix(b" (deleted)")
        if path != b"/":
            return path, hierarchy
    return b"/", b""


def start_ticks(stat: bytes) -> int | None:
    """The start time in a text like /proc/PID/stat."""
    fields = stat.rpartition(b")")[2].split(b" ")
    try:
        return int(fields[20])
    except (ValueError, IndexError):
        return None


def _bytes_of(path: str) -> bytes:
    """The content of a small file. Not by pathlib, which interns parts of paths: each new pid would leak memory."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(_PROC_MAX)


class Cgroups:
    """Finds a process's cgroup where the probe could not read its name. Not thread-safe."""

    def __init__(self, proc: Path = Path("/proc"), now_s: Callable[[], float] = time.monotonic) -> None:
        self._proc = str(proc)
        self._now_s = now_s
        self._folders: dict[bytes, bytes] = {}  # where each hierarchy is mounted
        for mount in reversed(mounts.read(proc / "self/mountinfo")):
            at = b"/" + b"/".join(mount.at)
            if mount.fstype == b"cgroup2" and not mount.root:
                self._folders[b""] = at
            elif mount.fstype == b"cgroup" and b"name=systemd" in mount.options.split(b",") and not mount.root:
                self._folders[b"name=systemd"] = at
        # By id, which no other cgroup will have. First those that have been removed, perhaps since their process died.
        self._known: dict[int, Names] = {}
        self._walks = TimeBudget(_WALK_SHARE, _WALK_BURST_S, now_s)
        self._walk()

    def from_proc(self, pid: int, start_ns: int) -> Membership | None:
        """From /proc, if the pid still belongs to that process; else None. A zombie still has a cgroup."""
        try:
            text = _bytes_of(f"{self._proc}/{pid}/cgroup")
            ticks = start_ticks(_bytes_of(f"{self._proc}/{pid}/stat"))
        except OSError:
            return None
        if ticks != start_ns // TICK_NS:
            return None
        path, hierarchy = of_proc(text)
        parts = tuple(part for part in path.split(b"/", _DEPTH_MAX + 1) if part)[:_DEPTH_MAX]
        return membership(parts, self._trusted(hierarchy, parts))

    def _trusted(self, hierarchy: bytes, path: Names) -> int:
        """How many names on this path root has chosen: up to the first cgroup that belongs to somebody else."""
        folder = self._folders.get(hierarchy)
        if folder is None or b".." in path:  # we are in a container; membership() knows user@.service
            return len(path)
        for number, part in enumerate(path, 1):
            folder += b"/" + part
            try:
                if os.stat(folder).st_uid:  # noqa: PTH116 # no pathlib, as in _bytes_of
                    return number
            except OSError:  # removed; its name came from root, to whom the one above belongs
                return number
        return len(path)

    def from_tree(self, place: Place) -> Membership | None:
        """By the cgroup's id, from the tree of those that root has made. None: not known, or the root itself."""
        path = self._known.get(place.cgroup)
        return membership(path, len(path)) if path else None

    def walk(self) -> bool:
        """Read the tree again, if there is time left for that; whether it did."""
        if not self._walks.allows():
            return False
        self._walk()
        return True

    def _walk(self) -> None:
        """Read the tree: a cgroup's id is the inode number of its folder.

        Cgroups below one that does not belong to root are left out: users can make any number of them.
        """
        began_s = self._now_s()
        found: dict[int, Names] = {}
        waiting: deque[tuple[Names, bytes]] = deque()
        if b"" in self._folders:
            waiting.append(((), self._folders[b""]))
        while waiting and len(found) < _WALK_MAX:
            path, folder = waiting.popleft()
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    child = (*path, entry.name)
                    found[entry.inode()] = child
                    if len(child) < _DEPTH_MAX and entry.stat(follow_symlinks=False).st_uid == 0:
                        waiting.append((child, entry.path))
                    if len(found) == _WALK_MAX:
                        break
        removed = {number: path for number, path in self._known.items() if number not in found}
        self._known = dict(islice(removed.items(), max(0, len(removed) - _REMOVED_MAX), None)) | found
        self._walks.charge(self._now_s() - began_s)
