"""A program: processes that die of signals, by the thousand.

    victims.py turns WORKER COUNT    by each route in turn; prints signal, origin, sender, victim and number of each
    victims.py names FIRST COUNT     each sender and each victim has a name of its own

A program of its own, because a small process forks ten times as fast as a test's.
"""

import ctypes
import os
import signal
import sys
from collections import Counter

from senders import forked, send, set_name, siginfo

OURS = 51
_libc = ctypes.CDLL(None)


def waiting():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    while True:
        signal.pause()


def fault():
    ctypes.string_at(0)


def by_call(call, number):
    def kill(pid):
        if call == "tgkill":
            assert send("tgkill", pid, pid, number) == 0
        elif call == "rt_sigqueueinfo":
            assert send("rt_sigqueueinfo", pid, number, siginfo(number)) == 0
        elif call == "pidfd_send_signal":
            fd = os.pidfd_open(pid)
            assert send("pidfd_send_signal", fd, number, None, 0) == 0
            os.close(fd)
        elif call == "group":
            os.setpgid(pid, pid)
            assert send("kill", -pid, number) == 0
        else:
            assert send("kill", pid, number) == 0

    return kill


# The victim's part, what kills it, and the death that it is: signal and origin.
ROUTES = {
    "kill": (waiting, by_call("kill", 9), "SIGKILL", "syscall"),
    "term": (waiting, by_call("kill", 15), "SIGTERM", "syscall"),
    "tgkill": (waiting, by_call("tgkill", 9), "SIGKILL", "syscall"),
    "queue": (waiting, by_call("rt_sigqueueinfo", 9), "SIGKILL", "syscall"),
    "pidfd": (waiting, by_call("pidfd_send_signal", 9), "SIGKILL", "syscall"),
    "group": (waiting, by_call("group", 9), "SIGKILL", "syscall"),
    "fault": (fault, None, "SIGSEGV", "self"),
    "abort": (_libc.abort, None, "SIGABRT", "self"),
}


def named(act, name):
    """A process that runs act() as soon as it has this name; its pid. It may be killed from now on."""
    ready, told = os.pipe()

    def victim():
        os.write(told, b"!")
        act()

    pid = forked(victim, name)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    os.close(told)
    return pid


def kill_one(name):
    """A process of this name dies of a signal that nobody else on this machine sends."""
    pid = named(waiting, name)
    os.kill(pid, OURS)
    os.waitpid(pid, 0)


def die_by_turns(worker, count, told):
    """`count` processes die, by one route after the other; each is seen to die, and written down, by its parent."""
    for number in range(count):
        route = list(ROUTES)[number % len(ROUTES)]
        act, kill, sig, origin = ROUTES[route]
        sender, name = b"kd-%s-%d" % (route.encode(), worker), b"kv-%s-%d" % (route.encode(), number // 8 % 10)
        set_name(sender)
        pid = named(act, name)
        if kill:
            kill(pid)
        _, status = os.waitpid(pid, 0)
        assert signal.Signals(os.WTERMSIG(status)).name == sig
        told[sig, origin, sender.decode() if kill else "", name.decode()] += 1


def kill_names(first, count):
    """Each sender and each victim has a name of its own."""
    for number in range(first, first + count):
        set_name(b"kd-%d" % number)
        kill_one(b"kv-%d" % number)


def turns(worker, count):
    """die_by_turns(), printed."""
    told = Counter()
    die_by_turns(worker, count, told)
    for key, number in told.items():
        sys.stdout.write(" ".join((*(part or "-" for part in key), f"{number}\n")))


if __name__ == "__main__":
    {"turns": turns, "names": kill_names}[sys.argv[1]](*map(int, sys.argv[2:]))
