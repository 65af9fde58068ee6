"""killsnoop_deaths_total: each death once, under its sender and its victim, whatever the load."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from cgroups import pod_cgroup
from observer import bpftrace
from running import MAY_READ_KERNEL_MEMORY, PRIVATE, UNSHARE, load
from senders import run, set_name
from victims import die_by_turns, kill_one, named, waiting

from killsnoopd import names

NAME = "SIGRTMIN+17"  # of the signal of kill_one()
CONTAINER, POD_UID, STATIC = "0123456789abcdef" * 4, "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6", "0123456789abcdef" * 2
CORES = len(os.sched_getaffinity(0))
DEATHS = 20_000
NAMES = 2_000
VICTIMS = Path(__file__).with_name("victims.py")
CGROUPS = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")


def deaths(daemon, labels=("signal", "origin", "comm", "tcomm"), prefix="kv-"):
    """{labels: processes}, of victims whose names begin so."""
    found = Counter()
    for (name, pairs), value in daemon.samples().items():
        values = dict(pairs)
        if name == "killsnoop_deaths_total" and values["tcomm"].startswith(prefix):
            found[tuple(values[label] for label in labels)] += int(value)
    return found


def program(*arguments):
    """victims.py, running."""
    return subprocess.Popen(
        [sys.executable, VICTIMS, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(VICTIMS.parent.parent)},
    )


# The last signal to each process, and the name of the process that sent it.
OBSERVER = """
tracepoint:signal:signal_generate { @sig[args->pid] = args->sig; @by[args->pid] = comm; }
tracepoint:sched:sched_process_exit /strncmp(comm, "kv-", 3) == 0/ { @[@sig[pid], @by[pid], comm] = count(); }
tracepoint:sched:sched_process_exit { delete(@sig[pid]); delete(@by[pid]); }
"""


def test_twenty_thousand_deaths(start, record_property):
    """By eight routes on all cores, while the page is read: each sum is exact, and each sender and victim is right, by
    what their parents saw, and by what bpftrace saw. No reading falls, and the ledger closes."""
    daemon = start("--events.target=none")
    with bpftrace(OBSERVER) as counted:
        expected = watch_deaths(daemon, record_property)
        seen = Counter()
        for key, count in counted().items():
            sig, sender, victim = key.split(",")
            seen[names.signal_name(int(sig)), "" if sender == victim else sender, victim] += count
    told = Counter()
    for (sig, _, sender, victim), count in expected.items():
        told[sig, sender, victim] += count
    assert seen == told


def watch_deaths(daemon, record_property):
    """The deaths that parents saw, and that the page has: {(signal, origin, sender, victim): number}."""
    before = sum(daemon.deaths().values())
    share = DEATHS // CORES
    workers = [program("turns", worker, share) for worker in range(CORES)]
    readings, expected, done = [], Counter(), threading.Event()

    def collect():
        for worker in workers:
            with worker.stdout as lines:
                for line in lines:
                    *key, count = line.split()
                    expected[tuple("" if part == "-" else part for part in key)] += int(count)
        done.set()

    began_s = time.monotonic()
    threading.Thread(target=collect).start()
    while not done.wait(0.5):
        readings.append(deaths(daemon))
    record_property("deaths_per_second", round(DEATHS / (time.monotonic() - began_s)))
    assert [worker.wait() for worker in workers] == [0] * CORES
    victims = {tcomm for *_, tcomm in expected}
    found = Counter({key: count for key, count in deaths(daemon).items() if key[3] in victims})
    assert sum(expected.values()) == share * CORES
    assert found == expected
    for earlier, later in zip(readings, [*readings[1:], found], strict=True):
        assert all(later[key] >= count for key, count in earlier.items())
    assert sum(daemon.deaths().values()) >= before + share * CORES
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()
    return expected


def test_names_without_end(start):
    """Far more senders and victims than counters: the page is bounded, sums are exact, memory is flat, and known names go
    on. bench/names.py has 100,000 names."""
    daemon = start("--metrics.max-deaths=50", "--metrics.max-series=60", "--events.target=none")
    run(lambda: kill_one(b"kv-early"), b"kd-early")
    with program("names", 0, 500) as named_first:
        assert named_first.wait() == 0
    daemon.get()
    full_kb = int(daemon.status("VmRSS"))
    with program("names", 500, NAMES - 500) as named_later:
        assert named_later.wait() == 0
    assert int(daemon.status("VmRSS")) < full_kb + 1024  # before another page is built, which may need more
    run(lambda: [kill_one(b"kv-early") for _ in range(3)], b"kd-early")
    found = deaths(daemon, prefix="")
    assert len([key for key in found if key[3] != "(other)"]) <= 50
    assert len([key for key in daemon.signals() if key[0] != "(other)"]) <= 60
    assert found[NAME, "syscall", "kd-early", "kv-early"] == 4
    assert daemon.deaths()[NAME, "syscall"] == NAMES + 4
    assert daemon.signals("kd-early")["kd-early", NAME, "success"] == 4
    assert sum(n for (_, sig, _), n in daemon.signals().items() if sig == NAME) == NAMES + 4
    assert found[NAME, "syscall", "(other)", "(other)"] > NAMES - 50
    assert daemon.value("killsnoop_series", family="deaths") == 50
    assert daemon.value("killsnoop_series", family="signals") == 60
    assert daemon.value("killsnoop_series_overflow_total", family="deaths") > NAMES - 50


def test_idle_names_make_room(start):
    """They lose their counters to new ones by the same rule as senders; no death is lost."""
    daemon = start("--metrics.max-deaths=20", "--metrics.series-ttl=2", "--events.target=none")

    def killed():
        return daemon.deaths()[NAME, "syscall"]  # named, (other) and aged, of one page

    sent = 0
    for number in range(30):
        kill_one(b"kv-old%d" % number)
        sent += 1
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        for number in range(5):
            kill_one(b"kv-new%d" % number)
            sent += 1
        assert killed() == sent
        if len({key[3] for key in deaths(daemon) if key[3].startswith("kv-new")}) == 5:
            break
        time.sleep(0.2)
    names = {key[3] for key in deaths(daemon)}
    assert {f"kv-new{number}" for number in range(5)} <= names
    assert daemon.value("killsnoop_series_recycled_total", family="deaths") >= 5
    assert killed() == sent


def test_restarts_keep_them(start, pins):
    """The probe's memory has the names: a label never changes under its counter."""
    load(pins)
    first = start(f"--probe.pin={pins}")
    told = Counter()
    die_by_turns(0, 16, told)
    set_name(b"pytest")
    found = deaths(first, ("signal", "origin", "comm", "tcomm", "target_unit"))
    first.stop()
    die_by_turns(0, 16, told)
    set_name(b"pytest")
    second = start(f"--probe.pin={pins}")
    assert deaths(second) == told
    assert deaths(second, ("signal", "origin", "comm", "tcomm", "target_unit")) == {
        key: 2 * count for key, count in found.items()
    }


@contextlib.contextmanager
def cgroup(*names):
    """A cgroup below the root, through these; its folder."""
    made = []
    folder = CGROUPS
    try:
        for name in names:
            folder = folder / name
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        yield folder
    finally:
        for folder in reversed(made):
            folder.rmdir()


UNITS = {
    ("ks-test.service",): "ks-test.service",
    ("ks-test.slice", "ks-test-deep.slice", "ks-deep.service", "inner.scope"): "ks-deep.service",
    ("ks-test.slice", "docker-" + "0123456789abcdef" * 4 + ".scope"): "docker-*.scope",
    ("ks-test.slice", "session-7.scope"): "session-*.scope",
    ("ks.scope",): "ks.scope",
    ("ks-mnt.mount",): "ks-mnt.mount",
    ("_ks.service",): "ks.service",
    ("ks-" + "long" * 30 + ".service",): "ks-" + "long" * 15,
    ("ks-nothing", "ks-test.service"): "",
    ("ks.slic",): "",
}


@pytest.mark.parametrize("path", list(UNITS), ids=lambda path: "/".join(path)[:40])
@pytest.mark.skipif(not MAY_READ_KERNEL_MEMORY, reason="lockdown=confidentiality hides the names")
def test_the_unit_is_the_victims(shared_daemon, path):
    """By its cgroup: the first one that is not a slice. Of a scope, which comes and goes, the part that stays."""
    number = list(UNITS).index(path)
    name = f"kv-unit{number}"
    with cgroup(*path) as folder:
        run(lambda: die_in(folder, name.encode()), b"kd-unit")
    assert deaths(shared_daemon, ("comm", "tcomm", "target_unit"), name) == {("kd-unit", name, UNITS[path]): 1}


def die_in(folder, name):
    """A process of this name moves there and is killed."""
    pid = named(waiting, name)
    (folder / "cgroup.procs").write_text(str(pid))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.skipif(not MAY_READ_KERNEL_MEMORY, reason="lockdown=confidentiality hides the names")
def test_a_user_names_no_unit(shared_daemon):
    """Below a slice that is not root's, the names are its owner's."""
    with cgroup("ks-theirs.slice") as folder:
        os.chown(folder, 4242, 4242)
        with cgroup("ks-theirs.slice", "sshd.service") as theirs:
            run(lambda: die_in(theirs, b"kv-theirs"), b"kd-theirs")
    assert deaths(shared_daemon, ("comm", "tcomm", "target_unit"), "kv-theirs") == {("kd-theirs", "kv-theirs", ""): 1}


PODS = {
    "systemd": (pod_cgroup("systemd", POD_UID, CONTAINER), "cri-*.scope", POD_UID),
    "cgroupfs": (pod_cgroup("cgroupfs", POD_UID, CONTAINER), "", POD_UID),
    "static": (pod_cgroup("systemd", STATIC, CONTAINER), "cri-*.scope", STATIC),
    "static, cgroupfs": (pod_cgroup("cgroupfs", STATIC, CONTAINER), "", STATIC),
    "guaranteed": (["kubepods.slice", f"kubepods-pod{POD_UID.replace('-', '_')}.slice"], "", POD_UID),
    "below a prefix": (
        ["ks.slice", "ks-kubepods.slice", f"ks-kubepods-pod{POD_UID.replace('-', '_')}.slice", f"crio-{CONTAINER}.scope"],
        "crio-*.scope", POD_UID,
    ),
    "in a container's own cgroup": ([*pod_cgroup("cgroupfs", POD_UID, CONTAINER), f"pod{STATIC}"], "", POD_UID),
    "without a pod": (["kubepods", "burstable", CONTAINER], "", ""),
    "outside": (["ks.slice", f"ks-pod{STATIC}.slice", "ks-outside.service"], "ks-outside.service", ""),
    "of a node in a container": ([f"docker-{CONTAINER}.scope", "kubepods", f"pod{POD_UID}"], "docker-*.scope", ""),
    "too short": (["kubepods", f"pod{STATIC[:-1]}"], "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PODS))
@pytest.mark.skipif(not MAY_READ_KERNEL_MEMORY, reason="lockdown=confidentiality hides the names")
def test_the_pod_is_the_victims(shared_daemon, case):
    """By its cgroup below the kubelet's, for each of its drivers. This machine's kubelet lists no such pod."""
    path, unit, pod = PODS[case]
    name = f"kv-pod{list(PODS).index(case)}"
    with cgroup(*path) as folder:
        run(lambda: die_in(folder, name.encode()), b"kd-pod")
    labels = ("comm", "tcomm", "target_unit", "target_pod")
    assert deaths(shared_daemon, labels, name) == {("kd-pod", name, unit, pod): 1}


@pytest.mark.skipif(not MAY_READ_KERNEL_MEMORY, reason="lockdown=confidentiality hides the names")
def test_a_pod_keeps_its_name(start, pins, tmp_path):
    """As the kubelet's logs had it before the pod was deleted, also for the next daemon."""
    load(pins)
    log = tmp_path / "log"
    listed = log / f"pods/shop_web-0_{POD_UID}"
    listed.mkdir(parents=True)

    def daemon():
        in_private = (*UNSHARE, f'{PRIVATE}; mount --bind {log} /var/log && exec "$@"', "sh")
        return start(f"--probe.pin={pins}", prefix=in_private)

    def found(daemon):
        return deaths(daemon, ("tcomm", "target_pod"), "kv-named")

    with cgroup(*pod_cgroup("systemd", POD_UID, CONTAINER)) as folder:
        first = daemon()
        die_in(folder, b"kv-named")
        assert found(first) == {("kv-named", "shop/web-0"): 1}
        listed.rmdir()
        die_in(folder, b"kv-named")
        die_in(folder, b"kv-named2")
        first.stop()
        second = daemon()
        assert found(second) == {("kv-named", "shop/web-0"): 2, ("kv-named2", "shop/web-0"): 1}
