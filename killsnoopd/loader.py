"""Compiles, loads and attaches the probe, hands it over, and is gone: the only program that imports bcc.

It needs nothing but bcc and the standard library, so it may run under another Python than the daemon. Two ways to hand
over: `--pin DIR` leaves maps, programs and links under `DIR/<hash>/` on bpffs; `--fd N` sends them through a socket.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killsnoopd import cli, libbpf, names, pins, privileges, tracepoints
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import Probe
from killsnoopd.program import BPF_DIR, JUMPS, KEPT, MAPS, PROGRAMS, Layout, Settings, possible_cpus, source

_LICENSE = "Dual MIT/GPL"  # as the source says
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1  # of an instruction that loads a map: opcode, source register
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2  # of one that calls a function: opcode, source register if it is a kernel's
_RDONLY_CAST = 0x6B73  # stands for a function of the kernel; no helper has such a number
_EVENTS_FD = 0x6B74  # stands for the ring buffer; nobody has so many files open that it would be a real one
READ_ONLY = ("counts", "series", "directory")
_INSTALL_BCC = "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora)"
_CAPABILITIES = "CAP_BPF and CAP_PERFMON"


@dataclass(frozen=True)
class Loaded:
    """An attached probe: file descriptors by name."""

    fds: dict[str, int]  # map_*, prog_*, link_*
    bcc_version: str


def import_bcc() -> Any:
    """bcc's BPF class; the package of that name on PyPI is another one."""
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: a shared library of it
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} ({error}): {_INSTALL_BCC}") from None
    if not bcc.__file__:
        raise Failure(Exit.CONFIG, f"bcc is missing for {sys.executable} (an empty folder): {_INSTALL_BCC}")
    if not hasattr(bcc, "BPF"):
        raise Failure(
            Exit.CONFIG,
            f"the bcc at {bcc.__file__} is PyPI's lattice package, not the BPF Compiler Collection: "
            f"pip uninstall bcc, then {_INSTALL_BCC}",
        )
    return bcc.BPF


# Macro, struct, and the field's name or names: the kernel has renamed some.
_FIELDS = (
    ("TASK_FLAGS", "task_struct", "flags"),
    ("TASK_MM", "task_struct", "mm"),
    ("TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("TASK_PDEATH_SIGNAL", "task_struct", "pdeath_signal"),
    ("TASK_PID", "task_struct", "pid"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_REAL_PARENT", "task_struct", "real_parent"),
    ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_THREAD_PID", "task_struct", "thread_pid"),
    ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
    ("TASK_CRED", "task_struct", "cred"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("TASK_CGROUPS", "task_struct", "cgroups"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("CRED_UID", "cred", "uid"),
    ("CRED_USER_NS", "cred", "user_ns"),
    ("USER_NS_PARENT", "user_namespace", "parent"),
    ("USER_NS_LEVEL", "user_namespace", "level"),
    ("USER_NS_OWNER", "user_namespace", "owner"),
    ("PID_LEVEL", "pid", "level"),
    ("PID_NUMBERS", "pid", "numbers"),
    ("UPID_SIZE", "upid", ""),
    ("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("KERNFS_ID", "kernfs_node", "id"),
    ("KERNFS_NAME", "kernfs_node", "name"),
    ("KERNFS_PARENT", "kernfs_node", "__parent", "parent"),  # 6.15
    ("MM_EXE_FILE", "mm_struct", "exe_file"),
    ("DENTRY_PARENT", "dentry", "d_parent"),
    ("DENTRY_SB", "dentry", "d_sb"),
    ("DENTRY_SHORT_NAME", "dentry", "d_shortname", "d_iname"),  # 6.14
    ("SUPER_BLOCK_DEV", "super_block", "s_dev"),
)
_FIELDS_OF_SOME = (  # there with CONFIG_AUDIT, or on x86
    ("TASK_LOGINUID", "task_struct", "loginuid"),
    ("TASK_SESSIONID", "task_struct", "sessionid"),
    ("THREAD_INFO_STATUS", "thread_info", "status"),
)


def task_macros(struct_offsets: Callable[..., dict[str, dict[str, int]]] = libbpf.struct_offsets) -> dict[str, int]:
    """Where the fields that the probe reads are in this kernel's structures, as task.h names them."""
    fields = _FIELDS + _FIELDS_OF_SOME
    try:
        found = struct_offsets("file", "path", "qstr", "ns_common", *dict.fromkeys(owner for _, owner, *_ in fields))
    except OSError as error:
        raise Failure(
            Exit.UNAVAILABLE,
            f"this kernel has no BTF ({error.strerror}): it must be built with CONFIG_DEBUG_INFO_BTF, "
            "and /sys/kernel/btf/vmlinux must be readable",
        ) from None
    macros = {}
    for macro, owner, *names_of_field in fields:
        offsets = [found[owner][name] for name in names_of_field if name in found[owner]]
        if offsets:
            macros[macro] = offsets[0]
        elif (macro, owner, *names_of_field) in _FIELDS:
            raise Failure(
                Exit.UNAVAILABLE,
                f"kernel {os.uname().release} has no {owner}.{names_of_field[0]}, which the probe reads: "
                "please report it",
            )
    macros["USER_NS_INUM"] = found["user_namespace"]["ns"] + found["ns_common"]["inum"]
    dentry = found["dentry"]
    macros["FILE_DENTRY"] = found["file"]["f_path"] + found["path"]["dentry"]
    macros["DENTRY_NAME"] = dentry["d_name"] + found["qstr"]["name"]
    macros["DENTRY_NAME_LEN"] = dentry["d_name"] + found["qstr"]["len"]
    short_name = macros["DENTRY_SHORT_NAME"]
    macros["SHORT_NAME_LEN"] = min(at for at in dentry.values() if at > short_name) - short_name
    return macros


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what C libraries write to file descriptor 2; clang and the verifier report through it."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def refusal(error: str, said: str, kernel: str) -> Failure:
    """Why the kernel, or clang, would not take the program; `said` is what was printed meanwhile."""
    last = "\n".join(said.strip().splitlines()[-20:])
    missing = re.search(r"unknown func (?:bpf_)?(\w+)|invalid func unknown#(\d+)", said)
    if missing:
        return Failure(
            Exit.UNAVAILABLE,
            f"kernel {kernel} is too old: killsnoopd needs Linux 5.15 or later (no bpf_{missing[1] or missing[2]})",
            last,
        )
    if "super-user" in error or "Operation not permitted" in error:
        return Failure(
            Exit.NOPERM,
            f"not allowed to load the probe: it takes {_CAPABILITIES}; run as root",
            last,
        )
    if "compile" in error:
        return Failure(Exit.SOFTWARE, "bcc could not compile the probe; --log.level=debug shows what clang said", last)
    return Failure(
        Exit.SOFTWARE,
        f"kernel {kernel} refused the probe ({error}); --log.level=debug shows the verifier's last lines",
        last,
    )


@contextlib.contextmanager
def kernel_tree() -> Iterator[None]:
    """While this lasts, bcc takes our few headers for a kernel's: it asks for no other file of a tree."""
    with tempfile.TemporaryDirectory(prefix="killsnoopd-") as tree:
        (Path(tree) / "include").symlink_to(BPF_DIR / "include")
        os.environ["BCC_KERNEL_SOURCE"] = tree
        yield


def compiled(bpf_class: Any, settings: Settings) -> Any:
    """bcc's module of the probe, compiled for this kernel and not loaded yet."""
    macros = task_macros() | settings.macros(possible_cpus(), os.sysconf("SC_PAGE_SIZE"))
    macros["PROBE_READ"] = int(libbpf.may_read_kernel_memory())
    cast = libbpf.rdonly_cast_ids()
    macros |= {"RDONLY_CAST": _RDONLY_CAST if cast else 0, "KERNEL_SIGINFO": cast[1] if cast else 0}
    macros |= {"EVENTS_FD": _EVENTS_FD, "MARK_VICTIM_PID": tracepoints.field_offset("mark_victim", "pid")}
    macros_given = (f"-D{name}={value}ULL" for name, value in macros.items())
    # bcc optimizes what clang hands it: that clang does so first, and writes down what the kernel is not told, takes a
    # quarter of the time, for no better a program.
    flags = ["-Xclang", "-disable-llvm-passes", "-g0", f"-I{BPF_DIR}", *macros_given]
    with kernel_tree():
        return bpf_class(text=source(), cflags=flags)


def relocated(instructions: bytes, maps: dict[int, int], rdonly_cast: int) -> bytes:
    """A program for this kernel and these maps: `maps` says by which fd each fd in it is replaced.

    `rdonly_cast` is the BTF id of the kernel's function.
    """
    changed = bytearray(instructions)
    for at in range(0, len(changed), 8):
        opcode, registers = changed[at : at + 2]
        (number,) = struct.unpack_from("=i", changed, at + 4)
        if opcode == _LOAD_64 and registers >> 4 == _PSEUDO_MAP_FD:
            struct.pack_into("=i", changed, at + 4, maps.get(number, number))
        elif opcode == _CALL and number == _RDONLY_CAST:
            changed[at + 1] = _PSEUDO_KFUNC_CALL << 4
            struct.pack_into("=i", changed, at + 4, rdonly_cast)
    return bytes(changed)


def _load(settings: Settings, kept: dict[str, int]) -> tuple[dict[str, int], str, object]:
    """Compile and load: fds of maps and programs, bcc's version, and the module that owns the maps.

    With the fds of a pinned probe, `kept`, the new programs go on with its maps, and take over at once.
    """
    task_macros()  # tells a missing libbpf and missing BTF at once; importing bcc takes longer
    bpf_class = import_bcc()
    with _captured_stderr() as said:
        try:
            module = compiled(bpf_class, settings)
            fds = {f"map_{name}": module[name].map_fd for name in (*MAPS, *KEPT)}
            # bcc loads a program for its own maps alone, and cannot say what a BTF tracepoint's is to be attached to.
            maps = {fd: kept.get(name, fd) for name, fd in fds.items()}
            fds |= kept
            maps[_EVENTS_FD] = fds["map_events"]

            rdonly_cast, _ = libbpf.rdonly_cast_ids() or (0, 0)

            def load_program(function: str, name: str) -> int:
                tracepoint = name if name in tracepoints.BTF else None
                instructions = relocated(module.dump_func(function), maps, rdonly_cast)
                return libbpf.load_program(function, tracepoint, instructions, _LICENSE)

            workers = {name: load_program(f"on_{name}", name) for name in PROGRAMS}
            if not kept:
                fds |= {f"prog_{name}": load_program(name, name) for name in PROGRAMS}
        except libbpf.Refused as error:
            raise refusal(str(error), error.log, os.uname().release) from None
        except Exception as error:  # bcc raises nothing more particular
            raise refusal(str(error), said(), os.uname().release) from None
    for name, fd in workers.items():
        libbpf.prog_array_set(fds[f"map_to_{name}"], fd)
        os.close(fd)  # the table holds it
    if not kept:
        for name in READ_ONLY:
            libbpf.map_freeze(fds[f"map_{name}"])
    return fds, sys.modules["bcc"].__version__, module


def may_load(status: str) -> bool:
    """Whether a process with this /proc/PID/status has CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which covers them."""
    found = re.search(r"^CapEff:\s*(\w+)", status, re.M)
    capabilities = int(found[1], 16) if found else 0
    both = 1 << 39 | 1 << 38
    return capabilities & both == both or bool(capabilities & 1 << 21)


def load(settings: Settings, kept: dict[str, int] | None = None) -> tuple[Loaded, object]:
    """Compile, load, attach what `kept`, the fds of a pinned probe, does not hold attached.

    The second value owns some of the first one's fds: keep it until they are handed over.
    """
    # What can be told at once, before the long part.
    if not may_load(Path("/proc/self/status").read_text()):
        raise Failure(Exit.NOPERM, f"not allowed to load the probe: it takes {_CAPABILITIES}; run as root")
    for name in settings.tracepoints:
        if name not in tracepoints.BTF:
            tracepoints.tracepoint_id(name)
    fds, version, module = _load(settings, kept or {})
    for name in settings.tracepoints:
        program = "sys_exit" if name in names.SYSCALLS else name
        if f"link_{name}" not in fds:
            fds[f"link_{name}"] = tracepoints.attach(name, fds[f"prog_{program}"])
    return Loaded(fds, version), module


def send(loaded: Loaded, peer: socket.socket) -> None:
    """Hand over what the daemon reads, and what the probe would end without."""
    for name in JUMPS:  # no other version takes over from this one
        libbpf.map_freeze(loaded.fds[f"map_{name}"])
    fds = {name: fd for name, fd in loaded.fds.items() if name.removeprefix("map_") not in set(KEPT) - set(JUMPS)}
    header = json.dumps({"names": list(fds), "bcc": loaded.bcc_version})
    socket.send_fds(peer, [header.encode()], list(fds.values()))


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, cli.Config]:
    parser = argparse.ArgumentParser(
        prog="killsnoopd-loader",
        description="Attach killsnoopd's probe and hand it over. Takes the daemon's own flags besides these.",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--pin", type=Path, metavar="DIR", help="leave the probe on bpffs, under DIR/<hash>/")
    way.add_argument("--fd", type=int, help="send the probe's file descriptors through this socket")
    own, rest = parser.parse_known_args(argv)
    return own, cli.parse(rest)


def main(argv: list[str] | None = None) -> int:
    """Entry point; an exit code of failure.Exit."""
    own, config = _arguments(sys.argv[1:] if argv is None else argv)
    privileges.set_process_name("killsnoopd-load")  # who sends the signals by which the probe is tried out
    peer = socket.socket(fileno=own.fd) if own.fd is not None else None
    directory = own.pin.absolute() if own.pin else None
    os.chdir("/")  # bcc wants to come back to the folder it was started in, which may be gone
    try:
        try:
            if directory:
                _load_and_pin(config.probe, directory)
            elif peer:
                loaded, _module = load(config.probe)
                send(loaded, peer)
        except OSError as error:
            raise Failure(
                Exit.SOFTWARE, f"the kernel refused {error.filename or 'a call'}: {error.strerror}"
            ) from error
    except Failure as failure:
        if peer is not None:
            answer = {"error": str(failure), "exit": failure.exit_code, "details": failure.details}
            peer.send(json.dumps(answer).encode())
        else:
            if config.log_level == "debug" and failure.details:
                print(failure.details, file=sys.stderr)
            print(f"killsnoopd-loader: {failure}", file=sys.stderr)
        return failure.exit_code
    return Exit.OK


def _load_and_pin(settings: Settings, directory: Path) -> None:
    """Leave a probe of these settings pinned, whole and counting, whatever is found there."""
    pins.prepare(directory)
    name = settings.hash()
    found = pins.names(directory)
    kept: dict[str, int] = {}
    for pinned in sorted(found, key=lambda other: other != name):  # our own first
        kept = kept or pins.opened(directory, pinned, settings)
    attached = all(f"link_{tracepoint}" in kept for tracepoint in settings.tracepoints)
    if name in found and attached and not _silent(kept, settings):
        pins.keep_only(directory, name)
        _say(f"the probe is pinned at {directory / name} already")
        return
    loaded, _module = load(settings, kept)
    if kept and _silent(loaded.fds, settings):
        kept = {}
        loaded, _module = load(settings)
    pins.pin(loaded.fds, loaded.bcc_version, directory, settings)
    if kept:
        how = "in the place of the one that was pinned, whose counts go on"
    else:
        how = f"signals are seen from {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s after boot on"
        if found:
            how += "; what was pinned had another layout, was not whole or did not count"
    _say(f"probe attached, pinned at {directory / name}: {how}")


def _silent(fds: dict[str, int], settings: Settings) -> bool:
    """Whether the probe misses a signal sent to ourselves."""
    probe = Probe({name: os.dup(fd) for name, fd in fds.items()}, Layout(possible_cpus(), settings.max_series), "")
    try:
        return bool(probe.missed(settings.syscalls))
    finally:
        probe.close()


def _say(line: str) -> None:
    print(f"killsnoopd-loader: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
