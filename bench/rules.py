#!/usr/bin/env python3
"""What the alerting rules cost a Prometheus with 1,000 targets, compared with those of another version of killsnoopd.

    git worktree add /var/tmp/before f2da2ee
    sudo PROMTOOL=$(scripts/promtool) bench/rules.py --before=/var/tmp/before --python-before=PYTHON

PYTHON has the other version's libraries. A daemon of each version counts the same signals and deaths. Its page is that
of all targets of a Prometheus that evaluates its rules; both run at once.
"""

import argparse
import asyncio
import contextlib
import gzip
import os
import platform
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from running import Daemon  # noqa: E402
from senders import NO_SUCH_PID, run, send  # noqa: E402
from servers import Prometheus  # noqa: E402
from test_victims import named, waiting  # noqa: E402

INTERVAL_S = 60  # Prometheus' default, of scrapes and evaluations
SENDERS, VICTIMS = 10, 20  # names on each host


@dataclass
class Version:
    """A version of killsnoopd, and its measurements."""

    title: str
    top: Path
    python: str
    page: bytes = b""
    seconds: list[float] = field(default_factory=list)  # each evaluation of all rules

    def rules(self) -> list[Path]:
        """The files."""
        return sorted((self.top / "deploy/prometheus/rules").glob("*.yml"))

    def expressions(self) -> list[str]:
        """The expressions of all rules."""
        groups = [group for path in self.rules() for group in yaml.safe_load(path.read_text())["groups"]]
        return [rule["expr"].strip() for group in groups for rule in group["rules"]]


def load() -> None:
    """What an ordinary host may see: each sender fails once, and ends two victims, by SIGTERM and by SIGKILL."""
    for number in range(SENDERS):
        run(lambda: send("kill", NO_SUCH_PID, 15), b"sender%d" % number)
    for number in range(VICTIMS):
        sig = (signal.SIGTERM, signal.SIGKILL)[number // SENDERS % 2]
        run(lambda name=b"victim%d" % number, sig=sig: kill_one(name, sig), b"sender%d" % (number % SENDERS))


def kill_one(name: bytes, sig: int) -> None:
    """A process of this name dies of a signal."""
    pid = named(waiting, name)
    os.kill(pid, sig)
    os.waitpid(pid, 0)


def take_pages(folder: Path, versions: list[Version]) -> None:
    """The page of each version after the same load."""
    with contextlib.ExitStack() as stack:
        daemons = []
        for version in versions:
            prefix = ("env", "-C", str(version.top))  # python -m looks there first
            daemon = Daemon(folder / version.title, target="none", prefix=prefix, python=version.python)
            stack.callback(daemon.stop)
            daemon.wait_ready()
            daemons.append(daemon)
        load()
        for version, daemon in zip(versions, daemons, strict=True):
            # Nothing has happened lately, or every target's alerts would be sent.
            version.page = re.sub(r"(last_timestamp_seconds{.*) .*", r"\1 1.7e+09", daemon.get("/metrics")).encode()


async def answer(versions: list[Version], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve the pages on a connection: /before, /after."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            (page,) = [version.page for version in versions if path == f"/{version.title}"]
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(page)}\r\n\r\n"
            writer.write(head.encode() + page)
            await writer.drain()
    writer.close()


def serve(versions: list[Version]) -> int:
    """Serve the pages from a thread; the port."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> int:
        server = await asyncio.start_server(lambda *streams: answer(versions, *streams), "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    return asyncio.run_coroutine_threadsafe(start(), loop).result()


def config(version: Version, port: int, targets: int) -> dict[str, object]:
    """Of a Prometheus with that many targets."""
    hosts = [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"host{n:04}"}} for n in range(targets)]
    return {
        "global": {"scrape_interval": f"{INTERVAL_S}s", "evaluation_interval": f"{INTERVAL_S}s"},
        "rule_files": [str(path) for path in version.rules()],
        "scrape_configs": [
            {"job_name": "killsnoopd", "metrics_path": f"/{version.title}", "static_configs": hosts},
        ],
    }


def measure(folder: Path, versions: list[Version], targets: int, seconds: float) -> None:
    """Let both evaluate their rules. The last quarter of the time counts: before, the ranges are not full."""
    port = serve(versions)
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(Prometheus(folder / f"prometheus-{version.title}", config(version, port, targets)))
            for version in versions
        ]
        time.sleep(seconds * 3 / 4)
        end = time.monotonic() + seconds / 4
        while time.monotonic() < end:
            time.sleep(5)
            for version, prometheus in zip(versions, running, strict=True):
                version.seconds.append(prometheus.own("prometheus_rule_group_last_duration_seconds"))
        for prometheus in running:
            assert prometheus.query("sum(up)") == {frozenset(): targets}
            assert prometheus.own("prometheus_rule_evaluation_failures_total") == 0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the files of the other version")
    parser.add_argument("--python-before", default=sys.executable, metavar="PYTHON", help="what runs it")
    parser.add_argument("--targets", type=int, default=1000, metavar="N", help="of each Prometheus (%(default)s)")
    parser.add_argument("--minutes", type=float, default=14, metavar="N", help="in all (%(default)s)")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = ""
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"python3 bench/rules.py {' '.join(sys.argv[1:])}".rstrip(), end="\n\n")
    versions = [
        Version("before", options.before.resolve(), options.python_before),
        Version("after", HERE.parent, sys.executable),
    ]
    with tempfile.TemporaryDirectory() as name:
        take_pages(Path(name), versions)
        print(f"{'a page':8} {'series':>7} {'bytes':>7} {'gzipped':>8}")
        for version in versions:
            series = len(re.findall(rb"^[^#\n]", version.page, re.M))
            print(f"{version.title:8} {series:7} {len(version.page):7} {len(gzip.compress(version.page, 1)):8}")
        measure(Path(name), versions, options.targets, options.minutes * 60)
    heads = ("lines", "rules", "longest: lines", "words", "bytes", "evaluation ms", "median")
    print(f"\n{'rules':8} " + " ".join(f"{head:>{max(6, len(head))}}" for head in heads))
    for version in versions:
        lines = sum(len(path.read_text().splitlines()) for path in version.rules())
        expressions = version.expressions()
        longest = max(expressions, key=len)
        values = (
            lines,
            len(expressions),
            max(len(each.splitlines()) for each in expressions),
            len(longest.split()),
            len(longest),
            round(min(version.seconds) * 1000),
            round(statistics.median(version.seconds) * 1000),
        )
        cells = " ".join(f"{value:{max(6, len(head))}}" for value, head in zip(values, heads, strict=True))
        print(f"{version.title:8} {cells}")


if __name__ == "__main__":
    main()
