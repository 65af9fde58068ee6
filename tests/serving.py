"""tests/web_server.py as a child process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attacks import ask

PROGRAM = Path(__file__).with_name("web_server.py")


class Served:
    """`stop` ends it and returns {reason: refusals}; `said` is its log."""

    def __init__(self, page_bytes=4000, config="", max_requests=40, prefix=()):
        command = [*prefix, sys.executable, PROGRAM, str(page_bytes), str(config), str(max_requests)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 # until stop()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )
        self._last_words = None
        self.pid = self.process.pid
        port = self.process.stdout.readline()
        self.port = int(port) if port else 0

    @property
    def said(self):
        if self._last_words is None:
            return os.pread(self._stderr.fileno(), 1 << 20, 0).decode()
        return self._last_words

    def rss_mb(self):
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def fds(self):
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def ask(self, request=None, **options):
        return ask(self.port, request, **options) if request else ask(self.port, **options)

    def stop(self):
        if self.process.stdin.closed:
            return None
        self.process.stdin.close()
        try:
            last = self.process.stdout.read()
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self._last_words = self.said
            self._stderr.close()
        return json.loads(last) if last else None
