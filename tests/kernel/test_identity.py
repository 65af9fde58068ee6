"""Identity of senders and targets besides pids: executable, unit, container; from the kernel, or looked up."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cgroups import cgroup, join, mount, pod_cgroup, unmount
from senders import forked, run, send, set_name, siginfo
from waiting import wait_for

CONTAINER = "0123456789abcdef" * 4
POD_UID = "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6"
LONG = "a-program-with-a-name-that-no-dentry-can-hold-by-itself"


def test_unit_and_container(start, tree, lockdown):
    """Of sender and target, from their cgroups; `journalctl -u` finds the target's."""
    daemon = start("--events.rate=0", env=lockdown[1])
    with cgroup(tree, "ks-a.service") as ours, cgroup(tree, f"docker-{CONTAINER}.scope") as theirs:
        victim = forked(lambda: (join(theirs), signal.pause()), b"kv-unit")
        wait_for(lambda: str(victim) in (theirs / "cgroup.procs").read_text().split(), "the victim to join")
        run(lambda: (join(ours), send("kill", victim, 9)), b"ks-unit")
        os.waitpid(victim, 0)
        delivery, death = [event for event in daemon.events("ks-unit") if event["KILLSNOOP_TPID"] == str(victim)]
    for event in (delivery, death):
        assert event["KILLSNOOP_UNIT"] == "ks-a.service"
        assert "KILLSNOOP_CONTAINER" not in event
        assert event["KILLSNOOP_TARGET_UNIT"] == event["OBJECT_SYSTEMD_UNIT"] == f"docker-{CONTAINER}.scope"
        assert event["KILLSNOOP_TARGET_CONTAINER"] == CONTAINER
    assert f"kv-unit[{victim}] (docker-{CONTAINER}.scope): delivered" in delivery["MESSAGE"]


def killed_in(tree, names, owner=0, before_removal=lambda: None):
    """Kill a process in a cgroup of these names, the first of which belongs to `owner`; then remove the cgroup."""
    with contextlib.ExitStack() as stack:
        folder = tree
        for name in names:
            folder = stack.enter_context(cgroup(folder, name))
            if name == names[0]:
                os.chown(folder, owner, owner)
        victim = forked(lambda: (join(folder), signal.pause()), b"kv-pod")
        wait_for(lambda: str(victim) in (folder / "cgroup.procs").read_text().split(), "the victim to join")
        run(lambda: send("kill", victim, 9), b"ks-pod")
        os.waitpid(victim, 0)
        before_removal()
    return str(victim)


@pytest.mark.parametrize("driver", ["cgroupfs", "systemd"])
def test_pods(start, tree, lockdown, driver):
    """The uid, from a cgroup as each driver of the kubelet makes it; none from the same below a folder of a user's."""
    daemon = start("--events.rate=0", env=lockdown[1])
    names = pod_cgroup(driver, POD_UID, CONTAINER)
    # What the kernel has named is reported even if it is gone by then; what is looked up must still be there.
    logged = daemon.settled_ledger if lockdown[0] else lambda: None
    victims = [killed_in(tree, names, 0, logged), killed_in(tree, ["own.service", *names], 1, logged)]
    by_victim = {pid: [event for event in daemon.events("ks-pod") if event["KILLSNOOP_TPID"] == pid] for pid in victims}
    (delivery, death), (theirs, their_death) = by_victim.values()
    for event in (delivery, death):
        assert (event["KILLSNOOP_TARGET_POD_UID"], event["KILLSNOOP_TARGET_CONTAINER"]) == (POD_UID, CONTAINER)
    for event in (theirs, their_death):
        assert not {"KILLSNOOP_TARGET_POD_UID", "KILLSNOOP_TARGET_CONTAINER"} & set(event)
    assert daemon.value("killsnoop_lookups_total", what="pod", source="none") >= 1


def test_machines(start, tree):
    """systemd-nspawn and LXC, whatever the cgroups in them are called."""
    daemon = start("--events.rate=0")
    nspawn = killed_in(tree, [r"machine-web\x2d1.scope", "payload", *pod_cgroup("cgroupfs", POD_UID, CONTAINER)])
    lxc = killed_in(tree, ["lxc.payload.db", "system.slice", "nginx.service"])
    found = {event["KILLSNOOP_TPID"]: event for event in daemon.events("ks-pod")}
    assert found[nspawn]["KILLSNOOP_TARGET_MACHINE"] == "web-1"
    assert not {"KILLSNOOP_TARGET_CONTAINER", "KILLSNOOP_TARGET_POD_UID"} & set(found[nspawn])
    assert found[lxc]["KILLSNOOP_TARGET_MACHINE"] == "db"
    assert "KILLSNOOP_TARGET_UNIT" not in found[lxc]


def test_a_unit_that_is_excluded(start, tree):
    """--events.exclude=unit=: by the daemon, for it alone knows units; deliveries, deaths and failed calls."""
    daemon = start("--events.rate=0", "--events.exclude=unit=ks-noisy", "--events.exclude=unit=ks-part,signal=SIGUSR1")
    with cgroup(tree, "ks-noisy.service") as noisy, cgroup(tree, "ks-part.service") as part:
        before = daemon.settled_ledger()["filtered"]
        victim = forked(signal.pause, b"kv-unit")
        for unit, comm in ((noisy, b"ks-out"), (part, b"ks-in")):
            run(lambda unit=unit: (join(unit), send("kill", 0x3FFFFF, 15), send("kill", 0x3FFFFF, 10)), comm)
        run(lambda: (join(noisy), send("kill", victim, 9)), b"ks-out")
        os.waitpid(victim, 0)
        assert [event["KILLSNOOP_SIGNAL"] for event in daemon.events("ks-out", "ks-in")] == ["SIGTERM"]
        assert daemon.ledger()["filtered"] - before >= 5
    assert len(daemon.signals("ks-out")) == 3


def test_executable(start, tmp_path, lockdown):
    """The sender's, also on a file system that is mounted somewhere; a name that cannot be had is marked, never wrong."""
    mounted = tmp_path / "mounted"
    mount(mounted)
    try:
        locked, environment = lockdown
        daemon = start("--events.rate=0", "--events.include-signal=0", env=environment)
        for name in ("short", LONG):
            shutil.copy("/bin/bash", mounted / name)
            subprocess.run([mounted / name, "-c", "kill -0 $$"], check=True)
        run(lambda: send("kill", os.getpid(), 0), b"ks-python")
        found = {event.get("KILLSNOOP_COMM"): event.get("KILLSNOOP_EXE") for event in daemon.events()}
        assert found["ks-python"] == str(Path("/proc/self/exe").readlink())
        assert found["short"] == str(mounted / "short")
        assert found[LONG[:15]] == str(mounted / ("..." if locked else LONG))
    finally:
        unmount(mounted)


def test_a_process_that_runs_from_memory(start, lockdown):
    """memfd_create(2): there is a name, but no path."""
    daemon = start("--events.rate=0", "--events.include-signal=0", env=lockdown[1])

    def act():
        fd = os.memfd_create("ks-hidden", 0)
        os.write(fd, Path("/bin/bash").read_bytes())
        os.execv(f"/proc/self/fd/{fd}", ["bash", "-c", "kill -0 $$"])

    pid = run(act, b"ks-memfd")
    (event,) = [event for event in daemon.events() if event.get("KILLSNOOP_PID") == str(pid)]
    assert event["KILLSNOOP_EXE"] == "memfd:ks-hidden"


ROUTES = {
    "kill": lambda pid: send("kill", pid, 9),
    "kill a group": lambda pid: send("kill", -pid, 9),
    "tkill": lambda pid: send("tkill", pid, 9),
    "tgkill": lambda pid: send("tgkill", pid, pid, 9),
    "rt_sigqueueinfo": lambda pid: send("rt_sigqueueinfo", pid, 9, siginfo(9)),
    "rt_tgsigqueueinfo": lambda pid: send("rt_tgsigqueueinfo", pid, pid, 9, siginfo(9)),
    "pidfd_send_signal": lambda pid: (
        fd := os.pidfd_open(pid),
        send("pidfd_send_signal", fd, 9, None, 0),
        os.close(fd),
    ),
}


def thousand(tree, tell):
    """100 short-lived units of ten even shorter-lived processes; yields (name, pid, unit) of each."""
    routes = list(ROUTES.values())
    told = []
    for number in range(100):
        with cgroup(tree, f"ks-{number}.service") as folder:
            pids = []
            for at in range(10):
                name = f"kv-{number}-{at}"
                ready, ready_here = os.pipe()

                def act(name=name, told_by=ready_here, folder=folder):
                    set_name(name.encode())
                    os.setpgid(0, 0)
                    join(folder)
                    os.write(told_by, b"!")
                    signal.pause()

                pid = forked(act)
                os.read(ready, 1)
                os.close(ready)
                os.close(ready_here)
                told.append((name, pid, f"ks-{number}.service"))
                pids.append(pid)
                if number % 4:  # each fourth unit is killed as a whole
                    routes[(number + at) % len(routes)](pid)
                    os.waitpid(pid, 0)
            if number % 4 == 0:
                (folder / "cgroup.kill").write_text("1")
                for pid in pids:
                    os.waitpid(pid, 0)
    tell.write_text(json.dumps(told))


def test_a_thousand_victims(start, tree, tmp_path, lockdown, record_property):
    """Each has an event with its name and pid, and a death with the sender; nearly all have their unit.

    Without lockdown the kernel names the unit, so none is missed. With it, units are looked up later, when these, unlike
    real ones, are already gone; a unit is never wrong.
    """
    locked, environment = lockdown
    daemon = start("--events.rate=0", "--probe.ring-size=8M", env=environment)
    run(lambda: thousand(tree, tmp_path / "told"), b"ks-thousand")
    victims = [tuple(victim) for victim in json.loads((tmp_path / "told").read_text())]
    events = {
        kind: [
            event
            for event in daemon.events("ks-thousand")
            if event["KILLSNOOP_EVENT"] == kind and event["KILLSNOOP_SIGNAL"] == "SIGKILL"
        ]
        for kind in ("delivery", "death")
    }
    names = {(name, pid) for name, pid, _ in victims}
    for kind in events.values():
        assert len(kind) == len(victims) == 1000
        assert {(event["KILLSNOOP_TCOMM"], int(event["KILLSNOOP_TPID"])) for event in kind} == names
    assert daemon.deaths().get(("SIGKILL", "unknown"), 0) == 0
    units = {pid: unit for _, pid, unit in victims}
    right = 0
    for event in events["delivery"]:
        unit = event.get("KILLSNOOP_TARGET_UNIT")
        assert unit in (None, units[int(event["KILLSNOOP_TPID"])])
        right += unit is not None
    record_property("units_found_per_thousand", right)
    if not locked:
        assert right >= 990
    units = [
        value
        for (name, labels), value in daemon.samples().items()
        if name == "killsnoop_lookups_total" and ("what", "unit") in labels
    ]
    assert sum(units) >= 2000
