"""Runs the loader and receives the probe that it attached."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import handover
from killsnoopd.probe.attached import Probe
from killsnoopd.probe.program import Layout

_PACKAGE = Path(__file__).parent.parent
# Runs the loader under any Python. Of the daemon's path, only this package is importable.
_BOOTSTRAP = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "killsnoopd", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["killsnoopd"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
sys.argv = ["killsnoopd-loader"] + sys.argv[2:]
from killsnoopd.entry import loader
sys.exit(loader())
"""


def loader_python() -> str:
    """The Python that has bcc: this one, or else the distribution's, which bcc is packaged for."""
    spec = importlib.util.find_spec("bcc")
    folders = spec.submodule_search_locations if spec else None
    if folders and (Path(folders[0]) / "libbcc.py").exists():
        return sys.executable
    return "/usr/bin/python3"


def load(argv: list[str], layout: Layout, python: str) -> Probe:
    """Run the loader with the daemon's own flags and return the probe that it attached. Raises Failure."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [python, "-I", "-c", _BOOTSTRAP, str(_PACKAGE), f"--fd={theirs.fileno()}", *argv]
        try:
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except (BlockingIOError, MemoryError):  # EAGAIN: fork(2)
            raise Failure(
                Exit.OSERR,
                "cannot start the loader (Resource temporarily unavailable): raise the limit on processes "
                "(TasksMax=, pids.max, ulimit -u)",
            ) from None
        except OSError as error:
            raise Failure(Exit.CONFIG, f"cannot run {python} ({error.strerror}): install python3") from None
        theirs.close()
        try:
            answer = handover.receive(ours)
        finally:
            status = child.wait()
    if answer is None:
        raise Failure(Exit.SOFTWARE, f"the loader ended without an answer (status {status}): see its output above")
    values, objects = answer
    return Probe(objects, layout, values["bcc"])
