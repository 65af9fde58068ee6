"""The event thread: takes records from the ring buffer, decodes them, and logs them."""

import logging
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from killsnoopd import event
from killsnoopd.events import exclusion, fields
from killsnoopd.events.cpu_budget import CpuBudget
from killsnoopd.events.in_flight import InFlight
from killsnoopd.events.processes import Processes
from killsnoopd.events.stop_deadline import StopDeadline, Stopped
from killsnoopd.probe.attached import Probe
from killsnoopd.settings import Rule

log = logging.getLogger("killsnoopd")


class Sink(Protocol):
    """Takes the fields of an event."""

    def send(self, fields: dict[str, str]) -> None:
        """Deliver, waiting as long as necessary. Raises OSError if that is impossible, Stopped at the deadline."""

    def close(self) -> None:
        """Close the connection."""


class Writer(threading.Thread):
    """Waits for events until it is stopped. Every event that it takes is counted in the ledger."""

    def __init__(  # noqa: PLR0917 # its collaborators
        self,
        probe: Probe,
        sink: Sink,
        in_flight: InFlight,
        processes: Processes,
        deadline: StopDeadline,
        pinned: bool,
        cpu_share: float | None,
        rules: tuple[Rule, ...] = (),
    ) -> None:
        """If the ring buffer is pinned, events that cannot be logged by the deadline stay in it; else they are lost.

        `cpu_share`: the share of one core that the thread may use; None: no limit. `rules`: events not to log.
        """
        super().__init__(name="killsnoopd-ev", daemon=True)
        self._probe = probe
        self._sink = sink
        self._in_flight = in_flight
        self._processes = processes
        self._deadline = deadline
        self._pinned = pinned
        self._cpu_share = cpu_share
        self._rules = rules
        self._stopped = False
        self._failures: set[str] = set()
        self.done = threading.Event()
        """Set when the thread has finished, or waits for the process to end with an event that it must not consume."""
        self.sending = False
        """Whether the thread is handing an event to the sink, which may be stuck."""
        self.given_up = 0
        """Events that there was no time to log before the deadline."""
        self.last_event_ns: int | None = None
        """Time of the newest logged event, on the realtime clock."""
        self.lookups: dict[tuple[str, ...], int] = processes.lookups

    def run(self) -> None:
        """Log events until stop(), then the rest until the deadline."""
        poll = select.poll()
        poll.register(self._probe.events_fd, select.POLLIN)
        poll.register(self._deadline.stop_fd, select.POLLIN)
        rest = select.poll()
        rest.register(self._deadline.stop_fd, select.POLLIN)
        budget = CpuBudget(self._cpu_share)
        while not any(fd == self._deadline.stop_fd for fd, _ in poll.poll()):
            taken = self._consume(lambda: budget.debt_s() > 0 or self._out_of_time())
            rest.poll(budget.pause_s(taken) * 1000)
        self._consume(self._out_of_time)
        self._sink.close()
        self._processes.close()
        self.done.set()

    def _consume(self, over: Callable[[], bool]) -> int:
        """Log each waiting event exactly once, until the ring buffer is empty or `over()`; the number of records."""
        taken = 0

        def take(position: int, record: bytes) -> bool:
            nonlocal taken
            taken += 1
            if self._in_flight.begin(position):
                self._in_flight.finish(self._log(record))
            return not over()

        self._probe.consume(take)
        return taken

    def stop(self, timeout_s: float) -> bool:
        """Log what waits in the ring buffer, until the deadline; whether the thread has ended."""
        self._deadline.stop()
        self.done.wait(timeout_s)
        self.join(0.1)
        return not self.is_alive()

    def _out_of_time(self) -> bool:
        return self._pinned and self._deadline.passed()

    def _log(self, record: bytes) -> str | None:
        """Log one record; its status, or None for a test event. Never raises: it is called from C."""
        try:
            decoded = event.decode(record)
            if decoded.self_test:
                return None
            boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if self._stopped or (not self._pinned and self._deadline.passed()):
                self.given_up += 1
                return "journal_error"
            identity = self._processes.identify(decoded)
            if exclusion.excluded(self._rules, decoded, identity):
                return "filtered"
            self._send(fields.fields(decoded, identity, boot_ns))
            self.last_event_ns = decoded.time_ns + boot_ns
            return "logged"
        except ValueError as error:
            self._complain(f"an event could not be decoded: {error}")
            return "decode_error"
        except Stopped:
            self._stopped = True
            if self._pinned:
                self.done.set()
                threading.Event().wait()  # until the process ends: returning would consume the event
        except Exception as error:
            self._complain(f"events cannot be logged: {error or type(error).__name__}")
        return "journal_error"

    def _send(self, found: dict[str, str]) -> None:
        self.sending = True
        try:
            self._sink.send(found)
        finally:
            self.sending = False

    def _complain(self, line: str) -> None:
        """Log the line once; the ledger counts repetitions."""
        if line not in self._failures and len(self._failures) < 16:
            self._failures.add(line)
            log.error("%s; killsnoop_events_total counts each", line)
