"""What a local user does without any privilege to hide a kill, to blame another, or to use up what others need.

Each is bounded in count, or in time by whoever calls it.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from origins import PTRACE_CONT, PTRACE_DETACH, PTRACE_O_TRACEEXIT, PTRACE_SEIZE, arm, ptrace
from senders import forked, run, send, siginfo

_libc = ctypes.CDLL(None, use_errno=True)
_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
ANY_CHILD = 0x40000000  # __WALL
_PTRACE_GETREGS, _PTRACE_SETREGS = 12, 13
_EVENT_EXIT = signal.SIGTRAP | 6 << 8


def handled_flood():
    """Signals to oneself that may kill, and are handled. Without end."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    while True:
        send("kill", os.getpid(), signal.SIGUSR1)


def awaited_flood():
    """Signals that would kill, were they not blocked, and that the process takes out of its queue. Without end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    while True:
        send("kill", os.getpid(), signal.SIGUSR1)
        signal.sigwait([signal.SIGUSR1])


def serve(server, report):
    """A service that handles SIGPIPE, and does not give up at once when its client has gone. Without end.

    The file `report` has the number of SIGPIPEs so far.
    """
    count = 0
    signal.signal(signal.SIGPIPE, lambda *_: None)
    while True:
        client, _ = server.accept()
        with client:
            with contextlib.suppress(OSError):
                client.recv(1)
            for _ in range(200):
                count += _libc.write(client.fileno(), b"!", 1) < 0 and ctypes.get_errno() == errno.EPIPE
        os.pwrite(report, struct.pack("=q", count), 0)


def hang_up(address):
    """Connect, and hang up before there is an answer. Without end."""
    while True:
        with socket.create_connection(address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))


@contextlib.contextmanager
def crowd(count, uid, signals):
    """So many processes of a uid, each with a signal pending that would end it (crowd.py); the pid of their parent."""
    program = [sys.executable, "-S", str(Path(__file__).with_name("crowd.py")), str(count), signals]
    user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **user) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


def held_in_exit():
    """A thread is in its exit(2), where its tracer holds it, when the process is killed: it is often the last one."""
    (ready, told_by), (go, go_on) = os.pipe(), os.pipe()

    def worker():
        os.write(told_by, struct.pack("=i", threading.get_native_id()))
        os.read(go, 1)
        _libc.syscall(_EXIT, 0)

    def victim():
        threading.Thread(target=worker, daemon=True).start()
        signal.pause()

    pid = forked(victim, b"kv-held")
    (tid,) = struct.unpack("=i", os.read(ready, 4))
    ptrace(PTRACE_SEIZE, tid, PTRACE_O_TRACEEXIT)
    os.write(go_on, b"!")
    _, status = os.waitpid(tid, ANY_CHILD)
    assert status >> 8 == _EVENT_EXIT, hex(status)
    send("kill", pid, signal.SIGKILL)
    while os.waitpid(-1, ANY_CHILD)[0] != pid:
        continue
    for fd in (ready, told_by, go, go_on):
        os.close(fd)


def let_go(pid, number):
    """Trace a process of one's own, and detach with a signal, which is generated nowhere."""
    ptrace(PTRACE_SEIZE, pid)
    os.kill(pid, signal.SIGWINCH)
    os.waitpid(pid, ANY_CHILD)
    ptrace(PTRACE_DETACH, pid, number)


def once_more(pid):
    """SIGTERM to a process of one's own for I/O on a file: with the code of a fault."""
    ours, theirs = socket.socketpair()
    arm(ours, pid, signal.SIGTERM)
    theirs.send(b"!")


def with_code(code):
    """Kill oneself with a siginfo that pretends to be the kernel's."""
    send("rt_sigqueueinfo", os.getpid(), signal.SIGKILL, siginfo(signal.SIGKILL, code))


def burn():
    """Exceed one's limit of CPU time, by a thread that is not the leader."""

    def worker():
        while True:
            continue

    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    threading.Thread(target=worker, daemon=True).start()
    signal.pause()


def stopped_and_terminated():
    """A process of one's own dies of the first of two SIGTERMs, the second of which the kernel drops."""
    pid = forked(signal.pause, b"kv-pending")
    os.kill(pid, signal.SIGSTOP)
    send("kill", pid, signal.SIGTERM)
    run(lambda: once_more(pid), b"ks-second")
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)


def make_send(pid, target, number):
    """Make a process of one's own, which waits in a system call, call kill(2). On x86-64."""
    registers = (ctypes.c_uint64 * 27)()  # struct user_regs_struct
    ptrace(PTRACE_SEIZE, pid)
    os.kill(pid, signal.SIGWINCH)
    os.waitpid(pid, ANY_CHILD)
    assert _libc.ptrace(_PTRACE_GETREGS, pid, None, registers) == 0
    # rax, rsi, rdi; orig_rax: no call to restart; rip: back to the instruction `syscall`
    registers[10], registers[13], registers[14], registers[15] = 62, number, target, 2**64 - 1
    registers[16] -= 2
    assert _libc.ptrace(_PTRACE_SETREGS, pid, None, registers) == 0
    ptrace(PTRACE_CONT, pid)
