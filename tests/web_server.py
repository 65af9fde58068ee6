"""The web server by itself, without a probe: `python web_server.py PAGE_BYTES [CONFIG_FILE [MAX_REQUESTS]]`.

Prints its port; at the end of stdin prints {reason: refusals} and ends. SIGHUP: reload.
"""

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from fakes import FakeProbe
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from killsnoopd.failure import Failure
from killsnoopd.metrics.overview import look
from killsnoopd.metrics.page import set_up_interpreter
from killsnoopd.web import server
from killsnoopd.web.config_file import WebConfigFile


class Filler:
    """Fills the page, with other values each time."""

    def __init__(self, size):
        self._series, self._scrapes = size // 100, 0

    def collect(self):
        family = GaugeMetricFamily("filler", "Fills the page.", labels=("number",))
        self._scrapes += 1
        for number in range(self._series):
            family.add_metric((f"{number:<70}",), self._scrapes)
        yield family


async def main(size, config="", max_requests="40"):
    set_up_interpreter()  # as the daemon does
    file = WebConfigFile(Path(config) if config else None)
    sockets = server.listen([("127.0.0.1", 0)])
    registry = CollectorRegistry()
    registry.register(Filler(int(size)))
    port = server.Server(registry, lambda: look(FakeProbe()), "/metrics", file, int(max_requests))
    await port.start(sockets)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, file.reload)
    print(sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    await ended.wait()
    loop.remove_reader(0)
    await port.close()
    for bound in sockets:
        bound.close()
    await asyncio.sleep(0.1)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    samples = [sample for family in registry.collect() for sample in family.samples if "reason" in sample.labels]
    print(json.dumps({sample.labels["reason"]: int(sample.value) for sample in samples} | {"tasks": len(left)}))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except Failure as failure:
        print(failure, file=sys.stderr)
        sys.exit(failure.exit_code)
