"""The probe's settings: macros, layout, hash."""

import dataclasses
import re
from pathlib import Path

import pytest

from killsnoopd import event, names, program
from killsnoopd.program import Layout, Settings


def test_macros():
    """Every number that reaches the C, for one set of settings."""
    settings = Settings(
        self_signals=True, max_series=7, ring_bytes=65536, excluded=frozenset({0, 9, 64, 65}), rate=100, burst=11
    )
    assert settings.macros(cpus=4, page_bytes=4096) == {
        "CPUS": 4,
        "PAGE_SIZE": 4096,
        "SERIES_MAX": 7,
        "RING_PAGES": 16,
        "EXCLUDE_LOW": 1 | 1 << 9,
        "EXCLUDE_HIGH": 0b11,
        "EVENT_INTERVAL_NS": 10_000_000,
        "EVENT_BURST_NS": 100_000_000,
        "SELF_SIGNALS": 1,
    }


def test_no_rate_is_no_limit():
    """Rate 0 compiles the limiter out."""
    assert Settings(rate=0).macros(1, 4096)["EVENT_INTERVAL_NS"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"syscalls": ("kill",)},
        {"self_signals": True},
        {"max_series": 1},
        {"ring_bytes": 4096},
        {"excluded": frozenset({9})},
        {"rate": 1},
        {"burst": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_is_in_the_hash(change):
    """A daemon never opens a probe that was made with other settings."""
    assert dataclasses.replace(Settings(), **change).hash() != Settings().hash()


def test_the_source_is_in_the_hash(tmp_path, monkeypatch):
    """A new version of the probe has a new name."""
    before = Settings().hash()
    (tmp_path / "a.bpf.c").write_text("int x;")
    monkeypatch.setattr(program, "BPF_DIR", tmp_path)
    assert Settings().hash() not in (before, "")


def test_layout_is_that_of_the_source():
    """Constants that C and Python both spell are equal, and cells do not overlap."""
    source = program.SOURCE.read_text()
    assert int(re.search(r"#define SIGNALS (\d+)", source)[1]) == len(names.SIGNALS)
    assert int(re.search(r"#define INVALID (\d+)", source)[1]) == names.INVALID
    assert int(re.search(r"#define RESULTS (\d+)", source)[1]) == len(program.RESULTS)
    cells = re.search(r"enum cell \{(.*?)\};", source, re.S)[1]
    assert [name.lower() for name in re.findall(r"^\t([A-Z_]+)", cells, re.M)] == [
        "series", "overflow", *program.LEDGER, "cells",
    ]  # fmt: skip
    calls = re.search(r"enum call \{(.*?)\}", source)[1]
    assert tuple(name.strip().lower() for name in calls.split(",")) == names.SYSCALLS
    layout = Layout(cpus=2, series_max=10)
    assert (layout.overflow, layout.ledger, layout.row) == (10, 10 + 66 * 8, 544)
    assert event.RECORD_BYTES == 96


@pytest.mark.parametrize(("text", "cpus"), [("0\n", 1), ("0-1\n", 2), ("0-127\n", 128), ("0,2-5\n", 6)])
def test_possible_cpus(text, cpus, tmp_path):
    """The highest CPU number counts, holes or not."""
    path = Path(tmp_path / "possible")
    path.write_text(text)
    assert program.possible_cpus(path) == cpus


def test_ring_capacity():
    """A default ring holds a uid's whole burst, several times over."""
    header_bytes = 8  # of each record in a BPF ring buffer
    assert Settings().ring_bytes // (event.RECORD_BYTES + header_bytes) > 4 * Settings().burst
