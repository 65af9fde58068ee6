"""Tests on the real kernel: as root, with tracefs and bpffs mounted."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cases import Processes
from cgroups import cgroup, cgroup2
from running import MAY_READ_KERNEL_MEMORY, Daemon

import killsnoopd


def pytest_collection_modifyitems(items):
    missing = []
    if os.geteuid() != 0:
        missing.append("root (sudo make test)")
    lockdown = Path("/sys/kernel/security/lockdown")  # if on from boot on, tracefs is empty
    locked = lockdown.exists() and "[confidentiality]" in lockdown.read_text()
    if not locked and not Path("/sys/kernel/tracing/events").is_dir():
        missing.append("tracefs (mount -t tracefs tracefs /sys/kernel/tracing)")
    if missing:
        skip = pytest.mark.skip(reason=f"needs {' and '.join(missing)}; CI=true makes this a failure")
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(skip)


def pytest_runtest_logfinish():
    """Return freed memory to the kernel: tests fork thousands of times, and each fork copies the page tables."""
    ctypes.CDLL(None).malloc_trim(0)


EVERYTHING = ("--events.include-signal=all", "--events.rate=0")


@contextlib.contextmanager
def daemons(folder):
    """Starts daemons, and stops those that still run at the end."""
    started = []

    def start_daemon(*flags, **options):
        daemon = Daemon(folder / f"daemon{len(started)}", flags, **options)
        started.append(daemon)
        daemon.wait_ready()
        return daemon

    try:
        yield start_daemon
    finally:
        for daemon in started:
            daemon.stop()


@pytest.fixture
def start(tmp_path):
    """Start daemons for one test."""
    with daemons(tmp_path) as start_daemon:
        yield start_daemon


@pytest.fixture
def daemon(start):
    """A daemon that logs everything, signal 0 too, without a limit, as JSON lines."""
    return start(*EVERYTHING)


@pytest.fixture(scope="module")
def shared_daemon(request, tmp_path_factory):
    """One, with the module's FLAGS, for all tests of a module, whose process names differ: an emulated machine compiles for ten seconds."""
    with daemons(tmp_path_factory.mktemp("shared")) as start_daemon:
        yield start_daemon(*getattr(request.module, "FLAGS", EVERYTHING))


@pytest.fixture(params=["named in the kernel", "found afterwards"] if MAY_READ_KERNEL_MEMORY else ["found afterwards"])
def lockdown(request, tmp_path):
    """Whether the probe may not read kernel memory, and an environment in which that is so."""
    if request.param == "named in the kernel":
        return False, {}
    # lockdown=confidentiality cannot be undone, so only the answer to the loader's question is faked.
    copy = tmp_path / "locked/killsnoopd"
    shutil.copytree(Path(killsnoopd.__file__).parent, copy)
    with (copy / "probe/libbpf.py").open("a") as file:
        file.write("\n\ndef may_read_kernel_memory() -> bool:\n    return False\n")
    return True, {"PYTHONPATH": str(copy.parent)}


@pytest.fixture
def processes():
    """Victims of one test, which are gone when it ends."""
    found = Processes()
    yield found
    found.close()


@pytest.fixture
def tree():
    """A folder of a cgroup v2 tree."""
    with cgroup2() as root, cgroup(root, "ks-test.slice") as folder:
        yield folder


@pytest.fixture
def promtool():
    """`promtool check metrics` on a page must report nothing."""

    def check(page):
        tool = os.environ.get("PROMTOOL", "promtool")
        result = subprocess.run([tool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout + result.stderr) == (0, "")

    return check


@pytest.fixture
def pins():
    """A folder on bpffs."""
    directory = Path(tempfile.mkdtemp(prefix="ks_", dir="/sys/fs/bpf"))
    yield directory
    shutil.rmtree(directory)
