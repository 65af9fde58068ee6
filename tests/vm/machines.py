"""The machines that tests/vm boots, one per row."""

from dataclasses import dataclass, field, replace
from pathlib import Path

TOP = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Architecture:
    """How QEMU emulates it, and the ports for its console and the tests' output."""

    name: str  # Debian's
    qemu: tuple[str, ...]
    console: str
    port: str  # serial port for the tests' output
    serial: tuple[str, ...]


AMD64 = Architecture(
    # QEMU 7.2's cmpxchg16b sometimes crashes newer kernels, even with one CPU; they work without that instruction.
    "amd64", ("qemu-system-x86_64", "-cpu", "qemu64,-cx16,-svm"), "ttyS0", "ttyS1", ("-serial", "file:{output}"),
)  # fmt: skip
ARM64 = Architecture(
    "arm64", ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"), "ttyAMA0", "ttyS0",
    ("-chardev", "file,id=output,path={output}", "-device", "pci-serial,chardev=output"),  # `virt` has one port itself
)  # fmt: skip
# The cortex-a72 has no pages of 16 KB.
ARM64_16K = replace(ARM64, qemu=("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a76"))


def _files(*names: str) -> tuple[str, ...]:
    return tuple(f"test_{name}.py" for name in names)


# Tests after the reboot, in this order: lockdown, which stays, and removal come last. Those before them need flags of their
# own, which take long to change.
GUEST = _files("boot", "journal", "privileges", "pins", "faults", "origins", "no_loss", "journald", "hooks", "removal")
# tests/kernel, between installation and reboot: how the probe works on this kernel.
KERNEL = _files("coverage", "origins", "oom", "signals", "identity", "deaths", "pins", "attaching", "storm")


@dataclass(frozen=True)
class Machine:
    """A Debian to boot, and the tests that run there."""

    name: str
    suite: str  # Debian's
    kernel: str | Path = "linux-image-{architecture}"  # a package, or a file with all drivers built in
    backports: bool = False  # from the suite's backports
    kernel_suite: str = ""  # from another suite
    architecture: Architecture = AMD64
    packages: tuple[str, ...] = ()  # besides those of image.py
    boot: str = ""  # added to the kernel's command line
    installation: str = "test_installation.py"
    guest: tuple[str, ...] = GUEST
    kernel_tests: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)  # {test: why it cannot run there}
    deadline_s: float = 9000


BOOKWORM = Machine("bookworm", "bookworm", kernel_tests=KERNEL)
TRIXIE = Machine("trixie", "trixie", kernel_tests=KERNEL)
# The newest kernel for Debian 13.
BACKPORTS = Machine("trixie-backports", "trixie", backports=True, kernel_tests=KERNEL)

# Each one boots and shows that it is exact; the other tests are divided among them.
_EXACT = tuple(f"test_storm.py::test_{name}" for name in ("calls", "deliveries", "deaths"))
MAIN = (
    replace(TRIXIE, guest=_files("boot", "journal", "no_loss", "journald", "hooks"), kernel_tests=_EXACT),
    replace(BOOKWORM, guest=_files("boot", "privileges", "removal"), kernel_tests=_EXACT),
    replace(BACKPORTS, guest=_files("boot", "faults"), kernel_tests=_files("coverage", "oom", "storm")),
)

_LESS = {"guest": ("test_boot.py", "test_journal.py"), "kernel_tests": ("test_coverage.py", "test_signals.py")}
_AND_STORMS = {"kernel_tests": (*_LESS["kernel_tests"], *_EXACT)}
_ARM64 = _LESS | {
    "architecture": ARM64,
    # Probably as this CPU leaves the access flag to the kernel, and a child's pages are without it until it uses them.
    "left_out": {
        "test_journal.py::test_the_killer_shows_in_the_victims_log": "a forked sender's command line is not readable",
    },
}
_LOCKED = _LESS | {
    "boot": "lockdown=confidentiality",
    "left_out": {
        "test_journal.py::test_the_killer_shows_in_the_victims_log": "the unit is looked up, and gone with the process",
    },
}
ARM64_TRIXIE = Machine("trixie-arm64", "trixie", **_ARM64 | _AND_STORMS)
CI = (*MAIN, replace(ARM64_TRIXIE, kernel_tests=_files("coverage")))
MATRIX = (
    *MAIN,
    Machine("sid", "sid", **_LESS),
    Machine("trixie-rt", "trixie", "linux-image-rt-amd64", **_LESS | _AND_STORMS),
    Machine("trixie-cloud", "trixie", "linux-image-cloud-amd64", **_LESS),
    # Talos's default: tracefs has no events then.
    Machine("trixie-lockdown", "trixie", **_LOCKED),
    Machine("trixie-backports-lockdown", "trixie", backports=True, **_LOCKED),
    Machine("clang", "trixie", TOP / "build/clang-kernel/vmlinuz", **_LESS),
    # Debian 11's kernel, which lacks what the probe needs.
    Machine(
        "bookworm-5.10", "bookworm", kernel_suite="bullseye", installation="test_refused.py", guest=("test_refused.py",)
    ),
    # Container runtimes, with what Debian recommends beside them; no registry is needed.
    Machine(
        "trixie-runtimes",
        "trixie",
        packages=tuple(
            "podman crun runc docker.io docker-cli containerd systemd-container lxc apparmor "
            "catatonit aardvark-dns nftables uidmap passt slirp4netns dbus-user-session libpam-systemd python3-yaml".split()
        ),
        guest=("test_boot.py", "test_origins.py", "test_runtimes.py", "test_image.py"),
    ),
    # With what builds a module.
    Machine("trixie-livepatch", "trixie", packages=("make", "linux-headers-amd64"), guest=("test_livepatch.py",)),
    Machine(
        "trixie-backports-livepatch",
        "trixie",
        backports=True,
        packages=("make", "binutils", "linux-headers-amd64/trixie-backports"),
        guest=("test_livepatch.py",),
    ),
    ARM64_TRIXIE,
    Machine("trixie-backports-arm64", "trixie", backports=True, **_ARM64),
    Machine("trixie-arm64-16k", "trixie", "linux-image-arm64-16k", **_ARM64 | {"architecture": ARM64_16K}),
)
# With all tests: --suite=NAME. Each takes too long to be a part of the matrix.
WHOLE = (BOOKWORM, TRIXIE, BACKPORTS, replace(ARM64_TRIXIE, guest=GUEST, kernel_tests=KERNEL))
MACHINES = {machine.name: machine for machine in (*MATRIX, *WHOLE)}
