"""A program: so many processes, each with a signal pending that would end it. Ends when its standard input does.

    crowd.py COUNT kernel|own

kernel: the signal is the kernel's (SIGPIPE). own: the process sends it itself, and others that it handles.
A program of its own, because a small process forks ten times as fast as a test's.
"""

import contextlib
import os
import signal
import sys


def by_kernel() -> None:
    """A SIGPIPE, which is blocked."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        os.write(writer, b"!")


def by_itself() -> None:
    """SIGTERM and SIGUSR1, which are blocked, and five that are handled."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    for _ in range(5):
        os.kill(os.getpid(), signal.SIGUSR2)


def main() -> None:
    """Entry point."""
    count, prepare = int(sys.argv[1]), {"kernel": by_kernel, "own": by_itself}[sys.argv[2]]
    pids = []
    ready, told_by = os.pipe()
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                prepare()
                os.write(told_by, b"!")
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
    while count:
        count -= len(os.read(ready, count))
    os.write(1, b"ready\n")
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
