"""A real systemd-journald: how it stores an event, and what happens when it is slow, stopped or gone."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from cases import Processes
from running import PRIVATE, UNSHARE, load
from senders import NO_SUCH_PID, NOBODY, forked, run, send, victim
from test_exactness import kill_loop
from waiting import wait_for

from killsnoopd.events import fields

JOURNALD = "/lib/systemd/systemd-journald"
# A journald of our own: a namespaced one, in a mount namespace in which its folders are the system's.
SCRIPT = f"""
set -e
{PRIVATE}
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/log/journal /var/log
mount -t tmpfs tmpfs /run/log
mount -t tmpfs tmpfs /var/log
touch /etc/machine-id
mount --bind "$1" /etc/machine-id
id=$(cat /etc/machine-id)
mkdir -p /run/log/journal /var/log/journal/$id /var/log/journal/$id.ks
mount --bind /var/log/journal/$id.ks /var/log/journal/$id
ln -s journal.ks /run/systemd/journal
exec {JOURNALD} ks
"""


class RealJournald:
    """A running journald; `prefix` starts a program for which it is the system's."""

    def __init__(self, folder):
        self._machine_id = folder / "machine-id"
        self._machine_id.write_text(uuid.uuid4().hex + "\n")
        self._folder = folder
        self.start()
        self.prefix = ("nsenter", "-m", "-r", f"--target={self.process.pid}")

    def start(self):
        with (self._folder / "journald.log").open("wb") as log:
            self.process = subprocess.Popen([*UNSHARE, SCRIPT, "sh", str(self._machine_id)], stdout=log, stderr=log)
        socket = Path(f"/proc/{self.process.pid}/root/run/systemd/journal/socket")
        wait_for(lambda: self.process.poll() is not None or socket.exists(), "journald's socket")
        assert self.process.poll() is None, (self._folder / "journald.log").read_text()

    def journalctl(self, *matches):
        command = [*self.prefix, "journalctl", "--namespace=ks", "--quiet", "--no-pager", "--output=json", *matches]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in output.splitlines()]

    def stop(self):
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def journald(tmp_path):
    if not Path(JOURNALD).exists():
        pytest.skip(f"needs {JOURNALD} (package systemd); CI=true makes this a failure")
    running = RealJournald(tmp_path)
    yield running
    running.stop()


def killsnoop(journald, *arguments):
    """The output of the command, in that journald's mount namespace."""
    command = [*journald.prefix, sys.executable, "-m", "killsnoopd.query.command", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_command_reads_the_journal(start, journald):
    """History, one sentence, and live events; no other program can forge an event."""
    daemon = start(target="auto", prefix=journald.prefix)
    processes = Processes()
    victims = [processes.victim(f"kv-read-{number}") for number in range(3)]
    sender = run(lambda: [send("kill", pid, 9) for pid in (*victims, NO_SUCH_PID)], b"ks-re\x1bd")
    for pid in victims:
        os.waitpid(pid, 0)
    wait_for(lambda: daemon.settled_ledger()["logged"] >= 7, "four signals and three deaths")

    def rows():
        return [line.split() for line in killsnoop(journald, "--since=today").stdout.splitlines()]

    wait_for(lambda: len(rows()) >= 5, "journald to have written")
    assert [row[2:7] for row in rows()[1:] if row[3] == "ks-re\\x1bd"] == [
        [str(sender), "ks-re\\x1bd", "SIGKILL", str(pid), "0"] for pid in victims
    ] + [[str(sender), "ks-re\\x1bd", "SIGKILL", str(NO_SUCH_PID), "ESRCH"]]
    answer = killsnoop(journald, "who", "kv-read-1")
    assert answer.returncode == 0, answer.stderr
    by = f"ks-re\\x1bd[{sender}]"
    assert re.search(
        rf"kv-read-1\[{victims[1]}\] .*died of SIGKILL, \S+ ms after {re.escape(by)} \(user root", answer.stdout
    )
    others = re.search(re.escape(by) + r" also killed (\S+), (\S+)\.$", answer.stdout).groups()
    assert set(others) == {f"kv-read-0[{victims[0]}]", f"kv-read-2[{victims[2]}]"}
    assert killsnoop(journald, "who", "-n", "kv-read-1").stdout == answer.stdout.replace("user root", "uid 0")
    counted = [json.loads(line) for line in killsnoop(journald, "top", "-o", "json").stdout.splitlines()]
    assert {"sender": "ks-re\\x1bd", "user": "root", "killed": 3, "exited": 0, "signals": 3} in [
        {name: value for name, value in row.items() if name != "last"} for row in counted
    ]
    assert killsnoop(journald, "who", "kv-read-9").returncode == 1
    failed = killsnoop(journald, "--since=today", "-x", "-o", "json", "-p", str(sender)).stdout.splitlines()
    assert [json.loads(line)["KILLSNOOP_RESULT"] for line in failed] == ["ESRCH"]
    assert killsnoop(journald, "--since=today", "-u", "no-such.service").stdout.count("\n") == 1
    nonsense = killsnoop(journald, "--since=nonsense")
    assert (nonsense.returncode, nonsense.stderr.count("\n")) == (2, 1)


def test_the_command_follows(start, journald, tmp_path):
    """-f shows events as they arrive; stopping it also stops its journalctl."""
    start(target="auto", prefix=journald.prefix)
    command = [*journald.prefix, sys.executable, "-m", "killsnoopd.query.command", "-f", "-s", "KILL"]
    with (tmp_path / "followed").open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
    try:

        def followed():
            run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-follow")
            return b"ks-follow" in (tmp_path / "followed").read_bytes()

        wait_for(followed, "a line")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert children
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_nobody_else_can_put_words_into_the_commands_mouth(journald):
    """journald accepts any fields from anyone; the command trusts only those that journald adds itself."""
    forged = (
        b"KILLSNOOP_EVENT=death\nKILLSNOOP_TIMESTAMP=2026-01-01T00:00:00.000000Z\nKILLSNOOP_TCOMM=kv-forged\n"
        b"KILLSNOOP_TPID=1\nKILLSNOOP_COMM=innocent\nSYSLOG_IDENTIFIER=killsnoopd\nMESSAGE=forged\n"
    )

    def forge(uid):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.connect(f"/proc/{journald.process.pid}/root/run/systemd/journal/socket")
            os.setresuid(uid, uid, uid)
            journal.send(forged)

    run(lambda: forge(NOBODY), b"ks-forger")
    wait_for(lambda: journald.journalctl("KILLSNOOP_COMM=innocent", f"_UID={NOBODY}"), "the forged entry")
    assert killsnoop(journald, "who", "kv-forged").returncode == 1
    run(lambda: forge(0), b"ks-root")  # only the uid made the difference
    wait_for(lambda: killsnoop(journald, "who", "kv-forged").returncode == 0, "the same entry, by root")


def test_a_user_who_may_not_read_it(journald):
    """A user with a readable journal of his own gets exit 77, and nothing from that journal."""
    event = (
        b"KILLSNOOP_EVENT=death\nKILLSNOOP_TIMESTAMP=2026-01-01T00:00:00.000000Z\nKILLSNOOP_TCOMM=kv-own\n"
        b"KILLSNOOP_TPID=1\nKILLSNOOP_COMM=ks\nMESSAGE=own\n"
    )
    user = 4242

    def log(uid):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.connect(f"/proc/{journald.process.pid}/root/run/systemd/journal/socket")
            os.setresuid(uid, uid, uid)
            journal.send(event)

    def ask(*arguments, uid=user):
        as_user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        command = [*journald.prefix, *as_user, sys.executable, "-m", "killsnoopd.query.command", *arguments]
        found = subprocess.run(command, check=False, capture_output=True, text=True)
        return found.returncode, found.stdout, found.stderr.count("\n")

    for uid in (0, user):
        run(lambda uid=uid: log(uid), b"ks-own")
        wait_for(lambda uid=uid: journald.journalctl("KILLSNOOP_TCOMM=kv-own", f"_UID={uid}"), "the entry")
    own = [
        *journald.prefix,
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "journalctl",
        "-q",
        "-o",
        "cat",
    ]
    wait_for(lambda: subprocess.run(own, check=False, capture_output=True).stdout, "a journal of his own")
    for arguments in (
        ("who", "kv-own"),
        ("who", "nobody"),
        ("--since=-1h",),
        ("-d", "-o", "json", "--since=-1h"),
        ("top",),
    ):
        assert ask(*arguments) == (77, "", 1)
        assert ask(*arguments, "--merge") == ask(*arguments, "-D", "/var/log/journal") == (77, "", 1)
    assert ask("-f") == (77, "", 1)
    assert ask("who", "kv-own", uid=0)[0] == 0
    assert ask("-D", "/no/such")[::2] == (69, 1)


def test_an_event_in_the_journal(start, journald):
    """`auto` finds journald; every field arrives and can be matched."""
    daemon = start("--events.cmdline=off", target="auto", prefix=journald.prefix)
    with victim() as target:
        name = Path(f"/proc/{target}/comm").read_text().strip()
        pid = run(lambda: send("kill", target, 9), b"ks-\xff\n")
    matches = "KILLSNOOP_SIGNAL=SIGKILL", f"KILLSNOOP_PID={pid}", "KILLSNOOP_EVENT=delivery"
    (stored,) = wait_for(lambda: journald.journalctl(*matches), "the event")
    assert stored["MESSAGE"] == f"ks-\\xff\\x0a[{pid}] uid 0 sent SIGKILL to {name}[{target}]: delivered"
    assert (stored["PRIORITY"], stored["SYSLOG_IDENTIFIER"], stored["MESSAGE_ID"]) == ("4", "killsnoopd", fields.SENT)
    assert (stored["KILLSNOOP_COMM"], stored["KILLSNOOP_TPID"]) == ("ks-\\xff\\x0a", str(target))
    assert stored["_PID"] == str(daemon.pid)
    assert daemon.stdout.read_text() == ""
    assert "events go to journald" in daemon.stderr.read_text()


def test_a_stopped_journald_stalls_nobody_else(start, journald, record_property):
    """journald is stopped for ten seconds under load: scrapes continue, the watchdog is fed, the ledger closes."""
    daemon = start(
        "--events.rate=0", "--probe.ring-size=64K", target="journal", prefix=journald.prefix,
        env={"WATCHDOG_USEC": "1000000"},
    )  # fmt: skip
    os.kill(journald.process.pid, signal.SIGSTOP)
    sent, slowest_s, end = 0, 0.0, time.monotonic() + 10
    fed = daemon.notifications().count("WATCHDOG=1")
    while time.monotonic() < end:
        run(lambda: kill_loop(500), b"ks-stall")
        sent += 500
        before = time.monotonic()
        daemon.get()
        slowest_s = max(slowest_s, time.monotonic() - before)
        assert daemon.signals("ks-stall") == {("ks-stall", "SIGTERM", "ESRCH"): sent}
        daemon.notifications()
    assert daemon.notifications().count("WATCHDOG=1") - fed >= 15
    stalled = daemon.ledger()
    assert stalled["ring_full"] > 0
    assert stalled["pending"] > 0
    os.kill(journald.process.pid, signal.SIGCONT)
    ledger = daemon.settled_ledger()
    record_property("slowest_scrape_ms", slowest_s * 1000)
    assert (
        slowest_s < 2
    )  # a page that waits for journald takes ten seconds; the delay by a busy machine does not matter here
    assert sum(ledger.values()) == daemon.attempted()
    wait_for(
        lambda: len(journald.journalctl(f"_PID={daemon.pid}", "_TRANSPORT=journal")) == ledger["logged"],
        "all in the journal",
    )


def test_journald_that_comes_back_is_found_again(start, tmp_path):
    """Events wait while there is no journald; when it is back, they are written in order."""
    (tmp_path / "first").mkdir()
    first = RealJournald(tmp_path / "first")
    # The daemon lives in the first one's namespace, so its successor starts there as well.
    daemon = start(target="journal", prefix=first.prefix)
    keeper = subprocess.Popen([*first.prefix, "sleep", "300"])
    try:
        wait_for(lambda: Path(f"/proc/{keeper.pid}/comm").read_text() == "sleep\n", "the namespace to be kept")
        first.process.kill()
        first.process.wait()
        run(lambda: [send("kill", NO_SUCH_PID, sig) for sig in (1, 2, 3)], b"ks-gap")
        wait_for(lambda: daemon.ledger()["pending"] >= 3, "events that wait")
        second = subprocess.Popen(
            ["nsenter", "-m", "-r", f"--target={keeper.pid}", JOURNALD, "ks"], stderr=subprocess.DEVNULL
        )
        try:
            first.prefix = ("nsenter", "-m", "-r", f"--target={keeper.pid}")
            stored = wait_for(lambda: (found := journald_sigs(first))[2:] and found, "the events")
            assert stored == ["1", "2", "3"]
            assert daemon.settled_ledger()["journal_error"] == 0
        finally:
            second.kill()
            second.wait()
    finally:
        keeper.kill()
        keeper.wait()


def journald_sigs(journald):
    return [event["KILLSNOOP_SIG"] for event in journald.journalctl("KILLSNOOP_COMM=ks-gap")]


def test_stopping_while_journald_is_stopped(start, journald):
    """SIGTERM ends the daemon within two seconds; it logs how many events could not be written."""
    daemon = start("--events.rate=0", target="journal", prefix=journald.prefix)
    os.kill(journald.process.pid, signal.SIGSTOP)
    run(lambda: kill_loop(5000), b"ks-stuck")
    wait_for(lambda: daemon.ledger()["pending"] > 0, "events that wait")
    before = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - before < 2.5
    lost = int(re.search(r"(\d+) not logged$", daemon.stderr.read_text(), re.M)[1])
    assert lost > 0


def numbered(journald, comm):
    """The target pids in the journal of a sender that used a different one for each signal."""
    return [int(event["KILLSNOOP_TPID"]) for event in journald.journalctl(f"KILLSNOOP_COMM={comm}")]


def test_a_backlog_waits_for_the_next_daemon(start, journald, pins):
    """journald hangs and the daemon stops: events that it could not write stay in the pinned ring buffer."""
    load(pins, "--events.rate=0")
    flags = ("--events.rate=0", f"--probe.pin={pins}")
    first = start(*flags, target="journal", prefix=journald.prefix)
    os.kill(journald.process.pid, signal.SIGSTOP)
    targets = [NO_SUCH_PID - number for number in range(3000)]
    run(lambda: [send("kill", target, 9) for target in targets], b"ks-backlog")
    assert first.stop() == 0
    waiting = int(re.search(r"(\d+) stay in the pinned ring buffer for the next start", first.stderr.read_text())[1])
    assert waiting > 0
    os.kill(journald.process.pid, signal.SIGCONT)
    second = start(*flags, target="journal", prefix=journald.prefix)
    assert second.settled_ledger()["journal_error"] == 0
    wait_for(lambda: len(numbered(journald, "ks-backlog")) >= len(targets), "journald to have written")
    assert numbered(journald, "ks-backlog") == targets


def test_a_daemon_killed_again_and_again_logs_each_event_once(start, journald, pins):
    """SIGKILL at any instant, twenty times under load: every signal is counted, and is in the journal once."""
    flags = ("--events.rate=0", "--probe.ring-size=16M")
    load(pins, *flags)
    targets = [NO_SUCH_PID - number for number in range(20_000)]

    def act():
        for target in targets:
            send("kill", target, 9)
            time.sleep(300e-6)

    sender, kills = forked(act, b"ks-again"), 0
    while os.waitpid(sender, os.WNOHANG) == (0, 0):
        daemon = start(*flags, f"--probe.pin={pins}", target="journal", prefix=journald.prefix)
        time.sleep(random.uniform(0.01, 0.2))  # killing it at any instant is the test
        daemon.process.kill()
        daemon.process.wait()
        kills += 1
    daemon = start(*flags, f"--probe.pin={pins}", target="journal", prefix=journald.prefix)
    assert kills >= 10
    assert daemon.signals("ks-again") == {("ks-again", "SIGKILL", "ESRCH"): len(targets)}
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == ledger["logged"] + ledger["filtered"]
    wait_for(lambda: len(numbered(journald, "ks-again")) >= len(targets), "journald to have written")
    assert numbered(journald, "ks-again") == targets
