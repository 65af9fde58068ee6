"""Real processes that send real signals: forked, named, and with the uid that a test needs."""

import contextlib
import ctypes
import faulthandler
import os
import pickle
import platform
import signal
import struct
import sys
import threading
import traceback

CORES = len(os.sched_getaffinity(0))
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE = 4
_X86_64 = platform.machine() == "x86_64"
NUMBERS = {
    "kill": 62 if _X86_64 else 129,
    "tkill": 200 if _X86_64 else 130,
    "tgkill": 234 if _X86_64 else 131,
    "rt_sigqueueinfo": 129 if _X86_64 else 138,
    "rt_tgsigqueueinfo": 297 if _X86_64 else 240,
    "pidfd_send_signal": 424,
}
NOBODY = 65534
NO_SUCH_PID = 4_194_303  # one below the highest pid that Linux allows; pids wrap long before


def send(call, *arguments):
    """A raw system call; 0 or -errno."""
    result = _libc.syscall(NUMBERS[call], *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return -ctypes.get_errno() if result < 0 else result


def siginfo(sig, code=-1):
    """A siginfo_t as sigqueue(3) makes it (SI_QUEUE)."""
    return ctypes.create_string_buffer(struct.pack("=iii", sig, 0, code), 128)


def set_name(name):
    """Name the calling thread; any bytes."""
    _libc.prctl(15, ctypes.c_char_p(name), 0, 0, 0)


def become(uid):
    """Drop all privileges. As after execve(2), processes of this uid may trace it."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def forked(action, name=None, uid=None):
    """Run action() in a new process; its pid. An exception makes the exit code 1."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        faulthandler.disable()  # pytest's would raise a fatal signal again, by tgkill
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # ignored if a shell has started us in the background
        if name is not None:
            set_name(name)
        if uid not in (None, os.getuid()):
            become(uid)
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(action, name=None, uid=None):
    """Run action() in a new process and wait for it; its pid. Fails if action() did."""
    pid = forked(action, name, uid)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"sender {name!r} ended with status {status}"
    return pid


def result_of(action, name, uid):
    """What action() returns in a process of this name and user."""
    read, write = os.pipe()

    def act():
        with os.fdopen(write, "wb") as file:
            pickle.dump(action(), file)

    pid = forked(act, name, uid)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        result = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return pickle.loads(result)


@contextlib.contextmanager
def victim(own_group=False):
    """A process that blocks every signal, so that only SIGKILL and SIGSTOP affect it; its pid."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = forked(lambda: (os.setpgid(0, 0) if own_group else None, threading.Event().wait()))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    if own_group:
        os.setpgid(pid, pid)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def attack(action, name=b"ks-attack", uid=None, processes=CORES):
    """Run action() in processes of its own until the block ends; at most a minute."""

    def bounded():
        signal.alarm(60)
        action()

    pids = [forked(bounded, name, uid) for _ in range(processes)]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
