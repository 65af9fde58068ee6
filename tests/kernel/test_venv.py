"""A daemon in a virtual environment without bcc, or with the wrong one: the distribution's Python runs its loader."""

import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from senders import NO_SUCH_PID, run, send

import killsnoopd

DIST = Path("/usr/lib/python3/dist-packages")


@pytest.mark.parametrize("bcc", [None, "class Lattice: pass\n"], ids=["no bcc", "PyPI's bcc"])
def test_the_distribution_s_python_loads(start, tmp_path, bcc):
    """The daemon runs in the environment's Python, and the probe is attached."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    for path in DIST.iterdir():  # the daemon's dependencies, installed without pip
        if not path.name.startswith("bcc"):
            (packages / path.name).symlink_to(path)
    shutil.copytree(Path(killsnoopd.__file__).parent, packages / "killsnoopd")
    if bcc:
        (packages / "bcc").mkdir()
        (packages / "bcc/__init__.py").write_text(bcc)
    python = str(home / "bin/python")
    assert subprocess.run([python, "-c", "import bcc; bcc.BPF"], capture_output=True, check=False).returncode == 1
    daemon = start(python=python)
    run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-venv")
    assert daemon.signals("ks-venv") == {("ks-venv", "SIGKILL", "ESRCH"): 1}
    assert str(home) in Path(f"/proc/{daemon.pid}/cmdline").read_text()
