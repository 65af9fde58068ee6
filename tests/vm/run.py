#!/usr/bin/env python3
"""Boots Debian in QEMU, installs the package, runs tests/vm/guest and parts of tests/kernel, and collects the results.
Run it as root.

Each machine (machines.py) is a copy-on-write overlay of an image (image.py), which is built once and kept in --cache.
Two more disks are plain tar archives: the machine's input, and its results. As many machines run at a time as there are
CPUs. Exit code: 0 all tests passed, 1 a test failed, 2 a machine died or did not finish.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from image import Image, image
from machines import CI, GUEST, KERNEL, MACHINES, MATRIX, TOP, Machine

sys.path.insert(0, str(TOP))

from killsnoopd.probe.hooks import PROGRAMS

HERE = Path(__file__).parent
RESULTS = TOP / "build/vm"
# Drivers of devices that no test uses.
NO_DRIVERS = "floppy,ata_piix,ata_generic,psmouse,pcspkr,i2c_piix4"
RESULTS_SIZE = 256 << 20


def edited_package(package: Path, version: str, folder: Path, probe: str = "") -> None:
    """Another version of a Debian package, whose probe has an extra comment."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
        control = tree / "DEBIAN/control"
        lines = control.read_text().splitlines()
        lines = [f"Version: {version}" if line.startswith("Version:") else line for line in lines]
        control.write_text("\n".join(lines) + "\n")
        if probe:
            with next(tree.rglob("killsnoop.bpf.c")).open("a") as source:
                source.write(f"/* {probe} */\n")
        name = folder / f"killsnoopd_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(name)], check=True, capture_output=True)


def write_input(package: Path, machine: Machine, path: Path) -> None:
    """Write the disk with everything that the machine needs."""

    def without_caches(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        packages.mkdir()
        lists = {
            "installation-tests": (machine.installation,),
            "guest-tests": machine.guest,
            "kernel-tests": machine.kernel_tests,
            "programs": PROGRAMS,  # a machine without the package cannot import them
            "left-out": tuple(f"{test}\t{reason}" for test, reason in machine.left_out.items()),
        }
        version = package.name.split("_")[1]
        shutil.copy(package, packages / "killsnoopd.deb")
        edited_package(package, f"{version}+same", packages)
        edited_package(package, f"{version}+tother", packages, probe="another one")
        with tarfile.open(path, "w") as archive:
            archive.add(HERE / "guest", "guest", filter=without_caches)
            for shared in ("waiting.py", "kernel/senders.py"):
                archive.add(TOP / "tests" / shared, f"guest/{Path(shared).name}")
            archive.add(TOP / "deploy", "deploy")
            archive.add(TOP / "docs/kubernetes.md", "docs/kubernetes.md")
            archive.add(TOP / "pyproject.toml", "checkout/pyproject.toml")
            for source in (TOP / "tests").glob("*.py"):
                archive.add(source, f"checkout/tests/{source.name}")
            archive.add(TOP / "tests/kernel", "checkout/tests/kernel", filter=without_caches)
            archive.add(packages, "packages")
            for name, lines in lists.items():
                text = Path(scratch) / name
                text.write_text("".join(f"{line}\n" for line in lines))
                archive.add(text, name)


@dataclass
class Run:
    """One machine, from power on to its results."""

    machine: Machine
    accel: str
    folder: Path = field(init=False)
    verdict: str = "not run"
    code: int = 2

    def __post_init__(self) -> None:
        self.folder = RESULTS / self.machine.name

    def run(self, cache: Path, package: Path) -> None:
        """Boot, wait, and print the verdict."""
        try:
            base = image(self.machine, cache)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            overlay = self.folder / "overlay"
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base.disk), "-F", "raw", str(overlay)]
            subprocess.run(command, check=True)
            write_input(package, self.machine, self.folder / "input.tar")
            with (self.folder / "results.tar").open("wb") as file:
                file.truncate(RESULTS_SIZE)
            began = time.monotonic()
            ended = self._boot(base, overlay)
            self._judge(ended, time.monotonic() - began)
            overlay.unlink()
        except (OSError, subprocess.CalledProcessError) as error:
            self.verdict = f"the machine could not be made: {error}"
        print(f"{self.machine.name}: {self.verdict}", flush=True)

    def _boot(self, base: Image, overlay: Path) -> str:
        """Why the machine ended; empty if it shut itself down."""
        architecture = self.machine.architecture
        disks = ((overlay, "qcow2"), (self.folder / "input.tar", "raw"), (self.folder / "results.tar", "raw"))
        command = [
            "setpriv", "--pdeathsig=KILL",  # a killed test run leaves no machine behind
            *architecture.qemu, *(("-cpu", "host") if self.accel == "kvm" else ()), "-accel", self.accel,
            "-smp", "1", "-m", "2048", "-nodefaults", "-display", "none",
            "-kernel", str(base.kernel), *(("-initrd", str(base.initrd)) if base.initrd else ()),
            # Without norandmaps, each process has its code elsewhere, and QEMU 7.2 translates it again each time.
            "-append", f"root=/dev/vda rw console={architecture.console} quiet norandmaps modprobe.blacklist={NO_DRIVERS} {self.machine.boot}",
            *(word for path, kind in disks for word in ("-drive", f"file={path},if=virtio,format={kind},cache=unsafe")),
            "-serial", f"file:{self.folder}/console",
            *(word.format(output=self.folder / "output") for word in architecture.serial),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        shown = 0
        end = time.monotonic() + self.machine.deadline_s
        try:
            while process.poll() is None:
                shown = self._show(shown)
                if time.monotonic() > end:
                    return f"did not finish within {self.machine.deadline_s:.0f} s"
                if "Kernel panic" in self._console():
                    return "its kernel panicked"
                time.sleep(0.5)
            self._show(shown)
            return f"QEMU ended with status {process.returncode}" if process.returncode else ""
        finally:
            process.kill()
            process.wait()

    def _console(self) -> str:
        path = self.folder / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def _show(self, shown: int) -> int:
        """Print the new complete lines."""
        path = self.folder / "output"
        text = path.read_bytes()[shown:] if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").splitlines():
            print(f"{self.machine.name}: {line}", flush=True)
        return shown + len(whole)

    def _judge(self, ended: str, lasted_s: float) -> None:
        """Decide whether it died, a test failed, or all passed."""
        chosen_phases = {"installation": True, "kernel": self.machine.kernel_tests, "reboot": self.machine.guest}
        phases = [phase for phase, tests in chosen_phases.items() if tests]
        try:
            archive = ["tar", "-x", "-C", str(self.folder), "-f", str(self.folder / "results.tar")]
            subprocess.run(archive, check=True, capture_output=True)
            reports = {phase: ET.parse(self.folder / f"{phase}.xml").getroot() for phase in phases}
            system = (self.folder / "system").read_text().strip()
        except (subprocess.CalledProcessError, FileNotFoundError, ET.ParseError) as error:
            tail = "\n".join(self._console().splitlines()[-20:])
            self.verdict = f"the machine died: {ended or 'it went down'} before it wrote its results ({error})\n{tail}"
            return
        (self.folder / "results.tar").unlink()
        counts = {phase: _counts(report) for phase, report in reports.items()}
        for case in (case for report in reports.values() for case in report.iter("testcase")):
            for measured in case.iter("property"):
                print(f"{self.machine.name}: {case.get('name')}: {measured.get('name')} = {measured.get('value')}")
        for phase, (passed, bad, skipped, seconds) in counts.items():
            print(f"{self.machine.name}: {phase}: {passed} passed, {bad} failed, {skipped} skipped, {seconds:.0f} s")
        passed, bad, skipped = (sum(count[at] for count in counts.values()) for at in range(3))
        self.verdict = f"{passed} passed, {bad} failed, {skipped} skipped; {lasted_s:.0f} s; {system}"
        if self.machine.left_out:
            self.verdict += f"; {len(self.machine.left_out)} left out"
        if ended:
            self.verdict += f"; and then {ended}"
        else:
            self.code = 1 if bad or skipped or not all(count[0] for count in counts.values()) else 0


def _counts(report: ET.Element) -> tuple[int, int, int, float]:
    """The number of tests that passed, failed and were skipped, and their time in seconds."""
    suites = list(report.iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (["tests"], ["failures", "errors"], ["skipped"])
    )
    return total - bad - skipped, bad, skipped, sum(float(suite.get("time", 0)) for suite in suites)


def chosen(machine: Machine, args: argparse.Namespace) -> Machine:
    """The machine, with tests and deadline from the command line if given."""
    changes: dict[str, object] = {}
    for name, given, everything in (("guest", args.tests, GUEST), ("kernel_tests", args.kernel_tests, KERNEL)):
        if given is not None:
            changes[name] = everything if given == ["all"] else () if given == ["none"] else tuple(given)
    if args.deadline:
        changes["deadline_s"] = args.deadline
    if args.boot:
        changes["boot"] = f"{machine.boot} {args.boot}"
    return replace(machine, **changes)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the .deb (make deb)")
    parser.add_argument("--matrix", action="store_true", help="run all machines, not only CI's; ignored with --suite")
    parser.add_argument(
        "--suite", action="append", choices=MACHINES, metavar="NAME", help=f"of {', '.join(MACHINES)}; may be repeated"
    )
    parser.add_argument("--cache", type=Path, default=os.environ.get("VM_CACHE", "/var/cache/killsnoopd-vm"))
    parser.add_argument("--deadline", type=float, metavar="S", help="for each machine (as in machines.py)")
    parser.add_argument("--boot", metavar="PARAMETERS", help="added to the kernel's command line")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="nested KVM can hang (%(default)s)")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="of tests/vm/guest, after reboot; or `all`, `none`")
    parser.add_argument(
        "--kernel-tests",
        nargs="+",
        metavar="FILE",
        help="of tests/kernel; or `all` of those that tell kernels apart, or `none`",
    )
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    machines = [MACHINES[name] for name in args.suite] if args.suite else list(MATRIX if args.matrix else CI)
    runs = [Run(chosen(machine, args), args.accel) for machine in machines]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for run in runs:
            pool.submit(run.run, args.cache, args.package)
    print()
    for run in runs:
        print(f"{run.machine.name}: {run.verdict} ({run.folder})")
    return max(run.code for run in runs)


if __name__ == "__main__":
    sys.exit(main())
