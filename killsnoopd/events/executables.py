"""The path of an executable, as root sees it, from the names that the probe read."""

import contextlib
import os
import select
import time
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from killsnoopd import mounts, names
from killsnoopd.events.lookup_budget import TimeBudget
from killsnoopd.mounts import Mount, Names

ELSEWHERE = "elsewhere:"
"""Stands before the path of an executable whose file system, or the folder that it is in, is not mounted here."""
_TEXT_MAX = 1024  # characters of a path: the longest name, escaped, fits
_CACHED = 64  # paths; the probe bounds each to 767 bytes
_SHARE = 0.01  # of the time, for reading the mounts: a user who mounts (FUSE) all day long costs no more
_BURST_S = 0.1  # time that may be used at once, after a quiet while: one mount is always noticed at once

_UNREAD = b"/"  # in place of a name that could not be read
_LEFT_OUT = "..."


def _text(name: bytes) -> str:
    """A name as text. What is left out cannot be confused with a folder of that name."""
    if name == _UNREAD:
        return _LEFT_OUT
    text = names.text(name)
    return rf"\x2e{text[1:]}" if text == _LEFT_OUT else text


def _cut(path: str) -> str:
    """The path, with names left out at the front if it is too long."""
    if len(path) <= _TEXT_MAX:
        return path
    return _LEFT_OUT + path[path.index("/", len(path) - _TEXT_MAX + len(_LEFT_OUT)) :]


def visible(root_first: Names, dev: int, mounted: list[Mount]) -> Names | None:
    """The path in our mount namespace of a path on the file system `dev`; None if that is not mounted here."""
    candidates = [
        mount.at + root_first[len(mount.root) :]
        for mount in mounted
        if mount.dev == dev and root_first[: len(mount.root)] == mount.root
    ]
    return min(candidates, key=len) if candidates else None


def path(leaf_first: Names, dev: int, mounted: list[Mount]) -> str:
    """The path as text; `leaf_first` as `struct scratch` of maps.h has it, `mounted`: the mounts of `dev`.

    The root of a container is not mounted here: its path is the one that the container sees, marked `elsewhere:`. A
    path that does not reach the root begins with `.../`. A single name that is not a root (`memfd:x`) is unchanged.
    """
    *rest, top = leaf_first
    if top in (b"", b"/"):
        here = visible(tuple(reversed(rest)), dev, mounted)
        prefix, parts = "/", tuple(reversed(rest)) if here is None else here
    elif rest:
        here = () if any(mount.dev == dev for mount in mounted) else None
        prefix, parts = f"{_LEFT_OUT}/", tuple(reversed(leaf_first))
    else:
        return names.text(top)
    found = _cut(prefix + "/".join(map(_text, parts)))
    return found if here is not None else ELSEWHERE + found


class Executables:
    """Finds the paths of executables, with the mounts of this moment. Not thread-safe."""

    def __init__(self, proc: Path = Path("/proc"), now_s: Callable[[], float] = time.monotonic) -> None:
        # The host's mounts, also in the sandbox of killsnoopd.service, which hides /home, /var and others.
        host, ours = proc / "1/mountinfo", proc / "self/mountinfo"
        self._path = host if os.access(host, os.R_OK) else ours
        self._mounted: dict[int, list[Mount]] = {}
        self._now_s = now_s
        self._budget = TimeBudget(_SHARE, _BURST_S, now_s)
        self._changed = True
        self._cached = lru_cache(_CACHED)(self._find)
        self._poll = select.poll()
        self._file = None
        with contextlib.suppress(OSError):
            self._file = self._path.open("rb", buffering=0)
            self._poll.register(self._file, select.POLLPRI)  # a mount or an unmount: proc_pid_mounts(5)

    def find(self, leaf_first: Names, dev: int) -> str:
        """The path of an executable, as path() has it."""
        self._changed = bool(self._poll.poll(0)) or self._changed
        if self._changed and self._budget.allows():
            self._read()
        return self._cached(leaf_first, dev)

    def _read(self) -> None:
        began_s = self._now_s()
        mounted: defaultdict[int, list[Mount]] = defaultdict(list)
        for mount in mounts.read(self._path):
            mounted[mount.dev].append(mount)
        self._mounted = dict(mounted)
        self._cached.cache_clear()
        self._changed = False
        self._budget.charge(self._now_s() - began_s)

    def _find(self, leaf_first: Names, dev: int) -> str:
        return path(leaf_first, dev, self._mounted.get(dev, []))

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
