#!/usr/bin/env python3
"""Boots Debian in QEMU, installs the package there, runs tests/vm/guest, and brings the results back. Run it as root.

Each machine is a copy-on-write overlay of an image that is made once, and kept in --cache. Two more disks are plain tar
archives: one with what the machine needs, one with its results. Exit code: 0 all tests passed, 1 a test failed,
2 a machine died or did not finish, whatever its tests said so far.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parent.parent
RESULTS = TOP / "build/vm"
SUITES = ("bookworm", "trixie")
# Besides what killsnoopd depends on: a kernel, systemd, and what the tests run.
PACKAGES = """
linux-image-amd64 systemd systemd-sysv udev dbus procps iproute2 util-linux man-db bpftool kmod
python3-bpfcc libbpf1 python3-systemd python3-prometheus-client python3-h11 python3-pytest
""".split()
# Manual pages are indexed anew by every apt and dpkg where this is, which takes an emulated machine long.
REMOVED = "var/lib/man-db/auto-update"
# So does unpacking an initrd with every driver there is.
INITRD = {"conf.d/modules": "MODULES=list\n", "modules": "virtio_pci\nvirtio_blk\next4\n"}
# Both runs of the machine, before and after its reboot. What it says is on the second serial port: agetty has the first.
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /input && tar -x -C /input -f /dev/vdb && exec sh /input/guest/run'
StandardOutput=file:/dev/ttyS1
StandardError=inherit
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
# In this order: removal removes the package, and those before it have flags of their own, which take long to change.
AFTER_REBOOT = [
    f"test_{name}.py" for name in ("boot", "journal", "privileges", "pins", "faults", "no_loss", "journald", "removal")
]
# Drivers of devices that no test uses.
NO_DRIVERS = "floppy,ata_piix,ata_generic,psmouse,pcspkr,i2c_piix4"
IMAGE_SIZE, RESULTS_SIZE = 4 << 30, 256 << 20


def build_image(suite: str, cache: Path) -> Path:
    """The folder with the image, kernel and initrd of a Debian that has everything but the package."""
    recipe = hashlib.sha256(repr((suite, UNIT, REMOVED, INITRD, PACKAGES)).encode()).hexdigest()[:12]
    folder = cache / f"{suite}-{recipe}"
    if folder.exists():
        return folder
    for stale in cache.glob(f"{suite}-*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=f"{suite}.", dir=cache) as scratch:
        root, made, first = (Path(scratch) / name for name in ("root", "made", "first"))
        made.mkdir()
        for name, text in INITRD.items():
            path = first / "etc/initramfs-tools" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--essential-hook=copy-in {first}/etc /"]
        subprocess.run([*command, f"--include={','.join(PACKAGES)}", suite, str(root)], check=True)
        (root / REMOVED).unlink(missing_ok=True)
        (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        (root / "etc/hostname").write_text(f"{suite}\n")
        units = root / "etc/systemd/system"
        (units / "vm-test.service").write_text(UNIT)
        wants = units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "vm-test.service").symlink_to("../vm-test.service")
        (root / "var/log/journal").mkdir(exist_ok=True)  # a journal that outlives the reboot
        for kind in ("vmlinuz", "initrd.img"):
            (newest,) = (root / "boot").glob(f"{kind}-*")
            shutil.copy(newest, made / kind)
        image = made / "image"
        with image.open("wb") as file:
            file.truncate(IMAGE_SIZE)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image)], check=True)
        made.rename(folder)
    return folder


def edited_package(package: Path, version: str, folder: Path, probe: str = "") -> None:
    """Another version of a Debian package, whose probe has one more comment."""
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


def write_input(package: Path, tests: list[str], path: Path) -> None:
    """The disk with what the machine needs."""
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        packages.mkdir()
        selected = Path(scratch) / "tests"
        selected.write_text(" ".join(tests) + "\n")
        version = package.name.split("_")[1]
        shutil.copy(package, packages / "killsnoopd.deb")
        edited_package(package, f"{version}+same", packages)
        edited_package(package, f"{version}+tother", packages, probe="another one")
        with tarfile.open(path, "w") as archive:
            archive.add(HERE / "guest", "guest", filter=lambda info: None if "__pycache__" in info.name else info)
            for shared in ("waiting.py", "kernel/senders.py"):
                archive.add(TOP / "tests" / shared, f"guest/{Path(shared).name}")
            archive.add(packages, "packages")
            archive.add(selected, "tests")


@dataclass
class Machine:
    """A booted Debian, from power on to its results."""

    suite: str
    deadline_s: float
    accel: str
    tests: list[str]  # after the reboot
    folder: Path = field(init=False)
    verdict: str = "not run"
    code: int = 2

    def run(self, base: Path, package: Path) -> None:
        """Boot, wait, and tell what came of it."""
        self.folder = RESULTS / self.suite
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        overlay = self.folder / "overlay"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base / "image"), "-F", "raw", str(overlay)]
        subprocess.run(command, check=True)
        write_input(package, self.tests, self.folder / "input.tar")
        with (self.folder / "results.tar").open("wb") as file:
            file.truncate(RESULTS_SIZE)
        began = time.monotonic()
        ended = self._boot(base, overlay)
        self._judge(ended)
        self.verdict += f"; {time.monotonic() - began:.0f} s"
        overlay.unlink()

    def _boot(self, base: Path, overlay: Path) -> str:
        """How the machine ended: nothing if it did so by itself."""
        # QEMU 7.2's cmpxchg16b crashes newer kernels, now and then with one CPU, too: they can do without that instruction.
        cpu = {"tcg": "qemu64,-cx16,-svm", "kvm": "host"}[self.accel]
        disks = ((overlay, "qcow2"), (self.folder / "input.tar", "raw"), (self.folder / "results.tar", "raw"))
        command = [
            "setpriv", "--pdeathsig=KILL",  # a test run that is killed leaves no machine behind
            "qemu-system-x86_64", "-accel", self.accel, "-cpu", cpu, "-smp", "1", "-m", "2048", "-nodefaults", "-display", "none",
            "-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd.img"),
            # Without norandmaps, each process has its code elsewhere, and QEMU 7.2 translates it anew: a quarter of all time.
            "-append", f"root=/dev/vda rw console=ttyS0 quiet norandmaps modprobe.blacklist={NO_DRIVERS}",
            *(word for path, kind in disks for word in ("-drive", f"file={path},if=virtio,format={kind},cache=unsafe")),
            "-serial", f"file:{self.folder}/console", "-serial", f"file:{self.folder}/output",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        shown = 0
        end = time.monotonic() + self.deadline_s
        try:
            while process.poll() is None:
                shown = self._show(shown)
                if time.monotonic() > end:
                    return f"did not finish within {self.deadline_s:.0f} s"
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
        """Print the whole lines that are new."""
        path = self.folder / "output"
        text = path.read_bytes()[shown:] if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").splitlines():
            print(f"{self.suite}: {line}", flush=True)
        return shown + len(whole)

    def _judge(self, ended: str) -> None:
        """Whether it died, a test failed, or all is well."""
        try:
            archive = ["tar", "-x", "-C", str(self.folder), "-f", str(self.folder / "results.tar")]
            subprocess.run(archive, check=True, capture_output=True)
            reports = [ET.parse(self.folder / f"{phase}.xml").getroot() for phase in ("first", "second")]
        except (subprocess.CalledProcessError, FileNotFoundError, ET.ParseError) as error:
            tail = "\n".join(self._console().splitlines()[-20:])
            self.verdict = f"the machine died: {ended or 'it went down'} before it told its results ({error})\n{tail}"
            return
        (self.folder / "results.tar").unlink()
        suites = [suite for report in reports for suite in report.iter("testsuite")]
        total, bad, skipped = (
            sum(int(suite.get(name, 0)) for suite in suites for name in names)
            for names in (["tests"], ["failures", "errors"], ["skipped"])
        )
        for case in (case for report in reports for case in report.iter("testcase")):
            for measured in case.iter("property"):
                print(f"{self.suite}: {case.get('name')}: {measured.get('name')} = {measured.get('value')}")
        self.verdict = f"{total - bad - skipped} passed, {bad} failed, {skipped} skipped"
        if ended:
            self.verdict += f", and then {ended}"
        else:
            self.code = 1 if bad or skipped or not total else 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the .deb (make deb)")
    parser.add_argument("--suite", action="append", choices=SUITES, help="default: both, side by side")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VM_CACHE", "/var/cache/killsnoopd-vm"))
    parser.add_argument("--deadline", type=float, default=3000, metavar="S", help="for each machine (%(default)s)")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="nested KVM can hang (%(default)s)")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="of tests/vm/guest, after the reboot (all)")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    tests = args.tests or AFTER_REBOOT
    machines = [Machine(suite, args.deadline, args.accel, tests) for suite in args.suite or SUITES]

    def live(machine: Machine) -> None:
        try:
            machine.run(build_image(machine.suite, args.cache), args.package)
        except (OSError, subprocess.CalledProcessError) as error:
            machine.verdict = f"the machine could not be made: {error}"

    threads = [threading.Thread(target=live, args=[machine]) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for machine in machines:
        print(f"{machine.suite}: {machine.verdict} ({RESULTS / machine.suite})")
    return max(machine.code for machine in machines)


if __name__ == "__main__":
    sys.exit(main())
