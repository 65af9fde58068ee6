"""Command lines and ancestors as text."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd.event import ANCESTORS_MAX, CMDLINE_MAX, Cmdline
from killsnoopd.events.cgroups import TICK_NS, start_ticks
from killsnoopd.events.command_lines import chain, from_proc, says_more, shell, shortened

BASH = shutil.which("bash")  # zsh, ksh and busybox know $'...', too; dash does not


def shown(*arguments, cut=False):
    return shell(Cmdline(b"".join(argument + b"\0" for argument in arguments), cut))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([b"pkill", b"-9", b"-f", b"my app"], "pkill -9 -f 'my app'"),
        ([b"/usr/bin/kill", b"-s", b"TERM", b"--", b"-12"], "/usr/bin/kill -s TERM -- -12"),
        ([b"sh", b"-c", b"kill $(cat x)"], "sh -c 'kill $(cat x)'"),
        ([b"echo", b"it's", b"", b"~"], r"echo $'it\'s' '' '~'"),
        ([b"echo", b"a\nb", b"\x1b[2J", b"a\\x1b"], r"echo $'a\x0ab' $'\x1b[2J' $'a\\x1b'"),
        ([b"\xff", "é".encode()], r"$'\xff' 'é'"),
        ([b"x", b"...", b"y..."], "x '...' 'y...'"),
        ([b"nginx: worker", b"", b"", b""], "'nginx: worker'"),
        ([b""], "''"),
        ([b"", b"", b""], "''"),
        ([b"", b"-9"], "'' -9"),
    ],
)
def test_whole(arguments, text):
    """As a shell takes it; a title that fills the rest with NULs is one argument."""
    assert shown(*arguments) == text


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (b"java\0-cp\0/a/b", "java -cp /a/b..."),
        (b"sh\0-c\0kill 1", "sh -c 'kill 1'..."),
        (b"kill\0-9\0", "kill -9 ..."),
        (b"title", "title..."),
        (b"title\0\0\0", "title ..."),
    ],
)
def test_cut(read, text):
    """The mark is a part of the last argument, or a word of its own if that was whole; it is never quoted."""
    assert shell(Cmdline(read, cut=True)) == text


def test_what_was_not_read():
    """There is none."""
    assert shell(Cmdline(None)) is None


words = st.lists(st.binary(max_size=12).map(lambda word: word.replace(b"\0", b"")), min_size=2, max_size=6)


@pytest.mark.skipif(BASH is None, reason="needs bash; CI=true makes this a failure")
@settings(max_examples=60, deadline=None)
@given(words.filter(lambda found: any(found[1:])))
def test_a_shell_takes_it_so(arguments):
    """The very bytes, whatever they are, on one line of printable text."""
    text = shown(*arguments)
    assert text.isprintable()
    script = 'printf "%s\\0" ' + text
    result = subprocess.run([BASH, "-c", script], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    assert result.stdout == b"".join(argument + b"\0" for argument in arguments)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4), st.lists(st.binary(max_size=8), min_size=1, max_size=4))
def test_different_command_lines_differ(one, other):
    """Unless it is empty arguments after a title."""
    first, second = (b"".join(argument.replace(b"\0", b"") + b"\0" for argument in line) for line in (one, other))
    same = shell(Cmdline(first)) == shell(Cmdline(second))
    title = first.rstrip(b"\0")
    assert same == (first == second or (title == second.rstrip(b"\0") and b"\0" not in title))


@pytest.mark.parametrize(
    ("text", "comm", "more"),
    [
        ("bash", "bash", False),
        ("-bash", "bash", False),
        ("/usr/bin/bash", "bash", False),
        ("/usr/sbin/a-long-name-of-a-daemon", "a-long-name-of-", False),
        ("/usr/sbin/shadow", "sh", True),
        ("bash -c x", "bash", True),
        ("'nginx: worker process'", "nginx", True),
        ("/sbin/init", "systemd", True),
    ],
)
def test_what_says_more_than_the_name(text, comm, more):
    """Arguments, or another name."""
    assert says_more(text, comm) is more


@pytest.mark.parametrize(
    ("text", "length", "result"),
    [
        ("pkill -9 x", 10, "pkill -9 x"),
        ("pkill -9 xy", 10, "pkill -..."),
        (r"a\x1b\x1b", 8, r"a\x1b..."),
        (r"a\x1b\x1b", 7, "a..."),
        (r"a\x1b\x1b", 9, r"a\x1b\x1b"),
        (r"a\\\\bcdef", 8, r"a\\\\..."),
        (r"a\\\\bcdef", 7, r"a\\..."),
    ],
)
def test_shortened(text, length, result):
    """Never within an escape."""
    assert shortened(text, length) == result
    assert len(result) <= length


def test_a_chain():
    """Nearest first. A name cannot look like two entries, nor a mark like a name."""
    assert chain(((990, "sh"), (1, "systemd"))) == "sh[990] systemd[1]"
    assert chain(((7, r"x[1] \\ a"), (2, "..."))) == r"x\x5b1\x5d\x20\\\x20a[7] ...[2]"
    assert chain(()) is None


def test_a_chain_that_goes_on():
    """The probe reads sixteen; init and kthreadd have no parent."""
    many = tuple((pid, "sh") for pid in range(100, 100 - ANCESTORS_MAX, -1))
    assert chain(many).endswith(" sh[85] ...")
    assert chain((*many[:-1], (1, "init"))).endswith(" init[1]")
    assert chain(many[:-1]).endswith(" sh[86]")


def test_from_proc():
    """Our own; not that of another process with the same pid, nor under another name."""
    start_ns = start_ticks(Path("/proc/self/stat").read_bytes()) * TICK_NS + 5
    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    whole = Path("/proc/self/cmdline").read_bytes()
    assert from_proc(os.getpid(), start_ns, comm) == Cmdline(whole[:CMDLINE_MAX], len(whole) > CMDLINE_MAX)
    assert from_proc(os.getpid(), start_ns + TICK_NS, comm) is None
    assert from_proc(os.getpid(), start_ns, "another") is None
    assert from_proc(0, start_ns, comm) is None


def test_a_long_one_from_proc(tmp_path):
    """As much as the probe would have read."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a ) b) S " + "0 " * 18 + "500 0\n")
    for size, cut in ((CMDLINE_MAX, False), (CMDLINE_MAX + 1, True)):
        (folder / "cmdline").write_bytes(b"x" * size)
        assert from_proc(7, 500 * TICK_NS, "a ) b", tmp_path) == Cmdline(b"x" * CMDLINE_MAX, cut)
