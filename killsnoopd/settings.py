"""The settings of the probe and the rules of --metrics.fold. Pure: shared by command line, loader and daemon."""

from __future__ import annotations

from dataclasses import dataclass

from killsnoopd import names

PAGE_BYTES = 4096  # the smallest page of any machine
FOLD_NUMBERS = "numbers"
"""The rule of --metrics.fold that replaces every number in every name by `#`."""


ATTACH = ("fexit", "kprobe", "tracepoint")
"""Ways of --probe.attach, besides auto."""

RULES_MAX = 16
"""Rules of --events.exclude that the probe can apply."""


@dataclass(frozen=True)
class Rule:
    """A rule of --events.exclude: events of these signals by such a sender are not logged. None: any sender."""

    signals: frozenset[int]  # 0..65
    comm: bytes | None = None  # the sender's process name, up to 15 bytes
    uid: int | None = None  # the sender's, on the host
    unit: str | None = None  # the sender's systemd unit; only the daemon knows it


@dataclass(frozen=True)
class Settings:
    """The settings that the probe is compiled with. Daemons with equal settings can use the same pinned probe."""

    syscalls: tuple[str, ...] = names.SYSCALLS
    grace_s: int = 120  # a SIGKILL this soon after a SIGTERM is an escalation
    self_signals: bool = False
    max_series: int = 10_000
    max_deaths: int = 2_000
    series_ttl_s: int = 86_400  # a series that is idle this long may lose its counter to a new one; 0: never
    ring_bytes: int = 1 << 22
    excluded: frozenset[int] = frozenset()  # signal numbers 0..65 whose events are not emitted
    rules: tuple[Rule, ...] = ()  # other events that are not emitted; at most RULES_MAX, each with a comm or a uid
    rate: int = 500  # events per second and uid; 0: no limit
    burst: int = 2000  # events
    cmdline: bool = True  # events have the sender's command line
    attach: str = "auto"  # how the exits of system calls are attached: auto, or one of ATTACH


def check_fold_rule(rule: str) -> str:
    """The rule, if it is a valid one for --metrics.fold. Raises ValueError."""
    if rule != FOLD_NUMBERS and not {"*", "#"} & set(rule):
        raise ValueError(
            f"{rule!r} is not a rule: write a name with * for any text or # for a number, or {FOLD_NUMBERS}"
        )
    return rule
