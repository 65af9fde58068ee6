"""Process names of each byte, and 20,000 random names of fifteen bytes, on a page that a real Prometheus scrapes."""

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fakes import FakeProbe, counts
from prometheus_client import CollectorRegistry, generate_latest
from servers import Prometheus
from waiting import wait_for

from killsnoopd.metrics import families


@pytest.fixture
def calls():
    """{name: calls}"""
    seeded = random.Random(43)
    found = {bytes([byte]) for byte in range(1, 256)}
    found |= {b'a"} 1\n# HELP', rb"\xff", b"\\", b"(other)", b"\x1b[31m", b"{comm=", "naïve".encode()}
    while len(found) < 20_000:
        found.add(seeded.randbytes(15).partition(b"\0")[0] or b"\1")
    return {name: number for number, name in enumerate(sorted(found), 1)}


@pytest.fixture
def address(calls):
    registry = CollectorRegistry()
    series = [(name, 9, 0, n) for name, n in calls.items()]
    deaths = [(name, name, name, b"", 9, "syscall", n) for name, n in calls.items()]
    registry.register(families.Collector(FakeProbe(counts(series, deaths=deaths)), None))
    page = generate_latest(registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_name_is_a_series_with_its_own_count(calls, address, tmp_path):
    """No scrape fails, no two names become one, and the sum is exact."""
    job = {"job_name": "killsnoopd", "scrape_interval": "5s", "static_configs": [{"targets": [address]}]}
    with Prometheus(tmp_path / "prometheus", {"scrape_configs": [job]}) as prometheus:
        up = wait_for(lambda: prometheus.query("up"), "a scrape")
        assert set(up.values()) == {1}
        for family in ("killsnoop_signals_total", "killsnoop_deaths_total"):
            (number,) = prometheus.query(f"count({family})").values()
            (total,) = prometheus.query(f"sum({family})").values()
            assert number == len(calls)
            assert total == sum(calls.values())
