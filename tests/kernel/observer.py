"""bpftrace, as an observer that has nothing in common with the daemon."""

import contextlib
import json
import subprocess

from senders import NO_SUCH_PID, send
from waiting import DEADLINE_S

# bpftrace 0.17 loses a SIGINT that comes while it is not in epoll_wait(2), so it ends by itself.
_ENOUGH = 64
_END = f"tracepoint:syscalls:sys_enter_kill /args->pid == {NO_SUCH_PID} && args->sig == {_ENOUGH}/ {{ exit(); }}"


@contextlib.contextmanager
def bpftrace(program):
    """Runs the program; yields a function that ends it and returns the map @: its keys, with commas between their parts."""
    command = ["bpftrace", "-f", "json", "-e", program + _END]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as observer:

        def counted():
            send("kill", NO_SUCH_PID, _ENOUGH)
            output = observer.communicate(timeout=DEADLINE_S)[0]
            maps = [json.loads(line)["data"] for line in output.splitlines() if line.startswith('{"type": "map"')]
            (found,) = [data["@"] for data in maps if "@" in data]
            return found

        try:
            said = iter(observer.stdout.readline, "")
            assert any('"attached_probes"' in line for line in said), "bpftrace did not attach"
            yield counted
        finally:
            observer.kill()
