"""The interface to systemd: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)."""

import logging
import os
import socket
from collections.abc import Mapping

from systemd import daemon

from killsnoopd.failure import Exit, Failure

log = logging.getLogger("killsnoopd")


def notify(**state: str | int) -> bool:
    """Send a notification to systemd if it started us, as in `notify(READY=1, STATUS="...")`; whether it was sent.

    Never blocks. systemd.daemon.notify holds the GIL while systemd is too busy to read, which stops the whole daemon.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    message = "\n".join(f"{name}={value}" for name, value in state.items()).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        try:
            client.sendto(message, f"\0{path[1:]}" if path.startswith("@") else path)
        except OSError as error:
            log.debug("cannot notify systemd: %s", error)
            return False
    return True


def stderr_is_journal(environ: Mapping[str, str] = os.environ, fd: int = 2) -> bool:
    """Whether stderr is a stream to journald: JOURNAL_STREAM (systemd.exec(5)) names its device and inode."""
    status = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def watchdog_interval_s() -> float | None:
    """The interval of watchdog notifications, half of systemd's timeout; None if there is no watchdog."""
    usec, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not usec or (pid and int(pid) != os.getpid()):
        return None
    return int(usec) / 2e6


def listening_sockets() -> list[socket.socket]:
    """The listening sockets passed by systemd. Raises Failure if there are none."""
    fds = daemon.listen_fds()
    if not fds:
        raise Failure(Exit.OSERR, "--web.systemd-socket: systemd passed no socket: start killsnoopd.socket")
    sockets = [socket.socket(fileno=fd) for fd in fds]
    for listening in sockets:
        listening.setblocking(False)
    return sockets
