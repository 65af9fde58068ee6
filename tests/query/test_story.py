"""What ended it, in words."""

import re

import pytest
from logged import death, exit_after, record

from killsnoopd.query import story
from killsnoopd.query.who import Answer, Around

ALONE = Around([], [], 0, True)


def answer(last, around=ALONE, earlier=None, **how):
    return story.sentences(Answer(last, earlier, ""), around, **how)


KERNEL = {"PID": "0", "COMM": "kernel", "SYSCALL": None}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "nginx[812] (nginx.service) died of SIGKILL, 1.4 ms after bash[3325] (uid 0, ssh.service) sent it by kill(2)."),
        ({"EXE": "/usr/bin/bash", "LOGINUID": "1000", "SESSIONID": "2", "CONTAINER": "c" * 64, "PARENT_COMM": "sshd"},
         "bash[3325] (uid 0, logged in as uid 1000, session 2, /usr/bin/bash, ssh.service, container cccccccccccc, child of sshd) sent"),
        ({"CMDLINE": "bash -c 'kill 812'", "ANCESTORS": "sh[990] cron[989] systemd[1]", "PARENT_COMM": "sh"},
         "1.4 ms after bash[3325] (uid 0, ssh.service) sent it by kill(2). The command of bash[3325] was bash -c 'kill 812'. "
         "It was a child of sh[990], below cron[989], systemd[1]."),
        ({"ANCESTORS": "systemd[1]"}, "sent it by kill(2). bash[3325] was a child of systemd[1]."),
        (KERNEL | {"ORIGIN": "oom"}, "died of SIGKILL, 1.4 ms after the kernel, out of memory, sent it."),
        (
            KERNEL | {"ORIGIN": "oom", "OOM_SCOPE": "machine"},
            "died of SIGKILL, 1.4 ms after the kernel, the machine out of memory, sent it.",
        ),
        (KERNEL | {"ORIGIN": "kernel"}, "1.4 ms after the kernel sent it."),
        ({"ORIGIN": "cgroup", "SYSCALL": None}, "sent it by a write to cgroup.kill."),
        ({"ORIGIN": "pdeathsig", "SYSCALL": None}, "sent it by exiting (PR_SET_PDEATHSIG)."),
        ({"ORIGIN": "autokill", "SYSCALL": None}, "sent it by closing its pidfd (CLONE_PIDFD_AUTOKILL)."),
        ({"ORIGIN": "cgroup", "SYSCALL": None, "ORIGIN_INFERRED": "1"}, "probably sent it by a write to cgroup.kill."),
        ({"TARGET_UNIT": None, "TARGET_CONTAINER": "d" * 64}, "nginx[812] (dddddddddddd) died"),
        ({"TCOMM": "\x1b]0;pwned\x07"}, r'"\x1b]0;pwned\x07"[812] (nginx.service) died'),
        (KERNEL | {"ORIGIN": "self", "SIGNAL": "SIGSEGV", "CODE_NAME": "SEGV_MAPERR"},
         "nginx[812] (nginx.service) died of SIGSEGV (SEGV_MAPERR), its own fault."),
        (KERNEL | {"ORIGIN": "self", "SIGNAL": "SIGABRT"}, "died of SIGABRT, its own fault."),
        (KERNEL | {"ORIGIN": "unknown"}, "died of SIGKILL; the sender was not seen."),
        ({"ELAPSED_MS": None}, "died of SIGKILL, ? ms after bash"),
    ],
)  # fmt: skip
def test_death(fields, text):
    """It reads well for every origin, and no name in it reaches the terminal raw."""
    line = answer(death(**fields))
    assert text in line
    assert line.isprintable()
    assert re.match(r"2026-11-2\d \d\d:00:00 \S+: ", line)


def test_exit():
    """An exit is not called a death, and the signal not its reason."""
    line = answer(exit_after())
    assert (
        "nginx[812] (nginx.service) exited with status 0, 800.0 ms after systemd[1] (uid 0) sent it SIGTERM by kill(2)."
        in line
    )
    line = answer(exit_after(EXIT_STATUS="143", PID="0", COMM="kernel", ORIGIN="unknown"))
    assert "exited with status 143, 800.0 ms after it was sent SIGTERM; the sender was not seen." in line


def test_signal_without_an_end():
    """The answer does not say that the process died of it. It adds the last known end."""
    line = answer(record(SIGNAL="SIGTERM", SIG="15"), earlier=death(second=-0))
    assert (
        "nginx[812] (nginx.service) was sent SIGTERM by bash[3325] (uid 0, ssh.service) by kill(2); there is no record of its end. The last end on record is older, 2026-11-2"
        in line
    )
    assert line.endswith("died of SIGKILL, 1.4 ms after bash[3325] (uid 0, ssh.service) sent it by kill(2).")


def test_what_happened_around_it():
    """Earlier signals with their distance to the fatal one, and the first few of the company."""
    earlier = record(SIGNAL="SIGTERM", SIG="15", PID="1", COMM="systemd")
    unseen = record(SIGNAL="SIGINT", SIG="2", ORIGIN="unknown")
    line = answer(death(second=10, ELAPSED_MS="500.000"), Around([earlier, unseen], [("a", "1"), ("b", "2")], 3, True))
    assert (
        ". nginx[812] had been sent SIGTERM by systemd[1] 9.5 s before, SIGINT by a sender that was not seen 9.5 s before."
        in line
    )
    assert line.endswith(" Within a minute of that, bash[3325] also killed a[1], b[2] and 3 more.")
    assert "also ended a[1]." in answer(death(), Around([], [("a", "1")], 0, False))


def test_pods():
    """A pod by namespace and name, for sender and target, with the sender's container; a machine by its name."""
    both = {"POD": "ops-0", "POD_NAMESPACE": "ops", "CONTAINER_NAME": "kubectl", "CONTAINER": "c" * 64}
    line = answer(death(**both, TARGET_POD="web-1", TARGET_POD_NAMESPACE="shop", TARGET_CONTAINER="d" * 64))
    assert "nginx[812] (pod shop/web-1) died of SIGKILL" in line
    assert "bash[3325] (uid 0, pod ops/ops-0, container kubectl) sent it" in line
    line = answer(death(UNIT=None, MACHINE="web", TARGET_UNIT=None, TARGET_MACHINE="db"))
    assert "nginx[812] (db) died" in line
    assert "(uid 0, machine web)" in line


def test_users_and_hosts():
    """Users by name where it is known; never for the users of a container."""
    names = {"0": "root", "1000": "alice"}
    found = death(LOGINUID="1000") | {"_HOSTNAME": "web1"}
    assert "(user root, logged in as user alice, ssh.service)" in answer(found, named=lambda uid: names.get(uid, uid))
    assert "(uid 0, container abc)" in answer(death(UNIT=None, CONTAINER="abc"), named=names.get)
    assert " on web1: nginx[812]" in answer(found, hosts=True)
    assert "web1" not in answer(found)
