"""Random records and names: nothing but a ValueError, nothing forged, nothing lost."""

import os
import random
import struct
from collections import Counter

from fakes import FakeProbe, counts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from killsnoopd import event, names
from killsnoopd.events import command_lines, fields
from killsnoopd.events.processes import Identity
from killsnoopd.failure import Failure
from killsnoopd.metrics import families
from killsnoopd.probe import btf, loader, ways

comms = st.binary(max_size=16)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=4096))
@example(b"")
@example(bytes(200))
def test_any_bytes(record):
    """Decoding any bytes yields an event or a ValueError."""
    try:
        found = event.decode(record)
    except ValueError:
        return
    assert found.kind in ("call", "delivery", "death")


def values(field, form):
    """Any value of a field of the record; of those that the probe checks, any that it may write."""
    enums = {
        "kind": event.KINDS,
        "cmdline": event.CMDLINES,
        "origin": names.ORIGINS,
        "call": names.SYSCALLS,
        "outcome": names.OUTCOMES,
        "oom_scope": event.OOM_SCOPES,
    }
    if field in enums:
        return st.integers(0, len(enums[field]) - 1)
    if field == "res":
        return st.integers(-4095, 0)
    if form.endswith("s"):
        return st.binary(max_size=struct.calcsize(form))
    bits = 8 * struct.calcsize(f"={form}")
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if form == "i" else st.integers(0, 2**bits - 1)


heads = st.builds(
    event.Head, *(values(field, form) for field, form in zip(event.Head._fields, event.FORMATS, strict=True))
)


@settings(max_examples=500, deadline=None)
@given(heads, st.binary(max_size=64))
def test_whatever_the_kernel_may_say(head, tail):
    """Every logged field is one line of printable text; the message names the sender as the metrics do."""
    head = head._replace(exe_len=0, cgroup_len=0, cmdline_len=len(tail), ancestors_len=0, tcgroup_len=0, memory_len=0)
    found = event.decode(event.HEAD.pack(*head) + tail)
    command = found.sender and found.sender.cmdline
    identity = Identity(cmdline=command_lines.shell(command) if command else None)
    logged = fields.fields(found, identity, 0 - found.time_ns)
    assert all(value.isprintable() for value in logged.values())
    if found.sender:
        assert logged["KILLSNOOP_COMM"] == names.text(head.comm.ljust(16, b"\0"))


def page_of(read):
    registry = CollectorRegistry()
    registry.register(families.Collector(FakeProbe(read), None))
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
    """Different names stay separate, each with its own count."""
    read = counts([(comm, 9, 0, n) for comm, n in calls.items()])
    assert Counter(series_of(page_of(read)).values()) == Counter(map(float, calls.values()))


def test_a_hundred_thousand_random_names():
    """With every single byte: as many series as names, and prometheus_client's parser finds every count."""
    seeded = random.Random(41)
    found = {bytes([byte]) for byte in range(1, 256)}
    while len(found) < 100_000:
        found.add(seeded.randbytes(15).partition(b"\0")[0] or b"\1")
    read = counts([(comm, 9, 0, n) for n, comm in enumerate(found, 1)])
    series = series_of(page_of(read))
    assert len(series) == len(found)
    assert sorted(series.values()) == list(map(float, range(1, len(found) + 1)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_kernel_text(noise, more):
    """A field of /proc/self/status is found among any other bytes."""
    name = noise.replace(b"\n", b"")
    status = b"Name:\t" + name + b"\nCapEff:\t000000c000000000\n" + more
    assert loader.may_load(status)
    assert not loader.may_load(b"Name:\t" + name + b"\nCapEff:\t" + more.partition(b"\n")[0] + b"g\n")
    loader.may_load(noise)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=100), st.sampled_from([b"none", b"voluntary", b"full", b"lazy"]))
def test_any_text_about_preemption(tmp_path_factory, noise, more, mode):
    """The command line and the kernel's configuration may have any byte."""
    folder = tmp_path_factory.mktemp("kernel")
    kernel = os.uname_result(("Linux", "host", "6.12.1", "#1 SMP PREEMPT_DYNAMIC", "x86_64"))
    quiet = mode in (b"none", b"voluntary")
    (folder / "cmdline").write_bytes(noise.replace(b"preempt", b"") + b" preempt=" + mode)
    assert ways.preemption_mode(kernel, folder / "debug", folder / "cmdline", folder) != quiet
    (folder / "cmdline").write_bytes(noise.replace(b"preempt", b""))
    (folder / "config-6.12.1").write_bytes(more + b"\nCONFIG_PREEMPT_" + mode.upper() + b"=y\n")
    assert not (quiet and ways.preemption_mode(kernel, folder / "debug", folder / "cmdline", folder))
    (folder / "debug").write_bytes(noise + b"(" + mode + b")")
    assert not (quiet and ways.preemption_mode(kernel, folder / "debug", folder / "cmdline", folder))


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(btf.FIELDS)), st.sets(st.sampled_from(btf.OPTIONAL_FIELDS)), st.integers(0, 2**16))
def test_any_fields_in_btf(missing, absent, offset):
    """A kernel without a field that the probe needs is refused in one line; any other has a number for each macro."""

    def struct_offsets(*structs):
        found = {name: {} for name in structs}
        for _, owner, *spellings in {*btf.FIELDS, *btf.OPTIONAL_FIELDS} - missing - absent:
            found[owner][spellings[-1]] = offset
        for owner, field in (
            ("file", "f_path"),
            ("path", "dentry"),
            ("qstr", "len"),
            ("qstr", "name"),
            ("ns_common", "inum"),
        ):
            found[owner][field] = offset
        found["user_namespace"]["ns"] = found["dentry"]["d_name"] = offset
        found["dentry"]["d_op"] = offset + 40
        found["mm_struct"]["after"] = offset + 160
        found["percpu_counter"] = {"count": 8, "": 40}
        return found

    try:
        macros = btf.task_macros(struct_offsets)
    except Failure as refused:
        assert missing
        assert "\n" not in str(refused)
    else:
        assert {name for name, *_ in btf.FIELDS} <= set(macros)
        assert all(isinstance(value, int) for value in macros.values())
