"""What the flags ask of the probe. Pure: the command line, the loader and the daemon share it."""

from dataclasses import dataclass

from killsnoopd import names

PAGE_BYTES = 4096  # the smallest page of any machine
FOLD_NUMBERS = "numbers"
"""The rule of --metrics.fold that makes `#` of every number in every name."""


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


def check_fold_rule(rule: str) -> str:
    """A rule of --metrics.fold, if it is one. Raises ValueError."""
    if rule != FOLD_NUMBERS and not {"*", "#"} & set(rule):
        raise ValueError(
            f"{rule!r} is not a rule: write a name with * for any text or # for a number, or {FOLD_NUMBERS}"
        )
    return rule
