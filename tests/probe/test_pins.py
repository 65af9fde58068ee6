"""Folders of pins. tests/kernel/test_pins.py pins real probes."""

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import pins
from killsnoopd.probe.program import Layout
from killsnoopd.settings import Settings


@pytest.fixture
def directory(tmp_path):
    """Two probes, the private maps of both, and a file that was left."""
    for name in ("one", "two"):
        for folder in (tmp_path, tmp_path / "private"):
            (folder / name / "maps").mkdir(parents=True)
            (folder / name / "maps" / "counts").touch()
    (tmp_path / "one" / "layout").symlink_to("0123")
    (tmp_path / "left").symlink_to("two")
    return tmp_path


def test_names(directory):
    assert sorted(pins.names(directory)) == ["left", "one", "two"]


def test_keep_only(directory):
    """Everything else goes, and nothing that a link points to."""
    pins.keep_only(directory, "two")
    assert pins.names(directory) == ["two"]
    assert [path.name for path in (directory / "private").iterdir()] == ["two"]
    assert (directory / "two/maps/counts").exists()


def test_nothing_to_take_over(directory):
    """Another layout, or pins that are not kernel objects."""
    assert pins.take_over(directory, "one", Settings(), {}) is None
    assert pins.take_over(directory, "none", Settings(), {}) is None
    assert pins.waiting_events(directory, "one") == 0


def test_no_probe_is_pinned(tmp_path):
    """The daemon says which unit to start."""
    with pytest.raises(Failure, match="no probe with these settings is pinned") as failed:
        pins.open_pinned(tmp_path / "none", Layout(cpus=1, series_max=1, deaths_max=1))
    assert failed.value.exit_code == Exit.UNAVAILABLE


def test_not_bpffs(tmp_path):
    """Nothing is created there."""
    with pytest.raises(Failure, match="is not on bpffs: mount -t bpf bpf /sys/fs/bpf") as failed:
        pins.prepare(tmp_path / "pins" / "here")
    assert failed.value.exit_code == Exit.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []
