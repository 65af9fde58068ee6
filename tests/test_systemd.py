"""Protocols between systemd and the daemon, with a real socket in systemd's place."""

import os
import socket
import subprocess
import sys

import pytest

from killsnoopd import systemd
from killsnoopd.failure import Exit, Failure


def test_stderr_is_journal(tmp_path):
    """True only if stderr is the stream that systemd opened for the journal."""
    with (tmp_path / "log").open("w") as log:
        status = os.fstat(log.fileno())
        assert systemd.stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, log.fileno())
        assert not systemd.stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, log.fileno())
        assert not systemd.stderr_is_journal({}, log.fileno())


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_notify(tmp_path, monkeypatch, abstract):
    """One datagram, a line for each variable; a socket may be in the abstract namespace."""
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0", 1) if abstract else name)
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert systemd.notify(READY=1, STATUS="well")
        assert server.recv(4096) == b"READY=1\nSTATUS=well"


def test_nobody_to_notify(monkeypatch, tmp_path):
    """Without systemd, or when its socket is gone: no error, and the result is False."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [(None, None, None), ("30000000", None, 15), ("30000000", "self", 15), ("30000000", "1", None)],
)
def test_watchdog_interval(monkeypatch, usec, pid, interval_s):
    """Half of systemd's timeout, if the watchdog is for this process."""
    for name, value in [("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "self" else pid)]:
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval_s() == interval_s


def test_no_socket_handed_over(monkeypatch):
    """One line that names the missing unit."""
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(Failure, match="start killsnoopd") as refused:
        systemd.listening_sockets()
    assert refused.value.exit_code == Exit.OSERR


TAKE = """
import os
from killsnoopd import systemd
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
for taken in systemd.listening_sockets():
    print(taken.fileno(), taken.getsockname()[1], taken.get_inheritable(), taken.getblocking())
"""


def test_sockets_handed_over():
    """They are descriptors from 3 on. They do not block, and no child gets them."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(bound.getsockname()[1]) for bound in (one, other)]
        shell = f'exec 7<&{one.fileno()} 8<&{other.fileno()}; exec 3<&7 4<&8 7<&- 8<&-; exec "$@"'
        command = ["bash", "-c", shell, "bash", sys.executable, "-c", TAKE]
        fds = (one.fileno(), other.fileno())
        result = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines() == [f"3 {ports[0]} False False", f"4 {ports[1]} False False"]
