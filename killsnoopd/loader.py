"""Compiles, loads and attaches the probe, hands it over, and is gone.

It needs nothing but bcc and the standard library, so it may run under another Python than the daemon. Two ways to hand
over: `--pin DIR` leaves maps, programs and links under `DIR/<hash>/` on bpffs; `--fd N` sends them through a socket.
"""

import argparse
import errno
import os
import re
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from killsnoopd import cli, handover, libbpf, names, pins, privileges, self_test, tracepoints
from killsnoopd.compiler import EVENTS_FD, RDONLY_CAST, compile_probe
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import Probe
from killsnoopd.program import JUMPS, KEPT, PROGRAMS, Layout, Settings, possible_cpus

_LICENSE = "Dual MIT/GPL"  # as the source says
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1  # of an instruction that loads a map: opcode, source register
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2  # of one that calls a function: opcode, source register if it is a kernel's
READ_ONLY = ("counts", "series", "directory")
_CAPABILITIES = "CAP_BPF and CAP_PERFMON"
_ENOTSUPP = 524  # include/linux/errno.h; the JIT of arm64 before Linux 5.18 says so of an atomic exchange


@dataclass(frozen=True)
class Loaded:
    """An attached probe: file descriptors by name."""

    fds: dict[str, int]  # map_*, prog_*, link_*
    bcc_version: str


def refusal(error: libbpf.Refused, kernel: str) -> Failure:
    """Why the kernel would not take a program."""
    missing = re.search(r"unknown func (?:bpf_)?(\w+)|invalid func unknown#(\d+)", error.log)
    if missing:
        return Failure(
            Exit.UNAVAILABLE,
            f"kernel {kernel} is too old: killsnoopd needs Linux 5.15 or later (no bpf_{missing[1] or missing[2]})",
            error.log.strip(),
        )
    if error.errno == _ENOTSUPP:
        return Failure(
            Exit.UNAVAILABLE,
            f"kernel {kernel} is too old: its BPF compiler knows no atomic exchange; "
            "on arm64 killsnoopd needs Linux 5.18 or later",
            error.log.strip(),
        )
    if error.errno == errno.EPERM:
        return Failure(
            Exit.NOPERM,
            f"not allowed to load the probe: it takes {_CAPABILITIES}; run as root",
            error.log.strip(),
        )
    return Failure(
        Exit.SOFTWARE,
        f"kernel {kernel} refused the probe ({error}); --log.level=debug shows what the verifier said",
        error.log.strip(),
    )


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
        elif opcode == _CALL and number == RDONLY_CAST:
            changed[at + 1] = _PSEUDO_KFUNC_CALL << 4
            struct.pack_into("=i", changed, at + 4, rdonly_cast)
    return bytes(changed)


def _load(settings: Settings, kept: dict[str, int]) -> tuple[dict[str, int], str]:
    """Compile and load: fds of maps and programs, and bcc's version.

    With the fds of a pinned probe, `kept`, the new programs go on with its maps, and take over at once.
    """
    probe = compile_probe(settings)
    fds = {f"map_{name}": fd for name, fd in probe.maps.items()} | kept
    # bcc loads a program for its own maps alone, and cannot say what a BTF tracepoint's is to be attached to.
    maps = {number: fds[f"map_{name}"] for name, number in probe.map_numbers.items()}
    maps[EVENTS_FD] = fds["map_events"]
    rdonly_cast, _ = libbpf.rdonly_cast_ids() or (0, 0)

    def load_program(function: str, name: str) -> int:
        tracepoint = name if name in tracepoints.BTF else None
        instructions = relocated(probe.functions[function], maps, rdonly_cast)
        return libbpf.load_program(function, tracepoint, instructions, _LICENSE)

    try:
        workers = {name: load_program(f"on_{name}", name) for name in PROGRAMS}
        if not kept:
            fds |= {f"prog_{name}": load_program(name, name) for name in PROGRAMS}
    except libbpf.Refused as error:
        raise refusal(error, os.uname().release) from None
    for name, fd in workers.items():
        libbpf.prog_array_set(fds[f"map_to_{name}"], fd)
        os.close(fd)  # the table holds it
    if not kept:
        for name in READ_ONLY:
            libbpf.map_freeze(fds[f"map_{name}"])
    return fds, probe.bcc_version


def may_load(status: str) -> bool:
    """Whether a process with this /proc/PID/status has CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which covers them."""
    found = re.search(r"^CapEff:\s*(\w+)", status, re.M)
    capabilities = int(found[1], 16) if found else 0
    both = 1 << 39 | 1 << 38
    return capabilities & both == both or bool(capabilities & 1 << 21)


def load(settings: Settings, kept: dict[str, int] | None = None) -> Loaded:
    """Compile, load, attach what `kept`, the fds of a pinned probe, does not hold attached."""
    # What can be told at once, before the long part.
    if not may_load(Path("/proc/self/status").read_text()):
        raise Failure(Exit.NOPERM, f"not allowed to load the probe: it takes {_CAPABILITIES}; run as root")
    for name in settings.tracepoints:
        if name not in tracepoints.BTF:
            tracepoints.tracepoint_id(name)
    fds, version = _load(settings, kept or {})
    for name in settings.tracepoints:
        program = "sys_exit" if name in names.SYSCALLS else name
        if f"link_{name}" not in fds:
            fds[f"link_{name}"] = tracepoints.attach(name, fds[f"prog_{program}"])
    return Loaded(fds, version)


def send(loaded: Loaded, peer: socket.socket) -> None:
    """Hand over what the daemon reads, and what the probe would end without."""
    for name in JUMPS:  # no other version takes over from this one
        libbpf.map_freeze(loaded.fds[f"map_{name}"])
    fds = {name: fd for name, fd in loaded.fds.items() if name.removeprefix("map_") not in set(KEPT) - set(JUMPS)}
    handover.send(peer, {"bcc": loaded.bcc_version}, fds)


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
                send(load(config.probe), peer)
        except OSError as error:
            raise Failure(
                Exit.SOFTWARE, f"the kernel refused {error.filename or 'a call'}: {error.strerror}"
            ) from error
    except Failure as failure:
        if peer is not None:
            handover.send_failure(peer, failure)
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
    if name in found and attached and not _faulty(kept, settings):
        pins.keep_only(directory, name)
        _say(f"the probe is pinned at {directory / name} already")
        return
    loaded = load(settings, kept)
    if kept and _faulty(loaded.fds, settings):
        kept = {}
        loaded = load(settings)
    pins.pin(loaded.fds, loaded.bcc_version, directory, settings)
    if kept:
        how = "in the place of the one that was pinned, whose counts go on"
    else:
        how = f"signals are seen from {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s after boot on"
        if found:
            how += "; what was pinned had another layout, was not whole or did not count"
    _say(f"probe attached, pinned at {directory / name}: {how}")


def _faulty(fds: dict[str, int], settings: Settings) -> bool:
    """Whether the probe does not report the loader's own signals as they were.

    In a child: where systemd denies memory that is both writable and executable, libffi keeps the callbacks of ctypes
    in memory that forks share, and aborts if another process has changed it. compile_probe() may fork after this.
    """
    child = os.fork()
    if child:
        return bool(os.waitpid(child, 0)[1])
    status = 1
    try:
        probe = Probe(dict(fds), Layout(possible_cpus(), settings.max_series), "")
        status = int(bool(self_test.faults(probe, settings.syscalls)))
    except Exception as error:  # whatever it is, the probe is loaded anew
        _say(f"the test of the probe failed: {error!r}")
    finally:
        os._exit(status)


def _say(line: str) -> None:
    print(f"killsnoopd-loader: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
