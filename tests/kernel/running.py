"""A real daemon under test: started as a child, observed through sd_notify, its page and its JSON lines."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from waiting import DEADLINE_S, wait_for

from killsnoopd.probe import libbpf, start

# lockdown=confidentiality forbids it; tests that need it cannot run there.
MAY_READ_KERNEL_MEMORY = libbpf.may_read_kernel_memory()
# A mount namespace that does not propagate mounts; `/` need not be a mount point (a chroot).
UNSHARE = ("unshare", "-m", "--propagation", "unchanged", "sh", "-c")
PRIVATE = (
    """awk '{print $5}' /proc/self/mountinfo | while read -r at; do mount --make-private "$at" 2>/dev/null || :; done"""
)


class Daemon:
    """`killsnoopd` as a child process."""

    def __init__(self, folder, flags=(), *, target="stdout", prefix=(), env=None, python=sys.executable):
        folder.mkdir()
        self.stdout, self.stderr = folder / "events.jsonl", folder / "log"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.bind(str(folder / "notify"))
        self.notified = []
        command = [
            *prefix, python, "-m", "killsnoopd",
            "--web.listen-address=127.0.0.1:0", f"--events.target={target}", *flags,
        ]  # fmt: skip
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), **(env or {})}
        environment.pop("JOURNAL_STREAM", None)
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        self.pid = self.process.pid

    def notifications(self):
        """All notifications so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.notified += self._notify.recv(4096).decode().splitlines()
        return self.notified

    def wait_ready(self):
        wait_for(lambda: "READY=1" in self.notifications() or self.process.poll() is not None, "READY=1")
        assert self.process.poll() is None, self.stderr.read_text()
        self.url = "http://" + re.search(r"metrics on ([^/]+)/", self.stderr.read_text())[1]

    def wait_status(self):
        """Wait for the next status line."""

        def number():
            return sum(line.startswith("STATUS=") for line in self.notifications())

        before = number()
        wait_for(lambda: number() > before, "a status line")

    def get(self, path="/metrics", headers=None):
        request = urllib.request.Request(self.url + path, headers=headers or {})
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return response.read().decode()

    def samples(self):
        """The page, as {(name, frozenset of labels): value}."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.get())
            for sample in family.samples
        }

    def signals(self, *comms):
        """{(comm, signal, result): calls}, of these comms or of all."""
        found = {}
        for (name, labels), value in self.samples().items():
            if name == "killsnoop_signals_total":
                values = dict(labels)
                if not comms or values["comm"] in comms:
                    found[values["comm"], values["signal"], values["result"]] = int(value)
        return found

    def value(self, name, **labels):
        return self.samples()[name, frozenset(labels.items())]

    def ledger(self):
        """{status: events}, and those in the ring buffer as `pending`."""
        samples = self.samples()
        found = {
            dict(labels)["status"]: int(v) for (name, labels), v in samples.items() if name == "killsnoop_events_total"
        }
        return found | {"pending": int(samples["killsnoop_events_pending", frozenset()])}

    def attempted(self):
        """The number of events that there should be: failed calls and signal 0, deliveries, deaths, exits."""
        total = 0
        for (name, pairs), value in self.samples().items():
            labels = dict(pairs)
            total += value * (
                (
                    name in ("killsnoop_signals_total", "killsnoop_signals_aged_total")
                    and (labels["result"] != "success" or labels["signal"] == "0")
                )
                or name == "killsnoop_deliveries_total"
                or name in ("killsnoop_deaths_total", "killsnoop_deaths_aged_total", "killsnoop_exits_total")
            )
        return int(total)

    def deliveries(self):
        """{(signal, origin, outcome): signals}, without zeros."""
        return {
            (values["signal"], values["origin"], values["outcome"]): int(value)
            for (name, labels), value in self.samples().items()
            if name == "killsnoop_deliveries_total" and value and (values := dict(labels))
        }

    def deaths(self):
        """{(signal, origin): processes}, without zeros."""
        found = Counter()
        for (name, labels), value in self.samples().items():
            if name in ("killsnoop_deaths_total", "killsnoop_deaths_aged_total") and value:
                values = dict(labels)
                found[values["signal"], values["origin"]] += int(value)
        return found

    def settled_ledger(self):
        """The ledger once the ring buffer is empty."""
        return wait_for(lambda: (found := self.ledger())["pending"] == 0 and found, "the ring buffer to be empty")

    def events(self, *comms):
        """The JSON lines so far, of these comms or of all; waits until the ring buffer is empty."""
        self.settled_ledger()
        lines = [json.loads(line) for line in self.stdout.read_text().splitlines()]
        return [line for line in lines if not comms or line.get("KILLSNOOP_COMM") in comms]

    def status(self, field):
        """A field of /proc/PID/status."""
        return re.search(rf"^{field}:\s*(\S+)", Path(f"/proc/{self.pid}/status").read_text(), re.M)[1]

    def on_cpu_s(self):
        """CPU time of its threads so far, in nanoseconds; /proc/PID/stat counts only ticks."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def stop(self, number=signal.SIGTERM):
        """End it; its exit code."""
        if self._notify.fileno() < 0:
            return self.process.returncode
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.notifications()
            self._notify.close()


def _deny_write_execute():
    """What MemoryDenyWriteExecute= of the loader's unit does, on kernels that support it (6.3)."""
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE


def load(pins, *flags, program=None):
    """Run the loader as its unit does, or a program that does; its output."""
    run = ["-c", program] if program else ["-m", "killsnoopd.probe.loader"]
    result = subprocess.run(
        [start.loader_python(), *run, "--pin", str(pins), *flags],
        capture_output=True, text=True, check=True, timeout=DEADLINE_S, preexec_fn=_deny_write_execute,
    )  # fmt: skip
    assert result.stdout == ""
    return result.stderr
