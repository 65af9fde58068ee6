"""Names of pods, from folders of the form that the kubelet gives them."""

import errno
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd.events import pods
from killsnoopd.events.pods import Pod, Pods

ID, OTHER = "0123456789abcdef" * 4, "f" * 64
UID = "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6"
STATIC = "0123456789abcdef" * 2
WEB = Pod("web-7d9c5b-x2x4q", "shop", "nginx")


class Node:
    """The two folders, and Pods that reads them; `now_s` is its clock."""

    def __init__(self, top):
        self.containers, self.pods = top / "containers", top / "pods"
        self.now_s = 1000.0

    def make(self):
        self.containers.mkdir()
        self.pods.mkdir()

    def add(self, pod, uid, container=None, pods=True):
        folder = self.pods / f"{pod.namespace}_{pod.name}_{uid}"
        if pods:
            folder.mkdir(exist_ok=True)
        if container:
            link = self.containers / f"{pod.name}_{pod.namespace}_{pod.container}-{container}.log"
            link.symlink_to(f"/var/log/pods/{folder.name}/{pod.container}/0.log")
            return link
        return folder

    def open(self):
        return Pods(self.containers, self.pods, lambda: self.now_s)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_pod_is_found_by_its_container_and_by_its_uid(node):
    """With the container's name, if it is known which one. The sandbox (pause) is not in the listing of containers."""
    node.make()
    node.add(WEB, UID, ID)
    etcd = Pod("etcd-node.example.com", "kube-system", "etcd")
    node.add(etcd, STATIC, OTHER)
    here = node.open()
    assert here.find(UID, ID) == here.find(None, ID) == WEB
    assert here.find(UID, "a" * 64) == here.find(UID, None) == Pod(WEB.name, WEB.namespace)
    assert here.find(STATIC, OTHER) == etcd
    assert here.find(UID.replace("9", "8"), "a" * 64) == here.find(None, None) == here.find("", "") == Pod()


@pytest.mark.parametrize("listed", ["containers", "pods"])
def test_one_folder_is_enough(node, listed):
    """/var/log/containers says all but the names of pods without containers; /var/log/pods all but those of containers."""
    if listed == "containers":
        node.containers.mkdir()
        node.add(WEB, UID, ID, pods=False)
    else:
        node.pods.mkdir()
        node.add(WEB, UID)
    here = node.open()
    assert here.find(UID, "a" * 64) == Pod(WEB.name, WEB.namespace)
    assert here.find(UID, ID) == (WEB if listed == "containers" else Pod(WEB.name, WEB.namespace))


def test_a_name_that_the_kubelet_cut(node):
    """The link of a name of 253 characters has no id; its target has the pod's."""
    node.containers.mkdir()
    long = Pod("a" * 200, "shop", "nginx")
    name = f"{long.name}_{long.namespace}_{long.container}-{ID}"[:251]
    (node.containers / f"{name}.log").symlink_to(f"/var/log/pods/shop_{long.name}_{UID}/nginx/0.log")
    assert node.open().find(UID, ID) == Pod(long.name, "shop")


def test_a_node_without_pods(node, monkeypatch):
    """Nothing is read, however often a container is asked about."""
    monkeypatch.setattr(pods.os, "scandir", lambda _: pytest.fail("read"))
    here = node.open()
    for _ in range(10):
        assert here.find(None, ID) == Pod()
        assert not here.changed()
        node.now_s += 1


def test_the_listing_is_read_again_when_it_has_changed(node):
    """A new pod makes it change; a kubelet may also come later. A pod that is gone is still known."""
    here = node.open()
    node.make()
    first = node.add(WEB, UID, ID)
    assert here.changed()
    here.read()
    assert here.find(UID, ID) == WEB
    node.now_s += 60
    first.unlink()
    new = Pod("db-0", "shop", "mysql")
    node.add(new, STATIC, OTHER)
    assert here.changed()
    here.read()
    assert (here.find(STATIC, OTHER), here.find(UID, ID)) == (new, WEB)


def test_a_change_within_the_same_tick(node):
    """The time of change may be the same before and after it: a folder that has just changed is read once more."""
    node.make()
    here = node.open()
    node.now_s += 60
    assert here.changed()
    for folder in (node.containers, node.pods):
        os.utime(folder, (1000, 1000))
    here.read()
    node.now_s += 60
    assert not here.changed()


def test_reading_takes_a_hundredth_of_the_time(node, monkeypatch):
    """A pod that comes soon after another one is found at once; but if pods never stop coming, 1 % is all."""
    node.make()
    here = node.open()
    node.now_s += 60
    began_s, readings = node.now_s, 0

    def slow(_folder):
        node.now_s += 0.01
        return []

    monkeypatch.setattr(pods, "_names", slow)
    while node.now_s < began_s + 1000:
        node.now_s += 0.1
        (node.pods / str(readings)).mkdir(exist_ok=True)
        if here.changed():
            here.read()  # 20 ms
            readings += 1
        if node.now_s < began_s + 0.3:
            assert readings == round((node.now_s - began_s) / 0.12)  # each time
    assert 0.0099 <= readings * 0.02 / 1000 <= 0.0102


@pytest.mark.parametrize(
    "name",
    [
        f"web_shop_nginx-{ID}", f"web_shop_nginx-{ID}.log.1", f"web_shop_nginx-{ID[:-1]}.log", f"web_shop_{ID}.log",
        f"a_web_shop_nginx-{ID}.log", f"web_Shop_nginx-{ID}.log", f"web\n_shop_nginx-{ID}.log", f"_shop_nginx-{ID}.log",
        f"web_shop_nginx-{ID}.log\n", f"wéb_shop_nginx-{ID}.log", "\udcff", f"web_shop_\x1b[2J-{ID}.log", ".log", "x" * 255,
    ],
)  # fmt: skip
def test_names_that_the_kubelet_does_not_make(node, name):
    """They are passed over, and so are links to anywhere; the others are found."""
    node.make()
    node.add(WEB, UID, OTHER)
    (node.containers / name).symlink_to(f"../../x/shop_e\x1b[2Jvil_{STATIC}/a/0.log")
    (node.pods / name).mkdir()
    (node.containers / "a-file").write_text("x")
    here = node.open()
    assert (here.find(None, ID), here.find(STATIC, None)) == (Pod(), Pod())
    assert here.find(UID, OTHER) == WEB


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=600))
def test_any_names(name, target):
    """Never an error; what is found is text that breaks no line."""
    table = pods._Table()
    for one in (name, f"{name}_{name}_{name}-{ID}.log", f"{name}_{name}_{UID}"):
        table.add_link(one, target)
        table.add_link(one, f"{name}/{one}/{name}/0.log")
        table.add_folder(one)
    for pod in (*table.by_uid.values(), *table.by_container.values()):
        assert all(text is None or (text.isascii() and text.isprintable()) for text in (pod.name, pod.container))


def test_names_without_end(node, monkeypatch):
    """Memory and time are bounded by the number of names that are read."""
    monkeypatch.setattr(pods, "_ENTRIES_MAX", 50)
    node.make()
    for number in range(200):
        node.add(Pod(f"p-{number}", "shop", "c"), f"{number:032x}", f"{number:064x}")
    here = node.open()
    assert len(here._table.by_container) == 50
    assert 50 <= len(here._table.by_uid) <= 100
    tracemalloc.start()
    try:
        here.read()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            here.read()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000


def test_a_folder_that_may_not_be_read(node, monkeypatch):
    """As one that is not there: a daemon without privileges may not list /var/log/pods on every node."""
    node.make()
    node.add(WEB, UID, ID)
    real = os.scandir

    def refused(folder):
        if folder == node.pods:
            raise PermissionError(errno.EACCES, "no")
        return real(folder)

    monkeypatch.setattr(pods.os, "scandir", refused)
    here = node.open()
    assert here.find(UID, ID) == WEB
