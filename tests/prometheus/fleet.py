"""Many hosts in one process: real pages from the real web server, with counts that the test sets."""

import asyncio
import socket
import threading

from fakes import FakeProbe, counts
from prometheus_client import CollectorRegistry

from killsnoopd import names
from killsnoopd.metrics import families
from killsnoopd.probe.attached import Ledger
from killsnoopd.web import server
from killsnoopd.web.config_file import WebConfigFile


class Host:
    """The counts of one host, which may be changed at any time."""

    def __init__(self, number, signals=None):
        self.instance = f"host{number:02d}"
        self.signals = dict(signals or {})  # {(comm, signal, errno): calls}
        self.deliveries = {}  # {(signal, origin): signals}
        self.deaths = {}  # {(signal, origin): processes}
        self.died_ns = {}  # when the last of them died, CLOCK_BOOTTIME; not on the page if it is not here
        self.escalations = 0
        self.logged = 0
        self.registry = CollectorRegistry()
        probe = FakeProbe()
        probe.counts, probe.ledger = self._counts, lambda: Ledger({"logged": self.logged}, 0)
        self.registry.register(families.Collector(probe, None))

    def _counts(self):
        series = [
            (comm.encode().ljust(16, b"\0"), names.signal_number(sig), -errno, calls)
            for (comm, sig, errno), calls in self.signals.items()
        ]
        deliveries = [
            (names.signal_number(sig), origin, "delivered", n) for (sig, origin), n in self.deliveries.items()
        ]
        deaths = [
            (b"newcomer", b"nginx", b"nginx.service", b"", names.signal_number(sig), origin, n)
            for (sig, origin), n in self.deaths.items()
        ]
        used = [self.died_ns.get(key, 0) for key in self.deaths]
        return counts(series, deliveries=deliveries, deaths=deaths, deaths_used=used, escalations=self.escalations)


class Fleet:
    """Serves each host's page on its own port, all from one thread."""

    def __init__(self, hosts):
        self.hosts = hosts
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in hosts]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers = []

    def scrape_config(self):
        """A job with all hosts, by name."""
        targets = [
            {"targets": [f"127.0.0.1:{bound.getsockname()[1]}"], "labels": {"instance": host.instance}}
            for host, bound in zip(self.hosts, self._sockets, strict=True)
        ]
        return {"job_name": "killsnoopd", "static_configs": targets}

    def __enter__(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self):
        for host, bound in zip(self.hosts, self._sockets, strict=True):
            port = server.Server(host.registry, None, "/metrics", WebConfigFile(None), max_requests=40)
            await port.start([bound])
            self._servers.append(port)

    async def _end(self):
        for port in self._servers:
            await port.close()
        for bound in self._sockets:
            bound.close()
