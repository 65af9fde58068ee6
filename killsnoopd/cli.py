"""Parses the command line into a Config. Pure: it reads only its arguments."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from killsnoopd import __version__, names
from killsnoopd.failure import MEANINGS
from killsnoopd.settings import ATTACH, PAGE_BYTES, RULES_MAX, Rule, Settings, check_fold_rule

DEFAULT_EXCLUDED = frozenset(map(names.signal_number, ("0", "SIGCHLD", "SIGURG", "SIGWINCH")))
_ALL = frozenset(range(len(names.SIGNALS)))

_DEFAULT_ADDRESS = ":10035"

_EXAMPLES = """\
examples:
  killsnoopd
        metrics on port 10035 of every address; events to the journal
  killsnoopd --web.listen-address=127.0.0.1:10035 --events.target=stdout
        metrics on loopback; events as JSON lines on stdout
  killsnoopd --events.exclude=signal=all --events.include-signal=SIGKILL,SIGTERM
        count every signal, log only these two
  killsnoopd --events.exclude=uid=1000,signal=SIGUSR1,SIGUSR2 --events.exclude=comm=timeout
        do not log these two signals of uid 1000, nor anything that timeout sends
  killsnoopd --check
        say what is missing on this machine
  killsnoopd --events.include-signal=0
        also log signal 0, which only checks that a process exists

exit codes:
"""


@dataclass(frozen=True)
class Config:
    """The command line, parsed."""

    listen_addresses: tuple[tuple[str, int], ...]  # host ("" for every address), port
    systemd_socket: bool
    telemetry_path: str
    web_config_file: Path | None  # TLS, users, headers
    max_requests: int  # concurrent scrapes; 0: no limit
    events_target: str  # auto, journal, stdout or none
    unit_rules: tuple[Rule, ...]  # of --events.exclude, that only the daemon can apply (events/exclusion.py)
    fold: tuple[str, ...]  # rules that merge series on the page (metrics/fold.py)
    timestamps: bool  # on the page
    expected_senders: tuple[str, ...]  # as they are on the page
    probe: Settings
    pin: Path | None  # open the probe pinned below this folder instead of loading one
    log_level: str


def listen_address(value: str) -> tuple[str, int]:
    """Host and port of `:10035`, `127.0.0.1:10035`, `[::1]:10035` or `localhost:10035`."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\[\]:]*)):(\d{1,5})", value)
    if not match or int(match[3]) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is not an address: write host:port, :port or [ipv6]:port")
    return match[1] or match[2] or "", int(match[3])


def signals(value: str) -> frozenset[int]:
    """Signal numbers of a list like `KILL,15`, or of `all`."""
    if value == "all":
        return _ALL
    try:
        return frozenset(names.signal_number(item.strip()) for item in value.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write SIGKILL, KILL, 9, SIGRTMIN+3, 0, invalid or all") from None


def rule(value: str) -> Rule:
    """A rule of --events.exclude, such as `comm=foo,signal=SIGUSR1,SIGUSR2`."""
    parts: dict[str, str] = {}
    key = ""
    for item in value.split(","):
        name, sign, rest = item.partition("=")
        if key == "signal" and not sign:
            parts[key] += f",{item}"
            continue
        key = name
        if key not in ("signal", "comm", "uid", "unit") or not rest:
            raise argparse.ArgumentTypeError(
                f"{item!r} is not signal=SIGNAL, comm=NAME, uid=N or unit=NAME (in a name, write \\x2c for a comma)"
            )
        if key in parts:
            raise argparse.ArgumentTypeError(
                f"{value!r} has two parts {key}=, and all parts of a rule must match: repeat the flag instead"
            )
        parts[key] = rest
    unit = parts.get("unit")
    return Rule(
        signals(parts["signal"]) if "signal" in parts else _ALL,
        _comm(parts["comm"]) if "comm" in parts else None,
        _whole(0, (1 << 32) - 2)(parts["uid"]) if "uid" in parts else None,
        f"{unit}.service" if unit and "." not in unit else unit,
    )


def _comm(text: str) -> bytes:
    """The name of a process, as events spell it."""
    try:
        name = names.raw(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if len(name) > names.COMM_BYTES:
        cut = names.text(name[: names.COMM_BYTES])
        raise argparse.ArgumentTypeError(
            f"{text!r} is too long: the kernel keeps {names.COMM_BYTES} bytes of a process name; write {cut}"
        )
    if not name or b"\0" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a process")
    return name


def _syscalls(value: str) -> tuple[str, ...]:
    chosen = [item.strip() for item in value.split(",")]
    for item in chosen:
        if item not in names.SYSCALLS:
            raise argparse.ArgumentTypeError(f"{item!r} is not one of {', '.join(names.SYSCALLS)}")
    return tuple(name for name in names.SYSCALLS if name in chosen)


def _bytes(value: str) -> int:
    match = re.fullmatch(r"(\d+)([KM]?)(?:i?B)?", value, re.IGNORECASE)
    size = int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2].upper()] if match else 0
    if size & (size - 1) or not PAGE_BYTES <= size <= 1 << 30:
        raise argparse.ArgumentTypeError(f"{value!r} is not a power of two from 4K to 1024M, such as 1M")
    return size


def _whole(low: int, high: int):  # type: ignore[no-untyped-def]
    def parse_whole(value: str) -> int:
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from {low} to {high}")
        return int(value)

    return parse_whole


def _expected_sender(value: str) -> str:
    """A label `comm`; names.text() makes no other characters."""
    if not value or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{value!r} is not the name of a process as it is on the page")
    return value


def _rule(value: str) -> str:
    try:
        return check_fold_rule(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _path(value: str) -> str:
    if not re.fullmatch(r"/[\w./-]+", value):
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a path: start it with / and use only letters, digits and . _ - /"
        )
    return value


class Parser(argparse.ArgumentParser):
    """Prints errors as one line, without the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


def parser() -> argparse.ArgumentParser:
    """The flags, in the order and spelling of Prometheus' exporters."""
    defaults = Settings()
    result = Parser(
        prog="killsnoopd",
        description="Who sent that signal? Counts every signal for Prometheus and logs it to the journal.",
        epilog=_EXAMPLES + "\n".join(f"  {code:>2}  {meaning}" for code, meaning in MEANINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add(
        "--web.listen-address",
        dest="listen_addresses",
        action="append",
        type=listen_address,
        metavar="HOST:PORT",
        help=f"address to serve metrics on; may be repeated (default {_DEFAULT_ADDRESS})",
    )
    add(
        "--web.systemd-socket",
        dest="systemd_socket",
        action="store_true",
        help="serve on the sockets passed by systemd instead",
    )
    add(
        "--web.telemetry-path",
        dest="telemetry_path",
        type=_path,
        default="/metrics",
        metavar="PATH",
        help="path of the metrics (default %(default)s)",
    )
    add(
        "--web.config.file",
        dest="web_config_file",
        type=lambda value: Path(value) if value else None,  # as exporter-toolkit: empty for no file
        metavar="FILE",
        help="TLS, users and HTTP headers, in the YAML format of Prometheus' exporters; changes take effect "
        "immediately",
    )
    add(
        "--web.max-requests",
        dest="max_requests",
        type=_whole(0, 1_000_000),
        default=40,
        metavar="N",
        help="scrapes answered at a time; others wait up to 4 seconds, then get 503; 0: no limit (default %(default)s)",
    )
    add(
        "--events.target",
        dest="events_target",
        choices=("auto", "journal", "stdout", "none"),
        default="auto",
        help="where to log events: journald, JSON lines on stdout, or nowhere; "
        "auto: the journal if there is one, else stdout (default %(default)s)",
    )
    add(
        "--events.exclude",
        dest="exclude",
        action="append",
        type=rule,
        default=[],
        metavar="KEY=VALUE[,KEY=VALUE]",
        help="count these events without logging them: signal=SIGNAL[,SIGNAL], comm=NAME, uid=N or unit=NAME of the "
        "sender, or several of these, joined by commas, which must all match; may be repeated "
        f"(always: {', '.join(names.SIGNALS[number] for number in sorted(DEFAULT_EXCLUDED))})",
    )
    add(
        "--events.include-signal",
        dest="include",
        action="append",
        type=signals,
        default=[],
        metavar="SIGNAL[,SIGNAL]",
        help="log these signals even if a rule excludes them; may be repeated",
    )
    add(
        "--events.rate",
        dest="rate",
        type=_whole(0, 1_000_000),
        default=defaults.rate,
        metavar="N",
        help="events logged per second for each sender uid; all uids together get what 6 %% of one core can log; "
        "0: no limit (default %(default)s)",
    )
    add(
        "--events.burst",
        dest="burst",
        type=_whole(1, 1_000_000),
        default=defaults.burst,
        metavar="N",
        help="events that a uid may log at once before the rate applies (default %(default)s)",
    )
    add(
        "--events.cmdline",
        dest="cmdline",
        choices=("on", "off"),
        default="on",
        help="log the sender's command line; off: for machines whose command lines hold secrets (default %(default)s)",
    )
    add(
        "--events.grace-period",
        dest="grace_s",
        type=_whole(0, 86_400),
        default=defaults.grace_s,
        metavar="SECONDS",
        help="a SIGKILL within this time after a SIGTERM to the same process is an escalation; "
        "systemd waits 90 s, Kubernetes 30 s, Docker 10 s (default %(default)s)",
    )
    add(
        "--metrics.max-series",
        dest="max_series",
        type=_whole(1, 1_000_000),
        default=defaults.max_series,
        metavar="N",
        help='sets of comm, signal and result with their own counter; the rest count as comm="(other)" '
        "(default %(default)s)",
    )
    add(
        "--metrics.max-deaths",
        dest="max_deaths",
        type=_whole(1, 1_000_000),
        default=defaults.max_deaths,
        metavar="N",
        help="sets of sender, victim, unit, signal and origin of deaths with their own counter; the rest count as "
        'tcomm="(other)" (default %(default)s)',
    )
    add(
        "--metrics.series-ttl",
        dest="series_ttl_s",
        type=_whole(0, 1_000_000_000),
        default=defaults.series_ttl_s,
        metavar="SECONDS",
        help="a set idle for this long may lose its counter to a new one; its calls or deaths "
        "then move to killsnoop_signals_aged_total or killsnoop_deaths_aged_total; 0: never "
        "(default %(default)s, a day)",
    )
    add(
        "--metrics.fold",
        dest="fold",
        action="append",
        type=_rule,
        default=[],
        metavar="RULE",
        help='show processes whose name matches RULE as one comm or tcomm, such as "worker-#" or "kworker/*": '
        "# matches a number, "
        "* any text; numbers replaces each number in each name by #; may be repeated",
    )
    add(
        "--metrics.expected-sender",
        dest="expected_senders",
        action="append",
        type=_expected_sender,
        default=[],
        metavar="COMM",
        help="a sender, as it is on the page, that the alerts expect to kill on this host: "
        "killsnoop_expected_sender_info; may be repeated",
    )
    add(
        "--no-metrics.timestamps",
        dest="timestamps",
        action="store_false",
        help="leave out when each series last counted: killsnoop_*_last_timestamp_seconds, which the alerts need",
    )
    add(
        "--probe.syscalls",
        dest="syscalls",
        type=_syscalls,
        default=defaults.syscalls,
        metavar="CALL[,CALL]",
        help=f"system calls to watch (default all: {', '.join(names.SYSCALLS)})",
    )
    add(
        "--probe.self-signals",
        dest="self_signals",
        action="store_true",
        help="also count tkill and tgkill within one process: raise, abort, pthread_kill, Go's preemption",
    )
    add(
        "--probe.ring-size",
        dest="ring_bytes",
        type=_bytes,
        default=defaults.ring_bytes,
        metavar="SIZE",
        help=f"memory for events waiting to be logged, a power of two (default {defaults.ring_bytes >> 20}M)",
    )
    add(
        "--probe.attach",
        dest="attach",
        choices=("auto", *ATTACH),
        default=defaults.attach,
        help="how to watch system calls; auto: of the ways that count each call on this kernel, the cheapest "
        "(default %(default)s)",
    )
    add(
        "--probe.pin",
        dest="pin",
        type=Path,
        metavar="DIR",
        help="use the probe that killsnoopd-loader --pin DIR pinned there instead of loading one",
    )
    add(
        "--log.level",
        dest="log_level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="minimum level of the daemon's own log, on stderr (default %(default)s)",
    )
    add(
        "--check",
        action="store_true",
        help="say what killsnoopd needs with these flags, what is missing and what is lost without it, then exit",
    )
    add("--version", action="version", version=f"killsnoopd {__version__}")
    return result


def parse(argv: list[str]) -> Config:
    """Parse a command line. A wrong flag prints one line and raises SystemExit(2)."""
    flags = parser()
    args = flags.parse_args(argv)
    included: frozenset[int] = frozenset().union(*args.include)
    rules = [replace(each, signals=each.signals - included) for each in dict.fromkeys(args.exclude)]
    by_signal = [each for each in rules if each == Rule(each.signals)]
    by_unit = [each for each in rules if each.unit is not None]
    by_sender = [each for each in rules if each not in by_signal + by_unit and each.signals]
    excluded = DEFAULT_EXCLUDED.union(*(each.signals for each in by_signal)) - included
    if args.events_target == "none":
        excluded = _ALL
    if len(by_sender) > RULES_MAX:
        flags.error(f"argument --events.exclude: at most {RULES_MAX} rules may have comm= or uid= without unit=")
    return Config(
        listen_addresses=tuple(args.listen_addresses or [listen_address(_DEFAULT_ADDRESS)]),
        systemd_socket=args.systemd_socket,
        telemetry_path=args.telemetry_path,
        web_config_file=args.web_config_file,
        max_requests=args.max_requests,
        events_target=args.events_target,
        unit_rules=tuple(by_unit),
        fold=tuple(args.fold),
        timestamps=args.timestamps,
        expected_senders=tuple(dict.fromkeys(args.expected_senders)),
        probe=Settings(
            syscalls=args.syscalls,
            self_signals=args.self_signals,
            grace_s=args.grace_s,
            max_series=args.max_series,
            max_deaths=args.max_deaths,
            series_ttl_s=args.series_ttl_s,
            ring_bytes=args.ring_bytes,
            excluded=excluded,
            rules=tuple(by_sender),
            rate=args.rate,
            burst=args.burst,
            attach=args.attach,
            cmdline=args.cmdline == "on",
        ),
        pin=args.pin,
        log_level=args.log_level,
    )
