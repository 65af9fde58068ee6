"""A local user (uid 65534) tries to pass for another, to hide, or to delay the events of uid 4242."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from cgroups import cgroup, cgroup_tree, join, mount, unmount
from running import load
from senders import NO_SUCH_PID, NOBODY, become, forked, run, send, set_name
from waiting import wait_for

from killsnoopd import names

_libc = ctypes.CDLL(None, use_errno=True)
QUIET = 4242
CONTAINER = "0123456789abcdef" * 4
BREAKS = ["\r", "\v", "\u0085", "\u2028"]


def removed(folder):
    """Remove a tree of cgroups; nothing if it cannot be removed now."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


@pytest.fixture
def delegated(tree):
    """A unit whose cgroup belongs to NOBODY, as that of each user's service manager does."""
    folder = tree / "ks-own.service"
    folder.mkdir()
    for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
        os.chown(path, NOBODY, NOBODY)
    yield folder
    removed(folder)


def failing():
    """A call that makes an event, and reaches nobody."""
    send("kill", NO_SUCH_PID, 15)


def event_of(daemon, name):
    (event,) = daemon.events(name)
    return event


def quiet(count):
    """Kill as another uid; the pids of those killed."""
    pids = []
    for _ in range(count):
        pid = forked(lambda: threading.Event().wait(60), b"kv-quiet", QUIET)
        pids.append(pid)
    time.sleep(0.1)

    def act():
        for pid in pids:
            assert send("kill", pid, 9) == 0
            time.sleep(0.05)

    run(act, b"ks-quiet", QUIET)
    for pid in pids:
        os.waitpid(pid, 0)
    return pids


def logged(daemon, pids):
    """(kind, pid) of the quiet uid's events: those logged, and those expected."""
    found = [(event["KILLSNOOP_EVENT"], int(event["KILLSNOOP_TPID"])) for event in daemon.events("ks-quiet")]
    return sorted(found), sorted((kind, pid) for kind in ("delivery", "death") for pid in pids)


def nested(folder, count, depth=14):
    """`count` cgroups, each at the end of a path of `depth`."""
    at = folder
    for number in range(depth):
        at /= f"{number}-" + "x" * 40
        at.mkdir()
    for number in range(count):
        (at / str(number)).mkdir()
    return at


def test_nested_cgroups(start, delegated, lockdown, record_property):
    """117 signals a second, each from a new cgroup, 18 deep, beside 3,000 others: no kill of another uid is lost or late,
    memory stays flat, and every event has the right unit. Under lockdown the unit may be missing.
    """
    locked, environment = lockdown
    daemon = start(env=environment)

    def attack():
        join(delegated)
        become(NOBODY)
        set_name(b"ks-nested")
        at = nested(delegated, 3000)
        until_s = time.monotonic() + 15
        number = 0
        while time.monotonic() < until_s:
            fresh = at / f"fresh{number}"
            fresh.mkdir()
            join(fresh)
            failing()
            join(delegated)
            fresh.rmdir()
            number += 1
            time.sleep(1 / 117)

    pid = forked(attack)
    wait_for(lambda: daemon.signals("ks-nested"), "the first signal")
    time.sleep(1)
    before_kb, before_s, began_s = int(daemon.status("VmRSS")), daemon.on_cpu_s(), time.monotonic()
    killed = quiet(40)
    events, expected = logged(daemon, killed)
    assert os.waitpid(pid, 0)[1] == 0
    share = (daemon.on_cpu_s() - before_s) / (time.monotonic() - began_s)
    grown_kb = int(daemon.status("VmRSS")) - before_kb
    record_property("rss_grown_kb", grown_kb)
    record_property("cpu_share_of_a_core", round(share, 3))
    assert events == expected
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == ledger["decode_error"] == 0
    assert grown_kb < 4096
    assert share < 0.1
    nested_events = daemon.events("ks-nested")
    assert len(nested_events) > 1000
    units = {event.get("KILLSNOOP_UNIT") for event in nested_events}
    assert units <= {None, "ks-own.service"} if locked else units == {"ks-own.service"}


@pytest.mark.parametrize("line_break", BREAKS)
def test_line_breaks(start, pins, tree, delegated, tmp_path, line_break):
    """In names of mounts, before the daemon starts and while it runs, and in names of cgroups v1 and v2: no event is lost,
    no process has the unit of another."""
    v1 = cgroup_tree("name=systemd")
    mounts = [tmp_path / f"a{line_break}b", tmp_path / f"c{line_break}d"]
    with contextlib.ExitStack() as stack:
        mount(mounts[0])
        stack.callback(unmount, mounts[0])
        with contextlib.suppress(OSError):  # a file system may want UTF-8
            path = tmp_path / os.fsdecode(b"x\xb1")
            mount(path)
            stack.callback(unmount, path)
        assert "pinned" in load(pins)
        daemon = start("--events.rate=0")
        mount(mounts[1])
        stack.callback(unmount, mounts[1])
        shutil.copy("/bin/bash", mounts[1] / "ks-bash")
        subprocess.run([mounts[1] / "ks-bash", "-c", f"kill -15 {NO_SUCH_PID}"], check=False, stderr=subprocess.DEVNULL)
        folders = [delegated / f"a{line_break}1:name=systemd:\\ssh.service"]
        if v1:
            own = stack.enter_context(cgroup(v1, "ks-own.service"))
            os.chown(own, NOBODY, NOBODY)
            os.chown(own / "cgroup.procs", NOBODY, NOBODY)
            folders.append(own / f"a{line_break}1:name=systemd:\\ssh.service")
            stack.callback(removed, own)
        for number, folder in enumerate(folders):

            def act(folder=folder, number=number):
                join(folder.parent)
                become(NOBODY)
                folder.mkdir()
                join(folder)
                set_name(b"ks-break%d" % number)
                failing()
                signal.pause()

            pid = forked(act)
            wait_for(lambda number=number: daemon.signals(f"ks-break{number}"), "the signal")
            event = event_of(daemon, f"ks-break{number}")
            assert event["KILLSNOOP_UNIT"] == "ks-own.service"
            assert "KILLSNOOP_CONTAINER" not in event
            run(lambda pid=pid: send("kill", pid, 9), b"ks-root")
            os.waitpid(pid, 0)
        events = daemon.events("ks-root")
        assert [event["KILLSNOOP_TARGET_UNIT"] for event in events] == ["ks-own.service"] * 2 * len(folders)
        executable = event_of(daemon, "ks-bash")["KILLSNOOP_EXE"]
        assert executable == names.text(os.fsencode(mounts[1] / "ks-bash"))
    assert daemon.settled_ledger()["decode_error"] == 0


def test_renamed(start, record_property):
    """The folders above an executable have long names full of escapes, others before each signal: memory stays flat, and no
    kill of another uid is lost."""
    daemon = start()

    def attack():
        set_name(b"ks-renamed")
        wide = "\U0001f600".encode() + b"\1" * 200
        folders = [b"%d" % number + wide for number in range(7)]
        base = tempfile.mkdtemp(dir="/tmp")
        os.chdir(base)
        Path(os.fsdecode(b"/".join(folders))).mkdir(parents=True)
        shutil.copy("/bin/bash", os.fsdecode(b"/".join([*folders, b"b"])))
        top = folders[0]
        until_s = time.monotonic() + 20
        number = 0
        script = f"while read; do kill -15 {NO_SUCH_PID}; echo; done 2>/dev/null"
        with subprocess.Popen(
            [os.fsdecode(b"/".join([*folders, b"b"])), "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as shell:
            while time.monotonic() < until_s:
                for depth in range(4, 7):
                    at = Path(os.fsdecode(b"/".join([top, *folders[1:depth]])))
                    fresh = b"%09d" % number + wide
                    (at / os.fsdecode(folders[depth])).rename(at / os.fsdecode(fresh))
                    folders[depth] = fresh
                    number += 1
                shell.stdin.write(b"\n")
                shell.stdin.flush()
                shell.stdout.readline()
                time.sleep(1 / 65)
            shell.stdin.close()
        shutil.rmtree(base)

    pid = forked(attack, uid=NOBODY)
    wait_for(lambda: len(daemon.events("b")) > 200, "the first signals")  # what is bounded must be full
    before_kb = int(daemon.status("VmRSS"))
    killed = quiet(40)
    events, expected = logged(daemon, killed)
    assert os.waitpid(pid, 0)[1] == 0
    grown_kb = int(daemon.status("VmRSS")) - before_kb
    record_property("rss_grown_kb", grown_kb)
    assert events == expected
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == ledger["decode_error"] == 0
    assert grown_kb < 4096
    paths = {event["KILLSNOOP_EXE"] for event in daemon.events("b")}
    assert len(paths) > 500
    assert all(path.startswith(".../") and path.endswith("/b") and len(path) <= 1024 for path in paths)


def test_deep_folder(start, tmp_path):
    """A path with twelve or sixteen folders is complete; beyond the limits, the end of the path is there, marked."""
    daemon = start("--events.rate=0")
    paths = {
        "ks-12": "/".join(["d"] * 12),
        "ks-16": "node_modules/.pnpm/" + "/".join(["some-package@1.2.3"] * 14),
        "ks-40": "/".join(["d"] * 40),
        "ks-wide": "/".join(["w" * 250] * 5),
    }
    found = {}
    for name, path in paths.items():
        folder = tmp_path / name / path
        folder.mkdir(parents=True)
        shutil.copy("/bin/bash", folder / name)
        subprocess.run([folder / name, "-c", f"kill -15 {NO_SUCH_PID}"], check=False, stderr=subprocess.DEVNULL)
        found[name] = event_of(daemon, name)["KILLSNOOP_EXE"]
    assert found["ks-12"] == str(tmp_path / "ks-12" / paths["ks-12"] / "ks-12")
    assert found["ks-16"] == str(tmp_path / "ks-16" / paths["ks-16"] / "ks-16")
    assert found["ks-40"] == ".../" + "d/" * 31 + "ks-40"
    assert found["ks-wide"] == ".../" + f"{'w' * 250}/" * 3 + "ks-wide"


def test_another_file_system(start, tmp_path):
    """A path on a file system that is not mounted here is marked, also if its device number was that of a file system that
    was mounted here."""
    ours = tmp_path / "ours"
    mount(ours)
    script = f"""
        mount -t tmpfs t {tmp_path} && mkdir -p {tmp_path}/usr/lib/systemd && cp /bin/bash {tmp_path}/usr/lib/systemd/systemd
        exec {tmp_path}/usr/lib/systemd/systemd -c 'kill -15 {NO_SUCH_PID}'
    """
    try:
        daemon = start("--events.rate=0")
        shutil.copy("/bin/bash", ours / "ks-ours")
        number = ours.stat().st_dev
        subprocess.run([ours / "ks-ours", "-c", f"kill -15 {NO_SUCH_PID}"], check=False, stderr=subprocess.DEVNULL)
        assert event_of(daemon, "ks-ours")["KILLSNOOP_EXE"] == str(ours / "ks-ours")
    finally:
        unmount(ours)
    wait_for(lambda: ours.stat().st_dev != number, "the unmount")
    subprocess.run(
        ["unshare", "-m", "--propagation", "unchanged", "sh", "-c",
         f"mount --make-private / 2>/dev/null; mount --make-private {tmp_path} 2>/dev/null; {script}"],
        check=False, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    event = event_of(daemon, "systemd")
    assert event["KILLSNOOP_EXE"] == "elsewhere:/usr/lib/systemd/systemd"


def test_executes_another(start, tmp_path):
    """A death has the executable of its delivery, even if the sender has executed another program since."""
    daemon = start("--events.rate=0")
    shutil.copy("/bin/bash", tmp_path / "ks-second")
    victim = forked(lambda: threading.Event().wait(60), b"kv-stopped")
    os.kill(victim, signal.SIGSTOP)
    time.sleep(0.1)

    def act():
        send("kill", victim, 15)
        os.execv(tmp_path / "ks-second", ["bash", "-c", f"kill -15 {NO_SUCH_PID}; kill -CONT {victim}"])

    pid = forked(act, b"ks-first")
    os.waitpid(pid, 0)
    os.waitpid(victim, 0)
    events = [event for event in daemon.events() if event["KILLSNOOP_PID"] == str(pid)]
    first = str(Path("/proc/self/exe").readlink())
    by_kind = {(event["KILLSNOOP_EVENT"], event["KILLSNOOP_SIGNAL"]): event["KILLSNOOP_EXE"] for event in events}
    assert by_kind == {
        ("delivery", "SIGTERM"): first,
        ("call", "SIGTERM"): str(tmp_path / "ks-second"),
        ("delivery", "SIGCONT"): str(tmp_path / "ks-second"),
        ("death", "SIGTERM"): first,
    }


def test_delegated(start, delegated):
    """No unit and no container comes from below a cgroup that belongs to a user."""
    daemon = start("--events.rate=0")

    def act():
        join(delegated)
        become(NOBODY)
        for number, name in enumerate((f"docker-{CONTAINER}.scope", "ssh.service", CONTAINER)):
            folder = delegated / name
            folder.mkdir()
            join(folder)
            set_name(b"ks-claim%d" % number)
            failing()
        join(delegated)

    run(act)
    for number in range(3):
        event = event_of(daemon, f"ks-claim{number}")
        assert event["KILLSNOOP_UNIT"] == "ks-own.service"
        assert "KILLSNOOP_CONTAINER" not in event
        assert "KILLSNOOP_USER_UNIT" not in event


def test_user_units(start, tree):
    """A process in a unit of a user's service manager has both units."""
    daemon = start("--events.rate=0")
    with contextlib.ExitStack() as stack:
        at = tree
        for name in ("user@65534.service", "app.slice", "app-gnome-firefox-3823.scope"):
            at = stack.enter_context(cgroup(at, name))
            os.chown(at, NOBODY, NOBODY)
        victim = forked(lambda: (join(at), signal.pause()), b"kv-user")
        wait_for(lambda: str(victim) in (at / "cgroup.procs").read_text().split(), "the victim to join")
        run(lambda: send("kill", victim, 9), b"ks-user")
        os.waitpid(victim, 0)
        for event in daemon.events("ks-user"):
            assert event["KILLSNOOP_TARGET_UNIT"] == "user@65534.service"
            assert event["KILLSNOOP_TARGET_USER_UNIT"] == "app-gnome-firefox-3823.scope"


def test_leader_has_ended(start, tree):
    """After the leader of a process has ended, the cgroup of a live thread counts, not the leader's last one."""
    daemon = start("--events.rate=0")
    with cgroup(tree, "ks-old.service") as old, cgroup(tree, "ks-new.service") as new:
        ready, told_by = os.pipe()

        def act():
            join(old)

            def rest():
                wait_for(
                    lambda: Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "it"
                )
                join(new)
                os.write(told_by, b".")
                threading.Event().wait(60)

            threading.Thread(target=rest, daemon=True).start()
            _libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2), of this thread only

        victim = forked(act, b"kv-headless")
        os.read(ready, 1)
        run(lambda: send("kill", victim, 9), b"ks-headless")
        os.waitpid(victim, 0)
        units = {event["KILLSNOOP_EVENT"]: event["KILLSNOOP_TARGET_UNIT"] for event in daemon.events("ks-headless")}
        assert units == {"delivery": "ks-new.service", "death": "ks-new.service"}
