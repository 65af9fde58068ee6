"""The event path: one thread that takes records from the ring buffer, decodes them and logs them."""

import logging
import select
import threading
import time

from killsnoopd import event, fields
from killsnoopd.probe import Probe
from killsnoopd.processes import Processes
from killsnoopd.sinks import Sink, Stopped

log = logging.getLogger("killsnoopd")


class Writer(threading.Thread):
    """Sleeps until there are events or it is told to stop; every event that it takes ends up in the ledger."""

    def __init__(self, probe: Probe, sink: Sink, processes: Processes, stop_fd: int) -> None:
        """`stop_fd` becomes readable when the thread shall log what is there, and end."""
        super().__init__(name="killsnoopd-ev", daemon=True)
        self._probe = probe
        self._sink = sink
        self._processes = processes
        self._stop_fd = stop_fd
        self._stopped = False
        self._failures: set[str] = set()
        self.last_event_ns: int | None = None
        """When the newest event logged happened, on the realtime clock."""
        self.cgroup_sources: dict[str, int] = processes.sources

    def run(self) -> None:
        """The thread's whole life."""
        poll = select.poll()
        poll.register(self._probe.events_fd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        stopping = False
        while not stopping:
            stopping = any(fd == self._stop_fd for fd, _ in poll.poll())
            self._probe.consume(self._log)
        self._sink.close()

    def _log(self, record: bytes) -> None:
        """Log one record. Never raises: this is called from C."""
        outcome = "logged"
        try:
            decoded = event.decode(record)
            boot_ns = time.time_ns() - time.monotonic_ns()
            if self._stopped:
                raise Stopped
            self._sink.send(fields.fields(decoded, self._processes.identify(decoded), boot_ns))
            self.last_event_ns = decoded.time_ns + boot_ns
        except ValueError as error:
            outcome = "decode_error"
            self._complain(f"an event could not be decoded: {error}")
        except Stopped:
            self._stopped = True
            outcome = "journal_error"
        except Exception as error:
            outcome = "journal_error"
            self._complain(f"events cannot be logged: {error or type(error).__name__}")
        self._probe.count_outcome(outcome)

    def _complain(self, line: str) -> None:
        """Say it once; the ledger counts the rest."""
        if line not in self._failures and len(self._failures) < 16:
            self._failures.add(line)
            log.error("%s; killsnoop_events_total counts each", line)
