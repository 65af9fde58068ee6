"""Images of machines, built once by mmdebstrap and cached."""

import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from machines import Machine

# Besides killsnoopd's dependencies: systemd, and what the tests run.
PACKAGES = """
systemd systemd-sysv udev dbus procps iproute2 util-linux man-db bpftool kmod busybox-static
python3-bpfcc libbpf1 python3-systemd python3-prometheus-client python3-h11 python3-pytest
""".split()
# Where man-db is installed, every apt and dpkg run indexes manual pages, which takes an emulated machine long.
REMOVED = "var/lib/man-db/auto-update"
# A test sets the clock a day ahead, and these would run at once; apt's would hold dpkg's lock during another test.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "man-db.timer")
# Runs the tests before and after the reboot. Output goes to the second serial port, because agetty has the first.
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /input && tar -x -C /input -f /dev/vdb && exec sh /input/guest/run'
StandardOutput=file:/dev/{port}
StandardError=inherit
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
# mmdebstrap knows a suite's other sources, but not its backports.
BACKPORTS = 'sed "s/{suite}-updates/{suite}-backports/;t;d" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/backports.list"'
OTHER_SUITE = 'sed "s/{suite}-updates/{other}/;t;d" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/kernel.list"'
# On an emulated CPU, byte-compiling Python's modules takes longer than everything else.
NO_PY3COMPILE = (
    'chroot "$1" dpkg-divert --quiet --local --rename --divert /usr/bin/py3compile.real --add /usr/bin/py3compile '
    '&& ln -s /bin/true "$1/usr/bin/py3compile"'
)
PY3COMPILE = (
    'rm "$1/usr/bin/py3compile" && '
    'chroot "$1" dpkg-divert --quiet --local --rename --divert /usr/bin/py3compile.real --remove /usr/bin/py3compile'
)
# Debian's initrd would load more, start its own udev, and take minutes to build for another architecture.
DRIVERS = ("virtio_pci", "virtio_blk", "ext4")
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for driver in /drivers/*; do /bin/busybox insmod "$driver" || exit 1; done
/bin/busybox mount -t ext4 /dev/vda /root || exit 1
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
IMAGE_SIZE = 4 << 30


@dataclass(frozen=True)
class Image:
    """The files that a machine boots from."""

    disk: Path
    kernel: Path
    initrd: Path | None


def image(machine: Machine, cache: Path) -> Image:
    """A Debian with everything but killsnoopd; built if it is not in the cache."""
    own_kernel = isinstance(machine.kernel, Path)
    if own_kernel and not machine.kernel.exists():
        raise FileNotFoundError(f"{machine.kernel} is not there")
    folder = cache / f"{machine.name}-{_recipe(machine)}"
    if not folder.exists():
        for stale in cache.glob(f"{machine.name}-{'[0-9a-f]' * 12}"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(prefix=f"{machine.name}.", dir=cache) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _make(machine, Path(scratch) / "root", made)
            made.rename(folder)
    if own_kernel:
        return Image(folder / "disk", machine.kernel, None)
    return Image(folder / "disk", folder / "vmlinuz", folder / "initrd")


def _recipe(machine: Machine) -> str:
    """A hash of everything that determines the image."""
    parts = (
        machine.suite, str(machine.kernel), machine.backports, machine.architecture.name,
        *filter(None, [machine.kernel_suite]), _unit(machine), MASKED, PACKAGES, REMOVED, BACKPORTS, NO_PY3COMPILE, PY3COMPILE, DRIVERS, INIT,
        *machine.packages,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _unit(machine: Machine) -> str:
    return UNIT.format(port=machine.architecture.port)


def _make(machine: Machine, root: Path, made: Path) -> None:
    """Fill the folder `made`: disk and, if the kernel is a package, vmlinuz and initrd."""
    _bootstrap(machine, root)
    (root / REMOVED).unlink(missing_ok=True)
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text(f"{machine.name}\n")
    units = root / "etc/systemd/system"
    (units / "vm-test.service").write_text(_unit(machine))
    for timer in MASKED:
        (units / timer).symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "vm-test.service").symlink_to("../vm-test.service")
    (root / "var/log/journal").mkdir(exist_ok=True)  # a journal that survives the reboot
    if not isinstance(machine.kernel, Path):
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, made / "vmlinuz")
        _make_initrd(root, kernel.name.removeprefix("vmlinuz-"), made / "initrd")
    disk = made / "disk"
    with disk.open("wb") as file:
        file.truncate(IMAGE_SIZE)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk)], check=True)


def _bootstrap(machine: Machine, root: Path) -> None:
    """Debian, in a folder."""
    packages, hooks = [*PACKAGES, *machine.packages], []
    if not isinstance(machine.kernel, Path):
        kernel = machine.kernel.format(architecture=machine.architecture.name)
        suite = machine.kernel_suite or (f"{machine.suite}-backports" if machine.backports else "")
        packages.append(f"{kernel}/{suite}" if suite else kernel)
    if machine.backports:
        hooks.append(f"--setup-hook={BACKPORTS.format(suite=machine.suite)}")
    if machine.kernel_suite:
        hooks.append(f"--setup-hook={OTHER_SUITE.format(suite=machine.suite, other=machine.kernel_suite)}")
    if machine.architecture.name != _native():
        hooks += [f"--essential-hook={NO_PY3COMPILE}", f"--customize-hook={PY3COMPILE}"]
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={machine.architecture.name}",
        "--aptopt=Acquire::Check-Valid-Until false",  # a mirror may lag behind unstable
        *hooks, f"--include={','.join(packages)}", machine.suite, str(root),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "INITRD": "No"})  # the kernel's own hooks build none


def _native() -> str:
    command = ["dpkg", "--print-architecture"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _make_initrd(root: Path, release: str, path: Path) -> None:
    """The drivers of the root file system, and a shell that loads them in order."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        for folder in ("bin", "dev", "root", "drivers"):
            (tree / folder).mkdir()
        shutil.copy(root / "bin/busybox", tree / "bin/busybox")
        for number, driver in enumerate(_drivers(root, release)):
            (tree / f"drivers/{number:02}").write_bytes(_uncompressed(driver))
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        names = "\n".join(str(found.relative_to(tree)) for found in sorted(tree.rglob("*")))
        with path.open("wb") as file:
            command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=+0:+0"]
            subprocess.run(command, check=True, cwd=tree, input=names.encode(), stdout=file)


def _drivers(root: Path, release: str) -> list[Path]:
    """The modules of DRIVERS, each after those that it needs, without those built into the kernel."""
    modules = root / "lib/modules" / release
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, needed = line.partition(": ")
        needs[name.rstrip(":")] = needed.split()
    by_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    wanted: list[str] = []
    for name in DRIVERS:
        if name in by_name:
            wanted += [*reversed(needs[by_name[name]]), by_name[name]]
    # ext4 requests its checksum module by an alias.
    if "ext4" in by_name and "crc32c_generic" in by_name:
        wanted.insert(0, by_name["crc32c_generic"])
    return [modules / path for path in dict.fromkeys(wanted)]


def _uncompressed(module: Path) -> bytes:
    if module.suffix == ".xz":
        return lzma.decompress(module.read_bytes())
    if module.suffix == ".zst":
        return subprocess.run(["zstd", "--decompress", "--stdout", str(module)], check=True, capture_output=True).stdout
    return module.read_bytes()
