"""The deadline for the event thread after the daemon is asked to stop."""

import os
import select
import time


class Stopped(Exception):
    """The deadline has passed: the daemon stops."""


class StopDeadline:
    """How long sinks may wait: without limit until stop(), then `grace_s` seconds in all."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._deadline: float | None = None
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable after stop()."""

    def stop(self) -> None:
        """Start the grace period. Thread-safe."""
        self._deadline = time.monotonic() + self._grace_s
        os.eventfd_write(self.stop_fd, 1)

    def passed(self) -> bool:
        """Whether the grace period is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def wait(self, fd: int | None, timeout_s: float | None = None) -> None:
        """Wait until `fd` is writable or the timeout expires. Raises Stopped at the deadline."""
        poll = select.poll()
        if fd is not None:
            poll.register(fd, select.POLLOUT)
        if self._deadline is None:
            poll.register(self.stop_fd, select.POLLIN)
        elif self.passed():
            raise Stopped
        else:
            left_s = max(0.0, self._deadline - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if fd is not None and [ready_fd for ready_fd, _ in ready] == [self.stop_fd]:
            self.wait(fd, timeout_s)  # the grace period has begun

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.stop_fd)
