"""Files that `make install` installs, and the units."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
UNITS = ("killsnoopd.service", "killsnoopd-probe.service", "killsnoopd-probe-check.service", "killsnoopd.socket")


def make(target, root):
    subprocess.run(
        ["make", "-C", TOP, target, f"PREFIX={root}/usr", f"SYSCONFDIR={root}/etc"], check=True, capture_output=True
    )


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def installed(tmp_path):
    make("install", tmp_path)
    return tmp_path


def test_install_and_uninstall(installed):
    """Everything is below the prefix; uninstalling leaves only a changed file of defaults."""
    found = files(installed)
    assert {
        "usr/bin/killsnoopd",
        "usr/bin/killsnoop",
        "usr/lib/killsnoopd/killsnoopd-loader",
        "usr/lib/killsnoopd/killsnoopd/bpf/killsnoop.bpf.c",
        "usr/lib/killsnoopd/killsnoopd/bpf/counters.c",
        "usr/lib/killsnoopd/killsnoopd/bpf/include/linux/types.h",
        "usr/lib/systemd/catalog/killsnoopd.catalog",
        "usr/share/man/man8/killsnoopd.8",
        "usr/share/man/man8/killsnoop.8",
        "usr/lib/sysusers.d/killsnoopd.conf",
        "usr/share/doc/killsnoopd/dynamic-user/killsnoopd.service.conf",
        "usr/share/doc/killsnoopd/dynamic-user/killsnoopd-probe.service.conf",
        "usr/share/doc/killsnoopd/without-sys-admin/killsnoopd-probe.service.conf",
        "usr/share/doc/killsnoopd/prometheus/rules/alerts.yml",
        "usr/share/doc/killsnoopd/prometheus/targets/killsnoopd.yml",
        "usr/share/doc/killsnoopd/grafana-dashboard.json",
        "usr/share/doc/killsnoopd/runbook.md",
        "usr/share/doc/killsnoopd/event.schema.json",
        "usr/share/bash-completion/completions/killsnoop",
        "usr/share/bash-completion/completions/killsnoopd",
        "usr/share/zsh/site-functions/_killsnoop",
        "usr/share/zsh/site-functions/_killsnoopd",
        "usr/share/fish/vendor_completions.d/killsnoop.fish",
        "usr/share/fish/vendor_completions.d/killsnoopd.fish",
        "etc/default/killsnoopd",
        *(f"usr/lib/systemd/system/{unit}" for unit in UNITS),
    } <= found
    assert not any("__pycache__" in name for name in found)
    (installed / "etc/default/killsnoopd").write_text('ARGS="--events.rate=9"\n')
    make("install", installed)  # an upgrade
    assert (installed / "etc/default/killsnoopd").read_text() == 'ARGS="--events.rate=9"\n'
    make("uninstall", installed)
    assert files(installed) == {"etc/default/killsnoopd"}


def test_what_prometheus_and_grafana_take_is_installed_whole(installed):
    """Rules, scrape configurations and targets are where they refer to each other; dashboard and runbook are there."""
    documents = installed / "usr/share/doc/killsnoopd"
    assert files(documents / "prometheus") == files(TOP / "deploy/prometheus")
    for source in ("deploy/grafana-dashboard.json", "docs/runbook.md"):
        assert (documents / Path(source).name).read_bytes() == (TOP / source).read_bytes()


def test_uninstall_takes_unchanged_defaults_away(installed):
    """If no file was changed, nothing is left."""
    make("uninstall", installed)
    assert files(installed) == set()


@pytest.mark.parametrize("program", ["bin/killsnoopd", "bin/killsnoop", "lib/killsnoopd/killsnoopd-loader"])
def test_the_installed_programs_run(installed, program):
    """From any directory, whatever Python's environment variables are."""
    flags = ["--version"] if "bin" in program else ["--pin", "/nowhere", "--version"]
    result = subprocess.run(
        [installed / "usr" / program, *flags],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PYTHONPATH": "/nowhere"},
        check=True,
    )
    assert re.fullmatch(r"killsnoopd? \d+\.\d+\.\d+\n", result.stdout)


def analyze(*arguments, **environment):
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("needs systemd-analyze (package systemd); CI=true makes this a failure")
    return subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_the_units_verify(installed):
    """`systemd-analyze verify` reports nothing for the installed units, including their man page."""
    units = [str(installed / "usr/lib/systemd/system" / unit) for unit in UNITS]
    result = analyze("verify", *units, MANPATH=str(installed / "usr/share/man"))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "drop_in", "limit"),
    [
        ("killsnoopd.service", None, 0.8),
        ("killsnoopd.service", "dynamic-user", 0.5),
        ("killsnoopd-probe.service", None, 1.5),
        ("killsnoopd-probe.service", "without-sys-admin", 1.2),
        ("killsnoopd-probe-check.service", None, 1.0),
    ],
)
def test_exposure(unit, drop_in, limit, tmp_path):
    """`systemd-analyze security`: the exposure of each unit is at its minimum."""
    copy = tmp_path / unit
    text = (TOP / "deploy" / unit).read_text()
    if drop_in:
        text += (TOP / "deploy" / drop_in / f"{unit}.conf").read_text()
    copy.write_text(text)
    result = analyze("security", "--offline=true", "--no-pager", str(copy))
    level = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)[1])
    assert level <= limit


@pytest.mark.parametrize(
    ("tools", "code", "says"),
    [
        ({}, 78, "the packages have other names here"),
        ({"apk": "exit 0"}, 78, "libbpf 1.x (libbpf.so.1)"),
        ({"apt-get": "exit 0"}, 0, ""),
        ({"dnf": "exit 0"}, 0, ""),
        ({"zypper": "exit 0"}, 0, ""),
        ({"pacman": "exit 0"}, 0, ""),
        ({"apt-get": "exit 100"}, 100, ""),
        ({"id": "echo 1000"}, 77, "needs root (sudo make)"),
    ],
    ids=["none", "apk", "apt-get", "dnf", "zypper", "pacman", "apt-get fails", "not root"],
)
def test_install_packages(tmp_path, tools, code, says):
    """The package manager installs what is missing; without one, the list says what each is for."""
    for name, body in ({"id": "echo 0"} | tools).items():
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
        tool.chmod(0o755)
    (tmp_path / "cat").symlink_to(shutil.which("cat"))
    result = subprocess.run(
        ["/bin/sh", TOP / "scripts/install-packages", "run"],
        capture_output=True, text=True, check=False, env={"PATH": str(tmp_path), "PYTHON": "/nowhere/python3"},
    )  # fmt: skip
    assert result.returncode == code
    assert says in result.stderr
    calls = (tmp_path / "calls").read_text()
    if "dnf" in tools:
        assert "dnf -q install -y python3-bcc libbpf" in calls
    if "zypper" in tools:
        assert "zypper --quiet --non-interactive install python3-bcc libbpf1 " in calls
    if "pacman" in tools:
        assert "pacman --sync --needed --noconfirm python-bcc libbpf " in calls
    if "apt-get" in tools and code == 0:
        assert "apt-get -q install -y --no-install-recommends python3-bpfcc libbpf1" in calls


@pytest.mark.parametrize("bcc", [False, True], ids=["without bcc", "with bcc"])
def test_install_packages_for_an_old_python(tmp_path, bcc):
    """Enterprise Linux 9: bcc for the system's Python, and a newer one for the daemon, which needs a virtual environment."""
    tools = {
        "id": "echo 0",
        "dnf": "",
        "python3": f'case "$2" in *version_info*) exit 0 ;; *"import bcc"*) exit {0 if bcc else 1} ;; esac; exit 1',
    }
    for name, body in tools.items():
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
        tool.chmod(0o755)
    (tmp_path / "cat").symlink_to(shutil.which("cat"))
    # The script also asks /usr/bin/python3, which may have bcc here.
    script = (TOP / "scripts/install-packages").read_text().replace("/usr/bin/python3 -c", "false")
    result = subprocess.run(
        ["/bin/sh", "-c", script, "install-packages", "run"],
        capture_output=True, text=True, check=False, env={"PATH": str(tmp_path), "PYTHON": str(tmp_path / "python3")},
    )  # fmt: skip
    assert result.returncode == 78
    assert "python3.11 -m venv /opt/killsnoopd && /opt/killsnoopd/bin/pip install ." in result.stderr
    assert ("dnf -q install -y python3-bcc libbpf python3.11" in (tmp_path / "calls").read_text()) == (not bcc)


def test_install_packages_for_the_debian_package(tmp_path):
    """The packages that build it; on another distribution, one line."""
    script = ["/bin/sh", TOP / "scripts/install-packages", "deb"]
    for name in ("id", "apt-get"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\necho 0\n')
        (tmp_path / name).chmod(0o755)
    subprocess.run(script, capture_output=True, check=True, env={"PATH": str(tmp_path)})
    calls = (tmp_path / "calls").read_text()
    assert "apt-get -q install -y --no-install-recommends build-essential debhelper" in calls
    assert "bpfcc" not in calls
    (tmp_path / "apt-get").rename(tmp_path / "dnf")
    result = subprocess.run(script, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert (result.returncode, result.stderr.count("\n")) == (78, 2)
    assert "needs Debian or Ubuntu" in result.stderr


def test_install_packages_does_nothing_when_all_is_there():
    """It needs no network and no root, and prints nothing."""
    result = subprocess.run(
        [TOP / "scripts/install-packages", "run"], capture_output=True, text=True, check=False, env={"PATH": "/nowhere"}
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
