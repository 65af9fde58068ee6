"""Units and containers, from cgroup paths that systemd and container engines make, and from those that users make."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd.event import Place
from killsnoopd.events import cgroups
from killsnoopd.events.cgroups import Cgroups, Membership

ID, OTHER = "0123456789abcdef" * 4, "f" * 64


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
        (f"/x/{ID.upper()}", None, None),
    ],
)  # fmt: skip
def test_unit_and_container(cgroup, unit, container):
    """The cgroup paths that systemd, docker, containerd, CRI-O and podman make."""
    assert member(cgroup) == Membership(unit, container)


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
    ],
)  # fmt: skip
def test_cgroups_of_users(cgroup, trusted, expected):
    """No unit and no container comes from below a cgroup that is not root's, nor below a user's service manager."""
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
    assert (found.unit, found.container) == ("user@1000.service", None)
    assert cgroups.membership(tuple(names), 0) == Membership()
    found = cgroups.membership(tuple(names), len(names))
    assert all(text is None or text.isprintable() for text in (found.unit, found.container, found.user_unit))


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
    here._next_walk_s = now_s[0] + 1
    assert not here.walk()


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
