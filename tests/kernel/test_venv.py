"""A daemon in a virtual environment that has no bcc, or the wrong one: the distribution's Python loads for it."""

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
    """The daemon's own Python is the environment's; the probe is attached all the same."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    for path in DIST.iterdir():  # what the daemon needs, by another way than pip
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
