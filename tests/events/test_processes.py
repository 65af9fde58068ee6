"""Names for an event's processes, in bounded time and memory."""

import dataclasses
import tracemalloc
from pathlib import Path

import pytest
from examples import BASH, KILL, NGINX

from killsnoopd.event import Cmdline, Place
from killsnoopd.events import processes
from killsnoopd.events.pods import Pod, Pods
from killsnoopd.events.processes import Deliveries, Identity, Processes


@pytest.fixture
def machine(tmp_path):
    """A cgroup tree, a function that opens Processes on a /proc of its own, and one that adds a process to it."""
    tree, proc = tmp_path / "cgroup", tmp_path / "proc"
    tree.mkdir()
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(f"25 22 0:26 / {tree} rw - cgroup2 cgroup2 rw\n22 1 8:1 / / rw - ext4 x rw\n")
    opened = []

    def add(pid, start_ticks, cgroup):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "cgroup").write_bytes(cgroup)
        rest = " ".join(["S", *["0"] * 18, str(start_ticks), "0"])
        (proc / str(pid) / "stat").write_text(f"{pid} (a ) b) {rest}\n")

    def open_processes(share=None):
        opened.append(Processes(share, proc))
        return opened[-1]

    yield tree, open_processes, add
    for one in opened:
        one.close()


def unreadable(cgroup):
    """As under lockdown."""
    return Place(cgroup, None, 0)


def named(*names):
    return Place(7, tuple(name.encode() for name in names), len(names))


def of(found, what):
    """{source: lookups}."""
    return {source: count for (of_what, source), count in found.lookups.items() if of_what == what}


ROOT = Place(1, (), 0)


def delivery(place, start_ns=0, **changes):
    target = dataclasses.replace(NGINX, place=place, start_ns=start_ns)
    return dataclasses.replace(KILL, sender=None, target=target, **changes)


def test_the_ways_to_a_cgroup(machine):
    """Usually the kernel names it; otherwise it is in the tree of root's cgroups, or in /proc while the process exists."""
    tree, opened, add = machine
    (tree / "system.slice/a.service").mkdir(parents=True)
    found = opened()
    known = (tree / "system.slice/a.service").stat().st_ino
    assert found.identify(delivery(named("system.slice", "c.service"))).target_unit == "c.service"
    assert found.identify(delivery(unreadable(known))) == Identity(target_unit="a.service")
    assert found.identify(delivery(unreadable(8))) == Identity()
    (tree / "user.slice/user@1.service/b.scope").mkdir(parents=True)
    add(812, 500, b"0::/user.slice/user@1.service/b.scope\n")
    in_proc = found.identify(delivery(unreadable(8), start_ns=5_000_000_000))
    assert in_proc == Identity(target_unit="user@1.service", target_user_unit="b.scope")
    assert of(found, "unit") == {"kernel": 1, "delivery": 0, "tree": 1, "proc": 1, "over_budget": 0, "none": 1}


def test_proc_is_asked_about_processes_at_the_root(machine):
    """With cgroup v1, every process is at the root of v2; /proc answers, but only for the process that was meant."""
    _, opened, add = machine
    add(812, 500, b"3:memory:/\n1:name=systemd:/system.slice/old.service\n0::/\n")
    found = opened()
    assert found.identify(delivery(ROOT, start_ns=5_000_000_000)).target_unit == "old.service"
    assert found.identify(delivery(ROOT, start_ns=5_010_000_000)) == Identity(), "the pid came round"
    assert found.identify(delivery(ROOT, start_ns=5_009_999_999)).target_unit == "old.service"
    assert found.lookups["unit", "proc"] == 2


def test_a_cgroup_that_was_removed(machine):
    """A zombie's cgroup may be gone; its path is still reported."""
    tree, opened, add = machine
    (tree / "system.slice").mkdir()
    add(812, 500, b"0::/system.slice/gone.service (deleted)\n")
    assert opened().identify(delivery(unreadable(9), 5_000_000_000)).target_unit == "gone.service"


def test_a_line_break_in_a_cgroups_name(machine):
    """It neither costs the event nor names the unit of another process."""
    _, opened, add = machine
    add(812, 500, b"1:name=systemd:/own.service/a\r1:name=systemd:/ssh.service\n0::/a\rb\n")
    assert opened().identify(delivery(ROOT, start_ns=5_000_000_000)).target_unit == "own.service"


def test_an_error_costs_names_only(machine, monkeypatch, caplog):
    """The event remains; the error is logged once."""
    _, opened, _ = machine
    found = opened()
    monkeypatch.setattr(found._executables, "find", lambda *_: 1 / 0)
    event = dataclasses.replace(KILL, sender=dataclasses.replace(BASH, exe_names=(b"bash", b"/")))
    for _ in range(3):
        assert found.identify(event) == Identity()
    assert [record.levelname for record in caplog.records if record.levelno >= 40] == ["ERROR"]


def shot(exe, time_ns, target_pid=812, payer=0, sig=15):
    """A delivery by one process, which runs `exe` at that moment."""
    sender = dataclasses.replace(BASH, exe_dev=8 << 20 | 1, exe_names=(exe, b"bin", b"/"), place=named("a.service"))
    target = dataclasses.replace(NGINX, pid=target_pid, place=named("b.service"))
    return dataclasses.replace(KILL, sender=sender, target=target, time_ns=time_ns, payer=payer, sig=sig)


def death(of, after_ns):
    """The record of a death, which has no names."""
    sender = dataclasses.replace(of.sender, exe_names=(), place=unreadable(7))
    target = dataclasses.replace(of.target, place=unreadable(7))
    return dataclasses.replace(
        of, kind="death", outcome="died", sender=sender, target=target, time_ns=of.time_ns + after_ns, elapsed_ns=after_ns
    )  # fmt: skip


def test_the_executable_of_a_death(machine):
    """It is that of its own delivery, even if the sender has executed another program since; else there is none."""
    _, opened, _ = machine
    found = opened()
    kill = shot(b"killer", 1000)
    identity = found.identify(kill)
    assert identity == Identity(exe="/bin/killer", unit="a.service", target_unit="b.service")
    found.identify(shot(b"innocent", 2000, target_pid=9))
    assert found.identify(death(kill, 5000)) == identity
    assert found.identify(death(shot(b"other", 3000), 5000)).exe is None
    assert found.lookups["unit", "delivery"] == 2


def test_deliveries_without_end(machine):
    """One payer cannot push out those of another, and all together are bounded in bytes."""
    _, opened, _ = machine
    found = opened()
    quiet = shot(b"quiet", 1, payer=1)
    found.identify(quiet)
    for number in range(10_000):
        found.identify(shot(b"%04d" % number * 60, 1000 + number, target_pid=5, payer=2))
    assert found._deliveries._size <= processes._DELIVERIES_BYTES
    assert found.identify(death(quiet, 10**10)).exe == "/bin/quiet"


def test_the_size_of_what_is_kept():
    """The sum is exact, and 0 at the end."""
    kept = Deliveries(5000)
    for number in range(100):
        kept.put(number, (number, number), Identity(exe="x" * number))
    sizes = [identity.size() for share in kept._shares.values() for identity in share.values()]
    assert sum(sizes) == kept._size <= 5000
    for number in range(100):
        kept.pop(number, (number, number))
    assert kept._size == 0


def test_long_paths_without_end(machine):
    """Memory stays flat when each event has another path, as long as the probe reads it and full of escapes."""
    _, opened, _ = machine
    found = opened()

    def ask(numbers):
        for number in numbers:
            wide = "\U0001f600".encode() + b"\1" * 240
            names = (b"x", b"%09d" % number + wide, b"%09d" % number + wide, b"/")
            place = Place(number, (b"%09d" % number + wide,) * 2, 0)
            sender = dataclasses.replace(BASH, exe_names=names, place=place)
            found.identify(dataclasses.replace(KILL, sender=sender, time_ns=number))

    ask(range(1000))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ask(range(1000, 4000))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000_000  # entries from before the start are not traced; those that replaced them are


def test_pids_that_come_and_go_leave_nothing_behind(machine):
    """Nor in the interpreter's table of interned strings, which Python rebuilds, larger, once it has seen enough."""
    _, opened, _ = machine
    found = opened()
    event = delivery(ROOT, sig=0)

    def ask(pids):
        for pid in pids:
            found.identify(dataclasses.replace(event, target=dataclasses.replace(event.target, pid=pid)))

    ask(range(1, 1001))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ask(range(1001, 100_001))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000  # the cache of the last 128, which replaces that of those before


def test_lookups_are_paid_for(machine, monkeypatch):
    """When one payer's lookups have taken too long, they are left out and counted; those of another are made."""
    _, opened, _ = machine
    now_s = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now_s[0])
    found = opened(0.03)

    def slow(pid, _start_ns):
        now_s[0] += 0.02
        return processes.Membership("x.service") if pid == 812 else None

    monkeypatch.setattr(found._cgroups, "from_proc", slow)
    monkeypatch.setattr(found._cgroups, "walk", lambda: False)
    for number in range(1000):
        target = dataclasses.replace(NGINX, pid=1000 + number, place=unreadable(number))
        found.identify(dataclasses.replace(KILL, sender=None, target=target, payer=4242))
    assert found.lookups["unit", "over_budget"] > 980
    assert now_s[0] < 1000.2
    assert found.identify(delivery(unreadable(8), payer=1)).target_unit == "x.service"


UID, ID = "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6", "0123456789abcdef" * 4
IN_A_POD = ("kubepods", f"pod{UID}", ID)


class Listing(Pods):
    """A listing that has changed, and in which each reading takes `takes_s` and finds `pod`."""

    def __init__(self, pod=None, takes_s=0.0, clock=None):
        self.pod, self.takes_s, self.clock, self.readings = pod, takes_s, clock, 0
        self.there = None

    def find(self, uid, container):
        return (self.there or Pod()) if (uid, container) == (UID, ID) else Pod()

    def changed(self):
        return self.there is None

    def read(self):
        self.readings += 1
        if self.clock:
            self.clock[0] += self.takes_s
        self.there = self.pod


def test_the_names_of_a_pod(machine, monkeypatch):
    """Of sender and target, from the kubelet's listing, which is read for containers alone."""
    found = processes.Processes(None, Path("/proc"), listing := Listing(Pod("web-1", "shop", "nginx")))
    assert found.identify(delivery(named("system.slice", "c.service"))).target_pod_uid is None
    assert listing.readings == 0
    target = found.identify(delivery(named(*IN_A_POD)))
    assert target == Identity(
        target_container=ID, target_pod_uid=UID, target_pod="web-1", target_pod_namespace="shop", target_container_name="nginx"
    )  # fmt: skip
    sender = dataclasses.replace(BASH, place=named(*IN_A_POD))
    kill = dataclasses.replace(KILL, sender=sender, target=None)
    assert found.identify(kill) == Identity(
        container=ID, pod_uid=UID, pod="web-1", pod_namespace="shop", container_name="nginx"
    )  # fmt: skip
    assert found.identify(delivery(named("docker", "f" * 64))).target_pod_uid is None
    assert of(found, "pod") == {"listing": 2, "none": 0, "over_budget": 0}
    assert listing.readings == 1
    found.close()


def test_a_pod_without_names(machine):
    """Its uid is still known, from the cgroup."""
    found = processes.Processes(None, Path("/proc"), Listing())
    assert found.identify(delivery(named(*IN_A_POD))) == Identity(target_container=ID, target_pod_uid=UID)
    assert found.lookups["pod", "none"] == 1
    found.close()


def test_reading_the_listing_is_paid_for(machine, monkeypatch):
    """By the uid whose event needs it; when that is spent, the uid of the pod remains and the loss is counted."""
    now_s = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now_s[0])
    found = processes.Processes(0.03, Path("/proc"), listing := Listing(None, 0.02, now_s))
    for _ in range(1000):
        assert found.identify(delivery(named(*IN_A_POD), payer=4242)).target_pod_uid == UID
    assert found.lookups["pod", "over_budget"] > 980
    assert now_s[0] < 1000.2
    listing.pod = Pod("web-1", "shop", "nginx")
    assert found.identify(delivery(named(*IN_A_POD), payer=1)).target_pod == "web-1"
    found.close()


def test_a_death_in_a_pod_that_is_gone(machine):
    """Its names are those of the delivery."""
    found = processes.Processes(None, Path("/proc"), listing := Listing(Pod("web-1", "shop", "nginx")))
    kill = delivery(named(*IN_A_POD), time_ns=1000)
    known = found.identify(kill)
    listing.there = Pod()
    assert known.target_pod == "web-1"
    dead = dataclasses.replace(kill, kind="death", outcome="died", time_ns=6000, elapsed_ns=5000)
    assert found.identify(dead) == known
    found.close()


def test_here():
    """This machine's real /proc can be read: its mounts are valid, and its cgroup tree, if any, is walked."""
    found = Processes()
    assert found.identify(delivery(unreadable(0))) == Identity()
    sender = dataclasses.replace(BASH, exe_dev=Path("/proc").stat().st_dev, exe_names=(b"x", b"/"))
    assert found.identify(dataclasses.replace(KILL, sender=sender)).exe == "/proc/x"
    found.close()


def test_how_command_lines_are_found(machine):
    """Each is counted, also if it is missing from the event; no command line at all is not looked for."""
    _, open_processes, add = machine
    add(100, 700, b"0::/\n")
    found = open_processes(0.03)
    (found._proc / "100/cmdline").write_bytes(b"sleep\x0001\0")
    by_kernel, unread = Cmdline(b"pkill\0nginx\0"), Cmdline(None)
    same = dataclasses.replace(BASH, pid=100, start_ns=7 * 10**9, comm="a ) b")
    for sender, cmdline in ((BASH, by_kernel), (BASH, None), (same, unread), (BASH, unread)):
        event = dataclasses.replace(KILL, sender=dataclasses.replace(sender, cmdline=cmdline))
        seen = found.identify(event).cmdline
        assert seen == {by_kernel: "pkill nginx", None: None}.get(cmdline, "sleep 01" if sender is same else None)
    assert of(found, "cmdline") == {"kernel": 1, "proc": 1, "none": 1, "over_budget": 0}
    found._budget.charge(KILL.payer, 1.0)
    assert found.identify(event).cmdline is None
    assert of(found, "cmdline")["over_budget"] == 1
