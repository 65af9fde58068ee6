"""From counters to the page."""

import re
from pathlib import Path

import pytest
from fakes import FakeProbe, counts
from page_metrics import Told, every_metric
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from killsnoopd.metrics import families, fold
from killsnoopd.probe.attached import Ledger

PADDED = b"nginx".ljust(16, b"\0")
POD_UID = b"9f8a7c1e_0b2d_4c3e_8f10_a1b2c3d4e5f6"


def page(probe, path=None, boot_ns=None, expected=(), pods=()):
    registry = CollectorRegistry()
    found = families.Collector(
        probe, path, boot_ns=boot_ns, expected_senders=expected, pod_labels=lambda uids: dict(pods)
    )
    registry.register(found)
    return generate_latest(registry).decode()


@pytest.fixture(autouse=True)
def run_stats(tmp_path, monkeypatch):
    """Tests do not depend on this machine's kernel.bpf_stats_enabled."""
    monkeypatch.setattr(families, "_STATS_ENABLED", tmp_path / "bpf_stats_enabled")


def test_the_page_is_that_of_the_golden_file():
    """Every family with its HELP, TYPE and labels."""
    read = counts(
        [(PADDED, 9, 0, 3), (b"bash".ljust(16, b"\0"), 15, -1, 2)],
        series_used=[200_000_000_000, 0],
        overflow=[(65, "EINVAL", 4), (9, "(other)", 1)],
        overflow_used=[0, 300_999_999_999],
        aged=[(9, "success", 8)],
        series_recycled=6,
        deliveries=[(9, "syscall", "delivered", 2), (9, "oom", "delivered", 1), (1, "kernel", "ignored", 5)],
        deaths=[
            (b"bash", PADDED, b"nginx.service", b"", 9, "syscall", 3),
            (b"", b"crash", b"", b"", 11, "self", 1),
            (b"dockerd", b"sh", b"docker-", POD_UID, 9, "syscall", 2),
        ],
        deaths_used=[400_000_000_000, 0, 500_000_000_000],
        overflow_deaths=[(9, "oom", 7)],
        overflow_deaths_used=[600_000_000_000],
        aged_deaths=[(15, "syscall", 9)],
        deaths_recycled=2,
        exits=[(15, 2)],
        escalations=1,
    )
    statuses = {
        "logged": 5, "journal_error": 1, "decode_error": 0, "filtered": 2, "rate_limited": 1, "ring_full": 1,
    }  # fmt: skip
    probe, boot_ns = FakeProbe(read, Ledger(statuses, pending=0)), 1_700_000_000_400_000_000
    found = page(probe, Told(), lambda: boot_ns, ["backup"], {POD_UID: "shop/web-7d9c5b-x2x4q"})
    found = re.sub(r"killsnoop_build_info\{.*?\}", "killsnoop_build_info{...}", found)
    assert found == Path(__file__).parent.parent.joinpath("golden").joinpath("page.metrics").read_text()


def test_every_metric_is_in_the_tables_of_the_documents():
    """With its labels; the tables have no other metric."""
    top = Path(__file__).parent.parent.parent
    documented = {}
    for path in (top / "README.md", *(top / "docs").glob("*.md")):
        for row in re.findall(r"^\| `killsnoop_.*", path.read_text(), re.M):
            names, labels = (tuple(re.findall(r"`(\w+)`", cell)) for cell in row.split("|")[1:3])
            documented |= dict.fromkeys(names, labels)
    assert documented == every_metric()


def test_run_statistics_only_when_the_kernel_keeps_them():
    """Families of zeros would look like a probe that never runs."""
    names = {family.name for family in families.programs(FakeProbe(), run_stats=False)}
    assert names == {
        "killsnoop_probe_attached",
        "killsnoop_probe_hook_info",
        "killsnoop_probe_exact",
        "killsnoop_probe_missed",
    }
    found = {family.name: family for family in families.programs(FakeProbe(), run_stats=True)}
    assert found["killsnoop_probe_run_seconds"].samples[0].value == 1.5
    assert found["killsnoop_probe_runs"].samples[0].value == 7


def test_a_kernel_that_tells_nothing_of_its_programs():
    """Before Linux 5.19, asking takes CAP_BPF: those families are absent, the rest of the page is complete."""

    class Silent(FakeProbe):
        def program(self, syscall):
            raise PermissionError(1, "Operation not permitted", "bpf_obj_get_info_by_fd")

    text = page(Silent(counts([(PADDED, 9, 0, 3)])))
    assert "killsnoop_probe_" not in text
    assert 'killsnoop_signals_total{comm="nginx",result="success",signal="SIGKILL"} 3.0' in text
    assert "killsnoop_build_info" in text


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        # The name ends at the first NUL. Equal names are one series with the whole sum.
        ([(b"a\0b", 9, 0, 1), (b"a\0c", 9, 0, 2)], {("a", "SIGKILL", "success"): 3}),
        # A process named (other) is not the overflow.
        ([(b"(other)", 9, 0, 1)], {(r"\x28other)", "SIGKILL", "success"): 1, ("(other)", "SIGKILL", "success"): 7}),
        # Bytes that are not UTF-8 differ from each other and from text that looks like them.
        (
            [(b"\xff", 9, 0, 1), (b"\xfe", 9, 0, 2), (rb"\xff", 9, 0, 3)],
            {(r"\xff", "SIGKILL", "success"): 1, (r"\xfe", "SIGKILL", "success"): 2, (r"\\xff", "SIGKILL", "success"): 3},
        ),
        # An injection stays inside its label.
        (
            [(b'x"} 1\ny{z="', 9, 0, 1)],
            {('x"} 1\\x0ay{z="', "SIGKILL", "success"): 1},
        ),
    ],
)  # fmt: skip
def test_labels(series, expected):
    """A parser reads them back from the page."""
    overflow = [(9, "success", 7)] if any(key[0] == "(other)" for key in expected) else []
    text = page(FakeProbe(counts(series, overflow=overflow)))
    found = {
        (sample.labels["comm"], sample.labels["signal"], sample.labels["result"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "killsnoop_signals_total"
    }
    assert found == expected


def test_counts_larger_than_a_float_can_count():
    """Prometheus' numbers are floats: beyond 2^53 the page rounds and does not fail."""
    text = page(FakeProbe(counts([(PADDED, 9, 0, 2**53 + 1)])))
    assert float(re.search(r'comm="nginx",result="success",signal="SIGKILL"\} (\S+)', text)[1]) == 2**53


def test_folded_names_are_added_up():
    """Including a name that looks folded, and a name that only folding turns into `(other)`."""
    series = [
        (b"worker-1", 9, 0, 1),
        (b"worker-22", 9, 0, 2),
        (b"worker-#", 9, 0, 4),
        (b"worker-1", 9, -1, 8),
        (b"(other)", 9, 0, 16),
    ]
    overflow = [(9, "success", 32)]
    show = fold.folder(["numbers"])
    found = {
        (sample.labels["comm"], sample.labels["result"]): sample.value
        for sample in next(
            families.signals(counts(series, overflow=overflow), show, families.MonotonicTotals())
        ).samples
    }
    assert found == {
        ("worker-#", "success"): 7, ("worker-#", "EPERM"): 8, (r"\x28other)", "success"): 16, ("(other)", "success"): 32,
    }  # fmt: skip
    found, _ = families.signals(counts([(b"x", 9, 0, 1)]), lambda _: "(other)", families.MonotonicTotals())
    (sample,) = found.samples
    assert sample.labels["comm"] == r"\x28other)"


def test_what_is_remembered_of_a_name_bends_no_count():
    """The slots get other names and higher counts in each reading, more names than the cache holds."""
    probe = FakeProbe()
    registry = CollectorRegistry()
    registry.register(families.Collector(probe, None, fold.folder(["worker-#"])))
    for reading in range(1, 6):
        names = [b"name-%d" % (reading * 7 + number) for number in range(3 * probe.layout.series_max)]
        probe._counts = counts([(name, 15, 0, reading) for name in names] + [(b"worker-%d" % reading, 15, 0, reading)])
        found = {
            sample.labels["comm"]: sample.value
            for family in text_string_to_metric_families(generate_latest(registry).decode())
            for sample in family.samples
            if sample.name == "killsnoop_signals_total"
        }
        assert found == {name.decode(): reading for name in names} | {"worker-#": reading}


def test_a_label_of_many_names_does_not_go_down():
    """When one of the names ages out, its calls move to another family; the label keeps them, and the sum stays exact."""
    pages = [  # calls of worker-1, of worker-2, of rare errno EACCES (13) of worker-1; aged; counters recycled
        (100, 10, 3, [], 0),
        (105, 10, 3, [], 0),
        (None, 12, None, [(9, "success", 105), (9, "(other)", 3)], 2),  # worker-1 has aged out
        (None, 20, None, [(9, "success", 105), (9, "(other)", 3)], 2),
        (1, 20, 1, [(9, "success", 105), (9, "(other)", 3)], 2),  # and returns
        (2, None, 1, [(9, "success", 125), (9, "(other)", 3)], 3),
    ]
    monotonic, shown = families.MonotonicTotals(), []
    for first, second, rare, aged, recycled in pages:
        series = [(b"worker-1", 9, 0, first), (b"worker-2", 9, 0, second), (b"worker-1", 9, -13, rare)]
        read = counts([row for row in series if row[-1] is not None], aged=aged, series_recycled=recycled)
        found = {
            (sample.labels.get("comm"), sample.labels["result"]): sample.value
            for family in families.signals(read, lambda _: "worker-#", monotonic)
            for sample in family.samples
        }
        assert sum(found.values()) == sum(row[-1] or 0 for row in series) + sum(calls for _, _, calls in aged)
        assert min(found.values()) >= 0
        shown.append(found)
    assert [page["worker-#", "success"] for page in shown] == [110, 115, 115, 123, 124, 124]
    assert shown[-1][None, "success"] == 125 + 2 - 124


def test_when_it_last_happened():
    """Of names that share a label, the newest; a series in the queue has no time; without a boot time there are none."""
    read = counts(
        [(b"worker-1", 9, 0, 1), (b"worker-2", 9, 0, 1), (b"idle", 9, 0, 1)],
        series_used=[7_600_000_000, 5_000_000_000, 0],
        overflow=[(9, "success", 1)],
        overflow_used=[9_000_000_000],
    )
    *_, family = families.signals(read, fold.folder(["worker-#"]), families.MonotonicTotals(), 1_000_500_000_000)
    assert {sample.labels["comm"]: sample.value for sample in family.samples} == {"worker-#": 1008, "(other)": 1009}
    without = families.signals(read, bytes.decode, families.MonotonicTotals(), None)
    assert [family.name for family in without] == ["killsnoop_signals", "killsnoop_signals_aged"]


def no_pods(uids):
    assert not uids
    return {}


def test_deaths_are_folded_by_both_names():
    """Nobody stays nobody, whatever the rules; units are not folded by them."""
    read = counts(
        deaths=[
            (b"worker-1", b"job-1", b"a@1.service", b"", 9, "syscall", 1),
            (b"worker-2", b"job-2", b"a@1.service", b"", 9, "syscall", 2),
            (b"worker-2", b"job-2", b"_b.service", b"", 9, "syscall", 4),
            (b"", b"job-3", b"session-", b"", 11, "self", 8),
            (b"", b"(other)", b"", b"", 11, "self", 16),
        ],
        deaths_used=[7_000_000_000, 9_000_000_000, 0, 0, 0],
    )
    folder = fold.folder(["worker-#", "job*", "*"])
    total, _, last = families.deaths(read, folder, no_pods, families.MonotonicTotals(), 0)
    assert {tuple(sample.labels.values()): sample.value for sample in total.samples} == {
        ("SIGKILL", "syscall", "worker-#", "job*", "a@1.service", ""): 3,
        ("SIGKILL", "syscall", "worker-#", "job*", "b.service", ""): 4,
        ("SIGSEGV", "self", "", "job*", "session-*.scope", ""): 8,
        ("SIGSEGV", "self", "", "*", "", ""): 16,
    }
    assert [sample.value for sample in last.samples] == [9]
    total, *_ = families.deaths(read, fold.folder([]), no_pods, families.MonotonicTotals())
    assert r"\x28other)" in {sample.labels["tcomm"] for sample in total.samples}
