"""The journal of a fleet: systemd-journal-upload sends two hosts' journals to systemd-journal-remote, and killsnoop reads both."""

import json
import os
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from logged import death, record

TOP = Path(__file__).parent.parent.parent
HOSTS = ("web1", "web2")


@pytest.fixture(scope="module")
def programs():
    found = subprocess.run([TOP / "scripts/journal-remote"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return Path(found.strip())


def entry(host, number, fields):
    """An entry in journald's export format, with the fields that journald itself adds."""
    written = int(datetime.fromisoformat(fields["KILLSNOOP_TIMESTAMP"]).timestamp() * 1e6)
    own = {
        "__REALTIME_TIMESTAMP": written, "__MONOTONIC_TIMESTAMP": 1_000_000 + number,
        "_BOOT_ID": f"{HOSTS.index(host) + 1:032x}", "_MACHINE_ID": f"{HOSTS.index(host) + 0xA:032x}", "_HOSTNAME": host,
        "_UID": 980, "_SYSTEMD_UNIT": "killsnoopd.service", "SYSLOG_IDENTIFIER": "killsnoopd", "PRIORITY": 5,
        "MESSAGE": f"{fields['KILLSNOOP_EVENT']} of {fields['KILLSNOOP_TCOMM']}",
    }  # fmt: skip
    return "".join(f"{name}={value}\n" for name, value in (own | fields).items()) + "\n"


EVENTS = {
    # 812 is a process on each.
    "web1": [record(), record(TPID="900"), death(tpid="900")],
    "web2": [record(COMM="watchdog", PID="77"), death(COMM="watchdog", PID="77")],
}


@pytest.fixture(scope="module")
def fleet(programs, tmp_path_factory):
    """A folder with the journal that a central host has of both."""
    folder = tmp_path_factory.mktemp("fleet")
    central = folder / "remote"
    central.mkdir()
    for host, events in EVENTS.items():
        local = [programs / "systemd-journal-remote", f"--output={folder}/{host}.journal", "--split-mode=none", "-"]
        text = "".join(entry(host, number, fields) for number, fields in enumerate(events))
        subprocess.run(local, input=text, text=True, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as server, (folder / "log").open("w") as log:
        receive = [
            "bash", "-c", f'exec 3<&{server.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "bash",
            programs / "systemd-journal-remote", "--listen-http=-3", f"--output={central}/all.journal", "--split-mode=none",
        ]  # fmt: skip
        receiver = subprocess.Popen(receive, stdout=log, stderr=log, pass_fds=[server.fileno()])
        port = server.getsockname()[1]
        for host in HOSTS:
            upload = [
                programs / "systemd-journal-upload", f"--url=http://127.0.0.1:{port}",
                f"--file={folder}/{host}.journal", "--follow=no", f"--save-state={folder}/{host}.state",
            ]  # fmt: skip
            subprocess.run(upload, check=True, capture_output=True, timeout=60)
        receiver.terminate()
        receiver.wait()
    return central


def killsnoop(*arguments):
    command = [sys.executable, "-m", "killsnoopd.query.command", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"}).stdout


def test_every_event_says_its_host(fleet):
    """None is lost, and none changed, on the way."""
    out = killsnoop("--output=json", "--deaths", "-D", str(fleet))
    found = [json.loads(line) for line in out.splitlines()]
    for host, events in EVENTS.items():
        there = [one for one in found if one["_HOSTNAME"] == host]
        assert [{name: one[name] for name in one if name.startswith("KILLSNOOP_")} for one in there] == events
    assert len(found) == 5


def test_the_table_has_a_column_for_the_host(fleet):
    """-D reads the journals of several hosts."""
    out = killsnoop("-D", str(fleet))
    heading, *lines = out.splitlines()
    assert "HOST" in heading.split()
    assert [line.split()[2:5:2] for line in lines] == [["web1", "bash"], ["web1", "bash"], ["web2", "watchdog"]]


@pytest.mark.parametrize(("pid", "host", "sender"), [("812", "web2", "watchdog[77]"), ("900", "web1", "bash[3325]")])
def test_who_says_on_which_host(fleet, pid, host, sender):
    """And takes no signal on another host for the cause, though the pid is the same."""
    out = killsnoop("who", "-D", str(fleet), pid)
    said = " ".join(out.split())
    assert f" on {host}: nginx[{pid}] (nginx.service) died of SIGKILL, 1.4 ms after {sender} " in said
