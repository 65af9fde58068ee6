"""The event path: one thread that takes records from the ring buffer, decodes them and logs them."""

import logging
import select
import threading
import time

from killsnoopd import event, fields
from killsnoopd.pace import Pace
from killsnoopd.probe import Probe
from killsnoopd.processes import Processes
from killsnoopd.sinks import Patience, Sink, Stopped

log = logging.getLogger("killsnoopd")


class Writer(threading.Thread):
    """Sleeps until there are events or it is told to stop; every event that it takes ends up in the ledger."""

    def __init__(  # noqa: PLR0917 # everything that it works with
        self,
        probe: Probe,
        sink: Sink,
        processes: Processes,
        patience: Patience,
        pinned: bool,
        cpu_share: float | None,
    ) -> None:
        """When patience is over, events that could not be logged stay in a pinned ring buffer, or else are lost.

        `cpu_share`: what the thread may take of one core; None: all of it.
        """
        super().__init__(name="killsnoopd-ev", daemon=True)
        self._probe = probe
        self._sink = sink
        self._processes = processes
        self._patience = patience
        self._pinned = pinned
        self._cpu_share = cpu_share
        self._stopped = False
        self._failures: set[str] = set()
        self.done = threading.Event()
        """Set when the thread has done what it can; it may be stuck with an event that it may not let go of."""
        self.last_event_ns: int | None = None
        """When the newest event logged happened, on the realtime clock."""
        self.cgroup_sources: dict[str, int] = processes.sources

    def run(self) -> None:
        """The thread's whole life."""
        poll = select.poll()
        poll.register(self._probe.events_fd, select.POLLIN)
        poll.register(self._patience.stop_fd, select.POLLIN)
        rest = select.poll()
        rest.register(self._patience.stop_fd, select.POLLIN)
        pace = Pace(self._cpu_share)
        while not any(fd == self._patience.stop_fd for fd, _ in poll.poll()):
            taken = self._probe.consume(self._log, over=lambda: pace.owed_s() > 0 or self._given_up())
            rest.poll(pace.rest_s(taken) * 1000)
        self._probe.consume(self._log, over=self._given_up)
        self._sink.close()
        self.done.set()

    def stop(self, timeout_s: float) -> bool:
        """Log what waits in the ring buffer, as long as patience lasts; whether the thread has come to its end."""
        self._patience.stop()
        self.done.wait(timeout_s)
        self.join(0.1)
        return not self.is_alive()

    def _given_up(self) -> bool:
        return self._pinned and self._patience.over()

    def _log(self, record: bytes) -> str | None:
        """Log one record; its outcome, None for a test of the probe. Never raises: this is called from C."""
        try:
            decoded = event.decode(record)
            if decoded.self_test:
                return None
            boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if self._stopped:
                return "journal_error"
            self._sink.send(fields.fields(decoded, self._processes.identify(decoded), boot_ns))
            self.last_event_ns = decoded.time_ns + boot_ns
            return "logged"
        except ValueError as error:
            self._complain(f"an event could not be decoded: {error}")
            return "decode_error"
        except Stopped:
            self._stopped = True
            if self._pinned:
                self.done.set()
                threading.Event().wait()  # for the process to end: to return would take the event from the next daemon
        except Exception as error:
            self._complain(f"events cannot be logged: {error or type(error).__name__}")
        return "journal_error"

    def _complain(self, line: str) -> None:
        """Say it once; the ledger counts the rest."""
        if line not in self._failures and len(self._failures) < 16:
            self._failures.add(line)
            log.error("%s; killsnoop_events_total counts each", line)
