"""The settings of the probe and the rules of --metrics.fold. Pure: shared by command line, loader and daemon."""

from dataclasses import dataclass

from killsnoopd import names

PAGE_BYTES = 4096  # the smallest page of any machine
FOLD_NUMBERS = "numbers"
"""The rule of --metrics.fold that replaces every number in every name by `#`."""


ATTACH = ("fexit", "kprobe", "tracepoint")
"""Ways of --probe.attach, besides auto."""


@dataclass(frozen=True)
class Settings:
    """The settings that the probe is compiled with. Daemons with equal settings can use the same pinned probe."""

    syscalls: tuple[str, ...] = names.SYSCALLS
    grace_s: int = 120  # a SIGKILL this soon after a SIGTERM is an escalation
    self_signals: bool = False
    max_series: int = 10_000
    series_ttl_s: int = 86_400  # a series that is idle this long may lose its counter to a new one; 0: never
    ring_bytes: int = 1 << 21
    excluded: frozenset[int] = frozenset()  # signal numbers 0..65 whose events are not emitted
    rate: int = 500  # events per second and uid; 0: no limit
    burst: int = 2000  # events
    attach: str = "auto"  # how the exits of system calls are attached: auto, or one of ATTACH


def check_fold_rule(rule: str) -> str:
    """The rule, if it is a valid one for --metrics.fold. Raises ValueError."""
    if rule != FOLD_NUMBERS and not {"*", "#"} & set(rule):
        raise ValueError(
            f"{rule!r} is not a rule: write a name with * for any text or # for a number, or {FOLD_NUMBERS}"
        )
    return rule
