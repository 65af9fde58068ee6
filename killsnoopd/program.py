"""The probe's program: what it is compiled with, how its maps are laid out, and the hash that names the whole."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from killsnoopd import names

BPF_DIR = Path(__file__).parent / "bpf"
MAIN = BPF_DIR / "killsnoop.bpf.c"
MEMORY = BPF_DIR / "memory.h"
PAGE_BYTES = 4096

# The rest must match memory.h and killsnoop.bpf.c.
RESULTS = ("success", "EPERM", "ESRCH", "EBADF", "EAGAIN", "EFAULT", "EINVAL", "(other)")
LEDGER = ("filtered", "rate_limited", "ring_full", "emitted")  # enum fate
KINDS = 3  # of events, enum kind: each has a ledger of its own in the kernel
SERIES_BYTES = 24
# enum program: NAME is attached, on_NAME does the work
PROGRAMS = ("sys_exit", "signal_generate", "mark_victim", "sched_process_exit")
MAPS = ("counts", "series", "directory", "events", "ledger")  # the daemon's to read
DIRECTORY = ("taken", "version", "queue_head", "queue_tail", "lock")  # enum directory
JUMPS = tuple(f"to_{name}" for name in PROGRAMS)
KEPT = (  # the probe's own
    "slots", "retired", "used", "budgets", "newcomers", "drafts", "doomed", "suspects", "dead", "memos", *JUMPS,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the probe is compiled with. Two daemons with equal settings share a pinned probe."""

    syscalls: tuple[str, ...] = names.SYSCALLS
    grace_s: int = 120  # a SIGKILL this soon after a SIGTERM is an escalation
    self_signals: bool = False
    max_series: int = 10_000
    series_ttl_s: int = 86_400  # a name that was idle for so long may lose its counter to a new one; 0: never
    ring_bytes: int = 1 << 21
    excluded: frozenset[int] = frozenset()  # signal numbers 0..65 whose events are not emitted
    rate: int = 500  # events a second and uid; 0: no limit
    burst: int = 2000  # events

    @property
    def tracepoints(self) -> tuple[str, ...]:
        """Where the programs are attached: a system call stands for the tracepoint at its exit."""
        return (*self.syscalls, "signal_generate", "mark_victim", "sched_process_exit")

    def macros(self, cpus: int, page_bytes: int) -> dict[str, int]:
        """The C macros of these settings, for a machine with so many possible CPUs."""
        excluded, fatal = (sum(1 << number for number in numbers) for numbers in (self.excluded, names.FATAL))
        interval_ns = 1_000_000_000 // self.rate if self.rate else 0
        return {
            "CPUS": cpus,
            "PAGE_SIZE": page_bytes,
            "SERIES_MAX": self.max_series,
            "RING_PAGES": max(1, self.ring_bytes // page_bytes),
            "EXCLUDE_LOW": excluded & (1 << 64) - 1,
            "EXCLUDE_HIGH": excluded >> 64,
            "FATAL_LOW": fatal & (1 << 64) - 1,
            "FATAL_HIGH": fatal >> 64,
            "EVENT_INTERVAL_NS": interval_ns,
            "EVENT_BURST_NS": interval_ns * (self.burst - 1),
            # In ticks of 2**30 ns.
            "TTL": -(-self.series_ttl_s * 1_000_000_000 // (1 << 30)),
            "GRACE_NS": self.grace_s * 1_000_000_000,
            "SELF_SIGNALS": int(self.self_signals),
        }

    def hash(self) -> str:
        """Names the probe that these settings make of the source; pins are kept under this name."""
        return _digest([sorted(self.syscalls), self.macros(1, PAGE_BYTES)], *sorted(BPF_DIR.rglob("*.[ch]")))

    def memory_hash(self) -> str:
        """Names what the probe keeps: one of the same memory can take over from another, counts and all."""
        return _digest([self.max_series, self.ring_bytes], MEMORY)


def source() -> str:
    """The probe's source as one text, the .c files in place of their #include.

    bcc understands `counts.lookup()` and the like in its main file alone.
    """
    lines = []
    for number, line in enumerate(MAIN.read_text().splitlines(), 1):
        included = re.fullmatch(r'#include "(\w+\.c)"', line)
        if included:
            text = (BPF_DIR / included[1]).read_text()
            lines.append(f'#line 1 "{included[1]}"\n{text}#line {number + 1} "{MAIN.name}"')
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _digest(settings: list[object], *files: Path) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Layout:
    """Where things are in the maps; cells are 8 bytes, a row of them per CPU."""

    cpus: int
    series_max: int

    @property
    def overflow(self) -> int:
        """First cell of the overflow table: a cell per signal and result."""
        return self.series_max

    @property
    def aged(self) -> int:
        """First cell of the calls whose name has lost its counter: like the overflow table."""
        return self.overflow + len(names.SIGNALS) * len(RESULTS)

    @property
    def deliveries(self) -> int:
        """First cell of the deliveries: a cell per signal, origin and outcome."""
        return self.aged + len(names.SIGNALS) * len(RESULTS)

    @property
    def deaths(self) -> int:
        """First cell of the deaths: two cells per signal, sender not seen and seen."""
        return self.deliveries + len(names.SIGNALS) * len(names.ORIGINS) * len(names.OUTCOMES)

    @property
    def escalations(self) -> int:
        """The cell of the escalations."""
        return self.deaths + len(names.SIGNALS) * 2

    @property
    def ledger(self) -> int:
        """First cell of the kernel's part of the ledger: KINDS times LEDGER."""
        return self.escalations + 1

    @property
    def not_handled(self) -> int:
        """First cell of the runs that came to nothing: one per program."""
        return self.ledger + KINDS * len(LEDGER)

    @property
    def row(self) -> int:
        """Cells in a row."""
        return -(-(self.not_handled + len(PROGRAMS)) // 8) * 8


def possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """How many CPU numbers this machine can ever use; source: sysfs, like `0-3`."""
    return int(path.read_text().strip().split(",")[-1].split("-")[-1]) + 1
