"""What cgroups, mounts and /proc tell about a process."""

import dataclasses
import tracemalloc
from pathlib import Path

import pytest
from examples import BASH, KILL, NGINX

from killsnoopd.event import Place
from killsnoopd.events import processes
from killsnoopd.events.processes import Identity, Mount, Processes

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("/", None, None),
        ("/init.scope", "init.scope", None),
        ("/system.slice/nginx.service", "nginx.service", None),
        ("/system.slice/nginx.service/worker", "nginx.service", None),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
        ("/system.slice/_cgroup.service", "cgroup.service", None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user@1000.service", None),
        ("/system.slice", None, None),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID),
        (f"/system.slice/docker-{ID}.scope/init.scope", f"docker-{ID}.scope", ID),
        (f"/docker/{ID}", None, ID),
        (f"/docker/{'f' * 64}/kubepods/besteffort/pod123/{ID}", None, ID),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{ID}.scope",
         f"cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", None, ID),
        (f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", f"crio-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None),
        (f"/kubepods.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope", None),
        (f"/system.slice/kubelet.service/kubepods-pod1.slice:cri-containerd:{ID}", "kubelet.service", ID),
        (f"/x/{ID[:-1]}", None, None),
        (f"/x/{ID.upper()}", None, None),
    ],
)  # fmt: skip
def test_unit_and_container(cgroup, unit, container):
    """Cgroup paths of systemd, docker, containerd, CRI-O and podman."""
    assert (processes.unit(cgroup), processes.container(cgroup)) == (unit, container)


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ((b"bash", b"bin", b"usr", b"/"), "/usr/bin/bash"),
        ((b"",), "/"),
        ((b"ssh.service", b"system.slice", b""), "/system.slice/ssh.service"),
        ((b"memfd:x",), "memfd:x"),
        ((b"a\nb\xff", b"/"), r"/a\x0ab\xff"),
    ],
)
def test_joined(parts, path):
    """Names from the leaf upward become a path; none of its bytes can break a line."""
    assert processes.joined(parts) == path


MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /usr rw - ext4 /dev/sda2 rw
24 22 0:30 /@home /home rw shared:2 master:1 - btrfs /dev/sdb rw
25 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
26 22 8:1 /var/lib/x /with\040space rw - ext4 /dev/sda1 rw
""".strip()


def test_mounts():
    """Numbers, roots, spaces written as octal, optional fields."""
    found = processes.mounts(MOUNTINFO)
    assert found[0] == Mount(8 << 20 | 1, "/", "/", "ext4")
    assert found[2] == Mount(30, "/@home", "/home", "btrfs")
    assert found[4] == Mount(8 << 20 | 1, "/var/lib/x", "/with space", "ext4")


@pytest.mark.parametrize(
    ("path", "dev", "visible"),
    [
        ("/usr/bin/bash", 8 << 20 | 1, "/usr/bin/bash"),
        ("/bin/bash", 8 << 20 | 2, "/usr/bin/bash"),
        ("/@home/u/tool", 30, "/home/u/tool"),
        ("/@root/bin/x", 30, "/@root/bin/x"),
        ("/var/lib/x/tool", 8 << 20 | 1, "/var/lib/x/tool"),
        ("/usr/bin/tini", 99, "/usr/bin/tini"),
    ],
    ids=["root", "a mount below", "a subvolume", "another subvolume", "two ways", "a container's own"],
)
def test_visible_path(path, dev, visible):
    """A path on a file system becomes a path as seen from here."""
    assert processes.visible_path(path, dev, processes.mounts(MOUNTINFO)) == visible


@pytest.fixture
def machine(tmp_path):
    """A /proc and a cgroup tree in another folder, and a function that adds a process to it."""
    tree, proc = tmp_path / "cgroup", tmp_path / "proc"
    tree.mkdir()
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(f"25 22 0:26 / {tree} rw - cgroup2 cgroup2 rw\n")

    def add(pid, start_ticks, cgroup):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "cgroup").write_bytes(cgroup)
        rest = " ".join(["S", *["0"] * 18, str(start_ticks), "0"])
        (proc / str(pid) / "stat").write_text(f"{pid} (a ) b) {rest}\n")

    return tree, proc, add


def delivery(place, start_ns=0):
    target = dataclasses.replace(NGINX, place=place, start_ns=start_ns)
    return dataclasses.replace(KILL, sender=None, target=target)


def test_the_ways_to_a_cgroup(machine):
    """Names from the kernel are cached; otherwise the tree is searched, once for each new id."""
    tree, proc, _ = machine
    (tree / "system.slice/a.service").mkdir(parents=True)
    found = Processes(proc)
    known = (tree / "system.slice/a.service").stat().st_ino
    assert found.identify(delivery(Place(known, ()))) == Identity(target_unit="a.service")
    (tree / "system.slice/b.service").mkdir()
    new = (tree / "system.slice/b.service").stat().st_ino
    for _ in range(2):
        assert found.identify(delivery(Place(new, ()))).target_unit == "b.service"
    assert found.identify(delivery(Place(7, (b"c.service", b"system.slice", b"")))).target_unit == "c.service"
    assert found.identify(delivery(Place(7, ()))).target_unit == "c.service"
    for _ in range(2):
        assert found.identify(delivery(Place(8, ()))) == Identity()
    assert found.sources == {"cache": 3, "tree": 1, "kernel": 1, "proc": 0, "none": 2}


def test_proc_is_asked_where_the_tree_does_not_know(machine):
    """With cgroup v1, every process is at the root of v2; /proc answers, but only for the process that was meant."""
    tree, proc, add = machine
    add(812, 500, b"3:memory:/\n1:name=systemd:/system.slice/old.service\n0::/\n")
    found = Processes(proc)
    root = Place(tree.stat().st_ino, ())
    assert found.identify(delivery(root, start_ns=5_000_000_000)).target_unit == "old.service"
    assert found.identify(delivery(root, start_ns=5_010_000_000)) == Identity(), "the pid came round"
    assert found.identify(delivery(Place(9, (b"",)), start_ns=5_009_999_999)).target_unit == "old.service"
    assert found.sources["proc"] == 2


def test_a_cgroup_that_was_removed(machine):
    """A zombie's cgroup may be gone; its path is still reported."""
    _, proc, add = machine
    add(812, 500, b"0::/system.slice/gone.service (deleted)\n")
    assert Processes(proc).identify(delivery(Place(9, ()), 5_000_000_000)).target_unit == "gone.service"


def test_the_executable_of_a_death(machine):
    """A death's record does not have it, but the delivery's record had."""
    _, proc, _ = machine
    found = Processes(proc)
    with_exe = dataclasses.replace(BASH, exe_dev=99, exe_names=(b"bash", b"bin", b"/"))
    assert found.identify(dataclasses.replace(KILL, sender=with_exe)).exe == "/bin/bash"
    assert found.identify(KILL).exe == "/bin/bash"
    assert found.identify(dataclasses.replace(KILL, sender=dataclasses.replace(BASH, start_ns=1))).exe is None


def test_what_is_remembered_is_bounded(machine, monkeypatch):
    """Any user can make cgroups and processes without end."""
    _, proc, _ = machine
    monkeypatch.setattr(processes, "_CACHE_MAX", 10)
    found = Processes(proc)
    for number in range(100):
        sender = dataclasses.replace(BASH, pid=number + 1, exe_names=(b"x", b"/"))
        found.identify(dataclasses.replace(delivery(Place(number, (b"x.service", b""))), sender=sender))
    assert max(len(found._cgroups), len(found._exes)) <= 10


def test_pids_that_come_and_go_leave_nothing_behind(machine):
    """Nor in the interpreter's table of interned strings, which Python rebuilds, larger, once it has seen enough."""
    tree, proc, _ = machine
    found = Processes(proc)
    event = delivery(Place(tree.stat().st_ino, ()))

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
    assert after - before < 200_000  # the cache of the last 500, which replaces that of those before


def test_here():
    """This machine's real /proc can be read: its mounts are valid, and its cgroup tree, if any, is walked."""
    found = Processes()
    assert found.identify(delivery(Place(0, ()))) == Identity()
    assert processes.visible_path("/x", Path("/proc").stat().st_dev, found._mounts) == "/proc/x"
