"""On a kernel that lacks what the probe needs, the package can be installed, and every program says in one line what is missing."""

import subprocess

import pytest
from conftest import active, journal, our_programs, run, show
from waiting import wait_for

SAYS = f"kernel {run('uname', '-r').strip()} has no atomic exchange, no bpf_get_current_task_btf, no bpf_task_pt_regs: "
LOADER = ("/usr/lib/killsnoopd/killsnoopd-loader", "--pin=/sys/fs/bpf/killsnoopd")


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The package; the second phase finds it installed."""
    run("apt-get", "install", "-y", "/input/packages/killsnoopd.deb")
    wait_for(lambda: show("killsnoopd-probe.service", "ActiveState") == "failed", "the loader to fail")


def programs():
    return {"killsnoopd": ("killsnoopd", "--web.listen-address=127.0.0.1:0"), "killsnoopd-loader": LOADER}


@pytest.mark.parametrize("name", programs())
def test_one_line(name):
    """Exit code 69, on a terminal as in a script."""
    result = subprocess.run(programs()[name], capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stdout) == (69, "")
    assert result.stderr.startswith(f"{name}: {SAYS}")
    assert result.stderr.count("\n") == 1


def test_check():
    """--check has the same line, and the same exit code. The socket unit has the usual port."""
    result = subprocess.run(
        ["killsnoopd", "--check", "--web.listen-address=127.0.0.1:0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (69, "")
    assert f"\nmissing  BPF features: {SAYS}" in result.stdout
    assert "\nfound    BTF: " in result.stdout


def test_the_units_fail():
    """The loader's unit has the exit code, and its line is in the journal; the daemon does not run, and nothing is loaded."""
    assert show("killsnoopd-probe.service", "ExecMainStatus") == "69"
    assert any(SAYS in entry["MESSAGE"] for entry in journal("-b", "_SYSTEMD_UNIT=killsnoopd-probe.service"))
    assert not active()
    assert our_programs() == []
