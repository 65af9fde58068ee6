"""A user (uid 65534, no capability) kills what it may, of its own uid or another, and tries to have root's processes blamed.

test_origins.py and test_coverage.py run each way of sending a signal as that user, too.
"""

import array
import ctypes
import fcntl
import os
import pty
import resource
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from origins import Said, arm, said
from senders import NO_SUCH_PID, NOBODY, become, forked, run, send, set_name
from waiting import wait_for

OTHER = 4242
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


def about(daemon, name):
    """What was said of the processes of this name."""
    return sorted((said(event) for event in daemon.events() if event.get("KILLSNOOP_TCOMM") == name), key=str)


def delivery_and_death(*what):
    return sorted((Said(kind, *what) for kind in ("delivery", "death")), key=str)


def end_of(pid):
    """The signal that ended a child."""
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("receives", [True, False])
def test_a_terminal_that_root_closes(daemon, receives):
    """The user passes it through a socket, as anybody can to journald. It is root's process that hangs up the terminal: when
    it reads the message, which it need not expect, or when it ends. It is the trigger, not the sender.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    wait, go = os.pipe()
    name = f"kv-passed-{receives:d}"

    def attack():
        pid, terminal = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            set_name(name.encode())
            theirs.close()
            os.write(1, b"ready")
            while True:
                signal.pause()
        os.read(terminal, 5)
        ours.sendmsg([b"log me"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [terminal]))])
        os.close(terminal)
        os.write(go, b"!")
        assert end_of(pid) == signal.SIGHUP

    def root():
        os.setsid()
        os.read(wait, 1)
        if receives:
            theirs.recv(100)

    bystander = forked(root, b"ks-bystander")
    theirs.close()
    run(attack, b"ks-attacker", NOBODY)
    os.waitpid(bystander, 0)
    for fd in (wait, go):
        os.close(fd)
    ours.close()
    assert about(daemon, name) == delivery_and_death("SIGHUP", "tty", "kernel", "ks-bystander")


def test_a_timer_that_expires_while_root_sends(start):
    """The same signal, to nobody: root's process is not the sender of what the user's timer sends."""
    daemon = start()
    cpu = {min(os.sched_getaffinity(0))}

    def attack():
        os.sched_setaffinity(0, cpu)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while True:
            signal.pause()

    def root():
        os.sched_setaffinity(0, cpu)
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            for _ in range(1000):
                send("kill", NO_SUCH_PID, signal.SIGALRM)

    pid = forked(attack, b"kv-expires", NOBODY)
    run(root, b"ks-bystander")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [key for key in daemon.deliveries() if key[0] == "SIGALRM"] == []


def test_a_tracer_that_knows_nothing_of_it(start):
    """PTRACE_TRACEME makes a tracer of the parent, here root's. The user has more targets than the probe remembers for a
    uid, so that it does not know who killed the traced one; root's process is not named.
    """
    daemon = start("--events.rate=0")
    wait, go = os.pipe()
    ready, told = os.pipe()

    def held():
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.write(told, b"!")
        os.read(wait, 1)

    def attack():
        os.setpgid(0, 0)
        pids = [forked(held) for _ in range(1100)]
        for _ in pids:
            os.read(ready, 1)
        for pid in pids:
            send("kill", pid, signal.SIGTERM)
        (victim,) = pids_of(b"kv-traceme")
        assert send("kill", victim, signal.SIGKILL) == 0
        wait_for(lambda: victim not in pids_of(b"kv-traceme"), "its end")
        os.write(go, b"!" * len(pids))
        for pid in pids:
            os.waitpid(pid, 0)

    def traced():
        become(NOBODY)
        assert _libc.ptrace(0, 0, None, None) == 0
        os.write(told, b"!")
        while True:
            signal.pause()

    def root():
        victim = forked(traced, b"kv-traceme")
        os.read(ready, 1)
        attacker = forked(attack, b"ks-attacker", NOBODY)
        os.waitpid(victim, 0)
        assert os.waitpid(attacker, 0)[1] == 0

    run(root, b"ks-bystander")
    for fd in (wait, go, ready, told):
        os.close(fd)
    assert [found for found in about(daemon, "kv-traceme") if found.kind == "death"] == [
        Said("death", "SIGKILL", "unknown", "")
    ]


def pids_of(name):
    """The processes with this name, without those that have ended."""
    found = []
    for path in Path("/proc").glob("[1-9]*/stat"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"(" + name + b") " in text and b") Z " not in text:
            found.append(int(path.parent.name))
    return found


def test_a_file_that_its_owner_has_armed(daemon):
    """A process of another uid asks for SIGIO, which it ignores, for a file that it shares with the user, who chooses SIGKILL."""
    ours, theirs = socket.socketpair()
    ready, told = os.pipe()

    def victim():
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        arm(ours, os.getpid(), 0)
        os.write(told, b"!")
        while True:
            signal.pause()

    def attack():
        assert send("kill", pid, signal.SIGKILL) < 0
        fcntl.fcntl(ours, 10, signal.SIGKILL)  # F_SETSIG
        theirs.send(b"!")

    pid = forked(victim, b"kv-shares", OTHER)
    os.read(ready, 1)
    run(attack, b"ks-attacker", NOBODY)
    assert end_of(pid) == signal.SIGKILL
    for fd in (ready, told):
        os.close(fd)
    ours.close()
    theirs.close()
    assert about(daemon, "kv-shares") == delivery_and_death("SIGKILL", "sigio", "kernel", "ks-attacker")


@pytest.mark.parametrize("way", ["kill", "F_SETSIG"])
def test_a_process_that_has_taken_another_uid(daemon, processes, way):
    """Its real uid is the user's, as that of a set-user-ID program."""
    name = f"kv-took-{way}"[:15]
    pid = processes.victim(name, lambda: os.setresuid(NOBODY, OTHER, OTHER))

    def attack():
        if way == "kill":
            assert send("kill", pid, signal.SIGKILL) == 0
        else:
            ours, theirs = socket.socketpair()
            arm(ours, pid, signal.SIGKILL)
            theirs.send(b"!")

    run(attack, b"ks-attacker", NOBODY)
    assert end_of(pid) == signal.SIGKILL
    who = ("syscall", "ks-attacker", "") if way == "kill" else ("sigio", "kernel", "ks-attacker")
    assert about(daemon, name) == delivery_and_death("SIGKILL", *who)


@pytest.fixture
def program(tmp_path):
    """A set-user-ID program that writes without end."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    path = tmp_path / "kv-setuid"
    shutil.copy("/usr/bin/yes", path)
    os.chown(path, OTHER, OTHER)
    path.chmod(0o4755)
    return path


def _alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.1)


def _cpu():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))


def _size():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.dup2(os.open("/tmp", os.O_TMPFILE | os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))


def _pipe():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


@pytest.mark.parametrize(
    ("prepare", "events"),
    [
        (_alarm, [Said("death", "SIGALRM", "self", "")]),
        (_cpu, delivery_and_death("SIGKILL", "rlimit", "kernel")),
        (_size, delivery_and_death("SIGXFSZ", "rlimit", "kernel")),
        (_pipe, [Said("death", "SIGPIPE", "self", "")]),
    ],
)
def test_what_a_setuid_program_inherits(daemon, program, prepare, events):
    """Timers, limits and files outlive execve(2), so that the user can kill a program of another uid by them."""
    name = f"kv-{prepare.__name__[1:]}"
    path = program.rename(program.with_name(name))

    def start_it():
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        prepare()
        os.execv(path, [name])

    pid = forked(start_it, b"ks-attacker", NOBODY)
    assert os.waitpid(pid, 0)[1] & 0x7F
    assert about(daemon, name) == events


def test_ctrl_c_for_a_setuid_program(daemon, program):
    """The terminal is the sender."""

    def attack():
        pid, terminal = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(program, [program.name])
        os.read(terminal, 1)
        os.write(terminal, b"\x03")
        while True:
            try:
                os.read(terminal, 1000)
            except OSError:
                break
        assert end_of(pid) == signal.SIGINT

    run(attack, b"ks-attacker", NOBODY)
    assert about(daemon, "kv-setuid") == delivery_and_death("SIGINT", "tty", "kernel")


def test_sigcont_within_the_session(daemon, processes):
    """It may be sent to any process of one's session: told with its sender."""
    pid = processes.victim("kv-session", lambda: os.setresuid(OTHER, OTHER, OTHER))
    run(lambda: send("kill", pid, signal.SIGCONT), b"ks-attacker", NOBODY)
    assert about(daemon, "kv-session") == [Said("delivery", "SIGCONT", "syscall", "ks-attacker")]
