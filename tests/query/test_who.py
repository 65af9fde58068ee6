"""What ended it: which event answers, by what name it is found, and what else is known."""

import pytest
from logged import death, exit_after, record

from killsnoopd.query import who

CONTAINER = "0123456789abcdef" * 4


def sent(signal, number, second=0, **fields):
    time = f"2026-11-22T03:{second // 60:02d}:{second % 60:02d}.000000Z"
    return record(SIGNAL=signal, SIG=str(number), TIMESTAMP=time, **fields)


@pytest.mark.parametrize("asked", ["812", "nginx", "nginx.service", "0123456789ab", CONTAINER])
def test_ways_to_ask(asked):
    """By pid, name, unit (with or without its suffix) and container."""
    assert who.search([death(TARGET_CONTAINER=CONTAINER)], asked).note == ""


WEB = {"TARGET_POD": "web-7d9c5b-x2x4q", "TARGET_POD_NAMESPACE": "shop", "TARGET_UNIT": None}


@pytest.mark.parametrize("asked", ["web-7d9c5b-x2x4q", "shop/web-7d9c5b-x2x4q"])
def test_pods(asked):
    """By name, or by namespace and name; an answer of another namespace's pod is none."""
    assert who.search([death(**WEB)], asked).note == ""
    other = death(**WEB | {"TARGET_POD_NAMESPACE": "other"}, second=9)
    assert who.search([other], "shop/web-7d9c5b-x2x4q") is None


def test_a_pod_with_its_namespace_is_asked_first():
    """A process may take any name, also that one, and be killed later."""
    forged = death("shop/web", "7", 30)
    events = [death(**WEB | {"TARGET_POD": "web"}), forged, death("web", "8", 40)]
    assert who.search(events, "shop/web").last is events[0]
    assert who.search(events[2:], "bin/web").note == "matched processes named web"


def test_machines():
    """By name."""
    assert who.search([death(TARGET_UNIT=None, TARGET_MACHINE="web-front-01")], "web-front-01")


@pytest.mark.parametrize("asked", ["81", "3325", "bash", "ssh.service", "0123", "ngin", "", "/", "²"])
def test_others_are_not_meant(asked):
    """The sender does not match, nor does a name that only begins alike."""
    assert who.search([death(TARGET_CONTAINER=CONTAINER)], asked) is None


@pytest.mark.parametrize(
    ("asked", "comm", "note"),
    [
        ("/usr/sbin/nginx", "nginx", "matched processes named nginx"),
        ("a-name-of-fifteen-bytes", "a-name-of-fifte", "no process named a-name-of-fifteen-bytes; matched the first 15 bytes, a-name-of-fifte"),
        ("/usr/bin/a-name-of-fifteen-bytes", "a-name-of-fifte", "no process named a-name-of-fifteen-bytes; matched the first 15 bytes, a-name-of-fifte"),
        ("Приветствие", r"Приветс\xd1", r"no process named Приветствие; matched the first 15 bytes, Приветс\xd1"),
        ("nginx-the-second.service", "nginx-the-secon", "no process named nginx-the-second.service; matched the first 15 bytes, nginx-the-secon"),
        ("worker.service", "worker.service", "no unit worker.service; matched a process of that name"),
        ("a\n", r"a\x0a", ""),
        (r"a\x0a", r"a\x0a", ""),
        ("a\\b", r"a\\b", ""),
    ],
)  # fmt: skip
def test_a_name_is_found_as_the_kernel_has_it(asked, comm, note):
    """By its first 15 bytes, by the last name of a path, escaped or not; and the answer says so."""
    assert who.search([death(comm, TARGET_UNIT=None), death()], asked).note == note


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_unit_is_asked_first(newest_first):
    """A process may call itself `nginx.service`, and be killed later."""
    forged = death("nginx.service", "7", 30, TARGET_UNIT="evil.service")
    events = [forged, death()] if newest_first else [death(), forged]
    answer = who.search(events, "nginx.service", newest_first=newest_first)
    assert (answer.last, answer.note) == (events[newest_first], "")


def test_a_unit_with_a_long_name_is_no_longer_name():
    """The unit answers, not a process that has its first 15 bytes."""
    events = [death(TARGET_UNIT="nginx-the-second.service"), death("nginx-the-secon", "7", 30, TARGET_UNIT=None)]
    for asked in ("nginx-the-second", "nginx-the-second.service"):
        assert who.search(events, asked).last is events[0]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("events", "last", "earlier"),
    [
        # the newest of two deaths, and an exit after a signal
        ([death(), death(second=60)], 1, None),
        ([death(), sent("SIGTERM", 15, 60, TPID="813"), exit_after(tpid="813", second=61)], 2, None),
        ([exit_after(), death(second=60)], 1, None),
        # a reload is no end, whether its process died before or lives
        ([death(), sent("SIGHUP", 1, 60, TPID="813")], 0, None),
        ([sent("SIGHUP", 1, 60)], 0, None),
        # stopped, and its end is not known: not the old SIGKILL
        ([death(), sent("SIGTERM", 15, 60, TPID="813")], 1, 0),
        ([sent("SIGTERM", 15, 60), sent("SIGHUP", 1, 61)], 0, None),
        # a signal to a zombie
        ([death(), sent("SIGTERM", 15, 1)], 0, None),
        # another process of the same pid
        ([death(), sent("SIGTERM", 15, 90)], 1, 0),
        # nothing that could end it
        ([death(), sent("SIGTERM", 15, 60, TPID="813", OUTCOME="ignored"), sent("SIGSTOP", 19, 61)], 0, None),
        ([death(), record("call", TCOMM="nginx", TIMESTAMP="2026-11-22T04:00:00.000000Z")], 0, None),
        # nobody sent it
        ([death(), death(second=9, ORIGIN="self", PID="0", COMM="kernel")], 1, None),
    ],
)  # fmt: skip
def test_the_last_end_answers(events, last, earlier, newest_first):
    """Of the process, of the name and of the unit, whichever way the record is read."""
    ordered = events[::-1] if newest_first else events
    for asked in ("nginx", "nginx.service"):
        answer = who.search(ordered, asked, newest_first=newest_first)
        assert answer.last is events[last]
        assert answer.earlier is (None if earlier is None else events[earlier])


def test_a_file_may_be_out_of_order():
    """It may have been put together from several."""
    events = [
        death("x", "1", 600, TARGET_UNIT=None),
        death(second=60),
        death(second=30),
        death("x", "2", 0, TARGET_UNIT=None),
    ]
    assert who.search(events, "nginx").last is events[1]
    assert who.search(events[::-1], "nginx").last is events[1]


def test_it_reads_no_further_than_it_must():
    """A journal may be years long, so it stops reading as soon as possible."""

    def endless():
        yield death(second=3000)
        for second in range(2999, 0, -30):
            yield death("x", "1", second)
        pytest.fail("read to the end")

    assert who.search(endless(), "nginx", newest_first=True)


def test_company():
    """Others of the same sender within a minute before and after, once each; not those of other senders."""
    events = [
        death("long ago", "2", 0, TARGET_UNIT=None),
        death("early", "3", 61, TARGET_UNIT=None),
        death("before", "4", 90, TARGET_UNIT=None),
        death("before", "4", 91, TARGET_UNIT=None),
        death(second=121),
        death("other", "5", 122, TARGET_UNIT=None, PID="99"),
        death("rebooted", "5", 122, TARGET_UNIT=None) | {"_BOOT_ID": "2"},
        exit_after("after", "6", 181, TARGET_UNIT=None, PID="3325", COMM="bash"),
        death("late", "7", 182, TARGET_UNIT=None),
    ]
    found = who.around(events, events[4], shown=2)
    assert (found.others, found.more, found.all_died) == ([("early", "3"), ("before", "4")], 1, False)


@pytest.mark.parametrize(("origin", "others"), [("oom", [("b", "2")]), ("self", []), ("unknown", [])])
def test_the_kernel_is_company_for_one_reason_only(origin, others):
    """What the OOM killer kills belongs together; what dies of its own fault does not."""
    events = [death(comm, pid, PID="0", COMM="kernel", ORIGIN=origin) for comm, pid in (("a", "1"), ("b", "2"))]
    found = who.around([*events, death("c", "3", PID="0", COMM="kernel", ORIGIN="kernel")], events[0])
    assert found.others == others


def test_what_came_before():
    """The last three deadly signals to the same process before the one that it died of, one for each sender."""
    last = death(second=300)  # of a SIGKILL 1.4 ms before
    events = [
        sent("SIGTERM", 15, 290), sent("SIGHUP", 1, 200), sent("SIGHUP", 1, 280, PID="7"), sent("SIGINT", 2, 270), sent("SIGTERM", 15, 210),
        record(TIMESTAMP="2026-11-22T03:04:59.998600Z"),
        sent("SIGTERM", 15, 291, TPID="813"), sent("SIGTERM", 15, 292, OUTCOME="ignored"), last,
    ]  # fmt: skip
    assert who.around(events, last).before == [events[3], events[2], events[0]]


def test_what_journalctl_is_asked_for():
    """Everything that is looked at, and not the whole journal where a field says it."""
    kinds = ("KILLSNOOP_EVENT=delivery", "KILLSNOOP_EVENT=death", "KILLSNOOP_EVENT=exit")
    assert who.candidates("812") == ((*kinds, "KILLSNOOP_TPID=812"),)
    assert {match[-1] for match in who.candidates("nginx")} == {
        "KILLSNOOP_TCOMM=nginx", "KILLSNOOP_TARGET_UNIT=nginx", "KILLSNOOP_TARGET_UNIT=nginx.service",
        "KILLSNOOP_TARGET_POD=nginx", "KILLSNOOP_TARGET_MACHINE=nginx",
    }  # fmt: skip
    pod = (*kinds, "KILLSNOOP_TARGET_POD_NAMESPACE=shop", "KILLSNOOP_TARGET_POD=web")
    assert who.candidates("shop/web")[0] == pod
    assert who.candidates("0123456789ab") == (kinds,)
    assert [match[-1] for match in who.company(death())] == ["KILLSNOOP_TPID=812", "KILLSNOOP_PID=3325"]
    assert [match[-1] for match in who.company(death(ORIGIN="self"))] == ["KILLSNOOP_TPID=812"]
