"""The command line: what flags mean, and a one-line error for each mistake."""

import argparse
import re
from pathlib import Path

import pytest

from killsnoopd import cli, names
from killsnoopd.settings import Rule, Settings

TOP = Path(__file__).parent.parent


def test_defaults():
    """No flags at all."""
    assert cli.parse([]) == cli.Config(
        listen_addresses=(("", 10035),),
        systemd_socket=False,
        telemetry_path="/metrics",
        web_config_file=None,
        max_requests=40,
        events_target="auto",
        unit_rules=(),
        fold=(),
        timestamps=True,
        expected_senders=(),
        probe=Settings(excluded=frozenset({0, 17, 23, 28})),
        pin=None,
        log_level="info",
    )


@pytest.mark.parametrize(("value", "path"), [("", None), ("web.yml", Path("web.yml"))])
def test_web_config_file(value, path):
    """An empty value means no file, as for Prometheus' exporters."""
    assert cli.parse([f"--web.config.file={value}"]).web_config_file == path


def test_settings_of_the_probe():
    """Each flag of the probe is passed on to it."""
    flags = (
        "--probe.syscalls=kill --events.grace-period=5 --probe.self-signals --metrics.max-series=7 --metrics.max-deaths=6 "
        "--metrics.series-ttl=8 --probe.ring-size=64K --events.include-signal=0,CHLD,URG,WINCH --events.exclude=uid=1 "
        "--events.rate=9 --events.burst=10 --events.cmdline=off"
    )
    rule = Rule(frozenset(range(66)) - cli.DEFAULT_EXCLUDED, uid=1)
    assert cli.parse(flags.split()).probe == Settings(
        ("kill",), 5, True, 7, 6, 8, 65536, frozenset(), (rule,), 9, 10, False
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":10035", ("", 10035)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:80", ("localhost", 80)),
        ("[::1]:9", ("::1", 9)),
        ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9)),
    ],
)
def test_listen_address(text, address):
    """Addresses are written as for Prometheus' exporters."""
    assert cli.listen_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "10035", "localhost", "::1:80", "host:65536", "host:-1", "host:x", "[::1]", "a b:1:2"]
)
def test_bad_listen_address(text):
    """Anything else is refused."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not an address"):
        cli.listen_address(text)


@pytest.mark.parametrize(
    ("argv", "excluded"),
    [
        (["--events.exclude=signal=SIGUSR1,9"], {0, 9, 10, 17, 23, 28}),
        (["--events.exclude=signal=USR1", "--events.exclude=signal=RTMIN+3"], {0, 10, 17, 23, 28, 37}),
        (["--events.exclude=signal=9,comm=x", "--events.exclude=unit=x"], {0, 17, 23, 28}),
        (["--events.include-signal=0"], {17, 23, 28}),
        (["--events.include-signal=all"], set()),
        (["--events.exclude=signal=all", "--events.include-signal=SIGKILL"], set(range(66)) - {9}),
        (["--events.exclude=signal=invalid"], {0, 17, 23, 28, 65}),
        (["--events.target=none"], set(range(66))),
    ],
)
def test_excluded_signals(argv, excluded):
    """Include overrides exclude; exclude adds to the signals that are always excluded."""
    assert cli.parse(argv).probe.excluded == excluded


ALL = frozenset(range(66))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("comm=foo", Rule(ALL, b"foo")),
        ("comm=a b", Rule(ALL, b"a b")),
        ("comm=fifteen-bytes-x", Rule(ALL, b"fifteen-bytes-x")),
        (r"comm=\x2c=\\\xff", Rule(ALL, b",=\\\xff")),
        ("comm=\u2603\udcff", Rule(ALL, b"\xe2\x98\x83\xff")),
        ("uid=0", Rule(ALL, uid=0)),
        ("uid=4294967294", Rule(ALL, uid=4294967294)),
        ("unit=nginx", Rule(ALL, unit="nginx.service")),
        ("unit=session-2.scope", Rule(ALL, unit="session-2.scope")),
        ("comm=foo,signal=SIGUSR1", Rule(frozenset({10}), b"foo")),
        ("signal=SIGUSR1,USR2,uid=7,comm=a=b", Rule(frozenset({10, 12}), b"a=b", 7)),
        ("unit=x.service,uid=33,signal=0,comm=y", Rule(frozenset({0}), b"y", 33, "x.service")),
    ],
)
def test_rules(text, rule):
    """Each part narrows the rule; names are written as events spell them."""
    assert cli.rule(text) == rule
    config = cli.parse([f"--events.exclude={text}", "--events.exclude=signal=SIGHUP", f"--events.exclude={text}"])
    assert config.probe.excluded == cli.DEFAULT_EXCLUDED | {1}
    assert config.probe.rules + config.unit_rules == (rule,)
    assert bool(config.unit_rules) == (rule.unit is not None)


def test_included_signals_win_over_every_rule():
    """A rule of which nothing is left is none."""
    flags = (
        "--events.exclude=uid=1",
        "--events.exclude=comm=a,signal=9",
        "--events.exclude=unit=b",
        "--events.include-signal=9",
    )
    config = cli.parse(list(flags))
    assert config.probe.rules == (Rule(ALL - {9}, uid=1),)
    assert config.unit_rules == (Rule(ALL - {9}, unit="b.service"),)


BAD = [
    (["--events.exclude="], "'' is not signal=SIGNAL, comm=NAME, uid=N or unit=NAME"),
    (["--events.exclude=SIGUSR1"], "'SIGUSR1' is not signal=SIGNAL"),
    (["--events.exclude=name=x"], "'name=x' is not signal=SIGNAL"),
    (["--events.exclude=comm="], "'comm=' is not signal=SIGNAL"),
    (
        ["--events.exclude=comm=a,b"],
        "'b' is not signal=SIGNAL, comm=NAME, uid=N or unit=NAME (in a name, write \\x2c for",
    ),
    (["--events.exclude=comm=a,comm=b"], "two parts comm=, and all parts of a rule must match: repeat the flag"),
    (
        ["--events.exclude=comm=sixteen-bytes-xy"],
        "too long: the kernel keeps 15 bytes of a process name; write sixteen-bytes-x;",
    ),
    (["--events.exclude=comm=sieben-und-acht\u00e9"], "write sieben-und-acht;"),
    (["--events.exclude=comm=a\\b"], "has a backslash that begins neither \\xNN nor \\\\;"),
    (["--events.exclude=comm=a\\x00b"], "is not the name of a process"),
    (["--events.exclude=uid=-1"], "'-1' is not a whole number from 0 to 4294967294"),
    (["--events.exclude=uid=root"], "'root' is not a whole number"),
    (["--events.exclude=signal=SIGFOO,uid=1"], "no such signal: 'SIGFOO'"),
    ([f"--events.exclude=uid={uid}" for uid in range(17)], "at most 16 rules may have comm= or uid= without unit="),
    (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    (["--web.listen"], "unrecognized arguments: --web.listen"),
    (["stray"], "unrecognized arguments: stray"),
    (["--web.listen-address=nonsense"], "'nonsense' is not an address"),
    (["--web.listen-address"], "expected one argument"),
    (["--web.telemetry-path=metrics"], "'metrics' is not a path"),
    (["--web.telemetry-path=/a{b}"], "'/a{b}' is not a path"),
    (["--events.target=syslog"], "invalid choice: 'syslog'"),
    (["--events.exclude=signal=SIGFOO"], "no such signal: 'SIGFOO'"),
    (["--events.include-signal=9,,15"], "no such signal: ''"),
    (["--events.rate=-1"], "'-1' is not a whole number from 0 to 1000000"),
    (["--events.rate=1.5"], "'1.5' is not a whole number"),
    (["--events.burst=0"], "'0' is not a whole number from 1"),
    (["--metrics.max-series=0"], "'0' is not a whole number from 1"),
    (["--metrics.max-series=9999999"], "'9999999' is not a whole number"),
    (["--metrics.fold=worker"], "'worker' is not a rule: write a name with * for any text"),
    (["--metrics.expected-sender="], "'' is not the name of a process as it is on the page"),
    (["--probe.syscalls=kill,fork"], "'fork' is not one of kill, tkill"),
    (["--probe.syscalls="], "'' is not one of"),
    (["--probe.ring-size=3M"], "'3M' is not a power of two"),
    (["--probe.ring-size=1"], "'1' is not a power of two"),
    (["--probe.ring-size=2G"], "'2G' is not a power of two"),
    (["--log.level=loud"], "invalid choice: 'loud'"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_a_bad_flag_is_one_line_and_exit_2(argv, said, capsys):
    """The line says which flag, why, and where to look."""
    with pytest.raises(SystemExit) as stop:
        cli.parse(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert said in error
    assert error.startswith("killsnoopd: ")
    assert error.endswith("--help lists the flags\n")


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("4K", 4096), ("64KiB", 65536), ("1M", 1 << 20), ("2mb", 2 << 20)]
)
def test_ring_size(text, size):
    """Sizes in the usual spellings."""
    assert cli.parse([f"--probe.ring-size={text}"]).probe.ring_bytes == size


def test_rules_keep_their_order():
    """The first rule that matches applies."""
    assert cli.parse(["--metrics.fold=b*=", "--metrics.fold=numbers", "--metrics.fold=a#"]).fold == (
        "b*=",
        "numbers",
        "a#",
    )


def test_syscalls_keep_their_order():
    """In the order of the table, however they were written, so that equal settings have equal hashes."""
    assert cli.parse(["--probe.syscalls=tkill,kill"]).probe.syscalls == ("kill", "tkill")


def test_help_names_every_flag_and_exit_code(capsys):
    """--help has every flag, the examples and the exit codes."""
    with pytest.raises(SystemExit) as stop:
        cli.parse(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for flag in ("--web.listen-address", "--events.rate", "--probe.pin", "--version", "examples:", "exit codes:"):
        assert flag in text
    assert all(name in text for name in names.SYSCALLS)


def flags_of_the_parser():
    """{flag: (what it takes, the default that --help states)}"""
    found = {}
    parser = cli.parser()
    for action in parser._actions:
        text = parser._get_formatter()._expand_help(action)
        takes = "" if action.nargs == 0 else action.metavar or "|".join(action.choices)
        default = re.search(r"\(default (:?[/\w]+)", text)
        found[action.option_strings[-1]] = takes, default and default[1]
    return found


def flags_of_the_man_page():
    """The same from the man page, where an entry is a bold line and its text."""
    page = (TOP / "docs/killsnoopd.8").read_text().replace("\\-", "-")
    section = page.partition(".SH FLAGS\n")[2].partition(".SH")[0]
    found = {}
    for entry in section.split(".TP\n")[1:]:
        head, text = entry.split("\n", 1)
        takes = head.partition("= ")[2]
        default = re.search(r"Default: (:?[/\w]+)", text)
        for flag in re.findall(r"--[a-z.-]+", head):
            found[flag] = takes, default and default[1]
    return found


def test_flags_and_defaults_are_those_of_the_man_page():
    """The same flags, arguments and defaults."""
    assert flags_of_the_man_page() == flags_of_the_parser()


def test_a_default_in_help_is_the_default():
    """Where --help does not take the default from the parser."""
    texts = {flag: default for flag, (_, default) in flags_of_the_parser().items()}
    config = cli.parse([])
    assert cli.parse([f"--web.listen-address={texts['--web.listen-address']}"]) == config
    assert cli.parse([f"--probe.ring-size={texts['--probe.ring-size']}"]) == config
    assert (texts["--probe.syscalls"], config.probe.syscalls) == ("all", names.SYSCALLS)


def test_what_is_always_excluded_is_documented():
    """--help and the man page list them."""
    *most, last = (names.SIGNALS[number] for number in sorted(cli.DEFAULT_EXCLUDED))
    assert f"(always: {', '.join(most)}, {last})" in " ".join(cli.parser().format_help().split())
    assert f"{', '.join(most)} and {last} are always excluded" in " ".join(
        (TOP / "docs/killsnoopd.8").read_text().split()
    )


def test_the_file_of_defaults():
    """Each flag in its comments is accepted, and its numbers are the defaults."""
    flags = re.findall(r"--\S+", (TOP / "deploy/killsnoopd.default").read_text())
    assert cli.parse(flags)
    numbers = [flag for flag in flags if re.search(r"(rate|series|ttl)=\d+$", flag)]
    assert len(numbers) == 3
    assert cli.parse(numbers) == cli.parse([])
