"""Units, containers, pods and machines, from cgroup paths of systemd and container engines, and from those of users."""

import dataclasses
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd.event import Place
from killsnoopd.events import cgroups
from killsnoopd.events.cgroups import Cgroups, Membership

ID, OTHER = "0123456789abcdef" * 4, "f" * 64
UID = "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6"
UID_ = UID.replace("-", "_")
STATIC = "0123456789abcdef" * 2  # a static pod's uid


def parts(path):
    return tuple(name.encode() for name in path.split("/") if name)


def member(path, trusted=None):
    names = parts(path)
    return cgroups.membership(names, len(names) if trusted is None else trusted)


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("/", None, None),
        ("/init.scope", "init.scope", None),
        ("/system.slice/nginx.service", "nginx.service", None),
        ("/system.slice/nginx.service/worker", "nginx.service", None),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
        (r"/system.slice/x.slice/systemd-fsck@dev-disk-by\x2dlabel-a.service",
         r"systemd-fsck@dev-disk-by\x2dlabel-a.service", None),
        ("/system.slice/_cgroup.service", "cgroup.service", None),
        ("/system.slice/a b.service", None, None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
        ("/system.slice", None, None),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID),
        (f"/system.slice/docker-{ID}.scope/init.scope", f"docker-{ID}.scope", ID),
        (f"/docker/{ID}", None, ID),
        (f"/docker/{ID}/kubepods/besteffort/pod123/{OTHER}", None, ID),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{ID}.scope",
         f"cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", None, ID),
        (f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", f"crio-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None),
        (f"/kubepods.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope", None),
        (f"/system.slice/kubelet.service/kubepods-pod1.slice:cri-containerd:{ID}", "kubelet.service", ID),
        (f"/x/{ID[:-1]}", None, None),
        (f"/system.slice/docker-{ID}.scope/user.slice/user-1000.slice/user@1000.service/a.service",
         f"docker-{ID}.scope", ID),
        (f"/x/{ID.upper()}", None, None),
    ],
)  # fmt: skip
def test_unit_and_container(cgroup, unit, container):
    """The cgroup paths that systemd, docker, containerd, CRI-O and podman make."""
    assert member(cgroup) == Membership(unit, container)


@pytest.mark.parametrize(
    ("cgroup", "unit", "container", "pod"),
    [
        # cgroupfs driver: cgroup v2 and v1 have the same names
        (f"/kubepods/burstable/pod{UID}/{ID}", None, ID, UID),
        (f"/kubepods/besteffort/pod{UID}/{ID}", None, ID, UID),
        (f"/kubepods/pod{UID}/{ID}/a", None, ID, UID),
        (f"/kubepods/pod{UID}", None, None, UID),
        (f"/kubepods/burstable/pod{STATIC}/{ID}", None, ID, STATIC),
        (f"/a-root/kubepods/pod{UID}/{ID}", None, ID, UID),
        # systemd driver
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
         f"cri-containerd-{ID}.scope", ID, UID),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope/container",
         f"crio-{ID}.scope", ID, UID),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID, UID),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope",
         f"cri-containerd-{ID}.scope", ID, STATIC),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice", None, None, UID),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope", None, UID),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
         f"cri-containerd-{ID}.scope", ID, UID),
        # different drivers of kubelet and containerd
        (f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
         "containerd.service", ID, UID),
        # in a container (kind), and in a machine
        (f"/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/"
         f"cri-containerd-{ID}.scope", f"docker-{OTHER}.scope", OTHER, None),
        (f"/docker/{OTHER}/kubepods/burstable/pod{UID}/{ID}", None, OTHER, None),
        # a container in a pod that makes cgroups of its own
        (f"/kubepods/pod{UID}/{ID}/kubepods/pod{UID[::-1]}/{OTHER}", None, ID, UID),
        # what looks similar
        (f"/pod{UID}/{ID}", None, ID, None),
        (f"/kubepods/pod{UID[:-1]}/{ID}", None, ID, None),
        (f"/kubepods/pod{UID.upper()}/{ID}", None, ID, None),
        (f"/kubepods/xpod{UID}/{ID}", None, ID, None),
        (f"/kubepods.slice/kubepods-other-pod{UID_}.slice/cri-containerd-{ID}.scope", f"cri-containerd-{ID}.scope", ID, None),
    ],
)  # fmt: skip
def test_pods(cgroup, unit, container, pod):
    """Both drivers of the kubelet, each class of service; the pod is the one that the host's own kubelet made."""
    assert member(cgroup) == Membership(unit, container, pod_uid=pod)


@pytest.mark.parametrize(
    ("cgroup", "unit", "machine"),
    [
        ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine-web.scope", "web"),
        (r"/machine.slice/machine-web\x2dfront\x2d01.scope/supervisor", r"machine-web\x2dfront\x2d01.scope", "web-front-01"),
        (r"/machine.slice/machine-qemu\x2d3\x2ddebian.scope/libvirt/emulator", r"machine-qemu\x2d3\x2ddebian.scope",
         "qemu-3-debian"),
        (r"/machine.slice/systemd-nspawn@web\x2d1.service/payload", r"systemd-nspawn@web\x2d1.service", "web-1"),
        ("/lxc.payload.web-front-01/system.slice/nginx.service", None, "web-front-01"),
        ("/lxc.payload.a project_web", None, "a project_web"),
        ("/lxc.payload/web/init.scope", None, "web"),
        ("/lxc/101/ns/system.slice/ssh.service", None, "101"),
        (f"/lxc/101/docker/{ID}", None, "101"),
        (f"/machine.slice/machine-web.scope/payload/kubepods/pod{UID}/{ID}", "machine-web.scope", "web"),
        (r"/machine.slice/machine-a\x0a\xff.scope", r"machine-a\x0a\xff.scope", r"a\x0a\xff"),
        ("/lxc.payload.a\x1b[2J\\", None, r"a\x1b[2J\\"),
        (r"/machine.slice/machine-\x00a.scope/machine-b.scope", r"machine-\x00a.scope", r"\\x00a"),
        ("/lxc.monitor.web", None, None),
        ("/system.slice/lxc/101", None, None),
        ("/lxc", None, None),
    ],
)  # fmt: skip
def test_machines(cgroup, unit, machine):
    """systemd-nspawn, libvirt, LXC, Incus and Proxmox; nothing that is named from inside."""
    assert member(cgroup) == Membership(unit, machine=machine)


USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("cgroup", "trusted", "expected"),
    [
        (f"{USER}/app.slice/app-gnome-firefox-3823.scope", 3,
         Membership("user@1000.service", None, "app-gnome-firefox-3823.scope")),
        (f"{USER}/app.slice/app-x.slice/foo.service/worker", 3, Membership("user@1000.service", None, "foo.service")),
        (f"{USER}/app.slice/foo.service", 5, Membership("user@1000.service", None, "foo.service")),
        (f"{USER}/init.scope", 3, Membership("user@1000.service", None, "init.scope")),
        (USER, 3, Membership("user@1000.service")),
        (f"{USER}/app.slice/evil line.service", 3, Membership("user@1000.service")),
        (f"{USER}/docker-{ID}.scope", 5, Membership("user@1000.service", None, f"docker-{ID}.scope")),
        (f"{USER}/user.slice/libpod-{ID}.scope/container", 3,
         Membership("user@1000.service", None, f"libpod-{ID}.scope")),
        (f"/system.slice/own.service/docker-{ID}.scope", 2, Membership("own.service")),
        (f"/system.slice/docker-{ID}.scope/docker-{OTHER}.scope", 2, Membership(f"docker-{ID}.scope", ID)),
        ("/folder/x.service", 1, Membership()),
        (f"/folder/{ID}", 1, Membership()),
        (f"{USER}/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", 6,
         Membership("user@1000.service", None, f"cri-containerd-{ID}.scope")),
        (f"{USER}/machine.slice/machine-web.scope", 3, Membership("user@1000.service", None, "machine-web.scope")),
        (f"{USER}/lxc.payload.web", 3, Membership("user@1000.service")),
        (f"/folder/kubepods/pod{UID}/{ID}", 1, Membership()),
        (f"/system.slice/own.service/kubepods/pod{UID}/{ID}", 2, Membership("own.service")),
        (f"/system.slice/own.service/kubepods-pod{UID_}.slice:cri-containerd:{ID}", 2, Membership("own.service")),
        ("/system.slice/own.service/lxc.payload.web/machine-web.scope", 2, Membership("own.service")),
        (f"/kubepods/pod{UID}/{ID}/own", 3, Membership(container=ID, pod_uid=UID)),
    ],
)  # fmt: skip
def test_cgroups_of_users(cgroup, trusted, expected):
    """Nothing of the system comes from below a cgroup that is not root's, nor below a user's service manager."""
    assert member(cgroup, trusted) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"3:memory:/\n1:name=systemd:/system.slice/x.service\n0::/\n", (b"/system.slice/x.service", b"name=systemd")),
        (b"0::/system.slice/x.service\n", (b"/system.slice/x.service", b"")),
        (b"1:name=systemd:/\n0::/x\n", (b"/x", b"")),
        (b"0::/system.slice/gone.service (deleted)\n", (b"/system.slice/gone.service", b"")),
        (
            b"1:name=systemd:/a\r1:name=systemd:/ssh.service\n0::/\n",
            (b"/a\r1:name=systemd:/ssh.service", b"name=systemd"),
        ),
        (b"1:name=systemd:/first\n1:name=systemd:/second\n", (b"/first", b"name=systemd")),
        (b"0::/a:b\x85\xe2\x80\xa8\x0b\xb1\n", (b"/a:b\x85\xe2\x80\xa8\x0b\xb1", b"")),
        (b"", (b"/", b"")),
        (b"nonsense\n", (b"/", b"")),
    ],
)
def test_of_proc(text, found):
    """Only a newline ends a line, and the first line of a hierarchy counts: a cgroup's name can have any other byte."""
    assert cgroups.of_proc(text) == found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\0/\n")), min_size=1, max_size=6
    )
)
def test_any_names(names):
    """The names of a user's own cgroups are never units or containers, and never an error."""
    user = parts(USER)
    path, _ = cgroups.of_proc(b"1:name=systemd:/" + b"/".join((*user, *names)) + b"\n0::/\n")
    got = tuple(part for part in path.split(b"/") if part)
    assert got[: len(user)] == user
    found = cgroups.membership(got, len(got))
    assert found == Membership("user@1000.service", user_unit=found.user_unit)
    assert cgroups.membership(tuple(names), 0) == Membership()
    for top in ((), (b"lxc.payload",), (b"kubepods", b"pod" + UID.encode())):
        found = cgroups.membership((*top, *names), len(top) + len(names))
        assert all(text is None or text.isprintable() for text in dataclasses.astuple(found))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=250), st.sampled_from([b"machine-%b.scope", b"systemd-nspawn@%b.service", b"lxc.payload.%b",
       b"kubepods-pod%b.slice", b"kubepods-pod%b.slice:cri-containerd:%b", b"docker-%b.scope", b"pod%b"]))  # fmt: skip
def test_any_name_of_a_known_form(name, form):
    """Never an error, and never a character that breaks a line."""
    part = form.replace(b"%b", name)
    found = cgroups.membership((b"kubepods", part), 2)
    assert all(text is None or text.isprintable() for text in dataclasses.astuple(found))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(text):
    """Never an error."""
    cgroups.of_proc(text)
    cgroups.start_ticks(text)
    cgroups.start_ticks(b"812 (a ) b) " + text)
    assert cgroups.start_ticks(b"812 (" + text + b") S " + b"1 " * 18 + b"4711 0 0\n") == 4711


@pytest.fixture
def tree(tmp_path):
    """A /proc whose cgroup v2 tree is a folder, and that folder."""
    folder, proc = tmp_path / "cgroup", tmp_path / "proc"
    folder.mkdir()
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(f"25 22 0:26 / {folder} rw - cgroup2 cgroup2 rw\n")
    return proc, folder


def place(folder):
    return Place(folder.stat().st_ino, None, 0)


def test_the_tree(tree):
    """A cgroup is found by its id, also after it was removed; a new one after the next walk."""
    proc, folder = tree
    old = folder / "system.slice/a.service"
    old.mkdir(parents=True)
    now_s = [1000.0]
    here = Cgroups(proc, lambda: now_s[0])
    removed = place(old)
    assert here.from_tree(removed) == Membership("a.service")
    assert here.from_tree(Place(8, None, 0)) is None
    new = folder / "system.slice/b.service"
    new.mkdir()
    old.rmdir()
    assert here.from_tree(place(new)) is None
    assert here.walk()
    assert here.from_tree(place(new)) == Membership("b.service")
    assert here.from_tree(removed) == Membership("a.service")


def test_a_slow_walk(tree, monkeypatch):
    """At start does not forbid the next one. Walks take a hundredth of the time, and some of it at once."""
    proc, _ = tree
    now_s = [1000.0]

    def slow(folder, scandir=os.scandir):
        now_s[0] += 0.07
        return scandir(folder)

    monkeypatch.setattr(cgroups.os, "scandir", slow)
    here = Cgroups(proc, lambda: now_s[0])
    assert [here.walk() for _ in range(4)] == [True, True, False, False]
    walks = 0
    for _ in range(1000):
        now_s[0] += 0.7
        walks += here.walk()
    assert walks == pytest.approx(100, rel=0.05)


def test_removed_cgroups_are_remembered(tree, monkeypatch):
    """Whatever the number of walks since; of very many, those that were found last."""
    proc, folder = tree
    elsewhere = proc.parent
    monkeypatch.setattr(cgroups, "_REMOVED_MAX", 3)
    here = Cgroups(proc, lambda: 1000.0)
    removed = []
    for name in ("a.service", "b.service", "c.service", "d.service", "e.service"):
        (elsewhere / name).mkdir()
        (elsewhere / name).rename(folder / name)
        removed.append(place(folder / name))
        assert here.walk()
        (folder / name).rename(elsewhere / name)  # not removed, or the next one might get its inode
        assert here.walk()
    units = [found and found.unit for found in map(here.from_tree, removed)]
    assert units == [None, None, "c.service", "d.service", "e.service"]


def test_a_tree_of_a_users(tree):
    """Cgroups below one that belongs to a user cost nothing, however many; all of root's own are found."""
    if os.geteuid():
        pytest.skip("needs root, to give folders away")
    proc, folder = tree
    own = folder / "user.slice/user@1.service"
    for number in range(200):
        (own / f"{number}.scope").mkdir(parents=True)
    os.chown(own, 1, 1)
    late = folder / "z.slice/z.slice/z.service"
    late.mkdir(parents=True)
    here = Cgroups(proc)
    assert here.from_tree(place(own)) == Membership("user@1.service")
    assert here.from_tree(place(own / "7.scope")) is None
    assert here.from_tree(place(late)) == Membership("z.service")
    assert len(here._known) == 5


def test_a_walk_has_an_end(tree, monkeypatch):
    """The cgroups nearest to the root come first, and no table is cleared meanwhile."""
    proc, folder = tree
    monkeypatch.setattr(cgroups, "_WALK_MAX", 50)
    for number in range(20):
        for below in range(20):
            (folder / f"{number}.service/{below}").mkdir(parents=True)
    here = Cgroups(proc)
    assert all(here.from_tree(place(folder / f"{number}.service")) for number in range(20))
    assert len(here._known) == 50
