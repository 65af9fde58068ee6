"""Records and names that nobody thought of: nothing but a ValueError, nothing forged, nothing lost."""

import random
from collections import Counter

from fakes import FakeProbe
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from killsnoopd import event, names
from killsnoopd.events import fields
from killsnoopd.events.processes import Identity
from killsnoopd.metrics import families
from killsnoopd.probe.attached import Counts

comms = st.binary(max_size=16)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=4096))
@example(b"")
@example(bytes(200))
def test_any_bytes(record):
    """A record is an event, or a ValueError."""
    try:
        found = event.decode(record)
    except ValueError:
        return
    assert found.kind in ("call", "delivery", "death")


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
    st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=6, max_size=6),
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 5), st.integers(0, 4), st.integers(0, 255)),
    st.lists(comms, min_size=4, max_size=4),
    st.binary(max_size=64),
)
def test_whatever_the_kernel_may_say(longs, ids, numbers, kinds, texts, tail):
    """Every field that is logged is printable text in one line; the message names the sender as the metrics do."""
    ns_pid, tns_pid, target_arg, sig, res, code = numbers
    record = event.HEAD.pack(
        *longs,
        0,
        *ids,
        ns_pid,
        tns_pid,
        *ids[:2],
        target_arg,
        sig,
        -(abs(res) // 2**19),
        code,
        0,
        0,
        len(tail),
        0,
        0,
        *kinds,
        b"",
        *texts,
    )
    found = event.decode(record + tail)
    logged = fields.fields(found, Identity(), 0 - found.time_ns)
    assert all(value.isprintable() for value in logged.values())
    if found.sender:
        assert logged["KILLSNOOP_COMM"] == names.text(texts[0].ljust(16, b"\0"))


def page_of(counts):
    registry = CollectorRegistry()
    registry.register(families.Collector(FakeProbe(counts), None))
    return generate_latest(registry).decode()


def series_of(page):
    """{comm: calls}"""
    (family,) = [family for family in text_string_to_metric_families(page) if family.name == "killsnoop_signals"]
    return {sample.labels["comm"]: sample.value for sample in family.samples}


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        comms.map(lambda comm: comm.ljust(16, b"\0").partition(b"\0")[0]), st.integers(1, 2**53), max_size=30
    )
)
def test_any_names_on_the_page(calls):
    """Names that differ stay apart; each has its own count."""
    read = Counts([(comm, 9, 0, n) for comm, n in calls.items()], [], [], len(calls), 0, [], [], 0)
    assert Counter(series_of(page_of(read)).values()) == Counter(map(float, calls.values()))


def test_a_hundred_thousand_random_names():
    """And every single byte: as many series as names, and prometheus_client's own parser finds every count."""
    seeded = random.Random(41)
    found = {bytes([byte]) for byte in range(1, 256)}
    while len(found) < 100_000:
        found.add(seeded.randbytes(15).partition(b"\0")[0] or b"\1")
    read = Counts([(comm, 9, 0, n) for n, comm in enumerate(found, 1)], [], [], len(found), 0, [], [], 0)
    series = series_of(page_of(read))
    assert len(series) == len(found)
    assert sorted(series.values()) == list(map(float, range(1, len(found) + 1)))
