"""The daemon's life: open the probe, drop all privileges, serve, send READY, stop. Read this first."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from socket import socket
from typing import Any

from killsnoopd import __version__, cli, privileges, systemd
from killsnoopd.events import cpu_budget
from killsnoopd.events.in_flight import InFlight
from killsnoopd.events.journal import JOURNAL_SOCKET, Journal
from killsnoopd.events.json_lines import JsonLines
from killsnoopd.events.pods import Pods
from killsnoopd.events.processes import Processes
from killsnoopd.events.stop_deadline import StopDeadline
from killsnoopd.events.writer import Sink, Writer
from killsnoopd.failure import Exit, Failure, unforeseen
from killsnoopd.metrics import families, fold, overview, page
from killsnoopd.metrics.pod_labels import PodLabels
from killsnoopd.probe import pins, self_test, start
from killsnoopd.probe.attached import Probe
from killsnoopd.probe.program import Layout, probe_hash
from killsnoopd.web import server
from killsnoopd.web.config_file import WebConfigFile

log = logging.getLogger("killsnoopd")

DRAIN_S = 1.0  # time to log the last events at stop; TimeoutStopSec is 5 s
_STATUS_INTERVAL_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Entry point of `killsnoopd`; an exit code of failure.Exit."""
    arguments = sys.argv[1:] if argv is None else argv
    config = cli.parse(arguments)
    _set_up_logging(config.log_level)
    privileges.set_process_name("killsnoopd")
    threading.excepthook = _thread_failed
    try:
        return run(config, arguments)
    except Exception as error:
        return _report(error)


def _report(error: BaseException) -> Exit:
    """Log a failure as one line, with its details at debug level; its exit code."""
    failure = error if isinstance(error, Failure) else unforeseen(error)
    if failure.details:
        log.debug("%s", failure.details)
    log.error("%s", failure)
    return failure.exit_code


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """End the daemon: without its event thread it would log nothing more. A pinned probe keeps the events."""
    if failed.exc_value:
        _report(failed.exc_value)
        logging.shutdown()
        os._exit(Exit.CRASH)


def _task_failed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback or a task, such as one connection's. The daemon goes on."""
    error = context.get("exception")
    if isinstance(error, Exception):
        _report(error)
    else:
        log.error("%s", context["message"])


def run(config: cli.Config, argv: list[str]) -> int:
    """Run the daemon, from the open port to the last event."""
    page.set_up_interpreter()
    web_config = WebConfigFile(config.web_config_file)
    # Before the probe: a second daemon on the same port must not disturb the first.
    sockets = systemd.listening_sockets() if config.systemd_socket else server.listen(config.listen_addresses)
    with contextlib.ExitStack() as stack:
        for opened in sockets:
            stack.callback(opened.close)
        opened_probe = _open_probe(config, argv)
        stack.callback(opened_probe.close)
        privileges.drop()
        _self_test(opened_probe, config.probe.syscalls)
        deadline = StopDeadline(DRAIN_S)
        stack.callback(deadline.close)
        writer = _start_writer(config, opened_probe, deadline)
        asyncio.run(_serve(config, web_config, sockets, opened_probe, writer))
        _stop(opened_probe, writer)
    return Exit.OK


def _open_probe(config: cli.Config, argv: list[str]) -> Probe:
    layout = Layout.of(config.probe)
    if config.pin:
        return pins.open_pinned(config.pin / probe_hash(config.probe), layout)
    return start.load(argv, layout, start.loader_python())


def _self_test(opened: Probe, syscalls: tuple[str, ...]) -> None:
    """Raise Failure unless the probe reports our own test signals correctly."""
    if "kill" not in syscalls:
        log.warning("the self-test skips system calls: --probe.syscalls does not include kill")
    faults = self_test.faults(opened, syscalls)
    if faults:
        raise Failure(
            Exit.SOFTWARE,
            f"the probe failed its self-test: {'; '.join(faults)}; with --probe.pin, restart killsnoopd-probe.service; "
            "if it fails again, report it with the kernel version",
        )


def choose_sink(target: str, deadline: StopDeadline, transmit: Callable[[int, bytes], None]) -> Sink | None:
    """The sink for --events.target; `auto` is the journal if there is one, else stdout."""
    if target == "none":
        return None
    if target == "journal" or (target == "auto" and JOURNAL_SOCKET.exists()):
        return Journal(deadline, transmit, JOURNAL_SOCKET)
    return JsonLines(deadline)


def _start_writer(config: cli.Config, opened: Probe, deadline: StopDeadline) -> Writer | None:
    """Start the event thread, unless --events.target is none."""
    in_flight = InFlight(opened.ledger_words)
    sink = choose_sink(config.events_target, deadline, in_flight.send)
    if sink is None:
        return None
    cpu_share = cpu_budget.SHARE if config.probe.rate else None
    processes = Processes(cpu_share and cpu_share / 2)
    pinned = config.pin is not None
    writer = Writer(opened, sink, in_flight, processes, deadline, pinned, cpu_share, config.unit_rules)
    writer.start()
    log.info("events go to %s", "journald" if isinstance(sink, Journal) else "stdout")
    return writer


async def _serve(
    config: cli.Config,
    web_config: WebConfigFile,
    sockets: list[socket],
    opened: Probe,
    writer: Writer | None,
) -> None:
    """Answer HTTP until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_task_failed)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, web_config)
    pods = Pods()  # of the thread that builds pages; Processes has its own
    pod_labels = PodLabels(opened.pod_labels, pods.whole_name, pods.refresh)
    registry = families.registry(
        opened,
        writer,
        fold.folder(config.fold),
        with_timestamps=config.timestamps,
        expected_senders=config.expected_senders,
        pod_labels=pod_labels.of,
    )
    port = server.Server(
        registry, partial(overview.look, opened), config.telemetry_path, web_config, config.max_requests
    )
    await port.start(sockets)
    addresses = ", ".join(map(server.address, sockets))
    log.info(
        "killsnoopd %s: watching %s; metrics on %s%s",
        __version__,
        ", ".join(f"{hook} ({way})" for hook, way in opened.hooks.items()),
        addresses,
        config.telemetry_path,
    )
    pulse = asyncio.create_task(_pulse(opened, writer))
    await stop.wait()
    systemd.notify(STOPPING=1)
    pulse.cancel()
    await port.close()


def _reload(web_config: WebConfigFile) -> None:
    """Reload what can change in a running daemon. (The loader applies changes of the probe's settings.)"""
    systemd.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    web_config.reload()  # logs errors; the daemon then keeps the former configuration
    log.info("reloaded")
    systemd.notify(READY=1)


async def _pulse(opened: Probe, writer: Writer | None) -> None:
    """Send READY, feed the watchdog, and update the status line of `systemctl status`."""
    if "NOTIFY_SOCKET" not in os.environ:
        return
    while not systemd.notify(READY=1, STATUS=_status(opened)):
        await asyncio.sleep(0.1)
    watchdog_s = systemd.watchdog_interval_s()
    status_sent_s = time.monotonic()
    while True:
        await asyncio.sleep(min(watchdog_s or _STATUS_INTERVAL_S, _STATUS_INTERVAL_S))
        if writer is None or writer.is_alive():  # the event thread may wait for journald, but must not have ended
            systemd.notify(WATCHDOG=1)
        if time.monotonic() - status_sent_s >= _STATUS_INTERVAL_S:
            status_sent_s = time.monotonic()
            systemd.notify(STATUS=_status(opened))


def _status(opened: Probe) -> str:
    """The line for `systemctl status` and for the log at stop."""
    counts, ledger = opened.counts(), opened.ledger()
    lost = sum(ledger.statuses[reason] for reason in overview.LOST)
    line = f"{counts.total} signals counted, {ledger.statuses['logged']} events logged, {lost} not logged"
    inexact = opened.inexact()
    return line + (f"; the kernel may preempt the probe at {', '.join(inexact)} and miss signals" if inexact else "")


def _stop(opened: Probe, writer: Writer | None) -> None:
    """Detach the probe and log the events that wait in the ring buffer."""
    opened.detach()
    ended = writer is None or writer.stop(DRAIN_S + 0.5)
    log.info("stopped: %s", _status(opened))
    waiting = opened.ledger().pending
    if writer and not ended and writer.done.is_set():
        log.warning("journald is not accepting events: %d stay in the pinned ring buffer for the next start", waiting)
    elif not ended and writer and writer.sending:  # only a stream that blocks in write(2) can do this
        log.error("the last events could not be written: nothing reads stdout")
    elif not ended or (writer and writer.given_up):
        log.warning(
            "there was no time to log the last events: %d are lost", waiting + (writer.given_up if writer else 0)
        )
    if not ended:  # the thread must not use the probe after it is closed
        logging.shutdown()
        os._exit(Exit.OK)


_SYSLOG_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _Formatter(logging.Formatter):
    """Prefixes lines with their priority for the journal (sd-daemon(3)), else with the program's name."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if systemd.stderr_is_journal():
            return "\n".join(f"<{_SYSLOG_PRIORITY[record.levelno]}>{line}" for line in text.splitlines())
        return f"killsnoopd: {text}"


def _set_up_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    log.addHandler(handler)
    log.setLevel(level.upper())
