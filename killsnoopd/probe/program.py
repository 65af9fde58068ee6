"""The probe's source and bytecode: macros, hashes, and the layout of its maps."""

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from killsnoopd import names
from killsnoopd.probe.hooks import HOOKS, PROGRAMS
from killsnoopd.settings import PAGE_BYTES, RULES_MAX, Rule, Settings

BPF_DIR = Path(__file__).parent.parent / "bpf"
MAIN = BPF_DIR / "killsnoop.bpf.c"
MAPS_HEADER = BPF_DIR / "maps.h"

RDONLY_CAST = 0x6B73  # placeholder for a call of bpf_rdonly_cast; no helper has this number
EVENTS_FD = 0x6B74  # placeholder for the fd of the ring buffer; too high to be a real fd of the compiler
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1  # an instruction that loads a map: opcode, source register
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2  # a call: opcode, source register if it calls a kernel function

# The following must match maps.h and killsnoop.bpf.c.
RESULTS = ("success", "EPERM", "ESRCH", "EBADF", "EAGAIN", "EFAULT", "EINVAL", "(other)")
PROBE_STATUSES = ("filtered", "rate_limited", "ring_full", "emitted")  # of an event in the probe: enum event_status
DAEMON_STATUSES = ("logged", "filtered", "journal_error", "decode_error")  # of an emitted event: words of `ledger`
LEDGER_WORDS = 16  # of 8 bytes
SELF_TEST_PID = 6  # index of the word with the pid of the process that tests the probe
KINDS = 4  # of events, enum kind: the probe counts each kind by status
SERIES_BYTES, VICTIM_BYTES = 24, 144  # struct series, struct victim
UNIT_BYTES = 64  # of a unit's name, with a NUL: UNIT_LEN
POD_UID_BYTES, POD_LABEL_BYTES = 40, 360  # of a pod's uid, with a NUL; struct pod_label
_RULE = struct.Struct("=QQ16s16sII")  # struct rule
DAEMON_MAPS = (  # read by the daemon
    "counts", "series", "victims", "pod_labels", "last_used", "slot_state", "events", "ledger",
)  # fmt: skip
TABLES = 2  # enum table
SLOT_STATE = ("taken", "version", "queue_head", "queue_tail", "lock")  # of a table: enum slot_state
JUMPS = tuple(f"to_{name}" for name in PROGRAMS)
PROBE_MAPS = (  # used by the probe and the next loader only
    "slots", "victim_slots", "retired", "buckets", "shared_buckets", "scratch_buffers", "histories", "no_history",
    "history_shares", "undecided_kills", "oom_call", "known", "dead", "rules", *JUMPS,
)  # fmt: skip


def macros(settings: Settings, cpus: int, page_bytes: int) -> dict[str, int]:
    """The C macros of the settings, for a machine with `cpus` possible CPUs."""
    excluded, fatal = (sum(1 << number for number in numbers) for numbers in (settings.excluded, names.FATAL))
    interval_ns = 1_000_000_000 // settings.rate if settings.rate else 0
    return {
        "CPUS": cpus,
        "PAGE_SIZE": page_bytes,
        "SERIES_MAX": settings.max_series,
        "DEATHS_MAX": settings.max_deaths,
        "RING_PAGES": max(1, settings.ring_bytes // page_bytes),
        "EXCLUDE_LOW": excluded & (1 << 64) - 1,
        "EXCLUDE_HIGH": excluded >> 64,
        "RULES": len(settings.rules),
        "FATAL_LOW": fatal & (1 << 64) - 1,
        "FATAL_HIGH": fatal >> 64,
        "EVENT_INTERVAL_NS": interval_ns,
        "EVENT_BURST_NS": interval_ns * (settings.burst - 1),
        "TTL_NS": settings.series_ttl_s * 1_000_000_000,
        "GRACE_NS": settings.grace_s * 1_000_000_000,
        "SELF_SIGNALS": int(settings.self_signals),
        "CMDLINE": int(settings.cmdline),
    }


def rules(settings: Settings) -> list[bytes]:
    """The elements of the map `rules` (struct rule), those that are not used included."""
    used = [_rule(rule) for rule in settings.rules]
    return used + [bytes(_RULE.size)] * (RULES_MAX - len(used))


def _rule(rule: Rule) -> bytes:
    signals = sum(1 << number for number in rule.signals)
    # The name and the NUL after it: Linux before 5.17 leaves parts of a former name behind that.
    name, name_mask = (b"", b"") if rule.comm is None else (rule.comm, b"\xff" * (len(rule.comm) + 1))
    uid, uid_mask = (0, 0) if rule.uid is None else (rule.uid, (1 << 32) - 1)
    return _RULE.pack(signals & (1 << 64) - 1, signals >> 64, name, name_mask, uid, uid_mask)


def probe_hash(settings: Settings) -> str:
    """Identifies the probe: a hash of the source and the settings. Pins have this name."""
    described = json.dumps([sorted(settings.syscalls), settings.attach, macros(settings, 1, PAGE_BYTES)])
    sources = (path.read_bytes() for path in sorted(BPF_DIR.rglob("*.[ch]")))
    return _digest(described.encode(), *rules(settings), *sources)


def layout_hash(settings: Settings, ways: dict[str, str]) -> str:
    """Identifies the layout of the maps: a probe can take over the maps of another with the same layout.

    Comments and white space in maps.h do not change it. The way of each program does: a program array takes programs of
    one type only. Whether an optional one is attached does not: it has one way.
    """
    optional = {hook.program for hook in HOOKS if hook.optional}
    ways = {program: way for program, way in ways.items() if program not in optional}
    text = re.sub(r"/\*.*?\*/", " ", MAPS_HEADER.read_text(), flags=re.DOTALL)
    described = json.dumps([settings.max_series, settings.max_deaths, settings.ring_bytes, ways], sort_keys=True)
    return _digest(described.encode(), " ".join(text.split()).encode())


def source() -> str:
    """The probe's source as one text, with each .c file in place of its #include.

    bcc translates `counts.lookup()` and the like only in the main file.
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


def relocated(instructions: bytes, maps: dict[int, int], rdonly_cast: int) -> bytes:
    """The instructions with each map fd replaced as `maps` says, and the placeholder by a call of bpf_rdonly_cast.

    `rdonly_cast` is the BTF id of that function.
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


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Layout:
    """Offsets in `counts`, in cells of 8 bytes; there is a row of cells per CPU."""

    cpus: int
    series_max: int  # of calls; their cells are the first ones
    deaths_max: int  # series of deaths; theirs are the next

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """The layout of a probe of these settings on this machine."""
        return cls(possible_cpus(), settings.max_series, settings.max_deaths)

    @property
    def overflow(self) -> int:
        """First cell of the calls that found no counter: one per signal and result."""
        return self.series_max + self.deaths_max

    @property
    def overflow_deaths(self) -> int:
        """First cell of the deaths that found no counter: one per signal and origin."""
        return self.overflow + len(names.SIGNALS) * len(RESULTS)

    @property
    def aged(self) -> int:
        """First cell of the calls of recycled series: one per signal and result."""
        return self.overflow_deaths + len(names.SIGNALS) * len(names.DEATH_ORIGINS)

    @property
    def aged_deaths(self) -> int:
        """First cell of the deaths of recycled series: one per signal and origin."""
        return self.aged + len(names.SIGNALS) * len(RESULTS)

    @property
    def deliveries(self) -> int:
        """First cell of the deliveries: one per signal, origin and outcome."""
        return self.aged_deaths + len(names.SIGNALS) * len(names.DEATH_ORIGINS)

    @property
    def exits(self) -> int:
        """First cell of the exits after a handled signal: one per signal."""
        return self.deliveries + len(names.SIGNALS) * len(names.ORIGINS) * len(names.OUTCOMES)

    @property
    def escalations(self) -> int:
        """The cell of the escalations."""
        return self.exits + len(names.SIGNALS)

    @property
    def ledger(self) -> int:
        """First cell of the probe's half of the ledger: one per kind and status."""
        return self.escalations + 1

    @property
    def not_handled(self) -> int:
        """First cell of the runs that found an empty program array: one per program."""
        return self.ledger + KINDS * len(PROBE_STATUSES)

    @property
    def row(self) -> int:
        """Cells in a row."""
        return -(-(self.not_handled + len(PROGRAMS)) // 8) * 8


def possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """The number of possible CPUs: the highest CPU number plus one. Source: sysfs, like `0-3`."""
    return int(path.read_bytes().split(b",")[-1].split(b"-")[-1]) + 1
