"""The labels of pods, in memory that outlives the daemon."""

from killsnoopd.metrics.pod_labels import PodLabels
from killsnoopd.probe.program import POD_LABEL_BYTES, POD_UID_BYTES

PLACES = 3
LONGEST = "n" * 63 + "/" + "p" * 253


def uid(number):
    return b"9f8a7c1e_0b2d_4c3e_8f10_a1b2c3d4e%03d" % number + bytes(4)


def text(number):
    return uid(number)[:36].decode().replace("_", "-")


class Node:
    """The kubelet's listing, and the memory of the labels."""

    def __init__(self):
        self.listed, self.last = {}, {}
        self.memory = memoryview(bytearray(PLACES * POD_LABEL_BYTES))

    def daemon(self):
        self.last = {}
        return PodLabels(self.memory, lambda uid: self.last.get(uid), lambda: self.last.update(self.listed))


def test_a_pod_has_its_name_or_its_uid():
    """By the listing as it is at the time of the page."""
    node = Node()
    labels = node.daemon()
    node.listed = {text(1): LONGEST}
    assert labels.of({uid(1), uid(2)}) == {uid(1): LONGEST, uid(2): text(2)}
    static = b"0123456789abcdef" * 2 + bytes(8)
    assert labels.of({static}) == {static: "0123456789abcdef" * 2}
    assert labels.of(set()) == {}


def test_a_label_never_changes():
    """The listing has another name, none, or one at last; the daemon is another one."""
    node = Node()
    labels = node.daemon()
    node.listed = {text(1): "shop/web", text(2): "shop/db"}
    expected = {uid(1): "shop/web", uid(2): "shop/db", uid(3): text(3)}
    assert labels.of(set(expected)) == expected
    node.listed = {text(1): "else/where", text(3): "late/comer"}
    assert labels.of(set(expected)) == expected
    node.listed = {}
    assert node.daemon().of(set(expected)) == expected


def test_places_are_used_again():
    """Those of pods whose deaths are on the page no more: as many places as counters are enough for any number of pods."""
    node = Node()
    labels = node.daemon()
    for number in range(100):
        uids = {uid(number), uid(number + 1), uid(number + 2)}
        node.listed = {text(each): f"shop/{each}" for each in range(number + 3)}
        assert labels.of(uids) == {uid(each): f"shop/{each}" for each in range(number, number + 3)}
        node.listed = {}
        assert node.daemon().of(uids) == labels.of(uids)


def test_an_entry_that_was_not_written_to_its_end():
    """The daemon was killed meanwhile: the entry is skipped, those behind it are not."""
    node = Node()
    node.listed = {text(number): f"shop/{number}" for number in range(3)}
    node.daemon().of({uid(0), uid(1), uid(2)})
    node.listed = {}
    node.memory[POD_LABEL_BYTES] = 0xFF
    node.memory[POD_LABEL_BYTES + POD_UID_BYTES] = 0
    assert node.daemon().of({uid(0), uid(1), uid(2)}) == {uid(0): "shop/0", uid(1): text(1), uid(2): "shop/2"}
