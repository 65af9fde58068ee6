"""Privileges that are dropped stay dropped."""

import os
import subprocess
import sys

import pytest

from killsnoopd import privileges

FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
DROP = """
import subprocess, sys
from killsnoopd import privileges
privileges.set_process_name(sys.argv[1])
privileges.drop()
assert privileges.effective() == 0
print(open("/proc/self/comm").read().strip())
sys.stdout.flush()
subprocess.run(["grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"])
"""


def dropped(*prefix, name="ks-test"):
    """The name of a process that dropped its privileges; and what a program that it runs has."""
    command = [*prefix, sys.executable, "-c", DROP, name]
    comm, *lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = dict(line.split(":") for line in lines)
    return comm, {name: int(fields[name], 16) for name in FIELDS}


NONE = dict.fromkeys(FIELDS, 0) | {"NoNewPrivs": 1}


def test_drop():
    """No capability is left, and no program that is run can have one. Only root can empty the bounding set."""
    comm, left = dropped()
    assert comm == "ks-test"
    if os.getuid() != 0:
        left["CapBnd"] = 0
    assert left == NONE


@pytest.mark.skipif(os.getuid() != 0, reason="takes capabilities away from a process of root: run as root")
@pytest.mark.parametrize("options", [("--bounding-set=-setpcap",), ("--no-new-privs", "--bounding-set=-all")])
def test_drop_with_few_capabilities(options):
    """Without CAP_SETPCAP the bounding set stays, which is of no use to a process that can gain nothing."""
    _, left = dropped("setpriv", *options, "--inh-caps=-all")
    assert left | {"CapBnd": 0} == NONE


SYS_ADMIN = 1 << 21
DROP_ONE = """
import subprocess
from killsnoopd import privileges
privileges.drop_one(privileges.CAP_SYS_ADMIN)
subprocess.run(["grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="takes a capability away from a process of root: run as root")
def test_drop_one():
    """No program that is run gets it back, though it stays in the bounding set; the others stay."""
    before = privileges.effective()
    said = subprocess.run([sys.executable, "-c", DROP_ONE], capture_output=True, text=True, check=True).stdout
    left = {name: int(value, 16) for name, value in (line.split(":") for line in said.splitlines())}
    assert before & SYS_ADMIN
    assert left["CapEff"] == left["CapPrm"] == before & ~SYS_ADMIN
    assert left["NoNewPrivs"] == 1


def test_a_long_name():
    """The kernel keeps 15 bytes."""
    assert dropped(name="ks-a-very-long-name")[0] == "ks-a-very-long-"
