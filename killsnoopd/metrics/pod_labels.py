"""The labels of the pods that victims were in. A label never changes while a counter has it, also across restarts."""

from collections.abc import Callable, Set

from killsnoopd import names
from killsnoopd.probe.program import POD_LABEL_BYTES, POD_UID_BYTES

_CHANGING = 0xFF  # in place of the first byte of a uid, while an entry is written


class PodLabels:
    """Chooses the label of each pod once: NAMESPACE/POD if the kubelet lists it at that time, else the uid.

    The labels are kept in a map of the probe (struct pod_label in maps.h), for the next daemon. Not thread-safe.
    """

    def __init__(self, memory: memoryview, find: Callable[[str], str | None], refresh: Callable[[], None]) -> None:
        """`memory` is that map. find(uid) is NAMESPACE/POD or None, as of the last refresh()."""
        self._memory, self._find, self._refresh = memory, find, refresh
        self._known: dict[bytes, tuple[int, str]] = {}  # by uid: its place in the map, the label
        self._free = list(range(len(memory) // POD_LABEL_BYTES))  # places
        for place in self._free:
            entry = bytes(self._entry(place))
            if not entry[0]:  # places are used from the first one on: nothing follows, and no page of memory is touched
                break
            if entry[0] != _CHANGING:
                self._known[entry[:POD_UID_BYTES]] = place, entry[POD_UID_BYTES:].rstrip(b"\0").decode()
        taken = {place for place, _ in self._known.values()}
        self._free = [place for place in reversed(self._free) if place not in taken]

    def of(self, uids: Set[bytes]) -> dict[bytes, str]:
        """The label of each of these uids, which are all on the page, as struct victim has them."""
        # Also if all labels are known: the names of a pod that dies before the next page must be known by then.
        self._refresh()
        for uid in sorted(uids - self._known.keys()):
            text = names.text(uid).replace("_", "-")
            self._keep(uid, self._find(text) or text, uids)
        return {uid: self._known[uid][1] for uid in uids}

    def _entry(self, place: int) -> memoryview:
        return self._memory[place * POD_LABEL_BYTES : (place + 1) * POD_LABEL_BYTES]

    def _keep(self, uid: bytes, label: str, uids: Set[bytes]) -> None:
        """Write a label into a free place: there are as many as counters. Pods that left the page free theirs."""
        for gone in self._known.keys() - uids:
            self._free.append(self._known.pop(gone)[0])
        place = self._free.pop()
        entry = self._entry(place)
        entry[0] = _CHANGING
        entry[1:] = (uid + label.encode()).ljust(POD_LABEL_BYTES, b"\0")[1:]
        entry[0] = uid[0]
        self._known[uid] = place, label
