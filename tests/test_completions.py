"""Completions of `killsnoopd` and `killsnoop` offer every flag and no other."""

import functools
import re
import subprocess
from pathlib import Path

import pytest

from killsnoopd import cli, names
from killsnoopd.query import command

SCRIPT = Path(__file__).parent.parent / "scripts/completions.py"
PARSERS = {
    "killsnoopd": (cli.parser(),),
    "killsnoop": (command.table_parser(), command.who_parser(), command.top_parser()),
}


@functools.cache
def completions(shell, program):
    """What `make install` installs for a shell."""
    command_line = ["/usr/bin/python3", "-B", SCRIPT, shell, program]
    return subprocess.run(command_line, capture_output=True, text=True, check=True).stdout


# Calls the function as bash does, which breaks words at "=" (COMP_WORDBREAKS).
BASH = """
eval "$1"
compopt() { echo "compopt $*" >&2; }
set -u
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$3
shift 3
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_"$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def flags(*parsers):
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def bash(line, breaks=" \t\n\"'><=;|&(:"):
    words = re.findall(r"=|[^\s=]+" if "=" in breaks else r"\S+", line) + [""] * line.endswith((" ", "="))
    result = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", completions("bash", words[0]), line, breaks, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=SCRIPT.parent,
    )
    assert result.stderr in ("", "compopt -o nospace\n", "compopt -o filenames\n")
    return [word for word in result.stdout.split("\n") if word]


def zsh_flags(text):
    return set(re.findall(r"['*{,)](--?[A-Za-z][\w.-]*)=?(?=[\[,}])", text))


def fish_flags(text):
    found = re.findall(r"(?<!set) -([sl]) ([\w.-]+)", text)
    return {("-" if kind == "s" else "--") + name for kind, name in found}


@pytest.mark.parametrize("program", PARSERS)
def test_every_flag_is_completed(program):
    """For both programs, in all three shells."""
    known = flags(*PARSERS[program])
    offered = bash(f"{program} -") + (bash("killsnoop top -") if program == "killsnoop" else [])
    assert {word.rstrip("=") for word in offered} == known
    assert zsh_flags(completions("zsh", program)) == known
    assert fish_flags(completions("fish", program)) == known


@pytest.mark.parametrize("program", PARSERS)
def test_descriptions(program):
    """fish and zsh show the first words of --help for each flag."""
    helps = {
        action.option_strings[-1]: action.help
        for parser in PARSERS[program]
        for action in parser._actions
        if action.option_strings
    }
    fish = dict(re.findall(r"-l ([\w.-]+) .*-d '(.+)'$", completions("fish", program), re.M))
    zsh = dict(re.findall(r"--([\w.-]+)=?[}'\"]*\[([^]]+)\]", completions("zsh", program)))
    assert fish.keys() == zsh.keys() == {flag.lstrip("-") for flag in helps}
    for flag, text in helps.items():
        shown = zsh[flag.lstrip("-")].replace(r"'\''", "'")
        assert text.startswith(shown)
        assert fish[flag.lstrip("-")].replace(r"\'", "'") == shown[0].upper() + shown[1:]


def test_a_flag_is_followed_by_its_sign():
    """bash offers `--flag=` if the flag takes a value, else `--flag`."""
    for program in PARSERS:
        takes = {o for action in PARSERS[program][0]._actions if action.nargs != 0 for o in action.option_strings}
        long = {option for option in takes if option.startswith("--")}
        assert {word.rstrip("=") for word in bash(f"{program} --") if word.endswith("=")} == long


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("killsnoopd --events.t", ["--events.target="]),
        ("killsnoopd --events.target=", ["auto", "journal", "stdout", "none"]),
        ("killsnoopd --events.target j", ["journal"]),
        ("killsnoopd --log.level=warn", ["warning"]),
        ("killsnoopd --events.include-signal=SIGKILL,SIGTE", ["SIGKILL,SIGTERM"]),
        ("killsnoopd --events.exclude=", ["signal=", "comm=", "uid=", "unit="]),
        ("killsnoopd --events.exclude=c", ["comm="]),
        ("killsnoopd --events.exclude=signal=SIGUSR1,ui", ["SIGUSR1,uid="]),
        ("killsnoopd --events.exclude=uid=0,comm=foo,sig", ["foo,signal="]),
        ("killsnoopd --events.exclude=comm=fo", []),
        ("killsnoopd --probe.syscalls=kill,tg", ["kill,tgkill"]),
        ("killsnoopd --probe.pin=/us", ["/usr"]),
        ("killsnoopd --web.config.file=/etc/host.co", ["/etc/host.conf"]),
        ("killsnoopd --events.rate=", []),
        ("killsnoop w", ["who"]),
        ("killsnoop to", ["top"]),
        ("killsnoop top --by=t", ["target"]),
        ("killsnoop -D /us", ["/usr"]),
        ("killsnoop /et", ["/etc"]),
        ("killsnoop -x -s SIGSE", ["SIGSEGV"]),
        ("killsnoop --signal=SIGKILL,SIGSE", ["SIGKILL,SIGSEGV"]),
        ("killsnoop --output=j", ["json"]),
        ("killsnoop --since=y", ["yesterday"]),
    ],
)
def test_bash_completes(line, offered):
    """Flags, their values and lists of them, with a space or `=` before the value."""
    assert bash(line) == offered


def test_bash_that_does_not_break_at_the_sign():
    """Then bash replaces the whole word."""
    assert bash("killsnoopd --events.target=j", " \t\n") == ["--events.target=journal"]
    assert bash("killsnoop --signal=SIGKILL,SIGSE", " \t\n") == ["--signal=SIGKILL,SIGSEGV"]
    assert bash("killsnoopd --events.exclude=comm=a,sig", " \t\n") == ["--events.exclude=comm=a,signal="]


def test_who_and_top_have_flags_of_their_own():
    """`killsnoop who` and `killsnoop top` do not get the flags of the table."""
    assert {word.rstrip("=") for word in bash("killsnoop who -")} == flags(command.who_parser())
    assert {word.rstrip("=") for word in bash("killsnoop top -")} == flags(command.top_parser())


@pytest.mark.parametrize("line", ["killsnoopd --events.include-signal=", "killsnoop -s "])
def test_every_signal_offered_is_known(line):
    """The flag accepts each word."""
    offered = bash(line)
    assert {"SIGKILL", "SIGRTMIN", "0", "all", "invalid"} <= set(offered)
    assert all(cli.signals(word) for word in offered)


def test_every_choice_is_offered():
    """The shells offer exactly the values that a flag accepts."""
    for program, parsers in PARSERS.items():
        fish, zsh = completions("fish", program), completions("zsh", program)
        for action in (action for parser in parsers for action in parser._actions if action.choices):
            flag, choices = action.option_strings[-1], list(action.choices)
            assert bash(f"{program} {flag}=") == choices
            assert re.search(rf"-l {flag[2:]} -x -a '([^']+)'", fish)[1].split() == choices
            assert re.search(rf"{flag}=\S*\[.*:\(([^)]+)\)'", zsh)[1].split() == choices
    assert f"-a '{' '.join(names.SYSCALLS)}'" in completions("fish", "killsnoopd")
    assert f"CALL {' '.join(names.SYSCALLS)}}}" in completions("zsh", "killsnoopd")
    assert bash("killsnoopd --probe.syscalls=") == list(names.SYSCALLS)
