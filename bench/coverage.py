#!/usr/bin/env python3
"""Which tool sees what: tests/kernel/cases.py and origins.py, run once while killsnoopd and its peers watch.

Prints the tables of docs/coverage.md. Run it as root; peers that are not installed are left out.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

import origins  # noqa: E402
from cases import CASES, Row, perform  # noqa: E402
from cgroups import cgroup, cgroup2  # noqa: E402
from senders import forked, run, send  # noqa: E402
from waiting import wait_for  # noqa: E402

DEADLINE_S = float(os.environ.get("DEADLINE_S", "30"))
KNOCK = "ks-knock"


@dataclass(frozen=True)
class Line:
    """What a tool reports about one signal."""

    comm: str
    pid: int
    sig: str  # as the tool writes it
    tpid: int
    result: str


@dataclass
class Tool:
    """A tool under test."""

    name: str
    command: list[str]
    parse: Callable[[str], Line | None]
    outcomes: dict[str, str]  # its words for the outcomes of a signal
    output: Path = Path()

    def lines(self) -> list[Line]:
        """The lines so far."""
        text = self.output.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1]  # the last line may be incomplete
        return [line for line in map(self.parse, whole.splitlines()) if line]


def classic(text: str) -> Line | None:
    """A line of TIME PID COMM SIG TPID RESULT."""
    match = re.fullmatch(r"[\d:]+\s+(\d+)\s+(\S+)\s+(\S+)\s+(-?\d+)\s+(-?\d+)\s*", text)
    return Line(match[2], int(match[1]), match[3], int(match[4]), match[5]) if match else None


def ours(text: str) -> Line | None:
    """A line of killsnoopd's JSON, without deaths, which no other tool reports."""
    event = json.loads(text)
    if event["KILLSNOOP_EVENT"] == "death":
        return None
    return Line(
        event["KILLSNOOP_COMM"],
        int(event["KILLSNOOP_PID"]),
        event["KILLSNOOP_SIGNAL"],
        int(event["KILLSNOOP_TPID"]),
        event.get("KILLSNOOP_OUTCOME") or event["KILLSNOOP_RESULT"],
    )


OUTCOMES = ("delivered", "ignored", "already_pending", "success", "EPERM", "ESRCH")
OF_CALL = {"delivered": "0", "success": "0", "EPERM": "-1", "ESRCH": "-3"}
OF_GENERATE = {"delivered": "0", "ignored": "1", "already_pending": "2"}


def tools() -> list[Tool]:
    """The tools that are installed."""
    flags = [
        "--web.listen-address=127.0.0.1:0",
        "--events.target=stdout",
        "--events.rate=0",
        "--events.include-signal=all",
    ]
    daemon = [sys.executable, "-m", "killsnoopd", *flags]
    all_of_them = [
        Tool("killsnoopd", daemon, ours, {outcome: outcome for outcome in OUTCOMES}),
        Tool("killsnoop.bt", ["killsnoop.bt"], classic, OF_CALL),
        Tool("bcc killsnoop", ["killsnoop-bpfcc"], classic, OF_CALL),
        Tool("sigsnoop", ["stdbuf", "-oL", "sigsnoop"], classic, OF_GENERATE),
        Tool("sigsnoop -k", ["stdbuf", "-oL", "sigsnoop", "-k"], classic, OF_CALL),
    ]
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    found = []
    for tool in all_of_them:
        program = tool.command[2] if tool.command[0] == "stdbuf" else tool.command[0]
        if shutil.which(program, path=path):
            found.append(tool)
        else:
            print(f"not installed: {program}", file=sys.stderr)
    return found


@contextmanager
def running(tool: Tool, folder: Path) -> Iterator[None]:
    """The tool, attached."""
    tool.output = folder / tool.name.replace(" ", "_")
    log = tool.output.with_suffix(".log")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1"}
    with tool.output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(tool.command, stdout=out, stderr=err, env=environment)
    try:
        end = time.monotonic() + DEADLINE_S
        while not heard(tool, knock(), 1):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{tool.name} did not start: {log.read_text().strip().splitlines()[-1:]}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def knock() -> int:
    """Send a signal that every tool sees; once it shows, all earlier lines have been printed. Returns the sender."""
    target = os.getpid()
    return run(lambda: send("kill", target, signal.SIGURG), KNOCK.encode())


def heard(tool: Tool, pid: int, patience_s: float) -> bool:
    """Whether the tool reports the knock in time."""
    with suppress(AssertionError):
        return wait_for(lambda: any(line.pid == pid for line in tool.lines()), "the knock", patience_s)
    return False


def verdict(rows: list[Row], lines: list[Line], outcomes: dict[str, str]) -> str:
    """What the tool reports of a case: the sender, each target by its pid on the host, and each outcome."""
    expected = {(row.target[1] if row.target else int(row.more["KILLSNOOP_TPID"])): row for row in rows}
    sender = rows[0].sender
    about = [line for line in lines if line.tpid in expected or line.pid == sender[1] != 0]
    about = [line for line in about if line.pid != os.getpid() and line.comm != KNOCK]  # the cleanup, and knocks
    if not about:
        return "–"
    named = {line.comm for line in about if (line.comm, line.pid) != sender}
    found = {tpid for tpid in expected if any(line.tpid == tpid for line in about)}
    told = [
        row
        for row in rows
        if any(
            line.result == outcomes.get(row.outcome)
            for line in about
            if line.tpid == (row.target[1] if row.target else int(row.more["KILLSNOOP_TPID"]))
        )
    ]
    faults = []
    if named:
        faults.append(f"sender is “{', '.join(sorted(named))}”")
    if len(found) < len(expected):
        faults.append(f"{len(found)} of {len(expected)} targets")
    if found and len(told) < len(rows):
        faults.append("no outcome")
    return "; ".join(faults) or "✓"


def origin_verdict(happened: origins.Happened, pids: set[int], lines: list[Line], ignored: str) -> str:
    """What a peer reports of a signal that no system call sent: whether it saw it, and whom it names."""
    about = [line for line in lines if line.tpid in pids and line.pid != os.getpid()]  # which is the cleanup
    if not happened.said:
        return f"{len(about)} lines" if about else "✓"
    deadly = next(said.signal for said in happened.said if said.kind == "death")
    words = (deadly, str(getattr(signal, deadly).value))
    about = [line for line in about if line.sig in words and line.result != ignored]
    if not about:
        return "–"
    right = {said.sender for said in happened.said}
    right |= {happened.victim for said in happened.said if said.origin == "self"}
    named = sorted({line.comm for line in about} - right)
    return f"sender is “{', '.join(named)}”" if named else "✓"


def origin_row(name: str, chosen: list[Tool]) -> list[str]:
    """One way of origins.py; of killsnoopd every event must be right, the death too."""
    before = [len(tool.lines()) for tool in chosen]
    size = chosen[0].output.stat().st_size
    happened = origins.perform(name)
    wait_for_all(chosen, knock())
    text = chosen[0].output.read_bytes()[size:]
    events = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
    events = [event for event in events if event.get("KILLSNOOP_TCOMM") == happened.victim]
    right = sorted(map(origins.said, events), key=str) == sorted(happened.said, key=str)
    pids = {int(event["KILLSNOOP_TPID"]) for event in events} | {pid for pid, _ in happened.dead}
    news = [tool.lines()[count:] for tool, count in zip(chosen, before, strict=True)]
    cells = [
        origin_verdict(happened, pids, lines, tool.outcomes.get("ignored", ""))
        for tool, lines in zip(chosen[1:], news[1:], strict=True)
    ]
    told = ", ".join(
        f"{said.kind}: {said.origin}" + (f", {said.sender}" if said.sender else "")
        + (f", trigger {said.trigger}" if said.trigger else "")
        for said in happened.said if said.kind == "death" or len(happened.said) == 1
    )  # fmt: skip
    return [name, (told or "nothing") if right else "✗", *cells]


CONTAINER, POD = "c0ffee" * 10 + "abcd", "0a1b2c3d-1111-2222-3333-444455556666"


def said_of_a_kill(chosen: list[Tool], folder: Path) -> list[list[str]]:
    """A script in a service runs kill(1) against a process in a pod: which facts are in the lines about that."""
    script = folder / "ks-restart.sh"
    script.write_text("#!/bin/sh\n/bin/kill -9 $1\n")
    script.chmod(0o755)
    before = [tool.output.stat().st_size for tool in chosen]
    names = ("kubepods.slice", f"kubepods-pod{POD.replace('-', '_')}.slice", f"cri-containerd-{CONTAINER}.scope")
    with ExitStack() as stack:
        at = tree = stack.enter_context(cgroup2())
        for name in names:
            at = stack.enter_context(cgroup(at, name))
        service = stack.enter_context(cgroup(tree, "ks-said.service"))
        victim = forked(lambda: ((at / "cgroup.procs").write_text("0"), signal.pause()), b"kv-said")
        wait_for((at / "cgroup.procs").read_text, "the victim")

        def restart() -> None:
            (service / "cgroup.procs").write_text("0")
            os.execv(script, [str(script), str(victim)])

        os.waitpid(forked(restart, b"ks-starts"), 0)
        os.waitpid(victim, 0)
    wait_for_all(chosen, knock())
    facts = {
        "target's name": "kv-said",
        "sender's command line": f"/bin/kill -9 {victim}",
        "sender's executable": str(Path("/bin/kill").resolve()),
        "sender's parent": script.name,
        "sender's unit": "ks-said.service",
        "target's container": CONTAINER,
        "target's pod": POD,
        "the death": "died",
    }
    texts = []
    for tool, size in zip(chosen, before, strict=True):
        lines = tool.output.read_bytes()[size:].decode(errors="replace").splitlines()
        texts.append("\n".join(text for text in lines if not (line := tool.parse(text)) or line.tpid == victim))
    return [[fact, *("✓" if found in text else "–" for text in texts)] for fact, found in facts.items()]


def wait_for_all(chosen: list[Tool], pid: int) -> None:
    """Wait until each tool has reported the knock, and so everything before it."""
    for tool in chosen:
        if not heard(tool, pid, DEADLINE_S):
            sys.exit(f"{tool.name} has stopped telling anything")


def print_table(table: list[list[str]]) -> None:
    """As Markdown."""
    for number, line in enumerate(table):
        print("| " + " | ".join(line) + " |")
        if number == 0:
            print("|" + "---|" * len(line))


def main() -> int:
    """Entry point."""
    if os.geteuid() != 0:
        sys.exit("bench/coverage.py attaches probes: run it as root")
    chosen = tools()
    table = [["case", *(tool.name for tool in chosen)]]
    with tempfile.TemporaryDirectory(prefix="killsnoopd-coverage-", dir="/var/tmp") as name, ExitStack() as stack:
        for tool in chosen:
            stack.enter_context(running(tool, Path(name)))
        for case in CASES:
            before = [len(tool.lines()) for tool in chosen]
            rows = perform(case)
            wait_for_all(chosen, knock())
            news = {tool.name: tool.lines()[count:] for tool, count in zip(chosen, before, strict=True)}
            table.append([case, *(verdict(rows, news[tool.name], tool.outcomes) for tool in chosen)])
        facts = [["fact", *(tool.name for tool in chosen)], *said_of_a_kill(chosen, Path(name))]
        ways = [["way", *(tool.name for tool in chosen)], *(origin_row(name, chosen) for name in origins.ORIGINS)]
    print(f"Linux {os.uname().release}, {os.uname().machine}: python3 bench/coverage.py\n")
    for part in (table, facts, ways):
        print_table(part)
        print()
    right = all(line[1] == "✓" for line in table[1:] + facts[1:]) and all(line[1] != "✗" for line in ways[1:])
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
