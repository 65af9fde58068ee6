"""The machines that tests/vm boots: one row each."""

from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Architecture:
    """How QEMU emulates it, and where the console and the tests' output are."""

    name: str  # Debian's
    qemu: tuple[str, ...]
    console: str
    port: str  # serial port of the tests' output
    serial: tuple[str, ...]


AMD64 = Architecture(
    # QEMU 7.2's cmpxchg16b crashes newer kernels, now and then with one CPU, too: they can do without that instruction.
    "amd64", ("qemu-system-x86_64", "-cpu", "qemu64,-cx16,-svm"), "ttyS0", "ttyS1", ("-serial", "file:{output}"),
)  # fmt: skip
ARM64 = Architecture(
    "arm64", ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"), "ttyAMA0", "ttyS0",
    ("-chardev", "file,id=output,path={output}", "-device", "pci-serial,chardev=output"),  # `virt` has one port of its own
)  # fmt: skip

# Tests after the reboot, in this order: removal removes the package, and those before it have flags of their own, which
# take long to change.
GUEST = tuple(
    f"test_{name}.py" for name in ("boot", "journal", "privileges", "pins", "faults", "no_loss", "journald", "removal")
)
# tests/kernel, between installation and reboot: what the probe makes of a kernel.
KERNEL = tuple(f"test_{name}.py" for name in ("coverage", "signals", "identity", "deaths", "pins"))


@dataclass(frozen=True)
class Machine:
    """A Debian that is booted, and what runs there."""

    name: str
    suite: str  # Debian's
    kernel: str | Path = "linux-image-{architecture}"  # a package, or a file with all drivers built in
    backports: bool = False  # from the suite's backports
    architecture: Architecture = AMD64
    boot: str = ""  # more of the kernel's command line
    guest: tuple[str, ...] = GUEST
    kernel_tests: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)  # {test: why it cannot be there}
    deadline_s: float = 3000


CI = (
    Machine("bookworm", "bookworm"),
    Machine("trixie", "trixie"),
    # The newest kernel that Debian 13 gets.
    Machine(
        "trixie-backports", "trixie", backports=True,
        guest=tuple(f"test_{name}.py" for name in ("boot", "journal", "privileges", "faults", "removal")),
        kernel_tests=("test_coverage.py", "test_signals.py", "test_deaths.py"),
    ),
)  # fmt: skip

_LESS = {"guest": ("test_boot.py", "test_journal.py"), "kernel_tests": ("test_coverage.py", "test_signals.py")}
MATRIX = (
    Machine("sid", "sid", **_LESS),
    Machine("trixie-rt", "trixie", "linux-image-rt-amd64", **_LESS),
    Machine("trixie-cloud", "trixie", "linux-image-cloud-amd64", **_LESS),
    Machine("clang", "trixie", TOP / "build/clang-kernel/vmlinuz", **_LESS),
    Machine("trixie-arm64", "trixie", architecture=ARM64, deadline_s=6000, **_LESS),
    Machine("trixie-backports-arm64", "trixie", backports=True, architecture=ARM64, deadline_s=6000, **_LESS),
)
MACHINES = {machine.name: machine for machine in (*CI, *MATRIX)}
