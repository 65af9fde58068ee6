"""Real servers on loopback: Prometheus, Alertmanager, and a webhook receiver."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from waiting import DEADLINE_S, wait_for

RULES = Path(__file__).parent.parent / "deploy/prometheus/rules"


def tool(name):
    """The path of one of Prometheus' programs: beside PROMTOOL (make test), or on PATH."""
    beside = Path(os.environ.get("PROMTOOL", "promtool")).with_name(name)
    found = shutil.which(beside if beside.is_absolute() else name)
    assert found, f"{name} is missing: PROMTOOL=$(scripts/promtool), as make test has it"
    return Path(found)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Server:
    """A child process that serves HTTP on a port of 127.0.0.1."""

    def __init__(self, folder, name, flags, prefix=()):
        self.name, self._log = name, folder / f"{name}.log"
        # Another program may take the port first; the server then ends, and the next port is tried.
        for _ in range(5):
            self.port = free_port()
            command = [*prefix, tool(name), f"--web.listen-address=127.0.0.1:{self.port}", *flags]
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            try:
                wait_for(lambda: self.process.poll() is not None or self._ready(), f"{name} to be ready")
            except BaseException:
                self.process.kill()
                raise
            if self.process.poll() is None:
                return
        raise AssertionError(self._log.read_text())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=DEADLINE_S) as response:
            return response.read().decode()

    def _ready(self):
        with contextlib.suppress(OSError):  # HTTPError too: it answers 503 until it is ready
            return bool(self.get("/-/ready"))
        return False


class Prometheus(Server):
    """A Prometheus with this `config`, the content of prometheus.yml."""

    def __init__(self, folder, config):
        folder.mkdir(exist_ok=True)  # a restart
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        super().__init__(folder, "prometheus", ["--config.file=prometheus.yml", "--storage.tsdb.path=data"])

    def api(self, path, **parameters):
        """The `data` of the response."""
        return json.loads(self.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]

    def query(self, expr):
        """{label set without the name: value} of an instant query."""
        return {
            frozenset((key, value) for key, value in found["metric"].items() if key != "__name__"): float(
                found["value"][1]
            )
            for found in self.api("query", query=expr)["result"]
        }

    def own(self, name):
        """The sum of one of Prometheus' own metrics."""
        values = [
            line.rsplit(" ", 1)[1]
            for line in self.get("/metrics").splitlines()
            if line.startswith((name + " ", name + "{"))
        ]
        return sum(map(float, values))


class Alertmanager(Server):
    """An Alertmanager without a cluster. `own_mounts` turns a script into a command that has its own mounts."""

    def __init__(self, folder, config, own_mounts):
        folder.mkdir()
        (folder / "alertmanager.yml").write_text(json.dumps(config))
        flags = ["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="]
        share = tool("alertmanager").with_name("share")  # of scripts/prometheus-tools; an installed one finds its own
        prefix = own_mounts(f'mount --bind "{share}" /usr/share && exec "$@"') if share.is_dir() else ()
        super().__init__(folder, "alertmanager", flags, prefix)


class Webhook:
    """Receives what Alertmanager sends; `notifications` has all of it."""

    def __init__(self):
        self.notifications = received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
