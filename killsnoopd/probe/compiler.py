"""Compiles the probe: from its source to maps, which bcc makes at once, and the instructions of its programs.

The only module that imports bcc, and it does so in a child process. LLVM may end its process by exit(3) or by a crash;
what it wrote to file descriptor 2 must reach the user all the same.
"""

import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import btf, handover, hooks, libbpf, program
from killsnoopd.probe.hooks import PROGRAMS
from killsnoopd.probe.objects import Objects
from killsnoopd.probe.program import BPF_DIR, DAEMON_MAPS, EVENTS_FD, PROBE_MAPS, RDONLY_CAST, possible_cpus, source
from killsnoopd.settings import Settings

_INSTALL_BCC = "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora)"
_LINE_MAX = 300  # characters of a compiler's words in the one line; --log.level=debug has them all


@dataclass(frozen=True)
class Compiled:
    """The probe, not loaded yet."""

    maps: dict[str, int]  # file descriptors by name; the caller closes them
    functions: dict[str, bytes]  # instructions by name; they name the maps by the numbers in map_numbers
    map_numbers: dict[str, int]
    bcc_version: str


def compile_probe(settings: Settings) -> Compiled:
    """Compile the probe for this kernel. Raises Failure."""
    with_macros = macros(settings)
    ours, theirs = socket.socketpair()
    said = os.memfd_create("killsnoopd-compiler")
    child = os.fork()
    if not child:
        ours.close()
        _compile_in_child(with_macros, theirs, said)
    theirs.close()
    try:
        with ours:
            answer = handover.receive(ours)
    finally:
        _, status = os.waitpid(child, 0)
        with open(said, "rb") as file:  # noqa: PTH123 # a descriptor
            file.seek(0)
            output = file.read().decode(errors="replace")
    if answer is None:
        raise refusal(os.waitstatus_to_exitcode(status), output)
    values, objects = answer
    functions = {name: bytes.fromhex(code) for name, code in values["functions"].items()}
    return Compiled(objects.maps, functions, values["map_numbers"], values["bcc"])


def macros(settings: Settings) -> dict[str, int]:
    """Everything that the source wants defined: settings, this machine, and this kernel's types."""
    found = btf.task_macros() | program.macros(settings, possible_cpus(), os.sysconf("SC_PAGE_SIZE"))
    found["PROBE_READ"] = int(libbpf.may_read_kernel_memory())
    cast = libbpf.rdonly_cast_ids()
    found |= {"RDONLY_CAST": RDONLY_CAST if cast else 0, "KERNEL_SIGINFO": cast[1] if cast else 0}
    return found | {"EVENTS_FD": EVENTS_FD, "MARK_VICTIM_PID": hooks.field_offset(hooks.by_name("mark_victim"), "pid")}


def _compile_in_child(macros: dict[str, int], peer: socket.socket, said: int) -> None:
    """The child's whole life. What bcc and LLVM say goes to the file `said`."""
    status = 1
    try:
        os.dup2(said, 2)
        module = compiled(import_bcc(), macros)
        maps = {name: module[name.encode()].map_fd for name in (*DAEMON_MAPS, *PROBE_MAPS)}
        names = [prefix + name for name in PROGRAMS for prefix in ("", "on_")]
        values = {
            "functions": {name: module.dump_func(name.encode()).hex() for name in names},
            "map_numbers": maps,
            "bcc": sys.modules["bcc"].__version__,
        }
        handover.send(peer, values, Objects(maps))
        status = 0
    except Failure as failure:
        handover.send_failure(peer, failure)
    except BaseException as error:  # bcc raises nothing more particular
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def import_bcc() -> Any:
    """bcc's BPF class; the package of that name on PyPI is another one."""
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: a shared library of it
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} ({error}): {_INSTALL_BCC}") from None
    if not bcc.__file__:
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} (an empty directory): {_INSTALL_BCC}")
    if not hasattr(bcc, "BPF"):
        raise Failure(
            Exit.CONFIG,
            f"the bcc at {bcc.__file__} is PyPI's lattice package, not the BPF Compiler Collection: "
            f"pip uninstall bcc, then {_INSTALL_BCC}",
        )
    return bcc.BPF


def compiled(bpf_class: Any, macros: dict[str, int], text: str | None = None) -> Any:
    """bcc's module of the probe, or of another text, compiled and not loaded."""
    # bcc takes our few headers for a kernel's: it asks for no other file of a tree.
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR)
    # bcc optimizes what clang hands it: that clang does so first, and writes down what the kernel is not told, takes a
    # quarter of the time, for no better a program.
    flags = ["-Xclang", "-disable-llvm-passes", "-g0", f"-I{BPF_DIR}"]
    flags += [f"-D{name}={value}ULL" for name, value in macros.items()]
    # bcc warns of a text that is not bytes.
    return bpf_class(text=(text or source()).encode(), cflags=flags)


def refusal(status: int, said: str) -> Failure:
    """Why there is no probe: the exit code of the child, or minus the signal that ended it, and what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror\b|LLVM ERROR|Assertion", line, re.IGNORECASE)]
    line = (telling or lines[-1:] or [f"{_ended(status)} without output"])[0]
    if "Operation not permitted" in said or "super-user" in said:
        return Failure(
            Exit.NOPERM, "not allowed to load the probe: it needs CAP_BPF and CAP_PERFMON; run as root", said.strip()
        )
    if len(line) > _LINE_MAX:
        line = line[:_LINE_MAX] + "..."
    return Failure(
        Exit.SOFTWARE,
        f"bcc could not compile the probe: {line}; --log.level=debug shows its full output",
        said.strip(),
    )


def _ended(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
