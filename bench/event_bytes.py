#!/usr/bin/env python3
"""What an event weighs: as a JSON line, on the way to systemd-journal-remote, and in a journal file.

Run as root: sudo /usr/bin/python3 bench/event_bytes.py. A real daemon's events: a SIGTERM and a SIGKILL to a process
each, and its death. The journal files are those of systemd-journal-remote, with the fields that journald adds.
"""

import gzip
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from running import Daemon  # noqa: E402
from senders import run, set_name  # noqa: E402

EVENTS = (3_000,)
# What journald adds to an entry of the daemon; ids as long as real ones.
JOURNALD = {
    "_BOOT_ID": "1" * 32, "_MACHINE_ID": "2" * 32, "_HOSTNAME": "host-0001", "_RUNTIME_SCOPE": "system",
    "_TRANSPORT": "journal", "_PID": "1234", "_UID": "980", "_GID": "980", "_COMM": "killsnoopd", "_CAP_EFFECTIVE": "0",
    "_EXE": "/usr/bin/python3.11", "_CMDLINE": "/usr/bin/python3 -I /usr/bin/killsnoopd --web.systemd-socket",
    "_SYSTEMD_CGROUP": "/system.slice/killsnoopd.service", "_SYSTEMD_UNIT": "killsnoopd.service",
    "_SYSTEMD_SLICE": "system.slice", "_SYSTEMD_INVOCATION_ID": "3" * 32,
}  # fmt: skip


def kill_some(number: int) -> None:
    """A third of `number` processes, each with a name of its own, is sent SIGTERM, which it blocks, and SIGKILL."""
    for index in range(number // 3):
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            signal.pause()
        set_name(b"service-%d" % (index % 20))
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def exported(lines: list[bytes]) -> bytes:
    """JSON lines in journald's export format."""
    entries = []
    for number, line in enumerate(lines):
        own = {
            "__REALTIME_TIMESTAMP": 1_790_000_000_000_000 + number * 50_000,
            "__MONOTONIC_TIMESTAMP": number * 50_000,
        }
        fields = own | JOURNALD | json.loads(line)
        entries.append("".join(f"{name}={value}\n" for name, value in fields.items()))
    return "\n".join(entries).encode() + b"\n"


def main() -> None:
    """Entry point."""
    programs = subprocess.run([HERE.parent / "scripts/journal-remote"], stdout=subprocess.PIPE, text=True, check=True)
    remote = Path(programs.stdout.strip()) / "systemd-journal-remote"
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs")
    print("bytes per event  JSON line    gzipped     export    gzipped    journal")
    for number in EVENTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            daemon = Daemon(folder / "daemon", ["--events.rate=0"])
            try:
                daemon.wait_ready()
                run(lambda number=number: kill_some(number))
                daemon.settled_ledger()
            finally:
                daemon.stop()
            lines = [line for line in daemon.stdout.read_bytes().splitlines() if b'"service-' in line]
            text, entries = b"\n".join(lines), exported(lines)
            journal = folder / "all.journal"
            command = [remote, f"--output={journal}", "--split-mode=none", "-"]
            subprocess.run(command, input=entries, check=True, capture_output=True)
            # struct Header of journal-def.h: the hash tables have a fixed size.
            _, data_table, _, field_table, tail = struct.unpack_from("<5Q", journal.read_bytes(), 104)
            used = tail - data_table - field_table
            sizes = [len(text), len(gzip.compress(text)), len(entries), len(gzip.compress(entries)), used]
            print(f"{len(lines):8} events " + "".join(f" {size / len(lines):10.0f}" for size in sizes))


if __name__ == "__main__":
    main()
