"""The command lines and ancestors of real senders, from the kernel."""

import ctypes
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from senders import NOBODY, forked, run, send, set_name
from waiting import wait_for

from killsnoopd import event, names
from killsnoopd.events import command_lines
from killsnoopd.probe import start as probe_start
from killsnoopd.probe.program import Layout
from killsnoopd.settings import Settings

FLAGS = ("--events.rate=0",)
_libc = ctypes.CDLL(None, use_errno=True)
_NEW_PIDS = 0x20000000  # CLONE_NEWPID
_SUBREAPER = 36  # prctl(2)


def killed(daemon, act, uid=None):
    """Start a victim, run act(victim's pid) in a process of its own; the delivery and the death of the victim."""
    victim = forked(signal.pause, b"kv-cmdline", uid)
    try:
        run(lambda: act(victim))
    except BaseException:
        os.kill(victim, signal.SIGKILL)
        raise
    finally:
        os.waitpid(victim, 0)
    return [found for found in daemon.events() if found.get("KILLSNOOP_TPID") == str(victim)]


def command_line(events):
    """The command line in the delivery and the death, which is the same."""
    assert [found["KILLSNOOP_EVENT"] for found in events] == ["delivery", "death"]
    first, second = (found.get("KILLSNOOP_CMDLINE") for found in events)
    assert first == second
    return first


def exec_sh(*rest, argv0=b"sh"):
    """A shell that kills, whose arguments are its name, -c, the script, the victim's pid, and these."""

    def act(victim):
        os.execv("/bin/sh", [argv0, b"-c", b"kill -9 $0", b"%d" % victim, *rest])

    return act


def test_a_script_of_cron(shared_daemon, tmp_path):
    """The line on the pager: which command, in which script, started by what."""
    script = tmp_path / "ks-backup.sh"
    script.write_text('#!/bin/sh\n"$1" -c "kill -9 $2"\nexit 0\n')
    script.chmod(0o755)
    shell = shutil.which("bash") or "/bin/sh"

    def cron(victim):
        set_name(b"ks-cron")
        subprocess.run([script, shell, str(victim)], check=True)

    delivery, death = events = killed(shared_daemon, cron)
    victim = delivery["KILLSNOOP_TPID"]
    assert command_line(events) == f"{shell} -c 'kill -9 {victim}'"
    sender = f"{delivery['KILLSNOOP_COMM']}[{delivery['KILLSNOOP_PID']}]"
    by = f"ks-backup.sh[{delivery['KILLSNOOP_PPID']}]"
    expected = f"{sender} ({shell} -c 'kill -9 {victim}', by {by}) uid 0 sent"
    assert delivery["MESSAGE"].startswith(f"{expected} SIGKILL to kv-cmdline[{victim}]")
    assert f" after {expected} it" in death["MESSAGE"]
    first, second, *_, last = delivery["KILLSNOOP_ANCESTORS"].split(" ")
    assert (first, second.partition("[")[0]) == (by, "ks-cron")
    assert last == "..." or last.endswith("[1]")
    assert death["KILLSNOOP_ANCESTORS"] == delivery["KILLSNOOP_ANCESTORS"]


PKILL = [shutil.which("pkill")] if shutil.which("pkill") else []


@pytest.mark.parametrize("pkill", PKILL)
def test_pkill(shared_daemon, pkill):
    """By a pattern with a space."""
    pattern = "ks-pkill 9876"
    victim = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait", *pattern.split()])
    wait_for(lambda: b"ks-pkill" in Path(f"/proc/{victim.pid}/cmdline").read_bytes(), "the victim to execute")
    subprocess.run([pkill, "-9", "-f", pattern], check=True)
    victim.wait()
    events = [found for found in shared_daemon.events("pkill") if found["KILLSNOOP_TPID"] == str(victim.pid)]
    assert command_line(events) == f"{pkill} -9 -f '{pattern}'"


def test_after_a_change_of_uid(shared_daemon):
    """As sudo does it: the uid is the new one, the ancestors are still there."""

    def sudo(victim):
        set_name(b"ks-sudo")
        pid = forked(lambda: exec_sh()(victim), uid=NOBODY)
        os.waitpid(pid, 0)

    delivery, death = events = killed(shared_daemon, sudo, NOBODY)
    assert command_line(events) == f"sh -c 'kill -9 $0' {delivery['KILLSNOOP_TPID']}"
    assert delivery["KILLSNOOP_UID"] == death["KILLSNOOP_UID"] == str(NOBODY)
    assert delivery["KILLSNOOP_ANCESTORS"].startswith("ks-sudo[")


def test_a_python_script(shared_daemon, tmp_path):
    """The name says python3, the command line says which script."""
    script = tmp_path / "reaper.py"
    script.write_text("import os, sys\nos.kill(int(sys.argv[2]), 9)\n")
    python = os.path.realpath(sys.executable)
    events = killed(shared_daemon, lambda victim: os.execv(python, [python, str(script), "--pid", str(victim)]))
    assert command_line(events) == f"{python} {script} --pid {events[0]['KILLSNOOP_TPID']}"


LONG = b"x" * 100_000
# Arguments after the victim's pid, and what is shown for them.
ARGUMENTS = {
    "quotes and blanks": ([b"my app", b"it's", b"", b"$HOME", b"~"], r"""'my app' $'it\'s' '' '$HOME' '~'"""),
    "newlines and tabs": ([b"a\nb\tc\r"], r"$'a\x0ab\x09c\x0d'"),
    "escapes": ([b"\x1b[2J\x1b]0;x\x07", b"a\\x1b"], r"$'\x1b[2J\x1b]0;x\x07' $'a\\x1b'"),
    "invalid UTF-8": ([b"caf\xe9", "café".encode(), "\u202e".encode()], r"$'caf\xe9' 'café' $'\xe2\x80\xae'"),
    "dots": ([b"...", b"more..."], "'...' 'more...'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_of_any_bytes(shared_daemon, case):
    """Each is quoted as for a shell, so that it shows where one ends."""
    given, shown = ARGUMENTS[case]
    events = killed(shared_daemon, exec_sh(*given))
    assert command_line(events) == f"sh -c 'kill -9 $0' {events[0]['KILLSNOOP_TPID']} {shown}"


def test_a_long_command_line(shared_daemon):
    """Of 100 kB the first 512 bytes, with a mark; in the message less, so that it stays a line."""
    delivery, _ = events = killed(shared_daemon, exec_sh(LONG))
    start = f"sh -c 'kill -9 $0' {delivery['KILLSNOOP_TPID']} "
    kept = event.CMDLINE_MAX - len(start.replace("'", ""))
    assert command_line(events) == f"{start}{'x' * kept}..."
    assert re.search(rf"sh\[\d+\] \({re.escape(start)}x+\.\.\., by ", delivery["MESSAGE"])
    assert len(delivery["MESSAGE"]) == 200


def test_no_arguments(shared_daemon):
    """execve(2) without any: the kernel adds an empty name (5.18), so there is one, or none."""

    def act(victim):
        reader, writer = os.pipe()
        os.write(writer, b"kill -9 %d\n" % victim)
        os.close(writer)
        os.dup2(reader, 0)
        nothing = (ctypes.c_char_p * 1)()
        _libc.execve(b"/bin/sh", nothing, nothing)
        os._exit(1)

    assert command_line(killed(shared_daemon, act)) in ("''", None)


def arguments_at():
    """Start and end of this process's arguments in its memory."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[45]), int(fields[46])


def overwrite(text, size=None):
    """Overwrite the arguments of this process: with the text, and NULs up to the end, or up to `size` bytes."""
    start, end = arguments_at()
    ctypes.memset(start, 0, size or end - start)
    ctypes.memmove(start, text, len(text))


# What a process writes over its arguments, from their size, and what is shown.
REWRITTEN = {
    "a title": (lambda size: b"ks: worker", "'ks: worker'"),
    "a title that is longer than the arguments": (lambda size: b"k" * (size + 7), None),
    "nothing but NULs": (lambda size: b"", "''"),
    "other arguments": (lambda size: b"ks\0-9\0\0x\0"[:size], "ks -9 '' x"),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_a_sender_that_overwrote_its_arguments(shared_daemon, case):
    """What it wrote is shown, as ps shows it."""
    text, shown = REWRITTEN[case]
    start, end = arguments_at()
    size = end - start

    def act(victim):
        written = text(size)
        overwrite(written, max(size, len(written) + 1))
        send("kill", victim, 9)

    found = command_line(killed(shared_daemon, act))
    if case == "other arguments":  # and the NULs up to the end are empty arguments, as for any other program
        assert found.startswith(shown)
        assert set(found.removeprefix(shown)) <= set(" '")
    else:
        assert found == (shown or ("k" * (size + 7) if size + 8 < event.CMDLINE_MAX else "k" * 511 + "..."))


def drop_arguments():
    """Give back the pages of this process's arguments: new ones, all zero, would come at the next access.

    In a thread: the first page has the first frames of the main thread, too, which must not return any more.
    """
    start, end = arguments_at()
    first = start & -mmap.PAGESIZE
    assert _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED) == 0


@pytest.mark.parametrize(("name", "shown"), [(None, "''"), (b"ks-another", None)])
def test_a_command_line_that_is_not_in_memory(start, name, shown):
    """The kernel cannot read it. /proc is asked if it is still the same process with the same name; else there is none."""
    daemon = start(*FLAGS)
    wait_here, go_on = os.pipe()
    victim = forked(signal.pause)

    def kill_and_stay():
        drop_arguments()
        send("kill", victim, 9)
        if name:
            Path(f"/proc/{os.getpid()}/comm").write_bytes(name)
        os.read(wait_here, 1)
        os._exit(0)

    def in_a_thread():
        threading.Thread(target=kill_and_stay).start()
        signal.pause()

    os.kill(daemon.pid, signal.SIGSTOP)
    sender = forked(in_a_thread, b"ks-absent")
    os.waitpid(victim, 0)
    wait_for(lambda: not name or Path(f"/proc/{sender}/comm").read_bytes() == name + b"\n", "the new name")
    os.kill(daemon.pid, signal.SIGCONT)
    assert command_line(daemon.events("ks-absent")) == shown
    os.write(go_on, b"!")
    os.waitpid(sender, 0)


def test_without_command_lines(start):
    """--events.cmdline=off: neither in a field nor in the message; ancestors are still there."""
    daemon = start(*FLAGS, "--events.cmdline=off")
    events = killed(daemon, exec_sh(b"--password=secret"))
    assert command_line(events) is None
    assert all(found["KILLSNOOP_ANCESTORS"] for found in events)
    assert "secret" not in daemon.stdout.read_text()


def test_twelve_ancestors(shared_daemon):
    """All of them, nearest first, with their pids; then those of this test, up to init or the mark."""
    told, told_here = os.pipe()

    def descend(victim, depth):
        set_name(b"ks-%d" % depth)
        os.write(told_here, b"ks-%d[%d]\n" % (depth, os.getpid()))
        if depth < 12:
            os.waitpid(forked(lambda: descend(victim, depth + 1)), 0)
        else:
            os.waitpid(forked(lambda: send("kill", victim, 9)), 0)

    delivery, death = killed(shared_daemon, lambda victim: descend(victim, 1))
    chain = os.read(told, 4096).decode().split()[::-1]
    assert len(chain) == 12
    found = delivery["KILLSNOOP_ANCESTORS"].split(" ")
    assert found[:12] == chain
    assert found[12].endswith(f"[{os.getpid()}]")
    assert found[-1] == "..." or found[-1].endswith("[1]")
    assert death["KILLSNOOP_ANCESTORS"] == delivery["KILLSNOOP_ANCESTORS"]


def test_a_parent_that_has_ended(shared_daemon):
    """It is left out: the nearest ancestor is the one that adopted the sender."""

    def adopt(victim):
        set_name(b"ks-adopts")
        _libc.prctl(_SUBREAPER, 1, 0, 0, 0)

        def orphan(parent):
            wait_for(lambda: os.getppid() != parent, "another parent")
            send("kill", victim, 9)

        def leave():
            set_name(b"ks-leaves")
            parent = os.getpid()
            forked(lambda: orphan(parent))

        os.waitpid(forked(leave), 0)
        os.wait()

    delivery, _ = killed(shared_daemon, adopt)
    assert delivery["KILLSNOOP_ANCESTORS"].startswith(f"ks-adopts[{delivery['KILLSNOOP_PPID']}] ")
    assert "ks-leaves" not in delivery["KILLSNOOP_ANCESTORS"]


def test_in_a_pid_namespace(shared_daemon):
    """The chain goes on outside, with the host's pids throughout."""
    told, told_here = os.pipe()

    def outside(_victim):
        set_name(b"ks-outside")
        assert _libc.unshare(_NEW_PIDS) == 0

        def inside():
            set_name(b"ks-inside")
            other = forked(signal.pause, b"kv-inside")
            pid = forked(lambda: send("kill", other, 9), b"ks-in-pidns")
            for each in (other, pid):
                os.waitpid(each, 0)

        pid = forked(inside)
        os.write(told_here, b"ks-inside[%d] ks-outside[%d]" % (pid, os.getpid()))
        os.waitpid(pid, 0)

    run(lambda: outside(0))
    expected = os.read(told, 4096).decode()
    delivery, *_ = shared_daemon.events("ks-in-pidns")
    assert delivery["KILLSNOOP_ANCESTORS"].startswith(f"{expected} ")
    assert delivery["KILLSNOOP_NS_PID"] == "3"


def test_a_name_that_looks_like_a_chain(shared_daemon):
    """Spaces and brackets in a name are escaped: it cannot forge an ancestor."""

    def forger(victim):
        set_name(b"a[1] init[1] ..")
        os.waitpid(forked(lambda: send("kill", victim, 9), b"ks-forged"), 0)

    delivery, _ = killed(shared_daemon, forger)
    forged = rf"a\x5b1\x5d\x20init\x5b1\x5d\x20..[{delivery['KILLSNOOP_PPID']}]"
    assert delivery["KILLSNOOP_ANCESTORS"].startswith(f"{forged} ")


def test_a_thousand_senders():
    """Each is gone before anything is read: the kernel alone has captured command line and ancestors."""
    layout = Layout.of(Settings())
    opened = probe_start.load([*FLAGS, "--probe.ring-size=16M"], layout, probe_start.loader_python())
    expected = {}
    try:
        for number in range(1000):
            victim = forked(signal.pause)
            parent = forked(
                lambda victim=victim, number=number: os.waitpid(forked(lambda: exec_sh(b"ks-%d" % number)(victim)), 0),
                b"kp-%d" % number,
            )
            for pid in (victim, parent):
                os.waitpid(pid, 0)
            line = f"sh -c 'kill -9 $0' {victim} ks-{number}"
            expected[victim] = line, ((parent, f"kp-{number}"), (os.getpid(), own_name()))
        records = []
        opened.consume(lambda _, record: records.append(record) or True)
    finally:
        opened.close()
    found = {}
    for decoded in map(event.decode, records):
        if decoded.kind == "delivery" and decoded.target.pid in expected and decoded.sender.comm == "sh":
            line = command_lines.shell(decoded.sender.cmdline)
            found[decoded.target.pid] = line, decoded.sender.ancestors[:2]
    assert found == expected


def own_name():
    return names.text(Path("/proc/self/comm").read_bytes().rstrip(b"\n"))
