"""What watching costs, and what it misses: killsnoopd, an empty probe, killsnoop.bt and sigsnoop, in one run.

Run as root: sudo /usr/bin/python3 bench/overhead.py. Exit code: 0 if the targets are reached, 1 if not.
"""

import argparse
import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the killsnoopd of this tree, installed or not
from killsnoopd.failure import Failure  # noqa: E402
from killsnoopd.probe import compiler, hooks, libbpf, ways  # noqa: E402
from killsnoopd.settings import Settings  # noqa: E402

LOAD, KNOCK = f"load-{os.getpid()}", f"knock-{os.getpid()}"  # process names, of this run alone
DEADLINE_S = 30
PASSES = 10  # in a run of the loop, see Observer.passes
QUIET_S = 0.4  # an output file that has not grown for this long is complete
MOST_OF_EMPTY, LEAST_OF_KILLSNOOP = 2, 10  # the targets

# Observes while the context is open. It yields a function that reads the observer's own counters, if it has any.
Watch = Callable[[Path], AbstractContextManager[Callable[[], Counter[str]]]]


@dataclass
class Observer:
    """An observer, and its measurements: ns per call of each pass."""

    title: str
    watch: Watch
    passes: int = PASSES
    """Short ones find moments when nothing else slows the machine down. But a tool that loses output costs less while
    it does so, and a short pass may hold nothing but that: a run of the loop is one pass for such a tool."""
    missing: bool = False  # not installed
    kill_ns: list[float] = field(default_factory=list)
    getppid_ns: list[float] = field(default_factory=list)
    calls: int = 0
    lines: int | None = None  # bytes of output about the load; None: it has no output
    counters: Counter[str] = field(default_factory=Counter)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return when the condition holds; give up after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited {DEADLINE_S} s for {what}")
        time.sleep(0.02)


def build_loop(folder: Path) -> Path:
    """Compile loop.c."""
    program = folder / "loop"
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / "loop.c"], check=True)
    return program


def run_loop(program: Path, syscall: str, calls: int, passes: int = 1, name: str = LOAD) -> list[float]:
    """ns per call of each pass; `calls` is their total."""
    command = [str(program), name, syscall, str(calls // passes), str(passes)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in output.splitlines()]


@contextlib.contextmanager
def nothing(_folder: Path) -> Iterator[Callable[[], Counter[str]]]:
    """No observer."""
    yield Counter


@contextlib.contextmanager
def empty(_folder: Path) -> Iterator[Callable[[], Counter[str]]]:
    """A program that does nothing, at killsnoopd's hooks and attached in the same ways."""
    module = compiler.compiled(compiler.import_bcc(), {}, (HERE / "empty.bpf.c").read_text())
    with contextlib.ExitStack() as opened:
        for point in hooks.points(Settings(), ways.choose(Settings())):
            program = libbpf.load_program("empty", point.kind, module.dump_func("empty"), "GPL")
            opened.callback(os.close, program)
            opened.callback(os.close, point.attach(program))
        yield Counter


@contextlib.contextmanager
def child(
    command: list[str], folder: Path, stop: signal.Signals, ready: Callable[[], bool], tree: Path = HERE.parent
) -> Iterator[None]:
    """A process that writes folder/out and folder/log, once it is ready; ended when the context closes."""
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, cwd=tree)
    try:
        wait_for(lambda: process.poll() is not None or ready(), f"{command[0]} to be attached")
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended: {(folder / 'log').read_text().strip().splitlines()[-1:]}")
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def killsnoopd(folder: Path, *flags: str, tree: Path = HERE.parent) -> Iterator[Callable[[], Counter[str]]]:
    """The daemon of a source tree; its counters are read from its page."""
    command = [sys.executable, "-m", "killsnoopd", "--web.listen-address=127.0.0.1:0", "--events.target=stdout", *flags]
    address: list[str] = []

    def ready() -> bool:
        address[:] = re.findall(r"metrics on (\S+)\n", (folder / "log").read_text())
        return bool(address)

    def page() -> Counter[str]:
        with urllib.request.urlopen(f"http://{address[0]}", timeout=DEADLINE_S) as response:
            text = response.read().decode()
        found = Counter({"counted": 0, "delivered": 0})
        for value in re.findall(
            rf'^killsnoop_signals_total\{{comm="{LOAD}".*signal="SIG(?:TERM|USR1)"\}} (\S+)$', text, re.M
        ):
            found["counted"] += int(float(value))
        for value in re.findall(
            r'^killsnoop_deliveries_total\{.*outcome="ignored",signal="SIGUSR1"\} (\S+)$', text, re.M
        ):
            found["delivered"] += int(float(value))
        for status, value in re.findall(r'^killsnoop_events_total\{status="(\w+)"\} (\S+)$', text, re.M):
            found[status] = int(float(value))
        return found

    with child(command, folder, signal.SIGTERM, ready, tree):
        yield page


@contextlib.contextmanager
def peer(folder: Path, command: list[str], knock: Callable[[], object]) -> Iterator[Callable[[], Counter[str]]]:
    """Another tool; it is attached once a kill() of ours shows in its output."""

    def answers() -> bool:
        knock()
        return KNOCK.encode() in (folder / "out").read_bytes()

    with child(command, folder, signal.SIGINT, answers):
        yield Counter


def strangers() -> set[str]:
    """Other processes that hold a perf event or a BPF link to one: their programs add to the cost of every row."""
    found = set()
    for process in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            for fd in (process / "fd").iterdir():
                target = str(fd.readlink())
                link = target == "anon_inode:bpf_link" and (process / "fdinfo" / fd.name).read_text()
                if target == "anon_inode:[perf_event]" or (link and "link_type:\tperf" in link):
                    found.add(f"{(process / 'comm').read_text().strip()}[{process.name}]")
    return found


def wait_until_quiet(path: Path) -> None:
    """Return when the file has stopped growing."""
    size, since = -1, 0.0

    def quiet() -> bool:
        nonlocal size, since
        if path.stat().st_size != size:
            size, since = path.stat().st_size, time.monotonic()
        return time.monotonic() - since > QUIET_S

    wait_for(quiet, f"the end of {path}")


def measure(observer: Observer, loop: Path, call: str, calls: int, seconds: float) -> None:
    """One round of one observer: attach, run the loop, read its counters, detach."""
    with tempfile.TemporaryDirectory(prefix="killsnoopd-bench-") as name:
        out = Path(name) / "out"
        with observer.watch(Path(name)) as counters:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                observer.kill_ns += run_loop(loop, call, calls, observer.passes)
                observer.getppid_ns += run_loop(loop, "getppid", calls, observer.passes)
                observer.calls += calls // observer.passes * observer.passes
            if out.exists():
                wait_until_quiet(out)
            observer.counters.update(counters())
        if out.exists():  # some tools write the rest of their buffer when they stop
            with out.open("rb") as lines:
                observer.lines = (observer.lines or 0) + sum(LOAD.encode() in line for line in lines)


def observers(loop: Path, call: str, beside: Path | None) -> dict[str, Observer]:
    """All observers, in the order of the table; `beside`: only another version of killsnoopd, no peers."""
    knock = partial(run_loop, loop, call, 1, name=KNOCK)

    def other(title: str, program: str, *flags: str) -> Observer:
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        watch = partial(peer, command=[path or program, *flags], knock=knock)
        return Observer(title, watch, passes=1, missing=path is None)

    first = {
        "nothing": Observer("nothing attached", nothing),
        "empty": Observer("empty probe", empty),
        "killsnoopd": Observer("killsnoopd", killsnoopd),
    }
    if beside:
        return first | {"beside": Observer("killsnoopd, --beside", partial(killsnoopd, tree=beside))}
    return first | {
        "unlimited": Observer(
            "killsnoopd --events.rate=0", lambda folder: killsnoopd(folder, "--events.rate=0"), passes=1
        ),
        "killsnoop.bt": other("killsnoop.bt", "killsnoop.bt"),
        "sigsnoop -k": other("sigsnoop -k", "sigsnoop", "-k"),
        **({"sigsnoop": other("sigsnoop", "sigsnoop")} if call == "deliver" else {}),  # it does not see failed calls
    }


def added_ns(observer: Observer, free: Observer) -> float:
    """The cost that it adds to a kill(). The fastest pass counts, since other load only adds."""
    return min(observer.kill_ns) - min(free.kill_ns)


def table(rows: dict[str, Observer]) -> str:
    """The results, aligned."""
    free = rows["nothing"]
    empty_ns = added_ns(rows["empty"], free)
    head = "|ns per kill()|added|x empty|ns per getppid()|added|kill() calls|counts lost|events lost"
    lines = [head.split("|")]
    for row in rows.values():
        if row.missing:
            lines.append([row.title, "not installed", *[""] * 7])
            continue
        added, getppid = added_ns(row, free), min(row.getppid_ns)
        lines.append([
            row.title,
            f"{min(row.kill_ns):.0f}",
            f"{added:.0f}" if row is not free else "-",
            f"{added / empty_ns:.2f}" if row is not free else "-",
            f"{getppid:.0f}",
            f"{getppid - min(free.getppid_ns):.0f}" if row is not free else "-",
            f"{row.calls}",
            f"{row.calls - row.counters['counted']}" if "counted" in row.counters else "-",
            "-" if row.lines is None else f"{max(0, row.calls - row.lines) / row.calls:.1%}",  # others send some too
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def ledger(row: Observer) -> str:
    """killsnoopd's events by status."""
    statuses = {name: count for name, count in row.counters.items() if name not in ("counted", "delivered") and count}
    said = ", ".join(f"{name} {count}" for name, count in statuses.items())
    return f"events of {row.title}: {said}"


def verdicts(rows: dict[str, Observer], call: str) -> Iterator[tuple[str, bool]]:
    """The targets, and whether they were reached. There is no target for a delivered signal."""
    free, ours, other = rows["nothing"], rows["killsnoopd"], rows.get("killsnoop.bt")
    failing = call == "fail"
    ratio = added_ns(ours, free) / added_ns(rows["empty"], free)
    target = f" (to reach: <= {MOST_OF_EMPTY})" if failing else ""
    yield f"added cost vs empty probe: {ratio:.2f}{target}", ratio > 0 and (ratio <= MOST_OF_EMPTY or not failing)
    target = f" (to reach: >= {LEAST_OF_KILLSNOOP})" if failing else ""
    if other is None:
        yield f"added cost vs the version beside it: {added_ns(ours, free) / added_ns(rows['beside'], free):.2f}", True
    elif other.missing:
        yield f"killsnoop.bt added cost vs killsnoopd: not measured{target}", False
    else:
        ratio = added_ns(other, free) / added_ns(ours, free)
        yield f"killsnoop.bt added cost vs killsnoopd: {ratio:.1f}{target}", ratio >= LEAST_OF_KILLSNOOP or not failing
    counters = ("counted", "delivered") if call == "deliver" else ("counted",)
    lost = sum(row.calls - row.counters[name] for row in rows.values() if row.counters for name in counters)
    yield f"counts lost: {lost} (to reach: 0)", lost == 0


def main() -> int:
    """Entry point; 0 if every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--call", choices=("fail", "deliver"), default="fail", help="kill() of nobody, or to a process that ignores it"
    )
    parser.add_argument("--rounds", type=int, default=6, help="times that each observer is attached (%(default)s)")
    parser.add_argument("--calls", type=int, default=200_000, help="in a run of the loop (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.8, help="to run the loop in a round (%(default)s)")
    parser.add_argument("--beside", type=Path, metavar="TREE", help="compare with killsnoopd of another source tree")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/overhead.py attaches probes: run it as root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # detach every probe then, too
    print(f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs")
    flags = f"--call={args.call} --rounds={args.rounds} --calls={args.calls} --seconds={args.seconds}"
    print(f"python3 bench/overhead.py {flags}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="killsnoopd-bench-") as folder:
        loop = build_loop(Path(folder))
        rows = observers(loop, args.call, args.beside)
        others: set[str] = set()
        for _ in range(args.rounds):
            for row in rows.values():
                if not row.missing:
                    others |= strangers()
                    measure(row, loop, args.call, args.calls, args.seconds)
    print(table(rows), *(ledger(row) for row in rows.values() if row.counters), sep="\n")
    if others:
        print(f"not comparable, for these had probes attached meanwhile: {', '.join(sorted(others))}")
    print()
    reached = True
    for line, good in verdicts(rows, args.call):
        print(f"{line}: {'reached' if good else 'not reached'}" if "(to reach" in line else line)
        reached = reached and good
    return 0 if reached else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(str(failure))
