"""Privileges that are dropped stay dropped."""

import os
import subprocess
import sys

import pytest

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


def test_a_long_name():
    """The kernel keeps 15 bytes."""
    assert dropped(name="ks-a-very-long-name")[0] == "ks-a-very-long-"
