"""What an operator sees with journalctl and killsnoop."""

import re

from conftest import journal, kill_as, run
from senders import NO_SUCH_PID, send
from waiting import wait_for


def test_the_killer_shows_in_the_victims_log(victim):
    """`journalctl -u VICTIM.service` shows killsnoopd's line next to the victim's own."""
    unit, pid = victim
    sender = kill_as("ks-killer", lambda: send("kill", pid, 9))
    both = wait_for(lambda: len(found := journal("-u", unit, "SYSLOG_IDENTIFIER=killsnoopd")) >= 2 and found, "both")
    message = both[0]["MESSAGE"]
    assert message.startswith(f"ks-killer[{sender}] (")  # its command
    assert message.endswith(f") uid 0 sent SIGKILL to sleep[{pid}] ({unit}): delivered")
    assert f"sleep[{pid}] ({unit}) died of SIGKILL" in both[1]["MESSAGE"]
    assert both[0]["OBJECT_SYSTEMD_UNIT"] == unit


def test_systemd_is_seen_when_it_stops_a_service(victim):
    """systemd signals through a pidfd or by kill(2): either way it is the sender, and the event has the route."""
    unit, pid = victim
    run("systemctl", "stop", unit)
    (event,) = wait_for(
        lambda: journal(f"KILLSNOOP_TPID={pid}", "KILLSNOOP_SIGNAL=SIGTERM", "KILLSNOOP_EVENT=delivery"), "it"
    )
    assert (event["KILLSNOOP_COMM"], event["KILLSNOOP_PID"]) == ("systemd", "1")
    assert event["KILLSNOOP_SYSCALL"] in ("kill", "pidfd_send_signal")


def test_matches(victim):
    """By signal, result and sender; -o verbose shows every field."""
    _unit, pid = victim
    kill_as("ks-match", lambda: (send("kill", pid, 9), send("kill", NO_SUCH_PID, 15)))
    wait_for(
        lambda: journal("KILLSNOOP_COMM=ks-match", "KILLSNOOP_SIGNAL=SIGKILL", "KILLSNOOP_EVENT=delivery"), "SIGKILL"
    )
    (failed,) = wait_for(lambda: journal("KILLSNOOP_COMM=ks-match", "KILLSNOOP_RESULT=ESRCH"), "the call that failed")
    assert failed["KILLSNOOP_TPID"] == str(NO_SUCH_PID)
    verbose = run("journalctl", "-o", "verbose", "--no-pager", "KILLSNOOP_COMM=ks-match")
    for name in ("KILLSNOOP_EXE=/usr/bin/python3", "KILLSNOOP_UNIT=vm-test.service", "KILLSNOOP_OUTCOME=delivered"):
        assert name in verbose


def test_the_catalog_explains(victim):
    """`journalctl -x`."""
    _unit, pid = victim
    kill_as("ks-catalog", lambda: send("kill", pid, 9))
    wait_for(lambda: journal("KILLSNOOP_COMM=ks-catalog", "KILLSNOOP_EVENT=death"), "the death")
    explained = run("journalctl", "-x", "--no-pager", "KILLSNOOP_COMM=ks-catalog")
    assert explained.count("░░") >= 4


def test_killsnoop_reads_it(victim):
    """The table, and one sentence."""
    unit, pid = victim
    sender = kill_as("ks-asked", lambda: send("kill", pid, 9))
    wait_for(lambda: journal("KILLSNOOP_COMM=ks-asked", "KILLSNOOP_EVENT=death"), "the death")
    sentence = run("killsnoop", "who", unit)
    assert f"sleep[{pid}] ({unit}) died of SIGKILL" in sentence
    assert f"ks-asked[{sender}]" in sentence
    rows = run("killsnoop", "--since=today", "-p", str(sender))  # an earlier boot may have had that pid, too
    assert re.search(rf"\b{sender} +ks-asked +SIGKILL +{pid}\b", rows)


def test_an_oom_kill_in_a_service():
    """MemoryMax: the event names the kernel's OOM killer, not the process that allocated memory."""
    unit = "ks-oom.service"
    code = "b = bytearray(200 << 20)"
    run("systemd-run", f"--unit={unit}", "-p", "MemoryMax=40M", "-p", "MemorySwapMax=0", "python3", "-c", code)
    (event,) = wait_for(
        lambda: journal(f"KILLSNOOP_TARGET_UNIT={unit}", "KILLSNOOP_ORIGIN=oom", "KILLSNOOP_EVENT=delivery"),
        "the OOM kill",
    )
    assert (event["KILLSNOOP_COMM"], event["KILLSNOOP_SIGNAL"]) == ("kernel", "SIGKILL")
    run("systemctl", "reset-failed", unit, check=False)


def test_a_service_that_is_killed_whole(victim):
    """`systemctl kill -s KILL`, and cgroup.kill if this systemd uses it: an event for each process."""
    unit, pid = victim
    run("systemctl", "kill", "-s", "KILL", unit)
    events = wait_for(
        lambda: journal(f"KILLSNOOP_TPID={pid}", "KILLSNOOP_SIGNAL=SIGKILL", "KILLSNOOP_EVENT=delivery"), "it"
    )
    assert events[0]["KILLSNOOP_COMM"] == "systemd"
