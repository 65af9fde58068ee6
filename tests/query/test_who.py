"""`killsnoop who`: one sentence about who killed a process."""

import re

import pytest
from logged import death, record

from killsnoopd.query import who


@pytest.mark.parametrize("asked", ["812", "nginx", "nginx.service", "0123456789ab"])
def test_ways_to_ask(asked):
    """By pid, name, unit (with or without its suffix) and container."""
    found, _ = who.search([death(TARGET_CONTAINER="0123456789abcdef" * 4)], asked)
    assert found is not None


@pytest.mark.parametrize("asked", ["81", "3325", "bash", "ssh.service", "0123", "ngin"])
def test_others_are_not_meant(asked):
    """The sender does not match, nor does a name that only begins alike."""
    assert who.search([death(TARGET_CONTAINER="0123456789abcdef" * 4)], asked) == (None, [])


def test_the_last_one_counts_and_its_company_is_told():
    """The newer of two deaths; others by the same sender within a minute before or after, but not by other senders."""
    newest_first = [
        death("late", "7", 200, TARGET_UNIT=None),
        death("after", "6", 100, TARGET_UNIT=None),
        death("other", "5", 62, TARGET_UNIT=None, PID="99"),
        death(second=60),
        death("before", "4", 30, TARGET_UNIT=None),
        death("before", "4", 29, TARGET_UNIT=None),
        death("early", "3", 0, TARGET_UNIT=None),
        death(second=0),
    ]
    found, others = who.search(newest_first, "nginx")
    assert found is newest_first[3]
    assert [other["KILLSNOOP_TCOMM"] for other in others] == ["after", "before", "before", "early"]


def test_it_reads_no_further_than_it_must():
    """A journal may be years long, so it stops reading as soon as possible."""

    def endless():
        yield death(second=3000)
        for second in range(2999, 0, -30):
            yield death("x", "1", second)
        pytest.fail("read to the end")

    assert who.search(endless(), "nginx")[0] is not None


def test_without_a_death_the_signal():
    """If the rate limit dropped the death, the last fatal signal; an ignored one does not count."""
    ignored = record(OUTCOME="ignored", TIMESTAMP="2026-11-22T03:00:09.000000Z")
    stopped = record(SIGNAL="SIGSTOP", SIG="19")
    found, others = who.search([ignored, stopped, record(SIG="15", SIGNAL="SIGTERM")], "nginx")
    assert (found["KILLSNOOP_SIGNAL"], others) == ("SIGTERM", [])
    assert (
        "nginx[812] (nginx.service) was sent SIGTERM by bash[3325] (uid 0, ssh.service) by kill(2), and may have"
        in (who.sentence(found, others))
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "nginx[812] (nginx.service) died of SIGKILL, which bash[3325] (uid 0, ssh.service) had sent by kill(2) 1.4 ms before."),
        ({"EXE": "/usr/bin/bash", "LOGINUID": "1000", "CONTAINER": "c" * 64, "PARENT_COMM": "sshd"},
         "bash[3325] (uid 0, logged in as uid 1000, /usr/bin/bash, ssh.service, container cccccccccccc, child of sshd) had"),
        ({"PID": "0", "COMM": "kernel", "ORIGIN": "oom", "SYSCALL": None},
         "died of SIGKILL, which the kernel, out of memory, had sent 1.4 ms before."),
        ({"PID": "0", "COMM": "kernel", "ORIGIN": "kernel", "SYSCALL": None}, "which the kernel had sent 1.4 ms before."),
        ({"ORIGIN": "cgroup", "SYSCALL": None}, "had sent by a write to cgroup.kill 1.4 ms before."),
        ({"ORIGIN": "pdeathsig", "SYSCALL": None}, "had sent by exiting (PR_SET_PDEATHSIG) 1.4 ms before."),
        ({"ORIGIN": "autokill", "SYSCALL": None}, "had sent by closing its pidfd (CLONE_PIDFD_AUTOKILL) 1.4 ms before."),
        ({"ORIGIN": "cgroup", "SYSCALL": None, "ORIGIN_INFERRED": "1"},
         "had probably sent by a write to cgroup.kill 1.4 ms before."),
        ({"TARGET_UNIT": None, "TARGET_CONTAINER": "d" * 64}, "nginx[812] (dddddddddddd) died"),
        ({"TCOMM": "\x1b]0;pwned\x07"}, r"\x1b]0;pwned\x07[812] (nginx.service) died"),
    ],
)  # fmt: skip
def test_sentence(fields, text):
    """Every origin gives a readable sentence, and no name in it reaches the terminal raw."""
    line = who.sentence(death(**fields), [])
    assert text in line
    assert line.isprintable()
    assert re.match(r"2026-11-2\d \d\d:00:00 \S+: ", line)


def test_company():
    """Ten are named; a process that was logged twice counts once."""
    others = [death(f"w{number}", str(number)) for number in range(12)]
    assert who.sentence(death(), [*others, others[0]]).endswith(
        "; within a minute of that it also killed w0[0], w1[1], w2[2], w3[3], w4[4], w5[5], w6[6], w7[7], w8[8], w9[9] and 2 more."
    )
