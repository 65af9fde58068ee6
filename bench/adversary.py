#!/usr/bin/env python3
"""A user without privilege does all that tests/kernel knows, in random mixes; another one just sends signals.

    sudo bench/adversary.py --minutes=10

The daemon runs as it ships. Beside the adversary (uid 65534), uid 4242 sends 2,000 signals and 200 SIGKILLs, evenly
over the time. Each has to be logged, in order, with its sender; nobody may be named for what he did not do; the ledger
has to close. Each minute it prints resident memory, CPU, pending and logged events, and how many counters the names
have taken. Exit code 1 if anything is wrong.
"""

import argparse
import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

import cases  # noqa: E402
import cgroups  # noqa: E402
import origins  # noqa: E402
import tricks  # noqa: E402
from running import Daemon  # noqa: E402
from senders import NO_SUCH_PID, forked, send, set_name  # noqa: E402

_libc = ctypes.CDLL(None, use_errno=True)
ADVERSARY, QUIET = 65534, 4242  # uids
SIGNALS, KILLS = 2_000, 200
TARGETS = 20
TRICK_S = 8  # at most
AT_ONCE = 3
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
FALLOC_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
SEEDED = random.Random()
LIES = [b"systemd", b"systemd[1] uid ", b"ks-quiet"]

# Those that need no privilege, and reach nobody but their own victims.
HARMLESS = [
    "signal-driven I/O on its own file", "timer_create, SIGEV_SIGNAL", "timer_create, SIGEV_THREAD_ID", "alarm",
    "a NULL read", "beyond the end of a mapped file", "seccomp, KILL_PROCESS", "SIGPIPE", "^C", "TIOCSIG",
    "exit of a session leader", "orphaned process group", "PTRACE_KILL", "PTRACE_CONT with SIGKILL",
    "PTRACE_CONT with SIGTERM", "PTRACE_CONT with a blocked signal", "PTRACE_O_EXITKILL", "PTRACE_ATTACH",
    "clone's exit signal", "RLIMIT_CPU, hard", "RLIMIT_CPU, by prlimit", "RLIMIT_FSIZE",
    "F_SETOWN, another process writes", "F_SETOWN_EX, a thread",
]  # fmt: skip
HARMLESS_CASES = [
    "kill", "kill(-pgid), 5 members", "tkill", "sigqueue", "pidfd_send_signal", "PR_SET_PDEATHSIG", "signal 0", "ESRCH",
    "ignored by the target", "already pending", "SIGSTOP and SIGCONT", "SIGRTMIN+3", "thread with another name",
    "zombie",
]  # fmt: skip


def failing() -> None:
    """Failed calls, as fast as they go."""
    while True:
        send("kill", NO_SUCH_PID, SEEDED.randrange(70))


def names() -> None:
    """Failed calls under names of any bytes."""
    while True:
        set_name(
            SEEDED.choice([SEEDED.randbytes(15).replace(b"\0", b"\r"), b"systemd", b"systemd[1] uid ", b"ks-quiet"])
        )
        send("kill", NO_SUCH_PID, 9)


def own_kills() -> None:
    """Processes that are killed as soon as they exist."""
    while True:
        pid = forked(signal.pause, b"kv-own")
        send("kill", pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def performed() -> None:
    """What the kernel can be made to send."""
    while True:
        name = SEEDED.choice(HARMLESS)
        with contextlib.suppress(AssertionError, OSError):
            origins.perform(name)


def sent() -> None:
    """Every system call that sends."""
    while True:
        with contextlib.suppress(AssertionError, OSError):
            cases.perform(SEEDED.choice(HARMLESS_CASES))


def held() -> None:
    """Threads that are held in their exit."""
    while True:
        tricks.held_in_exit()


def detached() -> None:
    """Deaths by a tracer that is gone."""
    while True:
        pid = forked(signal.pause, b"kv-letgo")
        with contextlib.suppress(AssertionError):
            tricks.let_go(pid, SEEDED.choice([signal.SIGKILL, signal.SIGTERM]))
        os.waitpid(pid, tricks.ANY_CHILD)


def pending() -> None:
    """SIGTERM twice."""
    while True:
        tricks.stopped_and_terminated()


def coded() -> None:
    """Codes of the kernel's, to oneself."""
    while True:
        pid = forked(lambda: tricks.with_code(SEEDED.choice([0x80, 1, 2, 5, -6, 0, -60])), b"kv-code")
        os.waitpid(pid, 0)


def burning() -> None:
    """RLIMIT_CPU by a thread."""
    os.waitpid(forked(tricks.burn, b"kv-burns"), 0)


def crowded() -> None:
    """All that the probe remembers for one user, and more."""
    with tricks.crowd(1_100, None, SEEDED.choice(["own", "kernel"])):
        performed()


def namespaces() -> None:
    """A user namespace, its uids, and signals from them."""
    if _libc.unshare(CLONE_NEWUSER) == 0:
        performed()


def renamed() -> None:
    """An executable whose folder changes its name."""
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    folder = base / ("x" * 200)
    folder.mkdir()
    (folder / "b").write_bytes(Path("/bin/bash").read_bytes())
    (folder / "b").chmod(0o755)
    number = 0
    while True:
        subprocess.run([folder / "b", "-c", f"kill -15 {NO_SUCH_PID}"], check=False, stderr=subprocess.DEVNULL)
        number += 1
        folder = folder.rename(base / (f"{number}-" + "\U0001f600" * 40))


TRICKS: list[Callable[[], None]] = [
    failing, names, own_kills, performed, sent, held, detached, pending, coded, burning, crowded, namespaces, renamed,
    tricks.handled_flood, tricks.awaited_flood,
]  # fmt: skip


def in_namespace(action: Callable[[], None], folder: Path) -> int:
    """Run action() as the adversary below pid 1 of a pid namespace; the pid of that, whose end ends all of it."""

    def init() -> None:
        if _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0:
            _libc.mount(b"proc", b"/proc", b"proc", 0, None)
        pid = forked(action, b"ks-adversary", ADVERSARY)
        os.waitpid(pid, 0)
        signal.pause()

    ready, told_by = os.pipe()

    def outer() -> None:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what goes wrong in a trick that is ended is not said
        (folder / "cgroup.procs").write_text("0")
        assert _libc.unshare(CLONE_NEWPID | CLONE_NEWNS) == 0
        pid = forked(init, b"ks-init")
        os.write(told_by, pid.to_bytes(4, "little"))
        os.waitpid(pid, 0)

    pid = forked(outer, b"ks-outer")
    inner = int.from_bytes(os.read(ready, 4), "little")
    os.close(ready)
    os.close(told_by)
    running[inner] = pid
    return inner


running: dict[int, int] = {}


def end(inner: int) -> None:
    """End all processes of a trick."""
    os.kill(inner, signal.SIGKILL)
    os.waitpid(running.pop(inner), 0)


@contextlib.contextmanager
def delegated() -> Iterator[Path]:
    """A cgroup of the adversary's own, with nested ones that he moves among."""
    tree = cgroups.cgroup_tree("cgroup2")
    with contextlib.ExitStack() as stack:
        if tree is None:
            tree = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            assert _libc.mount(b"none", os.fsencode(tree), b"cgroup2", 0, None) == 0
            stack.callback(lambda: _libc.umount2(os.fsencode(tree), 2))
        with cgroups.cgroup(tree, "ks-own.service") as folder:
            for path in (folder, folder / "cgroup.procs"):
                os.chown(path, ADVERSARY, ADVERSARY)
            yield folder
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    if path != str(folder):
                        Path(path).rmdir()


def moving(folder: Path) -> Callable[[], None]:
    """A trick: each signal from a new cgroup, nested deeply."""

    def act() -> None:
        at = folder / f"{os.getpid()}-{time.monotonic_ns()}"
        for number in range(14):
            at.mkdir()
            at /= f"{number}-" + "docker-" + "0" * 30
        at.mkdir()
        number = 0
        while True:
            fresh = at / f"a\r{number}"
            number += 1
            fresh.mkdir()
            (fresh / "cgroup.procs").write_text("0")
            send("kill", NO_SUCH_PID, 9)
            (folder / "cgroup.procs").write_text("0")
            fresh.rmdir()

    return act


def quiet(seconds: float, report: int) -> None:
    """2,000 signals to processes that handle them, 200 SIGKILLs, evenly; writes what it did."""
    targets = []
    ready, told_by = os.pipe()

    def target() -> None:
        signal.signal(signal.SIGUSR2, lambda *_: None)
        os.write(told_by, b"!")
        while True:
            signal.pause()

    for _ in range(TARGETS):
        targets.append(forked(target, b"kv-quiet"))
    for _ in targets:
        os.read(ready, 1)
    began = time.monotonic()
    total = SIGNALS + KILLS
    for number in range(total):
        time.sleep(max(0.0, began + seconds * number / total - time.monotonic()))
        if number % (total // KILLS):
            pid, sig = targets[number % TARGETS], signal.SIGUSR2
        else:
            pid, sig = forked(signal.pause, b"kv-quiet"), signal.SIGKILL
        assert send("kill", pid, sig) == 0
        os.write(report, f"{int(sig)} {pid}\n".encode())
        if sig == signal.SIGKILL:
            os.waitpid(pid, 0)
    for pid in targets:  # logged, too, but not asked for
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


class Log:
    """The daemon's JSON lines: keeps the quiet uid's, and what is wrong with the others."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._rest = b""
        self.quiet: list[dict[str, str]] = []
        self.lines = 0
        self.blamed: list[str] = []

    def read(self) -> None:
        """Read what is new, and give its space back."""
        lines = (self._rest + self._file.read()).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            event = json.loads(line)
            self.lines += 1
            sender, target = event.get("KILLSNOOP_UID"), event.get("KILLSNOOP_TARGET_UID")
            if sender == str(QUIET) or target == str(QUIET):
                self.quiet.append(event)
            # The adversary's victims are his own doing, or ended by the namespace's end.
            if target == str(ADVERSARY) and sender not in (None, str(ADVERSARY)):
                self.blamed.append(event["MESSAGE"])
            if sender == str(ADVERSARY) and target == str(QUIET) and "KILLSNOOP_OUTCOME" in event:
                self.blamed.append(event["MESSAGE"])
        _libc.fallocate(self._file.fileno(), FALLOC_PUNCH, ctypes.c_long(0), ctypes.c_long(self._file.tell()))


def verify(log: Log, did: list[tuple[int, int]], sender: int) -> list[str]:
    """What is wrong with the events of the quiet uid."""
    wrong = [f"named wrongly: {text}" for text in log.blamed]
    wanted = {signal.SIGUSR2, signal.SIGKILL}
    events = [event for event in log.quiet if int(event["KILLSNOOP_SIG"]) in wanted]
    deliveries = [event for event in events if event["KILLSNOOP_EVENT"] == "delivery"]
    deaths = [event for event in events if event["KILLSNOOP_EVENT"] == "death"]
    found = [(int(event["KILLSNOOP_SIG"]), int(event["KILLSNOOP_TPID"])) for event in deliveries]
    if found != did:
        missing = len(did) - len(found)
        at = next(
            (n for n, pair in enumerate(zip(found, did, strict=False)) if pair[0] != pair[1]), min(len(found), len(did))
        )
        wrong.append(f"{len(found)} signals logged of {len(did)} ({missing} missing), out of order from {at}")
    died = [int(event["KILLSNOOP_TPID"]) for event in deaths]
    if died != [pid for sig, pid in did if sig == signal.SIGKILL]:
        wrong.append(f"{len(died)} deaths logged of {KILLS}")
    executable = str(Path(sys.executable).resolve())
    for event in events:
        named = (
            event.get("KILLSNOOP_COMM"),
            event.get("KILLSNOOP_PID"),
            event.get("KILLSNOOP_UID"),
            event.get("KILLSNOOP_EXE"),
        )
        if named != ("ks-quiet", str(sender), str(QUIET), executable):
            wrong.append(f"not attributed: {event['MESSAGE']} {named}")
    return wrong


def closes(daemon: Daemon) -> tuple[bool, dict[str, int], int]:
    """Whether the ledger closes, between signals of other processes of the machine."""
    for _ in range(10):
        before, ledger, attempted = daemon.attempted(), daemon.settled_ledger(), daemon.attempted()
        if before == attempted:
            break
    return sum(ledger.values()) == attempted, ledger, attempted


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random mixes (%(default)s)")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    assert set(HARMLESS) <= set(origins.ORIGINS)
    assert set(HARMLESS_CASES) <= set(cases.CASES)
    SEEDED.seed(arguments.seed)
    os.environ["PYTHONPATH"] = str(HERE.parent)
    tried: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        own = stack.enter_context(delegated())
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        daemon = Daemon(folder / "daemon", target="stdout")
        stack.callback(daemon.stop)
        daemon.wait_ready()
        log = Log(daemon.stdout)
        report = folder / "report"
        written = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        sigpipes = os.memfd_create("sigpipes")
        service = forked(lambda: tricks.serve(server, sigpipes), b"ks-service")
        every = [*TRICKS, moving(own), lambda: tricks.hang_up(server.getsockname())]
        labels = [*(trick.__name__ for trick in TRICKS), "moving", "hang_up"]
        sender = forked(lambda: quiet(seconds, written), b"ks-quiet", QUIET)
        began, told, cpu_s = time.monotonic(), time.monotonic(), daemon.on_cpu_s()
        tricky: dict[int, float] = {}
        first_kb = most_kb = 0
        print(f"{'minute':>6} {'RSS kB':>8} {'CPU':>6} {'pending':>8} {'logged':>8} {'series':>7}", flush=True)
        while (status := os.waitpid(sender, os.WNOHANG)) == (0, 0):
            for inner, until in list(tricky.items()):
                if time.monotonic() > until:
                    end(inner)
                    del tricky[inner]
            while len(tricky) < AT_ONCE:
                which = SEEDED.randrange(len(every))
                tried[labels[which]] = tried.get(labels[which], 0) + 1
                SEEDED.seed(SEEDED.random())
                tricky[in_namespace(every[which], own)] = time.monotonic() + SEEDED.uniform(1, TRICK_S)
            log.read()
            kb = int(daemon.status("VmRSS"))
            most_kb = max(most_kb, kb)
            if not first_kb and time.monotonic() - began > seconds / 10:
                first_kb = most_kb
            if time.monotonic() - told >= min(60.0, seconds / 10):
                share = (daemon.on_cpu_s() - cpu_s) / (time.monotonic() - told)
                told, cpu_s = time.monotonic(), daemon.on_cpu_s()
                waiting, series = daemon.ledger()["pending"], int(daemon.value("killsnoop_series", family="signals"))
                print(
                    f"{(told - began) / 60:6.1f} {kb:8} {share:6.1%} {waiting:8} {log.lines:8} {series:7}", flush=True
                )
            time.sleep(0.2)
        for inner in list(tricky):
            end(inner)
        os.kill(service, signal.SIGKILL)
        os.waitpid(service, 0)
        closed, ledger, attempted = closes(daemon)
        log.read()
        did = [(int(sig), int(pid)) for sig, pid in map(str.split, report.read_text().splitlines())]
        wrong = verify(log, did, sender)
        if status[1]:
            wrong.append(f"the quiet sender ended with status {status[1]}")
        if not closed:
            wrong.append(f"the ledger has {sum(ledger.values())} events of {attempted}")
        if ledger["ring_full"] or ledger["decode_error"]:
            wrong.append(f"events lost: {ledger}")
    print(f"tried: {tried}")
    print(f"{len(did)} signals of uid {QUIET}; ledger: {ledger}; {attempted} events should be in it")
    print(f"VmRSS: {most_kb - first_kb} kB more at most than in the first tenth of the time")
    print("\n".join(wrong[:20]) or "all logged, in order, attributed; the ledger closes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
