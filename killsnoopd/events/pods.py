"""The names of pods and their containers, from the names of the log files that the kubelet keeps on each node.

Only names are read: those of files, and those in symbolic links. No log is opened.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from killsnoopd.events.lookup_budget import TimeBudget

CONTAINERS = Path("/var/log/containers")
"""Has POD_NAMESPACE_CONTAINER-ID.log for each container, a symbolic link to PODS/NAMESPACE_POD_UID/CONTAINER/N.log."""
PODS = Path("/var/log/pods")

# RFC 1123, as the API server demands of these names; none has an underscore.
_NAMESPACE, _NAME, _UID = r"([a-z0-9-]{1,63})", r"([a-z0-9.-]{1,253})", r"([0-9a-f-]{32,36})"
_LINK = re.compile(rf"{_NAME}_{_NAMESPACE}_([a-z0-9-]{{1,63}})-([0-9a-f]{{64}})\.log")
_FOLDER = re.compile(rf"{_NAMESPACE}_{_NAME}_{_UID}")
_ENTRIES_MAX = 5_000  # names read of a folder: some 20 ms; a node has 110 pods by default
_SHARE = 0.01  # of the time, for reading them
_BURST_S = 0.1  # time that may be used at once, after a quiet while: one new pod is always found at once
_SETTLED_NS = 20_000_000  # a folder's time of change is that of a clock with ticks of up to 10 ms

_Stamp = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Pod:
    """The names of a pod, and of one of its containers; None: not known."""

    name: str | None = None
    namespace: str | None = None
    container: str | None = None


class _Table:
    """What the listing had at one moment."""

    def __init__(self) -> None:
        self.by_uid: dict[str, Pod] = {}
        self.by_container: dict[str, Pod] = {}  # by container id

    def add_folder(self, name: str) -> None:
        if match := _FOLDER.fullmatch(name):
            self.by_uid[match[3]] = Pod(match[2], match[1])

    def add_link(self, name: str, target: str) -> None:
        if match := _LINK.fullmatch(name):
            self.by_container[match[4]] = Pod(match[1], match[2], match[3])
        # The kubelet cuts a name of more than 255 bytes, so that it has no id; the folder's name is whole.
        self.add_folder("/".join(target.split("/")[-3:-2]))


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _ENTRIES_MAX):
                yield entry.name
    except OSError:  # absent, or not ours to read
        return


def _target(folder: Path, name: str) -> str:
    try:
        return os.readlink(f"{folder}/{name}")  # noqa: PTH115 # pathlib interns the parts of paths: ids without end
    except OSError:
        return ""


class Pods:
    """Finds the names of pods. It remembers those that the last reading but one had. Not thread-safe."""

    def __init__(
        self, containers: Path = CONTAINERS, pods: Path = PODS, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._containers, self._pods, self._now_s = containers, pods, now_s
        self._stamps: tuple[_Stamp, ...] = (None, None)
        self._budget = TimeBudget(_SHARE, _BURST_S, now_s)
        self._table, self._table_before = _Table(), _Table()
        self.refresh()

    def find(self, uid: str | None, container: str | None) -> Pod:
        """The names of a pod, by its uid or by the id of one of its containers."""
        now, before = self._table, self._table_before
        return (
            now.by_container.get(container or "")
            or before.by_container.get(container or "")
            or now.by_uid.get(uid or "")
            or before.by_uid.get(uid or "")
            or Pod()
        )

    def whole_name(self, uid: str) -> str | None:
        """NAMESPACE/POD of a pod, by its uid."""
        found = self.find(uid, None)
        return f"{found.namespace}/{found.name}" if found.name else None

    def _look(self) -> tuple[_Stamp, ...]:
        """When the folders last changed; None: one is absent."""
        stamps: list[_Stamp] = []
        for folder in (self._containers, self._pods):
            try:
                status = os.stat(folder)  # noqa: PTH116 # half the time
                stamps.append((status.st_ino, status.st_mtime_ns))
            except OSError:
                stamps.append(None)
        return tuple(stamps)

    def changed(self) -> bool:
        """Whether to read the listing again: it has changed, and there is time left for that."""
        return self._budget.allows() and self._look() != self._stamps

    def refresh(self) -> None:
        """Read the listing again if it has changed."""
        if self.changed():
            self.read()

    def read(self) -> None:
        """Read the listing."""
        began_s, now_ns = self._now_s(), time.time_ns()
        # Before the names: what changes meanwhile is a change. So may be what changes within the same tick.
        self._stamps = tuple(stamp and (stamp if now_ns - stamp[1] > _SETTLED_NS else (0, 0)) for stamp in self._look())
        table = _Table()
        for name in _names(self._pods):
            table.add_folder(name)
        for name in _names(self._containers):
            table.add_link(name, _target(self._containers, name))
        self._table_before, self._table = self._table, table
        self._budget.charge(self._now_s() - began_s)
