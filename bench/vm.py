#!/usr/bin/env python3
"""What watching costs on a Debian kernel, in instructions. Run it as root.

It boots a machine of tests/vm/machines.py whose time stamp counter counts the instructions that it executes (QEMU's
-icount), and runs instructions.py there; or, without counting, storm.py.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP / "tests/vm"))

from image import image  # noqa: E402
from machines import AMD64, MACHINES, MAIN, Machine  # noqa: E402

RUN = """\
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
/usr/bin/python3 -B /input/checkout/bench/{script}.py 2>&1
echo exit code $?
systemctl --force --force poweroff
"""


# Not for a storm: time would pass so slowly that few ticks of the timer came in the middle of a program.
ICOUNT = {"instructions": ("-icount", "shift=0,sleep=on,align=off"), "storm": ()}


def measure(machine: Machine, script: str, cache: Path, deadline_s: float) -> str:
    """What the script printed there; raises subprocess.TimeoutExpired."""
    base = image(machine, cache)
    with tempfile.TemporaryDirectory(prefix="killsnoopd-bench-") as name:
        folder = Path(name)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base.disk), "-F", "raw", str(folder / "overlay")],
            check=True,
        )
        (folder / "run").write_text(RUN.format(script=script))
        with tarfile.open(folder / "input", "w") as archive:
            archive.add(folder / "run", "guest/run")
            for tree in ("bench", "killsnoopd", "tests"):
                archive.add(TOP / tree, f"checkout/{tree}")
        drives = (("overlay", "qcow2"), ("input", "raw"))
        command = [
            "setpriv", "--pdeathsig=KILL", *AMD64.qemu, "-accel", "tcg", *ICOUNT[script],
            "-smp", "1", "-m", "2048", "-nodefaults", "-display", "none",
            "-kernel", str(base.kernel), *(("-initrd", str(base.initrd)) if base.initrd else ()),
            "-append", f"root=/dev/vda rw console={AMD64.console} quiet norandmaps {machine.boot}",
            *(word for file, kind in drives
              for word in ("-drive", f"file={folder / file},if=virtio,format={kind},cache=unsafe")),
            "-serial", "null", *(word.format(output=folder / "output") for word in AMD64.serial),
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=deadline_s, stdin=subprocess.DEVNULL)
        return (folder / "output").read_text(errors="replace").replace("\r", "")


def main() -> int:
    """Entry point."""
    names = [name for name, machine in MACHINES.items() if machine.architecture == AMD64]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--storm", action="store_true", help="storm.py in place of instructions.py")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VM_CACHE", "/var/cache/killsnoopd-vm"))
    parser.add_argument("--deadline", type=float, metavar="S", default=1800, help="for each machine (%(default)s)")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    for name in args.suite or [machine.name for machine in MAIN]:
        began_s = time.monotonic()
        machine, script = MACHINES[name], "instructions"
        if args.storm:
            machine, script = replace(machine, name=f"{name}-bpftrace", packages=("bpftrace",)), "storm"
        print(measure(machine, script, args.cache, args.deadline), end="")
        print(f"{name}: {time.monotonic() - began_s:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
