"""The table: what fits, and what a terminal must never receive."""

import pytest
from logged import record

from killsnoopd.query import table


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
        assert table.width(table.row(long, chosen, coloured=False)) <= total
        assert table.width(table.head(chosen)) <= total
    assert (len(chosen) == 10) == (total >= 150)


def test_rows():
    """A delivery, a failed call and a death, as printed."""
    chosen = table.columns(200, dated=False)

    def cells(found):
        return table.row(found, chosen, coloured=False).split()[1:]

    assert cells(record()) == ["3325", "bash", "SIGKILL", "812", "0", "nginx", "delivered", "kill", "nginx.service"]
    failure = record("call", RES="-1", RESULT="EPERM", TCOMM=None, OUTCOME=None, TARGET_UNIT=None)
    assert cells(failure) == ["3325", "bash", "SIGKILL", "812", "EPERM", "kill"]
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
    ]


def test_colour():
    """Only if enabled: kills, failures, and signals without effect."""
    chosen = table.columns(80, dated=False)
    assert "\033" not in table.row(record(), chosen, coloured=False)
    assert table.row(record(), chosen, coloured=True).startswith("\033[31m")
    assert table.row(record(RES="-1"), chosen, coloured=True).startswith("\033[33m")
    assert table.row(record(OUTCOME="ignored"), chosen, coloured=True).startswith("\033[2m")
    assert "\033" not in table.row(record(SIGNAL="SIGTERM", SIG="15"), chosen, coloured=True)
