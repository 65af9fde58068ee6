"""`killsnoopd --check`: what killsnoopd needs, whether it is there, and what is lost without it.

The libraries that the daemon needs are imported late: they may be missing.
"""

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from killsnoopd import cli, entry, privileges
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import btf, features, hooks, libbpf, loader, pins, self_test, start, ways
from killsnoopd.probe.compiler import INSTALL_BCC
from killsnoopd.probe.program import Layout, probe_hash
from killsnoopd.settings import Settings

_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_START = "killsnoopd does not start"


class Unknown(Exception):
    """It cannot be found out: why."""


@dataclass(frozen=True)
class Requirement:
    """Something that killsnoopd needs. `look` returns what it found, or raises Failure or Unknown."""

    name: str
    look: Callable[[], str]
    without: str = _START
    needed: bool = True


def requirements(config: cli.Config, argv: list[str]) -> Iterator[Requirement]:
    """All of them, in the order in which a start needs them."""
    yield Requirement("Python", lambda: f"{platform.python_version()}, {sys.executable}")
    for module in entry.PACKAGES:
        yield Requirement(module, partial(_library, module))
    if config.web_config_file:
        yield Requirement("--web.config.file", lambda: _web_config(config))
    else:
        for module, package in (("yaml", "PyYAML"), ("bcrypt", "bcrypt")):
            use = "--web.config.file" if module == "yaml" else "users in --web.config.file"
            yield Requirement(package, partial(_library, module), f"no {use}", needed=False)
    if not config.systemd_socket:
        yield Requirement("--web.listen-address", lambda: _address(config))
    if config.pin:
        directory = config.pin / probe_hash(config.probe)
        yield Requirement("pinned probe", lambda: _pinned(directory, config))
    else:
        yield from _of_the_loader(config, argv)
    yield Requirement(
        "journald", lambda: _path("/run/systemd/journal/socket"), "events go to standard output, as JSON lines", False
    )
    yield Requirement(
        "cgroup v2",
        lambda: _path("/sys/fs/cgroup/cgroup.controllers"),
        "units and containers are looked up in /proc, while the process is there",
        needed=False,
    )
    yield Requirement(
        "bpffs",
        lambda: _path("/sys/fs/bpf", os.path.ismount),
        "no pinned probe: what happens while the daemon restarts is not counted",
        needed=False,
    )


def _of_the_loader(config: cli.Config, argv: list[str]) -> Iterator[Requirement]:
    yield Requirement("capabilities", _capabilities)
    yield Requirement("libbpf", libbpf.version)
    yield Requirement("BPF features", _features)
    yield Requirement("hooks", lambda: _hooks(config.probe))
    yield Requirement("BTF", lambda: f"{len(btf.task_macros())} fields of the kernel's structures")
    python = start.loader_python()
    yield Requirement("bcc", lambda: _bcc(python))
    yield Requirement(
        "reads of kernel memory",
        _kernel_memory,
        "executables with a name of 40 bytes or more have no path; cgroups are looked up by id",
        needed=False,
    )
    yield Requirement("probe", lambda: _probe(config, argv, python))


def _library(module: str) -> str:
    try:
        file = importlib.import_module(module).__file__
        if file is None:
            raise ImportError("an empty directory")
    except ImportError as error:
        raise Failure(Exit.CONFIG, entry.missing_library(module, error)) from None
    return file


def _web_config(config: cli.Config) -> str:
    from killsnoopd.web.config_file import WebConfigFile

    WebConfigFile(config.web_config_file)
    return str(config.web_config_file)


def _address(config: cli.Config) -> str:
    try:
        from killsnoopd.web import server
    except ImportError as error:
        raise Unknown(f"{error.name} is missing") from None
    sockets = server.listen(config.listen_addresses)
    found = ", ".join(map(server.address, sockets))
    for bound in sockets:
        bound.close()
    return found


def _capabilities() -> str:
    loader.check_capabilities()
    return "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"


def _features() -> str:
    _need_capabilities()
    return features.check()


def _hooks(settings: Settings) -> str:
    """How each program would be attached."""
    _need_capabilities()
    chosen = ways.choose(settings)
    paranoid = int(Path("/proc/sys/kernel/perf_event_paranoid").read_bytes())
    allowed = paranoid < 3 or privileges.effective() >> privileges.CAP_SYS_ADMIN & 1
    if hooks.TRACEPOINT in chosen.values() and not allowed:
        raise hooks.perf_refusal(paranoid)
    hooks.check(settings, chosen)
    inexact = ways.inexact(chosen, ways.preemptible())
    found = [
        f"{program} by {way}" + (" (misses signals while tasks are preempted)" if program in inexact else "")
        for program, way in chosen.items()
    ]
    absent = [hook for hook in hooks.HOOKS if hook.program not in chosen]
    return ", ".join(found + [f"no {hook.program} (not seen: {hook.without})" for hook in absent])


def _bcc(python: str) -> str:
    look = "import bcc, platform; bcc.BPF; print(bcc.__version__, bcc.__file__, 'Python', platform.python_version())"
    try:
        result = subprocess.run([python, "-I", "-c", look], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failure(Exit.CONFIG, f"cannot run {python} ({error.strerror}): install python3") from None
    if result.returncode:
        said = (result.stderr.splitlines() or ["no output"])[-1]
        raise Failure(Exit.CONFIG, f"bcc is missing for {python} ({said}): {INSTALL_BCC}")
    return result.stdout.strip()


def _need_capabilities() -> None:
    try:
        loader.check_capabilities()
    except Failure:
        raise Unknown("only root can tell: run killsnoopd --check as root") from None


def _kernel_memory() -> str:
    try:
        allowed = "[confidentiality]" not in _LOCKDOWN.read_text()
    except OSError:  # a kernel without lockdown, or securityfs is not mounted
        _need_capabilities()
        allowed = libbpf.may_read_kernel_memory()
    if not allowed:
        raise Failure(Exit.UNAVAILABLE, "the kernel is locked down (lockdown=confidentiality)")
    return "allowed"


def _probe(config: cli.Config, argv: list[str], python: str) -> str:
    _need_capabilities()
    opened = start.load(argv, Layout.of(config.probe), python)
    try:
        faults = self_test.faults(opened, config.probe.syscalls)
    finally:
        opened.close()
    if faults:
        raise Failure(Exit.SOFTWARE, f"it failed its self-test: {'; '.join(faults)}")
    return "loads, attaches and passes its self-test"


def _pinned(directory: Path, config: cli.Config) -> str:
    pins.open_pinned(directory, Layout.of(config.probe)).close()
    return str(directory)


def _path(path: str, there: Callable[[str], bool] = os.path.exists) -> str:
    if not there(path):
        raise Failure(Exit.UNAVAILABLE, f"{path} is not there")
    return path


def main(argv: list[str] | None = None) -> int:
    """Print a line for each requirement; the exit code of a start."""
    arguments = sys.argv[1:] if argv is None else argv
    config = cli.parse(arguments)
    privileges.set_process_name("killsnoopd")  # the sender's name in the self-test
    code = Exit.OK
    for requirement in requirements(config, arguments):
        try:
            status, found = "found", requirement.look()
        except Unknown as unknown:
            status, found = "unknown", str(unknown)
        except Failure as failure:
            status, found = "missing", f"{failure}. Without it: {requirement.without}"
            if requirement.needed and code == Exit.OK:
                code = failure.exit_code
        sys.stdout.write(f"{status:<7}  {requirement.name}: {found}\n")
        sys.stdout.flush()
    return code
