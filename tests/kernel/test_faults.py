"""Faults around a running daemon; the table in docs/reliability.md names the tests of the others."""

import os
import signal

from senders import NO_SUCH_PID, run, send


def test_a_daemon_that_was_stopped_for_a_while(start):
    """SIGSTOP and SIGCONT: signals in between are counted, and logged in order."""
    daemon = start()
    os.kill(daemon.pid, signal.SIGSTOP)
    run(lambda: [send("kill", NO_SUCH_PID - number, 9) for number in range(500)], b"ks-meanwhile", 20_003)
    os.kill(daemon.pid, signal.SIGCONT)
    assert [NO_SUCH_PID - int(event["KILLSNOOP_TPID"]) for event in daemon.events("ks-meanwhile")] == list(range(500))
    assert daemon.signals("ks-meanwhile") == {("ks-meanwhile", "SIGKILL", "ESRCH"): 500}
