"""Compiles, loads and attaches the probe, hands it over, and exits.

It needs only bcc and the standard library, so it may run under another Python than the daemon. `--pin DIR` pins maps,
programs and links under `DIR/<hash>/` on bpffs; `--fd N` sends them through a socket.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from killsnoopd import cli, privileges
from killsnoopd.failure import Exit, Failure, unforeseen
from killsnoopd.probe import features, handover, hooks, libbpf, pins, self_test, ways
from killsnoopd.probe.attached import Probe
from killsnoopd.probe.compiler import compile_probe
from killsnoopd.probe.objects import Objects
from killsnoopd.probe.program import (
    DAEMON_MAPS,
    EVENTS_FD,
    JUMPS,
    Layout,
    probe_hash,
    relocated,
    rules,
)
from killsnoopd.settings import Settings

_LICENSE = "Dual MIT/GPL"  # as in killsnoop.bpf.c
READ_ONLY = ("counts", "series", "victims", "last_used", "slot_state")
_CAPABILITIES = "CAP_BPF and CAP_PERFMON"
_BPF_AND_PERFMON = 1 << 39 | 1 << 38


def refusal(error: libbpf.Refused, kernel: str) -> Failure:
    """The Failure for a program that the kernel rejected."""
    if error.errno == errno.EPERM:
        return Failure(
            Exit.NOPERM,
            f"not allowed to load the probe: it needs {_CAPABILITIES}; run as root",
            error.log.strip(),
        )
    return Failure(
        Exit.SOFTWARE,
        f"kernel {kernel} refused the probe ({error}); --log.level=debug shows the verifier log",
        error.log.strip(),
    )


def _load(settings: Settings, chosen: dict[str, str], pinned: Objects | None) -> tuple[Objects, str]:
    """Compile and load: maps and programs, and bcc's version. `chosen`: the way of each program.

    With a pinned probe, the new programs use its maps and take over from its programs at once.
    """
    probe = compile_probe(settings, chosen)
    loaded = pinned or Objects(probe.maps)
    # bcc's own loader knows only bcc's maps, and cannot load a program for a BTF tracepoint.
    maps = {number: loaded.maps[name] for name, number in probe.map_numbers.items()} | {
        EVENTS_FD: loaded.maps["events"]
    }
    rdonly_cast, *_ = libbpf.rdonly_cast_ids() or (0,)
    points = hooks.points(settings, chosen)

    def load_program(function: str, point: hooks.Point) -> int:
        return libbpf.load_program(
            function, point.kind, relocated(probe.functions[function], maps, rdonly_cast), _LICENSE
        )

    for index, rule in enumerate(rules(settings)):
        libbpf.array_set(loaded.maps["rules"], index, rule)
    try:
        # A program array takes programs of one type. With fexit, functions with the same parameters are one type: the
        # program that is loaded for one of them serves all.
        workers = {point.hook.program: point for point in points}
        with ThreadPoolExecutor() as pool:  # the verifier takes most of the time, on the caller's CPU
            fds = pool.map(lambda point: load_program(f"on_{point.hook.program}", point), workers.values())
            loaded_workers = dict(zip(workers, fds))
        entries = {point.entry: point for point in points if point.entry not in loaded.programs}
        loaded.programs |= {entry: load_program(point.hook.program, point) for entry, point in entries.items()}
    except libbpf.Refused as error:
        raise refusal(error, os.uname().release) from None
    for program, fd in loaded_workers.items():
        libbpf.prog_array_set(loaded.maps[f"to_{program}"], fd)
        os.close(fd)  # the program array keeps the program
    if not pinned:
        for name in READ_ONLY:
            libbpf.map_freeze(loaded.maps[name])
    return loaded, probe.bcc_version


def may_load(status: bytes) -> bool:
    """Whether a process with this /proc/PID/status has CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which covers them."""
    capabilities = privileges.bit_set(status, "CapEff")
    return capabilities & _BPF_AND_PERFMON == _BPF_AND_PERFMON or bool(capabilities >> privileges.CAP_SYS_ADMIN & 1)


def check_capabilities() -> None:
    """Raise Failure if this process may not load the probe."""
    if not may_load(Path("/proc/self/status").read_bytes()):
        raise Failure(Exit.NOPERM, f"not allowed to load the probe: it needs {_CAPABILITIES}; run as root")


def choose_ways(settings: Settings) -> dict[str, str]:
    """The way of each program, from the settings, the kernel's features and trials. Raises Failure.

    Drops CAP_SYS_ADMIN if they do not need it, before anything is compiled.
    """
    # Cheap checks first: compiling takes long.
    check_capabilities()
    features.check()
    chosen = ways.choose(settings)
    hooks.check(settings, chosen)
    for program in ways.inexact(chosen, ways.preemptible()):
        _say(
            f"{program} is attached by {chosen[program]}: on this kernel it misses signals while tasks are preempted; "
            "killsnoop_probe_missed_total counts them"
        )
    if hooks.TRACEPOINT not in chosen.values() and privileges.effective() & _BPF_AND_PERFMON == _BPF_AND_PERFMON:
        privileges.drop_one(privileges.CAP_SYS_ADMIN)  # only perf_event_open(2) may need it
    return chosen


def load(settings: Settings, chosen: dict[str, str], pinned: Objects | None = None) -> tuple[Objects, str]:
    """Compile, load, and attach the hooks that the pinned probe lacks; the objects and bcc's version."""
    loaded, version = _load(settings, chosen, pinned)
    for point in hooks.points(settings, chosen):
        if point.link not in loaded.links:
            loaded.links[point.link] = point.attach(loaded.programs[point.entry])
    return loaded, version


def send(loaded: Objects, bcc_version: str, peer: socket.socket) -> None:
    """Hand over what the daemon reads, and what must stay open for the probe to run."""
    for name in (*JUMPS, "rules"):  # no other version will take over
        libbpf.map_freeze(loaded.maps[name])
    maps = {name: loaded.maps[name] for name in (*DAEMON_MAPS, *JUMPS)}
    handover.send(peer, {"bcc": bcc_version}, Objects(maps, loaded.programs, loaded.links))


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, cli.Config]:
    parser = cli.Parser(
        prog="killsnoopd-loader",
        description="Compiles, loads and attaches killsnoopd's probe, then pins it or passes it to the daemon.",
        epilog="Also takes the flags of killsnoopd, and has the same exit codes: see killsnoopd --help.",
        allow_abbrev=False,
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--pin", type=Path, metavar="DIR", help="pin the probe on bpffs, in DIR/<hash>/")
    way.add_argument(
        "--fd", type=int, metavar="N", help="send the probe's file descriptors over socket N; killsnoopd uses this"
    )
    own, rest = parser.parse_known_args(argv)
    return own, cli.parse(rest)


def main(argv: list[str] | None = None) -> int:
    """Entry point; an exit code of failure.Exit."""
    own, config = _arguments(sys.argv[1:] if argv is None else argv)
    privileges.set_process_name("killsnoopd-load")  # the sender's name in the self-test
    peer = socket.socket(fileno=own.fd) if own.fd is not None else None
    directory = own.pin.absolute() if own.pin else None
    os.chdir("/")  # bcc returns to the current folder, which may have been removed
    try:
        try:
            if directory:
                _load_and_pin(config.probe, directory)
            elif peer:
                send(*load(config.probe, choose_ways(config.probe)), peer)
        except OSError as error:
            raise Failure(
                Exit.SOFTWARE, f"the kernel refused {error.filename or 'a call'}: {error.strerror}"
            ) from error
    except Exception as error:
        failure = error if isinstance(error, Failure) else unforeseen(error)
        if peer is not None:
            handover.send_failure(peer, failure)
        else:
            if config.log_level == "debug" and failure.details:
                print(failure.details, file=sys.stderr)
            print(f"killsnoopd-loader: {failure}", file=sys.stderr)
        return failure.exit_code
    return Exit.OK


def _load_and_pin(settings: Settings, directory: Path) -> None:
    """Leave a complete, working probe of these settings pinned in `directory`, whatever was there before."""
    pins.prepare(directory)
    chosen = choose_ways(settings)
    name = probe_hash(settings)
    found = pins.names(directory)
    pinned = None
    for other in sorted(found, key=lambda other: other != name):  # our own first
        pinned = pinned or pins.take_over(directory, other, settings, chosen)
    attached = pinned and all(point.link in pinned.links for point in hooks.points(settings, chosen))
    if pinned and name in found and attached and not _faulty(pinned, settings):
        pins.keep_only(directory, name)
        _say(f"the probe is already pinned at {directory / name}")
        return
    loaded, version = load(settings, chosen, pinned)
    if pinned and _faulty(loaded, settings):
        pinned = None
        loaded, version = load(settings, chosen)
    lost = 0 if pinned else sum(pins.waiting_events(directory, other) for other in found)
    pins.pin(loaded, version, directory, settings, chosen)
    if pinned:
        how = "it replaces the pinned one and keeps its counts"
    else:
        how = f"it sees signals from {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s after boot"
        if found:
            how += (
                "; the pinned probe has another map layout, is attached in another way, is incomplete or does not "
                "count: counts restart at zero, "
            )
            how += f"and {lost} events that were waiting to be logged are lost"
    _say(f"probe attached, pinned at {directory / name}: {how}")


def _faulty(objects: Objects, settings: Settings) -> bool:
    """Whether the probe fails the self-test."""
    probe = Probe(objects.duplicate(), Layout.of(settings), "")
    try:
        return bool(self_test.faults(probe, settings.syscalls))
    finally:
        probe.close()


def _say(line: str) -> None:
    print(f"killsnoopd-loader: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
