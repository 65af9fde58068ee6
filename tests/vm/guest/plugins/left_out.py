"""Skips tests that a machine cannot run, with the reason; an entry that matches no test is an error."""

from pathlib import Path

import pytest

LISTED = dict(line.split("\t", 1) for line in Path("/input/left-out").read_text().splitlines())


def pytest_collection_modifyitems(config, items):
    """An entry is FILE::TEST[PARAMETER]."""
    files = {item.path.name for item in items}
    found = [item for item in items if f"{item.path.name}::{item.name}" in LISTED]
    names = {f"{item.path.name}::{item.name}" for item in found}
    if stale := [test for test in LISTED if test.partition("::")[0] in files and test not in names]:
        raise pytest.UsageError(f"no such test: {', '.join(stale)}")
    config.hook.pytest_deselected(items=found)
    items[:] = [item for item in items if item not in found]
    for name in sorted(names):
        print(f"left out: {name}: {LISTED[name]}")
