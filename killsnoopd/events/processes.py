"""Identifies an event's processes by executable, unit, container and pod, in bounded time and memory.

The probe reads the names, so that usually nothing is looked up. The exceptions are lockdown=confidentiality, systemd on
cgroup v1, the names of pods, and command lines that were not in memory.
"""

import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from killsnoopd import names
from killsnoopd.event import Event, Place, Sender
from killsnoopd.events import cgroups, command_lines
from killsnoopd.events.cgroups import Cgroups, Membership
from killsnoopd.events.executables import Executables
from killsnoopd.events.lookup_budget import LookupBudget
from killsnoopd.events.pods import Pod, Pods

log = logging.getLogger("killsnoopd")

SOURCES = {
    "unit": ("kernel", "delivery", "tree", "proc", "over_budget", "none"),
    "pod": ("listing", "over_budget", "none"),
    "cmdline": ("kernel", "proc", "over_budget", "none"),
}
"""How units and containers, pods, and command lines are found: named by the kernel, from a death's delivery, in the
cgroup tree, in /proc, in the kubelet's listing; or why they are not: the budget was spent, or nothing knows them."""
_NOTHING, _NO_POD = Membership(), Pod()
_ANSWER_S = 0.1  # how long an answer of /proc is kept: a lookup costs twice as much as the rest of an event
_ANSWERS_MAX = 128  # processes
_DELIVERIES_BYTES = 1 << 20  # of identities that wait for a death
_PAYERS = 251  # shares of them
_ENTRY_BYTES = 600  # of an identity without its texts, with its place in the table


@dataclass(frozen=True, slots=True)
class Identity:
    """Names for an event's ids; None: not known, or there is none."""

    exe: str | None = None
    cmdline: str | None = None
    ancestors: str | None = None
    unit: str | None = None
    container: str | None = None
    user_unit: str | None = None
    machine: str | None = None
    pod_uid: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    container_name: str | None = None
    target_unit: str | None = None
    target_container: str | None = None
    target_user_unit: str | None = None
    target_machine: str | None = None
    target_pod_uid: str | None = None
    target_pod: str | None = None
    target_pod_namespace: str | None = None
    target_container_name: str | None = None

    def size(self) -> int:
        """Bytes of memory, at most."""
        return _ENTRY_BYTES + sum(map(sys.getsizeof, filter(None, _texts(self))))


_texts = attrgetter(*Identity.__slots__)  # a loop in Python takes 5 us, for every signal that may kill

Delivery = tuple[int, int]  # CLOCK_BOOTTIME in ns, the target's pid


class Deliveries:
    """The identities of deliveries that may kill, for the deaths and exits that follow. Bounded in bytes.

    Their records have no names of the sender, and since the delivery it may have executed another program.
    """

    def __init__(self, max_bytes: int = _DELIVERIES_BYTES) -> None:
        self._max_bytes = max_bytes
        self._shares: dict[int, dict[Delivery, Identity]] = {}
        self._sizes: Counter[int] = Counter()
        self._size = 0

    def put(self, payer: int, delivery: Delivery, identity: Identity) -> None:
        """Keep an identity. If there are too many, the payer that has most loses its oldest one."""
        self.pop(payer, delivery)
        share = payer % _PAYERS
        self._shares.setdefault(share, {})[delivery] = identity
        self._count(share, identity.size())
        while self._size > self._max_bytes:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            oldest = next(iter(self._shares[largest]))
            self._count(largest, -self._shares[largest].pop(oldest).size())

    def pop(self, payer: int, delivery: Delivery) -> Identity | None:
        """Take out the identity of a delivery."""
        share = payer % _PAYERS
        identity = self._shares.get(share, {}).pop(delivery, None)
        if identity:
            self._count(share, -identity.size())
        return identity

    def _count(self, share: int, size: int) -> None:
        self._sizes[share] += size
        self._size += size


class Processes:
    """Identifies senders and targets. Not thread-safe."""

    def __init__(self, lookup_share: float | None = None, proc: Path = Path("/proc"), pods: Pods | None = None) -> None:
        """`lookup_share`: of the time, for lookups of what the probe could not read; None: no limit."""
        self.lookups: Counter[tuple[str, ...]] = Counter(
            {(what, source): 0 for what, sources in SOURCES.items() for source in sources}
        )
        """Senders and targets, by what was looked for and how it was found."""
        self._proc = proc
        self._executables = Executables(proc)
        self._cgroups = Cgroups(proc)
        self._pods = pods or Pods()
        self._budget = LookupBudget(lookup_share)
        self._answers: dict[tuple[int, int], tuple[float, Membership | None]] = {}  # by pid and start time
        self._deliveries = Deliveries()
        self._failed = False

    def identify(self, event: Event) -> Identity:
        """The names for the ids of an event's sender and target. An error costs names, not the event."""
        try:
            return self._identify(event)
        except Exception as error:
            if not self._failed:
                self._failed = True
                log.error("a process could not be identified, report it: %s: %s", type(error).__name__, error)
                log.debug("where it happened", exc_info=True)
            return Identity()

    def _identify(self, event: Event) -> Identity:
        if event.kind in ("death", "exit") and event.target and event.elapsed_ns is not None:
            known = self._deliveries.pop(event.payer, (event.time_ns - event.elapsed_ns, event.target.pid))
            if known:
                self.lookups["unit", "delivery"] += 2 if event.sender else 1
                return known
        exe, cmdline, ancestors = None, None, None
        ours, theirs, our_pod, their_pod = _NOTHING, _NOTHING, _NO_POD, _NO_POD
        if sender := event.sender:
            ours = self._membership(sender.place, sender.pid, sender.start_ns, event.payer)
            our_pod = self._pod(ours, event.payer)
            exe = self._executables.find(sender.exe_names, sender.exe_dev) if sender.exe_names else None
            cmdline, ancestors = self._cmdline(sender, event.payer), command_lines.chain(sender.ancestors)
        if target := event.target:
            theirs = self._membership(target.place, target.pid, target.start_ns, event.payer)
            their_pod = self._pod(theirs, event.payer)
        identity = Identity(
            exe=exe,
            cmdline=cmdline,
            ancestors=ancestors,
            unit=ours.unit,
            container=ours.container,
            user_unit=ours.user_unit,
            machine=ours.machine,
            pod_uid=ours.pod_uid,
            pod=our_pod.name,
            pod_namespace=our_pod.namespace,
            container_name=our_pod.container,
            target_unit=theirs.unit,
            target_container=theirs.container,
            target_user_unit=theirs.user_unit,
            target_machine=theirs.machine,
            target_pod_uid=theirs.pod_uid,
            target_pod=their_pod.name,
            target_pod_namespace=their_pod.namespace,
            target_container_name=their_pod.container,
        )
        if target and event.sig in names.FATAL and event.outcome in ("delivered", "lose_info"):
            self._deliveries.put(event.payer, (event.time_ns, target.pid), identity)
        return identity

    def _cmdline(self, sender: Sender, payer: int) -> str | None:
        """The sender's command line; from /proc if there is one that the probe could not read: a page was missing."""
        cmdline, source = sender.cmdline, "kernel"
        if not cmdline:
            return None
        if cmdline.arguments is None and not self._budget.allows(payer):
            source = "over_budget"
        elif cmdline.arguments is None:
            began_s = time.monotonic()
            found = command_lines.from_proc(sender.pid, sender.start_ns, sender.comm, self._proc)
            self._budget.charge(payer, time.monotonic() - began_s)
            cmdline, source = found or cmdline, "proc" if found else "none"
        self.lookups["cmdline", source] += 1
        return command_lines.shell(cmdline)

    def _membership(self, place: Place, pid: int, start_ns: int, payer: int) -> Membership:
        found, source = self._found(place, (pid, start_ns), payer)
        self.lookups["unit", source] += 1
        return found or _NOTHING

    def _pod(self, member: Membership, payer: int) -> Pod:
        """The names of the pod that it belongs to."""
        if not (member.container or member.pod_uid):
            return _NO_POD
        found, source = self._pods.find(member.pod_uid, member.container), "none"
        if not found.container and self._pods.changed():
            if self._budget.allows(payer):
                began_s = time.monotonic()
                self._pods.read()
                self._budget.charge(payer, time.monotonic() - began_s)
                found = self._pods.find(member.pod_uid, member.container)
            else:
                source = "over_budget"
        if found.name or member.pod_uid:  # else it is a container without a pod
            self.lookups["pod", "listing" if found.name else source] += 1
        return found

    def _found(self, place: Place, process: tuple[int, int], payer: int) -> tuple[Membership | None, str]:
        """What a process belongs to, and how it was found (SOURCES)."""
        if place.names:
            return cgroups.membership(place.names, place.trusted), "kernel"
        # A process at the root: if systemd keeps its tree in cgroup v1, all are there.
        at_root = place.names is not None
        if not at_root and (found := self._cgroups.from_tree(place)):
            return found, "tree"
        now_s = time.monotonic()
        until_s, found = self._answers.get(process, (0.0, None))
        if now_s >= until_s:
            if not self._budget.allows(payer):
                return None, "over_budget"
            found = self._cgroups.from_proc(*process)
            self._remember(process, now_s + _ANSWER_S, found)
            if not found and not at_root and self._cgroups.walk():
                found = self._cgroups.from_tree(place)
            self._budget.charge(payer, time.monotonic() - now_s)
        if found:
            return found, "proc"
        return None, "kernel" if at_root else "none"

    def _remember(self, process: tuple[int, int], until_s: float, found: Membership | None) -> None:
        self._answers.pop(process, None)
        if len(self._answers) >= _ANSWERS_MAX:
            del self._answers[next(iter(self._answers))]
        self._answers[process] = until_s, found

    def close(self) -> None:
        """Close the files."""
        self._executables.close()
