"""Compiles the probe: from its source to its maps, which bcc creates while compiling, and its programs' instructions.

Only this module imports bcc, in a child process: LLVM may end its process by exit(3) or by a crash, and its message on
file descriptor 2 must still reach the user.
"""

from __future__ import annotations

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

INSTALL_BCC = "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora, Enterprise Linux, SUSE)"
_LINE_MAX = 300  # characters of the compiler's message in an error line; --log.level=debug shows all


@dataclass(frozen=True)
class Compiled:
    """The probe, not loaded yet."""

    maps: dict[str, int]  # file descriptors by name; the caller closes them
    functions: dict[str, bytes]  # instructions by name
    map_numbers: dict[str, int]  # the fd that the instructions have for each map
    bcc_version: str


def compile_probe(settings: Settings, ways: dict[str, str]) -> Compiled:
    """Compile the probe for this kernel and these ways of attaching it. Raises Failure."""
    with_macros = macros(settings, ways)
    ours, theirs = socket.socketpair()
    stderr_fd = os.memfd_create("killsnoopd-compiler")
    child = os.fork()
    if not child:
        ours.close()
        _compile_in_child(with_macros, theirs, stderr_fd)
    theirs.close()
    try:
        with ours:
            answer = handover.receive(ours)
    finally:
        _, status = os.waitpid(child, 0)
        with open(stderr_fd, "rb") as file:  # noqa: PTH123 # a descriptor
            file.seek(0)
            output = file.read().decode(errors="replace")
    if answer is None:
        raise refusal(os.waitstatus_to_exitcode(status), output)
    values, objects = answer
    functions = {name: bytes.fromhex(code) for name, code in values["functions"].items()}
    return Compiled(objects.maps, functions, values["map_numbers"], values["bcc"])


def macros(settings: Settings, ways: dict[str, str]) -> dict[str, int]:
    """All macros that the source requires: from the settings, this machine, and this kernel's types."""
    found = btf.task_macros() | program.macros(settings, possible_cpus(), os.sysconf("SC_PAGE_SIZE"))
    found["PROBE_READ"] = int(libbpf.may_read_kernel_memory())
    cast, siginfo, action = libbpf.rdonly_cast_ids() or (0, 0, 0)
    found |= {"RDONLY_CAST": RDONLY_CAST if cast else 0, "KERNEL_SIGINFO": siginfo, "K_SIGACTION": action}
    found["TYPED_SIGINFO"] = int(libbpf.has_typed_siginfo())
    found["MARK_VICTIM_TASK"] = int(libbpf.first_argument_is_pointer("mark_victim"))
    return found | {"EVENTS_FD": EVENTS_FD, "RESULT_OFFSET": hooks.WAYS[ways["sys_exit"]].result_offset}


def _compile_in_child(macros: dict[str, int], peer: socket.socket, stderr_fd: int) -> None:
    """Compile, send the result to `peer`, and exit. bcc and LLVM write to the file `stderr_fd`."""
    status = 1
    try:
        os.dup2(stderr_fd, 2)
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
    except BaseException as error:  # bcc raises plain Exception
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def import_bcc() -> Any:
    """bcc's BPF class. Raises Failure; the package `bcc` on PyPI is another one."""
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} ({error}): {INSTALL_BCC}") from None
    if not bcc.__file__:
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} (an empty directory): {INSTALL_BCC}")
    if not hasattr(bcc, "BPF"):
        raise Failure(
            Exit.CONFIG,
            f"the bcc at {bcc.__file__} is PyPI's lattice package, not the BPF Compiler Collection: "
            f"pip uninstall bcc, then {INSTALL_BCC}",
        )
    return bcc.BPF


def compiled(bpf_class: Any, macros: dict[str, int], text: str | None = None) -> Any:
    """bcc's module of the probe, or of another source text, compiled and not loaded."""
    # bcc uses our few headers in place of a kernel source tree: it needs no other file.
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR)
    # Clang's own optimization and debug info take a quarter of the time. bcc optimizes clang's output itself, so the
    # program is no better with them, and the kernel gets no debug info.
    flags = ["-Xclang", "-disable-llvm-passes", "-g0", f"-I{BPF_DIR}"]
    flags += [f"-D{name}={value}ULL" for name, value in macros.items()]
    # bcc warns about text that is not bytes.
    return bpf_class(text=(text or source()).encode(), cflags=flags)


def refusal(status: int, output: str) -> Failure:
    """The Failure of the child: from its exit code, or minus the signal that ended it, and its output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    error_lines = [line for line in lines if re.search(r"\berror\b|LLVM ERROR|Assertion", line, re.IGNORECASE)]
    line = (error_lines or lines[-1:] or [f"{_ended(status)} without output"])[0]
    if "Operation not permitted" in output or "super-user" in output:
        return Failure(
            Exit.NOPERM, "not allowed to load the probe: it needs CAP_BPF and CAP_PERFMON; run as root", output.strip()
        )
    if re.search(r"Cannot select: .*Atomic(Swap|CmpSwap)", output):  # LLVM before 12
        return Failure(
            Exit.CONFIG,
            f"bcc for {sys.executable} is too old: its LLVM does not compile atomic exchange; "
            "install a bcc that was built with LLVM 12 or later",
            output.strip(),
        )
    if len(line) > _LINE_MAX:
        line = line[:_LINE_MAX] + "..."
    return Failure(
        Exit.SOFTWARE,
        f"bcc could not compile the probe: {line}; --log.level=debug shows its full output",
        output.strip(),
    )


def _ended(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
