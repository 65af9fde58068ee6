"""Containers of real runtimes: sender and target have the names that the runtime itself gives them.

No registry is needed: the images are made of this machine's own files.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

import pytest
from conftest import journal, kill_as, run, show, wait_for_another
from senders import send
from waiting import wait_for

FIELDS = ("UNIT", "USER_UNIT", "MACHINE", "CONTAINER", "CONTAINER_NAME", "POD", "POD_NAMESPACE", "POD_UID")
KILLS_ITS_CHILD = "sleep 1000 & kill -9 $!; wait; exec sleep 1000"
TREE = Path("/var/tmp/busybox")


@pytest.fixture(scope="module", autouse=True)
def tree():
    """A root file system that any runtime can start: busybox."""
    for name in ("bin", "sbin", "dev", "etc", "proc", "sys", "tmp", "run", "root", "usr"):
        (TREE / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", TREE / "bin/busybox")
    for name in ("bin/sh", "bin/sleep", "bin/cat", "sbin/init"):
        (TREE / name).unlink(missing_ok=True)
        (TREE / name).symlink_to("/bin/busybox")
    run("tar", "-C", str(TREE), "-cf", f"{TREE}.tar", ".")
    Path(f"{TREE}.tar").chmod(0o644)
    wait_for_another()


def place(event, prefix=""):
    """What an event says of the sender, or with the prefix TARGET_ of the target."""
    return {name: event[key] for name in FIELDS if (key := f"KILLSNOOP_{prefix}{name}") in event}


def unit_of(pid):
    """What systemd calls it."""
    said = run("systemctl", "whoami", str(pid), check=False).strip()
    return {"UNIT": said} if said.endswith((".service", ".scope")) else {}


HERE = unit_of(os.getpid())


def assert_told(sender, sender_place, target_place, target=None):
    """Wait until a SIGKILL and the death by it are logged, with these names."""
    matches = ["--boot", f"KILLSNOOP_PID={sender}", "KILLSNOOP_SIGNAL=SIGKILL"]
    if target:
        matches.append(f"KILLSNOOP_TPID={target}")

    def both():
        events = journal(*matches)
        return {event["KILLSNOOP_EVENT"] for event in events} == {"delivery", "death"} and events

    for event in wait_for(both, f"what {sender} did"):
        assert (place(event), place(event, "TARGET_")) == (sender_place, target_place), event


@contextlib.contextmanager
def podman(command, host_pids=False, options=(), prefix=()):
    """Its main process, and the names of it."""
    if "busybox" not in run(*prefix, "podman", "images"):
        run(*prefix, "podman", "import", "--quiet", f"{TREE}.tar", "busybox")
    host = ["--pid=host", "--security-opt=apparmor=unconfined"] if host_pids else []
    start = ["podman", *options, "run", "--detach", "--network=none", *host, "busybox", "sh", "-c", command]
    container = run(*prefix, *start).split()[-1]
    try:
        found = json.loads(run(*prefix, "podman", "inspect", container))[0]
        pid = found["State"]["Pid"]
        yield pid, unit_of(pid) | {"CONTAINER": found["Id"]}
    finally:
        run(*prefix, "podman", "rm", "--force", "--time=0", container)


def podman_cgroupfs(command, host_pids=False):
    return podman(command, host_pids, options=["--cgroup-manager=cgroupfs"])


def podman_runc(command, host_pids=False):
    return podman(command, host_pids, options=["--runtime=runc"])


@contextlib.contextmanager
def docker(command, host_pids=False, driver="systemd"):
    config = Path("/etc/docker/daemon.json")
    if not config.exists() or driver not in config.read_text():
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps({"exec-opts": [f"native.cgroupdriver={driver}"]}))
        run("systemctl", "restart", "docker")
    assert f"Cgroup Driver: {driver}" in run("docker", "info")
    if "busybox" not in run("docker", "images"):
        run("docker", "import", f"{TREE}.tar", "busybox")
    host = ["--pid=host", "--security-opt=apparmor=unconfined"] if host_pids else []
    container = run("docker", "run", "--detach", "--network=none", *host, "busybox", "sh", "-c", command).split()[-1]
    try:
        found = json.loads(run("docker", "inspect", container))[0]
        pid = found["State"]["Pid"]
        yield pid, unit_of(pid) | {"CONTAINER": found["Id"]}
    finally:
        run("docker", "rm", "--force", container)


def docker_cgroupfs(command, host_pids=False):
    return docker(command, host_pids, driver="cgroupfs")


@contextlib.contextmanager
def containerd(command, host_pids=False, parent=None):
    """As the kubelet asks for it: an id of 64 digits; parent: a slice of systemd's."""
    container = secrets.token_hex(32)
    host = ["--with-ns=pid:/proc/1/ns/pid"] if host_pids else []
    cgroup = ["--runc-systemd-cgroup", f"--cgroup={parent}:cri-containerd:{container}"] if parent else []
    run(
        "ctr",
        "run",
        "--detach",
        "--env=PATH=/bin",
        *host,
        *cgroup,
        "--rootfs",
        str(TREE),
        container,
        "sh",
        "-c",
        command,
    )
    try:
        pid = int(re.search(rf"^{container}\s+(\d+)", run("ctr", "tasks", "ls"), re.M)[1])
        yield pid, unit_of(pid) | {"CONTAINER": container}
    finally:
        run("ctr", "tasks", "rm", "--force", container, check=False)
        run("ctr", "containers", "rm", container, check=False)


def containerd_systemd(command, host_pids=False):
    return containerd(command, host_pids, parent="system.slice")


def _leader(machine):
    return int(run("machinectl", "show", "--property=Leader", "--value", machine))


@contextlib.contextmanager
def nspawn(command):
    """By hand; its name has what systemd escapes."""
    machine = "ks-n.1"
    run("systemd-run", "--unit=ks-nspawn", "systemd-nspawn", "--quiet", f"--directory={TREE}", f"--machine={machine}",
        "--private-network", "/bin/sh", "-c", command)  # fmt: skip
    try:
        wait_for(lambda: machine in run("machinectl", "list", "--no-legend"), machine)
        yield (
            _leader(machine),
            {"UNIT": run("machinectl", "show", "-pUnit", "--value", machine).strip(), "MACHINE": machine},
        )
    finally:
        run("systemctl", "stop", "ks-nspawn", check=False)
        run("systemctl", "reset-failed", "ks-nspawn", check=False)


@contextlib.contextmanager
def nspawn_service(command):
    """As systemd-nspawn@.service, which boots it."""
    machine = "ks-boot"
    root = Path("/var/lib/machines") / machine
    run("cp", "-a", str(TREE), str(root))
    (root / "etc/os-release").touch()
    (root / "sbin/init").unlink()
    (root / "sbin/init").write_text(f"#!/bin/sh\n{command}\n")
    (root / "sbin/init").chmod(0o755)
    run("machinectl", "start", machine)
    try:
        yield _leader(machine), {"UNIT": f"systemd-nspawn@{machine}.service", "MACHINE": machine}
    finally:
        run("machinectl", "terminate", machine, check=False)
        wait_for(lambda: show(f"systemd-nspawn@{machine}.service", "ActiveState") in ("inactive", "failed"), "its end")
        run("systemctl", "reset-failed", f"systemd-nspawn@{machine}.service", check=False)
        shutil.rmtree(root)


@contextlib.contextmanager
def lxc(command, host_pids=False):
    name = "ks-lxc"
    config = Path("/var/lib/lxc") / name / "config"
    config.parent.mkdir(parents=True)
    settings = ["lxc.namespace.share.pid = 1"] if host_pids else []
    config.write_text("\n".join([
        f"lxc.rootfs.path = dir:{TREE}", "lxc.net.0.type = empty", "lxc.apparmor.profile = unconfined",
        "lxc.mount.auto = proc:mixed sys:ro", *settings, "",
    ]))  # fmt: skip
    run("lxc-start", f"--name={name}", "--", "/bin/sh", "-c", command)
    try:
        yield int(run("lxc-info", f"--name={name}", "--pid", "--no-humanize")), {"MACHINE": name}
    finally:
        run("lxc-stop", f"--name={name}", "--kill", check=False)
        shutil.rmtree(config.parent)


# In this order, docker's driver changes once.
SHARING = (podman, podman_cgroupfs, podman_runc, docker, docker_cgroupfs, containerd, containerd_systemd, lxc)
ALL = (*SHARING, nspawn, nspawn_service)


@pytest.mark.parametrize("runtime", ALL, ids=lambda runtime: runtime.__name__)
def test_a_target_in_a_container(runtime):
    """Killed by a process beside it; then its first process, by one of the host."""
    with runtime(KILLS_ITS_CHILD) as (pid, names):
        assert_told(pid, names, names)
        wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the end of the shell")
        sender = kill_as("ks-host", lambda: send("kill", pid, 9))
        assert_told(sender, HERE, names, pid)


@pytest.mark.parametrize("runtime", SHARING, ids=lambda runtime: runtime.__name__)
def test_a_sender_in_a_container(runtime, victim):
    """A container that shares the host's pids kills one of its processes."""
    unit, target = victim
    with runtime(f"kill -9 {target}; exec sleep 1000", host_pids=True) as (pid, names):
        assert_told(pid, names, {"UNIT": unit})


def test_a_sender_that_apparmor_stops(victim):
    """The profile of Podman forbids it: a failed call, with the names of its sender."""
    _unit, target = victim
    start = ["podman", "run", "--detach", "--network=none", "--pid=host", "busybox"]
    container = run(*start, "sh", "-c", f"kill -9 {target}; exec sleep 1000").split()[-1]
    (event,) = wait_for(lambda: journal("--boot", f"KILLSNOOP_CONTAINER={container}", "KILLSNOOP_RESULT=EACCES"), "it")
    assert (event["KILLSNOOP_EVENT"], event["KILLSNOOP_TARGET_ARG"]) == ("call", str(target))
    run("podman", "rm", "--force", "--time=0", container)


def test_a_container_in_a_container():
    """Podman in a privileged container of Podman's: both are the outer one's, whose cgroup root has made."""
    inner = "podman --storage-driver=vfs --root=/run/inner/root --runroot=/run/inner/run --cgroup-manager=cgroupfs"
    script = (
        "mkdir /sys/fs/cgroup/init && echo $$ >/sys/fs/cgroup/init/cgroup.procs",  # only leaves may have processes
        f"{inner} import --quiet {TREE}.tar busybox",
        f"{inner} run --detach --network=none busybox sh -c '{KILLS_ITS_CHILD}'",
        "exec sleep 1000",
    )
    start = ["podman", "run", "--detach", "--privileged", "--network=none", "--rootfs", "/:O"]
    outer = run(*start, "sh", "-ec", "\n".join(script)).split()[-1]
    names = {"UNIT": f"libpod-{outer}.scope", "CONTAINER": outer}
    nested = re.compile(rf"/libpod-{outer}\.scope/.*/libpod-[0-9a-f]{{64}}$", re.M)

    def in_the_inner_one():
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if nested.search((path / "cgroup").read_text()) and (path / "comm").read_text() == "sleep\n":
                    return int(path.name)
        return None

    pid = wait_for(in_the_inner_one, "the inner container", say=lambda: run("podman", "logs", outer))
    assert_told(pid, names, names)
    run("podman", "rm", "--force", "--time=0", outer)


@pytest.fixture
def user():
    """An ordinary user with a service manager: (name, uid, how to run a command)."""
    run("useradd", "--create-home", "ks-user")
    uid = int(run("id", "--user", "ks-user"))
    run("loginctl", "enable-linger", "ks-user")
    wait_for(lambda: Path(f"/run/user/{uid}/bus").exists(), "the user's D-Bus")
    runtime = f"/run/user/{uid}"
    environment = [
        f"XDG_RUNTIME_DIR={runtime}",
        f"DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus",
        "HOME=/home/ks-user",
    ]
    yield uid, ["runuser", "--user=ks-user", "--", "env", "--chdir=/", *environment]
    run("loginctl", "disable-linger", "ks-user")


def test_a_user_without_privileges(user):
    """Podman as such a user: no container, since users choose the names of their cgroups, but the user's unit has its id."""
    uid, prefix = user
    manager = f"user@{uid}.service"
    with podman(KILLS_ITS_CHILD, prefix=prefix) as (pid, said):
        names = {"UNIT": manager, "USER_UNIT": f"libpod-{said['CONTAINER']}.scope"}
        assert_told(pid, names, names)
        (event, *_) = journal("--boot", f"KILLSNOOP_PID={pid}", "KILLSNOOP_EVENT=delivery")
        assert event["KILLSNOOP_UID"] == str(uid)
    with podman(KILLS_ITS_CHILD, options=["--cgroup-manager=cgroupfs"], prefix=prefix) as (pid, _said):
        assert_told(pid, {"UNIT": manager}, {"UNIT": manager})


def test_a_pod_of_a_kubelet():
    """containerd, in the cgroup and with the links that a kubelet makes; there is none in Debian."""
    uid = "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6"
    logs, links = Path(f"/var/log/pods/shop_web-0_{uid}/nginx"), Path("/var/log/containers")
    logs.mkdir(parents=True)
    links.mkdir(exist_ok=True)
    run("systemctl", "restart", "killsnoopd")  # the daemon sees the folder if it is there when it starts
    with containerd(
        "sleep 5; " + KILLS_ITS_CHILD, parent=f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    ) as found:
        pid, names = found
        link = links / f"web-0_shop_nginx-{names['CONTAINER']}.log"
        link.symlink_to(logs / "0.log")
        names |= {"POD_UID": uid, "POD": "web-0", "POD_NAMESPACE": "shop", "CONTAINER_NAME": "nginx"}
        assert names["UNIT"] == f"cri-containerd-{names['CONTAINER']}.scope"
        assert_told(pid, names, names)
    link.unlink()
    shutil.rmtree("/var/log/pods")
