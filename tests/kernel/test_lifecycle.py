"""From start to stop: order of messages, the last events, and the limits of a second daemon."""

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime

import pytest
from running import Daemon
from senders import NO_SUCH_PID, run, send
from test_exactness import kill_loop
from waiting import wait_for


def test_ready_means_ready(tmp_path):
    """When READY=1 arrives, the port answers and signals are counted; STATUS is a readable line."""
    daemon = Daemon(tmp_path / "d")
    try:
        daemon.wait_ready()
        run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-first")
        assert daemon.signals("ks-first") == {("ks-first", "SIGTERM", "ESRCH"): 1}
        assert any(
            re.fullmatch(r"STATUS=\d+ signals counted, \d+ events logged, \d+ not logged", line)
            for line in daemon.notifications()
        )
    finally:
        assert daemon.stop() == 0


def test_a_systemd_that_does_not_listen_stalls_nobody(start):
    """The notification socket's queue is full: pings are dropped, the page is served, SIGTERM works."""
    daemon = start(env={"WATCHDOG_USEC": "20000"})
    time.sleep(1)  # a hundred pings; at most net.unix.max_dgram_qlen of them fit
    assert daemon.get("/-/healthy") == "killsnoopd is healthy.\n"
    assert daemon.stop() == 0
    assert 0 < daemon.notified.count("WATCHDOG=1") < 100


def test_the_self_test_is_two_signals_of_our_own(start):
    """They stay in the counts under the daemon's name, once per start: they were really sent."""
    daemon = start()
    assert daemon.signals("killsnoopd") == {
        ("killsnoopd", "0", "success"): 1,
        ("killsnoopd", "SIGURG", "success"): 1,
    }
    assert daemon.deliveries()["SIGURG", "syscall", "ignored"] >= 1


def test_a_probe_that_does_not_count_is_refused(tmp_path, start):
    """The self-test fails if the pinned probe is not attached: pins without links."""
    pins = subprocess.run(
        ["mktemp", "-d", "-p", "/sys/fs/bpf", "ks_XXXXXX"], check=True, capture_output=True, text=True
    )
    directory = pins.stdout.strip()
    try:
        subprocess.run(
            [sys.executable, "-m", "killsnoopd.probe.loader", "--pin", directory], check=True, capture_output=True
        )
        subprocess.run(f"rm {directory}/*/links/*", shell=True, check=True)
        command = [sys.executable, "-m", "killsnoopd", "--web.listen-address=127.0.0.1:0", f"--probe.pin={directory}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode == 70
        assert result.stderr.count("\n") == 1
        assert "the probe failed its self-test: our own signal 0 was not counted" in result.stderr
    finally:
        subprocess.run(["rm", "-r", directory], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_writes_what_is_there(start, number):
    """The last events are written, and the daemon ends with exit code 0 within two seconds."""
    daemon = start("--events.rate=0")
    run(lambda: kill_loop(3000), b"ks-last")
    before = time.monotonic()
    assert daemon.stop(number) == 0
    assert time.monotonic() - before < 2
    assert daemon.stdout.read_text().count('"KILLSNOOP_COMM": "ks-last"') == 3000
    assert re.search(r"stopped: \d+ signals counted, \d+ events logged, 0 not logged\n$", daemon.stderr.read_text())


def test_stopping_with_a_reader_that_reads_nothing(tmp_path):
    """A full pipe on stdout delays neither /metrics nor the stop."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "killsnoopd", "--web.listen-address=127.0.0.1:0", "--events.target=stdout", "--events.rate=0"],
        stdout=writer, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stderr if "metrics on" in line)
        url = "http://" + re.search(r"metrics on (\S+)", line)[1]
        run(lambda: kill_loop(3000), b"ks-pipe")
        with urllib.request.urlopen(url, timeout=5) as page:
            assert b'killsnoop_signals_total{comm="ks-pipe",result="ESRCH",signal="SIGTERM"} 3000.0' in page.read()
        before = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - before < 2.5
        assert re.search(r"stopped: .*, [1-9]\d+ not logged\n", process.stderr.read())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        os.close(reader)
        os.close(writer)


def test_a_reader_that_goes_away_is_no_disaster(tmp_path):
    """EPIPE is counted for each event and logged once; the daemon continues."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "killsnoopd", "--web.listen-address=127.0.0.1:0", "--events.target=stdout",
            "--events.exclude=signal=all", "--events.include-signal=SIGRTMIN+29",  # no other process sends that
        ],
        stdout=writer, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writer)
    try:
        line = next(line for line in process.stderr if "metrics on" in line)
        url = "http://" + re.search(r"metrics on (\S+)", line)[1]
        os.close(reader)
        run(lambda: kill_loop(50, 63), b"ks-epipe")

        def ledger():
            with urllib.request.urlopen(url, timeout=5) as response:
                return re.findall(r"killsnoop_events_\S+ .*", response.read().decode())

        wait_for(
            lambda: 'killsnoop_events_total{status="journal_error"} 50.0' in ledger(), "50 lost events", say=ledger
        )
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr.read().count("events cannot be logged") == 1
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_second_daemon_leaves_the_first_alone(start):
    """The port is taken: one line, exit code 71, and the first daemon keeps counting."""
    first = start()
    port = first.url.rpartition(":")[2]
    command = [sys.executable, "-m", "killsnoopd", f"--web.listen-address=127.0.0.1:{port}"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 71
    assert second.stderr == (
        f"killsnoopd: cannot listen on 127.0.0.1:{port} (another program listens there): "
        "choose another --web.listen-address\n"
    )
    run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-after")
    assert first.signals("ks-after") == {("ks-after", "SIGTERM", "ESRCH"): 1}


def test_two_daemons_on_two_ports_both_count(start):
    """Two probes do not affect each other."""
    first, second = start(), start()
    run(lambda: kill_loop(100), b"ks-both")
    assert first.signals("ks-both") == second.signals("ks-both") == {("ks-both", "SIGTERM", "ESRCH"): 100}


def test_the_page(daemon, promtool):
    """Text, OpenMetrics and gzip, HEAD, the landing page, health, and an error for everything else."""
    text = daemon.get()
    promtool(text)
    assert "_created" not in text
    openmetrics = daemon.get(headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.endswith("# EOF\n")
    request = urllib.request.Request(daemon.url + "/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert b"killsnoop_signals_total" in gzip.decompress(response.read())
    landing = daemon.get("/")
    assert 'href="/metrics"' in landing
    (since,) = re.findall(r"Attached</strong> since <time>([-\d]+ [:\d]+) UTC<", landing)
    started_s = daemon.samples()["process_start_time_seconds", frozenset()]
    assert started_s - 2 <= datetime.fromisoformat(f"{since}+00:00").timestamp() <= time.time()
    assert daemon.get("/-/healthy") == "killsnoopd is healthy.\n"
    for method, path, status in [("GET", "/nothing", 404), ("POST", "/metrics", 405), ("GET", "/../etc/passwd", 404)]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(daemon.url + path, method=method), timeout=10)
        assert refused.value.code == status
        refused.value.close()


def test_listening_on_every_address(tmp_path):
    """`:PORT` answers on IPv4 and, if there is any, on IPv6."""
    daemon = Daemon(tmp_path / "d", ["--web.listen-address=:0"])
    try:
        daemon.wait_ready()
        log = daemon.stderr.read_text()
        port = int(re.findall(r":(\d+)", log.partition("metrics on ")[2])[1])
        for family, host in [(socket.AF_INET, "127.0.0.1")] + [(socket.AF_INET6, "::1")] * socket.has_dualstack_ipv6():
            with socket.socket(family) as client:
                client.connect((host, port))
    finally:
        daemon.stop()


def test_from_a_folder_that_is_gone(tmp_path):
    """The folder that it was started in is gone: bcc would fail to compile there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    daemon = Daemon(tmp_path / "d", prefix=("sh", "-c", f'cd {gone}; rmdir {gone}; exec "$@"', "sh"))
    try:
        daemon.wait_ready()
    finally:
        assert daemon.stop() == 0


def test_socket_activation(tmp_path):
    """The daemon serves on a listening socket that it was passed: sd_listen_fds(3)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = (
            f"import os; os.dup2({server.fileno()}, 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
            "import runpy, sys; sys.argv = ['killsnoopd', '--web.systemd-socket']; runpy.run_module('killsnoopd')"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            pass_fds=[server.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:  # waits in the backlog
            assert b"killsnoop_build_info" in page.read()
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stderr.close()
