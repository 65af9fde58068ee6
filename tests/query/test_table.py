"""The table: what fits, and what a terminal must never receive."""

import pytest
from logged import death, exit_after, record

from killsnoopd.query import table
from killsnoopd.query.table import Style


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx", "nginx"),
        (r"a\x0ab", r"a\x0ab"),
        ("a\nb\x1b[2J", r"a\x0ab\x1b[2J"),
        ("\u202egnp.exe", r"\xe2\x80\xaegnp.exe"),
        ("\ud800", r"\xed\xa0\x80"),
        ("naïve 日本", "naïve 日本"),
    ],
)
def test_safe(text, shown):
    """Escapes, bidirectional overrides and invalid characters are written as text; text stays as it is."""
    assert table.safe(text) == shown


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("bash", 6, "bash  "),
        ("systemd", 7, "systemd"),
        ("systemd-oomd", 7, "system…"),
        ("日本語", 5, "日本…"),
        ("日本", 5, "日本 "),
    ],
)
def test_fitted(text, columns, shown):
    """Exactly as wide as asked, also with wide characters."""
    assert table.fitted(text, columns) == shown
    assert table.width(shown) == columns


@pytest.mark.parametrize("total", [40, 58, 60, 80, 100, 120, 132, 200])
@pytest.mark.parametrize("dated", [False, True])
def test_columns_fit(total, dated):
    """No line is wider than the terminal if bcc's six columns fit; a wider terminal shows more columns."""
    chosen = table.columns(total, dated=dated)
    assert [column.head for column in chosen[:6]] == ["TIME", "PID", "COMM", "SIG", "TPID", "RES"]
    long = record(
        COMM="x" * 15, PID="4194303", TPID="-4194303", SIGNAL="SIGRTMIN+10", TCOMM="y" * 15, TARGET_UNIT="z" * 80
    )
    if total >= 58:
        assert table.width(table.row(long, chosen, Style())) <= total
        assert table.width(table.head(chosen)) <= total
    assert (len(chosen) == 11) == (total >= (150 if dated else 144))


@pytest.mark.parametrize("total", [60, 80, 120, 200])
@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("long", [(table.COMMAND,), (table.ANCESTORS,), (table.COMMAND, table.ANCESTORS)])
def test_columns_of_any_length(total, dated, long):
    """On a terminal they share the room that is left; in a file the last one is whole."""
    event = record(CMDLINE="c" * 300, ANCESTORS="a" * 300)
    on_terminal = table.columns(total, dated=dated, long=long, cut=True)
    assert tuple(column.head for column in on_terminal[-len(long) :]) == tuple(column.head for column in long)
    if total >= 90:
        assert table.width(table.row(event, on_terminal, Style())) == total
    in_file = table.columns(total, dated=dated, long=long)
    assert table.row(event, in_file, Style()).endswith(" " + ("a" if table.ANCESTORS in long else "c") * 300)


def test_rows():
    """A delivery, a failed call and a death, as printed."""
    chosen = table.columns(200, dated=False)

    def cells(found):
        return table.row(found, chosen, Style()).split()[1:]

    assert cells(record()) == [
        "3325",
        "bash",
        "SIGKILL",
        "812",
        "0",
        "nginx",
        "delivered",
        "kill",
        "nginx.service",
        "0",
    ]
    failure = record("call", RES="-1", RESULT="EPERM", TCOMM=None, OUTCOME=None, TARGET_UNIT=None)
    assert cells(failure) == ["3325", "bash", "SIGKILL", "812", "EPERM", "kill", "0"]
    death = record("death", ELAPSED_MS="1.432", SYSCALL=None, ORIGIN="oom", PID="0", COMM="kernel", TARGET_UNIT=None,
                   TARGET_CONTAINER="0123456789abcdef")  # fmt: skip
    assert cells(death) == [
        "0",
        "kernel",
        "SIGKILL",
        "812",
        "0",
        "nginx",
        "died",
        "in",
        "1.4",
        "ms",
        "oom",
        "0123456789ab",
        "0",
    ]


def test_ends_that_nobody_sent():
    """No sender is named; the kernel is none, either."""
    chosen = table.columns(200, dated=False)

    def cells(**fields):
        return table.row(death(PID="0", COMM="kernel", UID=None, SYSCALL=None, **fields), chosen, Style()).split()[1:]

    own = cells(ORIGIN="self", SIGNAL="SIGSEGV", SIG="11", ELAPSED_MS=None)
    assert own == ["-", "-", "SIGSEGV", "812", "0", "nginx", "died", "self", "nginx.service"]
    assert cells(ORIGIN="unknown", ELAPSED_MS=None)[:2] == ["-", "-"]
    exited = table.row(exit_after(EXIT_STATUS="143"), chosen, Style()).split()[1:]
    assert exited == [
        "1",
        "systemd",
        "SIGTERM",
        "812",
        "0",
        "nginx",
        "exited",
        "with",
        "143",
        "kill",
        "nginx.service",
        "0",
    ]


def test_users():
    """By name, but for those of a container, which has users of its own."""
    chosen = table.columns(200, dated=False)
    style = Style(named={"0": "root"}.get)
    assert table.row(record(), chosen, style).endswith(" root")
    assert table.row(record(CONTAINER="c" * 64), chosen, style).endswith(" 0")


def test_hosts():
    """After the time."""
    chosen = table.columns(80, dated=True, hosts=True)
    assert table.head(chosen).split()[:3] == ["TIME", "HOST", "PID"]
    assert table.row(record() | {"_HOSTNAME": "web1"}, chosen, Style()).split()[2:4] == ["web1", "3325"]


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("naïve 日", "latin-1", r"naïve \xe6\x97\xa5"),
        ("naïve", "ascii", r"na\xc3\xafve"),
        ("a\n", "ascii", r"a\x0a"),
        ("\udc80", "ascii", r"\xed\xb2\x80"),
    ],
)
def test_what_a_locale_cannot_show(text, encoding, shown):
    """Is escaped as everywhere else; and the columns stay where they are."""
    assert table.safe(text, encoding) == shown
    long = table.row(record(TCOMM="я" * 7), table.columns(160, dated=False), Style(encoding=encoding))
    assert len(long) == len(table.row(record(), table.columns(160, dated=False), Style()))
    long.encode(encoding)


def test_colour():
    """Only if enabled: kills, failures, and signals without effect."""
    chosen = table.columns(80, dated=False)
    assert "\033" not in table.row(record(), chosen, Style())
    assert table.row(record(), chosen, Style(coloured=True)).startswith("\033[31m")
    assert table.row(record(RES="-1"), chosen, Style(coloured=True)).startswith("\033[33m")
    assert table.row(record(OUTCOME="ignored"), chosen, Style(coloured=True)).startswith("\033[2m")
    assert "\033" not in table.row(record(SIGNAL="SIGTERM", SIG="15"), chosen, Style(coloured=True))
