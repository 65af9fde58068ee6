"""Every way to send a signal to a process, or to fail: one event for each target, with sender and target."""

import os
import shutil
from pathlib import Path

import pytest
from cases import CASES, KERNEL, NEEDS_ROOT, perform
from running import MAY_READ_KERNEL_MEMORY
from senders import NOBODY, run, send, siginfo, victim

import killsnoopd
from killsnoopd.probe import libbpf


def told(event):
    """An event in the terms of cases.Row."""
    reached = "KILLSNOOP_OUTCOME" in event
    return (
        (event["KILLSNOOP_COMM"], int(event["KILLSNOOP_PID"])),
        event["KILLSNOOP_SIGNAL"],
        (event["KILLSNOOP_TCOMM"], int(event["KILLSNOOP_TPID"])) if reached else None,
        event.get("KILLSNOOP_SYSCALL") or event["KILLSNOOP_ORIGIN"],
        event["KILLSNOOP_OUTCOME"] if reached else event["KILLSNOOP_RESULT"],
    )


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


@pytest.mark.parametrize(
    ("name", "uid"), [(name, 0) for name in CASES] + [(name, NOBODY) for name in CASES if name not in NEEDS_ROOT]
)
def test_case(daemon, name, uid):
    """The events have the right sender, signal, targets, route and outcome; there are no others."""
    before = len(daemon.events())
    rows = perform(name, uid)
    senders = {row.sender for row in rows}
    targets = {row.target for row in rows}
    events = [
        event
        for event in daemon.events()[before:]
        if event["KILLSNOOP_EVENT"] not in ("death", "exit")
        and int(event["KILLSNOOP_PID"]) != os.getpid()  # the cleanup
        and event["KILLSNOOP_COMM"] != "ks-attacker"
        and (told(event)[0] in senders - {KERNEL} or told(event)[2] in targets - {None})
    ]
    assert sorted(map(told, events), key=str) == sorted(
        ((row.sender, row.signal, row.target, row.route, row.outcome) for row in rows), key=str
    )
    for event in events:
        # The OOM killer's victim may die before the kernel says whose victim it was.
        expected = "1" if any("KILLSNOOP_ORIGIN_INFERRED" in row.more for row in rows) else None
        assert event.get("KILLSNOOP_ORIGIN_INFERRED") == expected or event["KILLSNOOP_ORIGIN"] == "oom"
    for row in rows:
        (event, *_) = [event for event in events if told(event)[2] == row.target]
        assert {key: event.get(key) for key in row.more} == row.more


NO_CAST = "def rdonly_cast_ids():\n    return None\n"
WAYS = {
    "bpf_rdonly_cast, where there is one": "",
    "bpf_probe_read_kernel": f"{NO_CAST}\n\ndef has_typed_siginfo():\n    return False\n",
    "a typed pointer": NO_CAST,
    "nothing else": f"{NO_CAST}\n\ndef may_read_kernel_memory():\n    return False\n",
}
if not MAY_READ_KERNEL_MEMORY:
    del WAYS["bpf_probe_read_kernel"]
if not libbpf.has_typed_siginfo():
    del WAYS["a typed pointer"], WAYS["nothing else"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_read_what_the_kernel_says(start, tmp_path, way):
    """The kernel's age and lockdown decide which one is allowed; each gives sender and si_code."""
    copy = tmp_path / "other/killsnoopd"
    shutil.copytree(Path(killsnoopd.__file__).parent, copy)
    with (copy / "probe/libbpf.py").open("a") as file:
        file.write(f"\n\n{WAYS[way]}")
    daemon = start("--events.rate=0", env={"PYTHONPATH": str(copy.parent)})
    with victim() as target:
        run(lambda: (send("kill", target, 10), send("rt_sigqueueinfo", target, 12, siginfo(12))), b"ks-way")
        events = daemon.events("ks-way")
    assert [(event["KILLSNOOP_SIGNAL"], event["KILLSNOOP_CODE"]) for event in events] == [
        ("SIGUSR1", "0"),
        ("SIGUSR2", "-1"),
    ]
