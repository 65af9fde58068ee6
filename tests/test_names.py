"""Names of signals in both directions, results, and the rule that turns a process name into text."""

import itertools
import random
import signal

import pytest

from killsnoopd import names


def test_signal_names_are_those_of_the_system():
    """They agree with Python's table, which comes from the C library's headers."""
    for member in signal.Signals:
        if member.name not in ("SIGRTMAX",):  # two names for one number; ours is SIGRTMIN+30
            assert names.signal_name(member) == member.name


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "0"), (32, "32"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (64, "SIGRTMIN+30")]
    + [(number, "invalid") for number in (65, 66, 77, -1, -5, 2**31 - 1, -(2**31))],
)
def test_signal_name(number, name):
    """Signals without a name, and numbers that are not signals."""
    assert names.signal_name(number) == name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGKILL", 9), ("KILL", 9), ("sigkill", 9), ("kill", 9), ("9", 9), ("0", 0), ("32", 32), ("64", 64),
        ("SIGRTMIN", 34), ("rtmin+3", 37), ("SIGRTMIN+30", 64), ("RTMAX", 64), ("SIGRTMAX-1", 63), ("invalid", 65),
    ],
)  # fmt: skip
def test_signal_number(text, number):
    """Signals in the usual spellings."""
    assert names.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "FOO", "65", "-1", "9 ", "SIGRTMIN+31", "SIGRTMAX-31", "SIGRTMAX-", "٩"])
def test_no_such_signal(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="no such signal"):
        names.signal_number(text)


def test_every_name_is_read_back():
    """signal_number undoes signal_name for each of the 66."""
    assert [names.signal_number(names.signal_name(number)) for number in range(66)] == list(range(66))


@pytest.mark.parametrize(
    ("res", "name"), [(0, "success"), (-1, "EPERM"), (-3, "ESRCH"), (-22, "EINVAL"), (-4000, "4000")]
)
def test_result_name(res, name):
    """Results are errno names."""
    assert names.result_name(res) == name


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"nginx\0\0\0", "nginx"),
        (b"", ""),
        (b"   ", "   "),
        (b"a\0hidden", "a"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", r"caf\xe9"),
        (rb"\xff", r"\\xff"),
        (b"\xff", r"\xff"),
        (b'x"} 1\ny{z="', 'x"} 1\\x0ay{z="'),
        (b"\x1b[31m", r"\x1b[31m"),
        (b"\xc2\x9b31m", r"\xc2\x9b31m"),  # CSI as one C1 control character
        ("\u202e".encode(), r"\xe2\x80\xae"),  # right-to-left override
        ("\u3164".encode(), r"\xe3\x85\xa4"),  # a letter without a shape
        ("nginx\ufe0f".encode(), r"nginx\xef\xb8\x8f"),  # looks like nginx
        ("\u2800".encode(), r"\xe2\xa0\x80"),
        ("e\u0301".encode(), "e\u0301"),
    ],
)
def test_text(raw, text):
    """Each kind of byte that can be in a name."""
    assert names.text(raw) == text


@pytest.mark.parametrize(
    ("comm", "text"),
    [
        ("nginx", "nginx[812]"),
        ("Web Content", "Web Content[812]"),
        ("tmux: server", "tmux: server[812]"),
        ("systemd[1] uid ", '"systemd[1] uid "[812]'),
        ("runc:[2:INIT]", '"runc:[2:INIT]"[812]'),
        ('a"[1] uid 0', '"a\\"[1] uid 0"[812]'),
        (" ", '" "[812]'),
        ("", '""[812]'),
    ],
)
def test_with_pid(comm, text):
    """The first bracket outside quotes is the pid's."""
    assert names.with_pid(comm, 812) == text


def test_raw():
    """The inverse of text(), for each byte, for random names, and for bytes that a command line holds."""
    seeded = random.Random(3)
    raws = [
        *(bytes([byte]) for byte in range(1, 256)),
        *(seeded.randbytes(15).replace(b"\0", b"\\") for _ in range(10_000)),
    ]
    assert [names.raw(names.text(name)) for name in raws] == raws
    assert names.raw(b"caf\xe9".decode("utf-8", "surrogateescape")) == b"caf\xe9"


@pytest.mark.parametrize("text", ["\\", "a\\b", r"\x", r"\xF0", r"\xg0", r"\\\n"])
def test_what_is_no_text_of_a_name(text):
    """A backslash begins an escape, or is refused."""
    with pytest.raises(ValueError, match=r"neither \\xNN nor \\\\$"):
        names.raw(text)


def test_text_is_injective():
    """Neither two names of up to two bytes nor two of 100,000 random ones of fifteen have the same text."""
    short = [bytes(pair) for size in (0, 1, 2) for pair in itertools.product(range(1, 256), repeat=size)]
    seeded = random.Random(1)
    long = {seeded.randbytes(15).replace(b"\0", b"\\") for _ in range(100_000)}
    for raws in (short, long):
        assert len({names.text(raw) for raw in raws}) == len(raws)


def test_text_has_nothing_raw():
    """Every text is printable: no control character, no lone surrogate."""
    seeded = random.Random(2)
    for _ in range(20_000):
        text = names.text(seeded.randbytes(15))
        assert text.isprintable()
        text.encode("utf-8")
