"""The ways in which the kernel comes to generate a signal, other than a system call that sends one: each done for real.

docs/design.md has the table. cases.py has the system calls, cgroup.kill, the OOM killer, the end of a pid namespace,
PR_SET_PDEATHSIG and CLONE_PIDFD_AUTOKILL. All but those of NEEDS_ROOT are open to any user.
"""

import contextlib
import ctypes
import fcntl
import functools
import mmap
import os
import pty
import resource
import signal
import socket
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cases import Processes
from senders import NOBODY, forked, result_of, run, set_name
from waiting import wait_for

from killsnoopd.probe import libbpf

_libc = ctypes.CDLL(None, use_errno=True)
_X86_64 = os.uname().machine == "x86_64"
_F_SETSIG, _F_SETOWN_EX, _F_OWNER_TID = 10, 15, 0
PTRACE_CONT, _PTRACE_KILL, _PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE, _PTRACE_INTERRUPT = 7, 8, 16, 17, 0x4206, 0x4207
PTRACE_O_TRACEEXIT, _PTRACE_O_EXITKILL = 1 << 6, 1 << 20
_TIOCSIG = 0x40045436
_RLIMIT_RTTIME = 15
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

NOBODY_SENT = ""
"""The sender where the kernel knows none."""


@dataclass(frozen=True)
class Said:
    """An event of a victim: its kind, signal and origin, and the name of the sender (the daemon's own for the kernel)."""

    kind: str
    signal: str
    origin: str
    sender: str = "kernel"
    trigger: str = ""


@dataclass(frozen=True)
class Happened:
    """What the daemon must say of the processes with this name; `inferred`: it may call the origin likely."""

    victim: str
    said: tuple[Said, ...]
    dead: tuple[tuple[int, int], ...] = ()  # pid and signal of each process whose death was seen to happen


_dead: list[tuple[int, int]] = []


def said(event: dict[str, str]) -> Said:
    """An event in the terms of Said."""
    return Said(
        event["KILLSNOOP_EVENT"],
        event["KILLSNOOP_SIGNAL"],
        event["KILLSNOOP_ORIGIN"],
        event.get("KILLSNOOP_COMM", ""),
        event.get("KILLSNOOP_TRIGGER_COMM", ""),
    )


def _signal_and_death(signal_name: str, origin: str, sender: str = "kernel", trigger: str = "") -> tuple[Said, ...]:
    return tuple(Said(kind, signal_name, origin, sender, trigger) for kind in ("delivery", "death"))


def _own_doing(signal_name: str) -> tuple[Said, ...]:
    return (Said("death", signal_name, "self", NOBODY_SENT),)


def _waited(pid: int) -> int:
    """The wait status of a child; it must end within the tests' deadline."""
    found: list[int] = []

    def ended() -> bool:
        with contextlib.suppress(ChildProcessError):
            pid_now, status = os.waitpid(pid, os.WNOHANG)
            if not pid_now:
                return False
            found.append(status)
        return True

    wait_for(ended, f"the end of {pid}")
    if found and os.WIFSIGNALED(found[0]):
        _dead.append((pid, os.WTERMSIG(found[0])))
    return found[0] if found else 0


def _own(file: socket.socket | int, owner: int, number: int) -> None:
    """The kernel is to send `number`, or SIGIO, to the owner for this file."""
    fcntl.fcntl(file, fcntl.F_SETOWN, owner)
    if number:
        fcntl.fcntl(file, _F_SETSIG, number)


def arm(file: socket.socket | int, owner: int, number: int) -> None:
    """Signal-driven I/O: the next byte on the socket sends `number` to the owner."""
    _own(file, owner, number)
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_ASYNC)


def _by_file(
    number: int, owner: Callable[[int], int] = lambda pid: pid, uid: int | None = NOBODY, as_uid: int | None = NOBODY
) -> Callable[[Processes], Happened]:
    """A socket's F_SETOWN is the victim; one byte arrives."""
    name = f"kv-io-{number}-{'g' if owner(1) < 0 else 'p'}{uid or 0}"[:15]

    def case(processes: Processes) -> Happened:
        def prepare() -> None:
            os.setpgid(0, 0)
            if as_uid is not None:
                os.setresuid(as_uid, as_uid, as_uid)

        pid = processes.victim(name, prepare)

        def act() -> None:
            ours, theirs = socket.socketpair()
            arm(ours, owner(pid), number)
            theirs.send(b"!")

        run(act, b"ks-io", uid)
        _waited(pid)
        return Happened(name, _signal_and_death(_NAMES[number or signal.SIGIO], "sigio", trigger="ks-io"))

    return case


_NAMES = {int(s): s.name for s in signal.Signals if s.name.startswith("SIG") and s < 32} | {29: "SIGIO"}


def _by_thread_owner(processes: Processes) -> Happened:
    """F_SETOWN_EX with F_OWNER_TID."""
    pid = processes.victim("kv-io-tid")

    def act() -> None:
        ours, theirs = socket.socketpair()
        fcntl.fcntl(ours, _F_SETOWN_EX, struct.pack("=ii", _F_OWNER_TID, pid))
        fcntl.fcntl(ours, _F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
        theirs.send(b"!")

    run(act, b"ks-io")
    _waited(pid)
    return Happened("kv-io-tid", _signal_and_death("SIGTERM", "sigio", trigger="ks-io"))


def _touched(name: str, arm_it: Callable[[int], None]) -> Callable[[Processes], Happened]:
    """One process arms a file against the victim; another one touches it, and is not the sender."""

    def case(processes: Processes) -> Happened:
        pid = processes.victim(name)
        run(lambda: arm_it(pid), b"ks-armed")
        _waited(pid)
        return Happened(name, _signal_and_death("SIGKILL", "sigio", trigger="ks-bystander"))

    return case


def _socket(pid: int) -> None:
    ours, theirs = socket.socketpair()
    arm(ours, pid, signal.SIGKILL)
    run(lambda: theirs.send(b"!"), b"ks-bystander")


def _folder(pid: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fd = os.open(folder, os.O_RDONLY)
        fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_CREATE)
        _own(fd, pid, signal.SIGKILL)
        run(Path(folder, "new").touch, b"ks-bystander")


def _lease(pid: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        _own(file.fileno(), pid, signal.SIGKILL)

        def open_it() -> None:
            with contextlib.suppress(BlockingIOError):
                os.open(file.name, os.O_RDONLY | os.O_NONBLOCK)

        run(open_it, b"ks-bystander")


def _by_perf_event(processes: Processes) -> Happened:
    """A perf event of the process itself, whose F_SETOWN is another one."""
    pid = processes.victim("kv-perf-own")

    def act() -> None:
        fd = _perf_event(0, 1)  # disabled
        arm(fd, pid, signal.SIGKILL)
        fcntl.ioctl(fd, 0x2402, 1)  # PERF_EVENT_IOC_REFRESH: one overflow
        end_s = time.process_time() + 0.1
        while time.process_time() < end_s:
            continue

    run(act, b"ks-perf")
    _waited(pid)
    return Happened("kv-perf-own", _signal_and_death("SIGKILL", "sigio", trigger="ks-perf"))


def _urgent_data(_: Processes) -> Happened:
    """SIGURG to the F_SETOWN of a socket, another process: it kills nobody, and is neither counted nor logged."""
    ready, told = os.pipe()

    def wait() -> None:
        signal.signal(signal.SIGURG, lambda *_: os._exit(0))
        os.write(told, b"!")
        signal.pause()

    pid = forked(wait, b"kv-urgent")
    os.read(ready, 1)

    def act() -> None:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        fcntl.fcntl(accepted, fcntl.F_SETOWN, pid)
        client.send(b"!", socket.MSG_OOB)

    run(act, b"ks-urgent")
    assert _waited(pid) == 0
    os.close(ready)
    os.close(told)
    return Happened("kv-urgent", ())


def _own_file(_: Processes) -> Happened:
    """Signal-driven I/O on a file of one's own, and urgent data: neither counted nor logged."""

    def act() -> None:
        for number in (signal.SIGIO, signal.SIGURG, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        ours, theirs = socket.socketpair()
        arm(ours, os.getpid(), 0)
        for _ in range(100):
            theirs.send(b"!")
        fcntl.fcntl(ours, _F_SETSIG, signal.SIGUSR1)
        theirs.send(b"!")
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        fcntl.fcntl(accepted, fcntl.F_SETOWN, os.getpid())
        client.send(b"!", socket.MSG_OOB)

    run(act, b"kv-own-file")
    return Happened("kv-own-file", ())


def _timer(notify: int, number: int) -> Callable[[Processes], Happened]:
    """timer_create(2) with SIGEV_SIGNAL (0) or SIGEV_THREAD_ID (4)."""
    name = f"kv-timer-{notify}-{number}"

    def case(_: Processes) -> Happened:
        def act() -> None:
            event = (ctypes.c_int * 16)(0, 0, number, notify, os.getpid())
            timer = ctypes.c_void_p()
            assert _libc.timer_create(1, event, ctypes.byref(timer)) == 0
            assert _libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1_000_000), None) == 0
            signal.pause()

        assert os.WTERMSIG(_waited(forked(act, name.encode()))) == number
        return Happened(name, _own_doing(_NAMES[number]))

    return case


def _message_queue(_: Processes) -> Happened:
    """mq_notify(3): another process sends the message, but the victim asked for the signal."""
    librt = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = b"/ks-origins"
    librt.mq_unlink(queue)
    fd = librt.mq_open(queue, os.O_CREAT | os.O_RDWR, 0o600, None)
    assert fd >= 0
    ready, told = os.pipe()

    def act() -> None:
        event = (ctypes.c_int * 16)(0, 0, signal.SIGTERM, 0)
        assert librt.mq_notify(fd, event) == 0
        os.write(told, b"!")
        signal.pause()

    pid = forked(act, b"kv-mqueue")
    os.read(ready, 1)
    run(lambda: librt.mq_send(fd, b"!", ctypes.c_size_t(1), 0), b"ks-message")
    _waited(pid)
    for each in (fd, ready, told):
        os.close(each)
    librt.mq_unlink(queue)
    return Happened("kv-mqueue", _own_doing("SIGTERM"))


def _fault(name: str, signal_name: str, act: Callable[[], object]) -> Callable[[Processes], Happened]:
    def case(_: Processes) -> Happened:
        _waited(forked(act, name.encode()))
        return Happened(name, _own_doing(signal_name))

    return case


def _machine_code(code: bytes) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def _beyond_the_file() -> None:
    fd = os.memfd_create("short")
    os.ftruncate(fd, 1)
    page = mmap.mmap(fd, 0x2000 if os.truncate(fd, 0x2000) is None else 0)
    os.ftruncate(fd, 0)
    page[0x1000]


def _seccomp(action: int) -> Callable[[], None]:
    """A filter that kills the process at its next getppid(2)."""

    def act() -> None:
        number = 110 if _X86_64 else 173
        # BPF_LD nr; BPF_JEQ number; BPF_RET action; BPF_RET ALLOW
        code = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000))
        filters = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
        buffer = ctypes.create_string_buffer(filters)
        program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 4, ctypes.addressof(buffer)))
        assert _libc.prctl(38, 1, 0, 0, 0) == 0
        assert _libc.prctl(22, 2, program, 0, 0) == 0
        os.getppid()

    return act


def _broken_pipe() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"!")


def _alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    signal.pause()


def _terminal(
    name: str, act: Callable[[int, int], object], *said: Said, prepare: Callable[[], object] = int
) -> Callable:
    """The victim leads a session on a terminal of its own; act(master, its pid)."""

    def case(processes: Processes) -> Happened:
        pid, master = pty.fork()
        if pid == 0:
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            set_name(name.encode())
            prepare()
            os.write(1, b"ready")
            while True:
                signal.pause()
        processes.pids.append(pid)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 100)
        act(master, pid)
        _waited(pid)
        with contextlib.suppress(OSError):
            os.close(master)
        return Happened(name, said)

    return case


def _closes(master: int) -> None:
    """Another process than the test has the terminal, too, and closes it last."""
    wait, go = os.pipe()
    closer = forked(lambda: (os.read(wait, 1), os.close(master)), b"ks-closer")
    os.close(master)
    os.write(go, b"!")
    os.waitpid(closer, 0)
    os.close(wait)
    os.close(go)


def _press_enter(master: int, _: int) -> None:
    os.write(master, b"\n")


def _sends(name: bytes, action: Callable[[], object]) -> None:
    run(action, name)


def _leader(name: str, act: Callable[[], object]) -> Callable[[Processes], Happened]:
    """A shell gives up its terminal, which hangs up on the foreground job."""
    return functools.partial(_leader_gives_up, name, act)


def _leader_gives_up(name: str, act: Callable[[], object], _: Processes) -> Happened:
    ready, told = os.pipe()
    pid, master = pty.fork()
    if pid == 0:
        set_name(b"ks-leader")
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

        def job() -> None:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.write(told, struct.pack("=i", os.getpid()))
            signal.pause()

        forked(job, name.encode())
        os.write(told, os.read(ready, 4))
        act()
        os._exit(0)
    _waited(pid)
    (victim,) = struct.unpack("=i", os.read(ready, 4))
    wait_for(lambda: not Path(f"/proc/{victim}/status").exists(), "the job's end")
    for fd in (ready, told, master):
        os.close(fd)
    return Happened(name, _signal_and_death("SIGHUP", "tty", "ks-leader"))


def _orphaned_group(processes: Processes) -> Happened:
    """A process ends that was the last link to a group with a stopped member: SIGHUP and SIGCONT."""
    ready, told = os.pipe()

    def parent() -> None:
        os.setsid()
        os.setpgid(0, 0) if os.getpgid(0) != os.getpid() else None

        def middle() -> None:
            def member() -> None:
                os.setpgid(0, 0)
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
                os.write(told, struct.pack("=i", os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
                signal.pause()

            child = forked(member, b"kv-orphan")
            os.waitpid(child, os.WUNTRACED)

        run(middle, b"ks-middle")

    run(parent, b"ks-session")
    (victim,) = struct.unpack("=i", os.read(ready, 4))
    wait_for(lambda: not Path(f"/proc/{victim}/status").exists(), "the member's end")
    os.close(ready)
    os.close(told)
    return Happened(
        "kv-orphan",
        (
            Said("delivery", "SIGSTOP", "syscall", "kv-orphan"),
            *_signal_and_death("SIGHUP", "tty", "ks-middle"),
        ),
    )


def ptrace(request: int, pid: int, data: int = 0) -> None:
    assert _libc.ptrace(request, pid, None, data) == 0, os.strerror(ctypes.get_errno())


def _traced(name: str, act: Callable[[int], object], *said: Said, prepare: Callable[[], object] = int) -> Callable:
    def case(processes: Processes) -> Happened:
        pid = processes.victim(name, prepare)
        run(lambda: act(pid), b"ks-tracer")
        _waited(pid)
        return Happened(name, said)

    return case


def _seized(pid: int) -> None:
    ptrace(PTRACE_SEIZE, pid)
    ptrace(_PTRACE_INTERRUPT, pid)
    os.waitpid(pid, 0)


def _kill_by_ptrace(pid: int) -> None:
    _seized(pid)
    ptrace(_PTRACE_KILL, pid)


def _inject(number: int) -> Callable[[int], None]:
    """The tracee stops for SIGWINCH, which kills nobody, and goes on with another signal."""

    def act(pid: int) -> None:
        ptrace(PTRACE_SEIZE, pid)
        os.kill(pid, signal.SIGWINCH)
        os.waitpid(pid, 0)
        ptrace(PTRACE_CONT, pid, number)
        os.waitpid(pid, 0)

    return act


def _inject_blocked(pid: int) -> None:
    """The injected SIGTERM stays pending; the tracee dies of its own alarm, which the tracer passes on."""
    ptrace(PTRACE_SEIZE, pid)
    for number in (signal.SIGWINCH, signal.SIGALRM):
        os.kill(pid, signal.SIGWINCH) if number == signal.SIGWINCH else None
        os.waitpid(pid, 0)
        ptrace(PTRACE_CONT, pid, signal.SIGTERM if number == signal.SIGWINCH else number)
    os.waitpid(pid, 0)


def _exitkill(pid: int) -> None:
    ptrace(PTRACE_SEIZE, pid, _PTRACE_O_EXITKILL)


def _attach(pid: int) -> None:
    ptrace(_PTRACE_ATTACH, pid)
    os.waitpid(pid, 0)
    ptrace(PTRACE_CONT, pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _exit_signal(_: Processes) -> Happened:
    """clone(2) lets a process choose what its parent gets when it ends: here the parent dies of it."""

    def act() -> None:
        parent = ctypes.PyDLL(None)
        arguments = (ctypes.c_uint64 * 8)()
        arguments[4] = signal.SIGKILL  # exit_signal
        if parent.syscall(435, arguments, ctypes.c_size_t(ctypes.sizeof(arguments))) == 0:
            set_name(b"ks-child")
            os._exit(0)
        signal.pause()

    _waited(forked(act, b"kv-parent"))
    return Happened("kv-parent", _signal_and_death("SIGKILL", "exit_signal", "ks-child"))


def _cpu_limit(name: str, limits: tuple[int, int], signal_name: str, others: bool = False) -> Callable:
    """RLIMIT_CPU, set by the process itself or by another one."""

    def case(processes: Processes) -> Happened:
        def act() -> None:
            if not others:
                resource.setrlimit(resource.RLIMIT_CPU, limits)
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            while True:
                continue

        pid = forked(act, name.encode())
        processes.pids.append(pid)
        if others:
            resource.prlimit(pid, resource.RLIMIT_CPU, limits)
        _waited(pid)
        return Happened(name, _signal_and_death(signal_name, "rlimit"))

    return case


def _file_size(_: Processes) -> Happened:
    """RLIMIT_FSIZE."""

    def act() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        fd = os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
        os.write(fd, b"!")
        os.write(fd, b"!")

    _waited(forked(act, b"kv-fsize"))
    return Happened("kv-fsize", _signal_and_death("SIGXFSZ", "rlimit"))


def _perf_event(pid: int, flags: int) -> int:
    """Every ms of CPU time of a process in user space: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK."""
    attributes = bytearray(136)
    struct.pack_into("=IIQQ", attributes, 0, 1, 136, 1, 1_000_000)
    struct.pack_into("=Q", attributes, 40, flags | 1 << 5 | 1 << 6)  # exclude_kernel, exclude_hv
    number = 298 if _X86_64 else 241
    fd = _libc.syscall(number, ctypes.c_char_p(bytes(attributes)), pid, -1, -1, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def _perf_trap(processes: Processes) -> Happened:
    """perf_event_open(2) with sigtrap on another process; which one armed it, the kernel does not pass on."""
    pid = forked(lambda: [None for _ in iter(int, 1)], b"kv-perf")
    processes.pids.append(pid)

    def act() -> None:
        _perf_event(pid, 1 << 36 | 1 << 37)  # remove_on_exec, sigtrap
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z", "its death")

    run(act, b"ks-perf")
    _waited(pid)
    return Happened("kv-perf", _signal_and_death("SIGTRAP", "kernel"))


def _file_size_of_another(processes: Processes) -> Happened:
    """RLIMIT_FSIZE, set by another process; the file is the victim's."""
    wait, go = os.pipe()

    def act() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        fd = os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)
        os.read(wait, 1)
        os.write(fd, b"!!")
        os.write(fd, b"!!")

    pid = forked(act, b"kv-fsize-other")
    processes.pids.append(pid)
    run(lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, 1)), b"ks-prlimit")
    os.write(go, b"!")
    _waited(pid)
    os.close(wait)
    os.close(go)
    return Happened("kv-fsize-other", _signal_and_death("SIGXFSZ", "rlimit"))


def _truncated_by_another(processes: Processes) -> Happened:
    """Another process takes away what the victim has mapped: for the kernel a fault like any other."""
    fd = os.memfd_create("shared")
    os.ftruncate(fd, mmap.PAGESIZE)
    wait, go = os.pipe()
    ready, told = os.pipe()

    def act() -> None:
        page = mmap.mmap(fd, mmap.PAGESIZE)
        os.write(told, b"!")
        os.read(wait, 1)
        page[0]

    pid = forked(act, b"kv-truncated")
    processes.pids.append(pid)
    os.read(ready, 1)
    run(lambda: (os.ftruncate(fd, 0), os.write(go, b"!")), b"ks-truncates")
    _waited(pid)
    for each in (fd, wait, go, ready, told):
        os.close(each)
    return Happened("kv-truncated", _own_doing("SIGBUS"))


def _no_way_back(_: Processes) -> Happened:
    """execve(2) of a program whose segment may not be where it is to be: too late for an error."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62 if _X86_64 else 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 1 << 62, 1 << 62, 4096, 4096, 4096)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kv-exec")
        path.write_bytes((header + segment).ljust(4096, b"\0"))
        path.chmod(0o755)
        assert os.WTERMSIG(_waited(forked(lambda: os.execv(path, ["kv-exec"])))) == signal.SIGSEGV
    return Happened("kv-exec", _own_doing("SIGSEGV"))


def _exec_by_a_thread(_: Processes) -> Happened:
    """The other threads end, the leader too: no signal is generated, and no process dies."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "kv-threads-exec")
        program.symlink_to("/bin/true")

        def act() -> None:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            threading.Thread(target=lambda: os.execv(program, [program])).start()
            threading.Event().wait()

        assert _waited(forked(act, b"kv-threads-exec")) == 0
    return Happened("kv-threads-exec", ())


def _asynchronous_read(_: Processes) -> Happened:
    """aio_read(3) with SIGEV_SIGNAL: a thread of the process calls rt_sigqueueinfo(2)."""

    def act() -> None:
        buffer = ctypes.create_string_buffer(1)
        # struct aiocb: file, operation, priority, buffer, size, struct sigevent; then what is glibc's own
        control = ctypes.create_string_buffer(
            struct.pack("=iiiiQQqii", os.open("/dev/zero", os.O_RDONLY), 0, 0, 0, ctypes.addressof(buffer), 1, 0,
                        signal.SIGTERM, 0), 256,
        )  # fmt: skip
        assert ctypes.CDLL("librt.so.1").aio_read(control) == 0
        signal.pause()

    _waited(forked(act, b"kv-aio"))
    return Happened(
        "kv-aio", (Said("delivery", "SIGTERM", "syscall", "kv-aio"), Said("death", "SIGTERM", "self", "kv-aio"))
    )


def _traced_exec(_: Processes) -> Happened:
    """PTRACE_TRACEME, then execve(2): its SIGTRAP, which the tracer passes on."""

    def tracer() -> None:
        def act() -> None:
            ptrace(0, 0)
            os.execv(program, [program])

        pid = forked(act, b"kv-traced-exec")
        os.waitpid(pid, 0)
        ptrace(PTRACE_CONT, pid, signal.SIGTRAP)
        os.waitpid(pid, 0)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "kv-traced-exec")
        program.symlink_to("/bin/true")
        run(tracer, b"ks-tracer")
    return Happened("kv-traced-exec", (Said("death", "SIGTRAP", "self", NOBODY_SENT, "ks-tracer"),))


def _bpf_send_signal(_: Processes) -> Happened:
    """A program at the entry of system calls of one process; who loaded it, the kernel does not pass on."""
    wait, go = os.pipe()
    pid = forked(lambda: (os.read(wait, 1), os.getppid()), b"kv-bpf")
    wait_for(lambda: Path(f"/proc/{pid}/comm").read_bytes() == b"kv-bpf\n", "its name")  # it takes a system call
    code = struct.pack(
        "<" + "BBhi" * 7,
        0x85, 0, 0, 14,  # call bpf_get_current_pid_tgid
        0x77, 0, 0, 32,  # r0 >>= 32
        0x55, 0, 2, pid,  # if r0 != pid: skip two
        0xB7, 1, 0, signal.SIGTERM,  # r1 = SIGTERM
        0x85, 0, 0, 109,  # call bpf_send_signal
        0xB7, 0, 0, 0,  # r0 = 0
        0x95, 0, 0, 0,  # exit
    )  # fmt: skip
    program = libbpf.load_program("send", libbpf.btf_tracepoint("sys_enter"), code, "GPL")
    link = libbpf.link_tracing(program)
    os.write(go, b"!")
    _waited(pid)
    for fd in (link, program, wait, go):
        os.close(fd)
    return Happened("kv-bpf", _signal_and_death("SIGTERM", "kernel"))


_URETPROBE = 335  # of x86-64, since Linux 6.11


def _has_uretprobe() -> bool:
    return _X86_64 and os.waitstatus_to_exitcode(os.waitpid(forked(lambda: _libc.syscall(_URETPROBE)), 0)[1]) < 0


def _has_tiocsti() -> bool:
    """Whether users may type for others in their session; before Linux 6.2 there is no such file."""
    path = Path("/proc/sys/dev/tty/legacy_tiocsti")
    return not path.exists() or path.read_bytes().strip() == b"1"


def _then(action: Callable[[], object], name: bytes) -> Callable[[], None]:
    """Another process of the session acts once there is input."""

    def prepare() -> None:
        forked(lambda: (os.read(0, 1), action()), name)

    return prepare


def _real_time_limit(processes: Processes) -> Happened:
    """RLIMIT_RTTIME, the hard limit, of a process with real-time priority."""

    def act() -> None:
        resource.setrlimit(_RLIMIT_RTTIME, (1000, 1000))
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while True:
            continue

    pid = forked(act, b"kv-rttime")
    processes.pids.append(pid)
    _waited(pid)
    return Happened("kv-rttime", _signal_and_death("SIGKILL", "kernel"))


_TTY_INT = _signal_and_death("SIGINT", "tty")

ORIGINS: dict[str, Callable[[Processes], Happened]] = {
    "F_SETSIG SIGKILL, own uid": _by_file(signal.SIGKILL),
    "F_SETSIG SIGTERM, root to another uid": _by_file(signal.SIGTERM, uid=None),
    "F_SETSIG SIGTERM, to a group": _by_file(signal.SIGTERM, owner=lambda pid: -pid),
    "F_SETSIG SIGSEGV (SI_SIGIO)": _by_file(signal.SIGSEGV),
    "F_SETOWN, default SIGIO": _by_file(0),
    "F_SETOWN_EX, a thread": _by_thread_owner,
    "F_SETOWN, another process writes": _touched("kv-io-bystand", _socket),
    "F_NOTIFY, another process makes a file": _touched("kv-dnotify", _folder),
    "F_SETLEASE, another process opens the file": _touched("kv-lease", _lease),
    "F_SETOWN on a perf event": _by_perf_event,
    "F_SETOWN, urgent data": _urgent_data,
    "signal-driven I/O on its own file": _own_file,
    "timer_create, SIGEV_SIGNAL": _timer(0, signal.SIGKILL),
    "timer_create, SIGEV_THREAD_ID": _timer(4, signal.SIGTERM),
    "mq_notify": _message_queue,
    "alarm": _fault("kv-alarm", "SIGALRM", _alarm),
    "a NULL read": _fault("kv-segv", "SIGSEGV", lambda: ctypes.string_at(0)),
    "beyond the end of a mapped file": _fault("kv-bus", "SIGBUS", _beyond_the_file),
    "seccomp, KILL_PROCESS": _fault("kv-seccomp", "SIGSYS", _seccomp(0x80000000)),
    "seccomp, KILL_THREAD": _fault("kv-seccomp-t", "SIGSYS", _seccomp(0)),
    "a mapped file is cut short by another process": _truncated_by_another,
    "execve that fails too late": _no_way_back,
    "execve by a thread": _exec_by_a_thread,
    "aio_read, SIGEV_SIGNAL": _asynchronous_read,
    "SIGPIPE": _fault("kv-sigpipe", "SIGPIPE", _broken_pipe),
    "^C": _terminal("kv-tty-c", lambda master, _: os.write(master, b"\x03"), *_TTY_INT),
    "^\\": _terminal(
        "kv-tty-q", lambda master, _: os.write(master, b"\x1c"), *_signal_and_death("SIGQUIT", "tty"),
        prepare=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    ),
    "TIOCSIG": _terminal(
        "kv-tty-sig", lambda master, _: _sends(b"ks-ioctl", lambda: fcntl.ioctl(master, _TIOCSIG, signal.SIGINT)),
        *_signal_and_death("SIGINT", "tty", "ks-ioctl"),
    ),
    "TIOCSTI": _terminal(
        "kv-tty-sti", _press_enter, *_signal_and_death("SIGINT", "tty", "ks-tiocsti"),
        prepare=_then(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"\x03"), b"ks-tiocsti"),
    ),
    "vhangup": _terminal(
        "kv-vhangup", _press_enter, *_signal_and_death("SIGHUP", "tty", "ks-vhangup"),
        prepare=_then(_libc.vhangup, b"ks-vhangup"),
    ),
    "hangup: the other end is closed": _terminal(
        "kv-tty-hup", lambda master, _: _closes(master), *_signal_and_death("SIGHUP", "tty", trigger="ks-closer"),
    ),
    "exit of a session leader": _leader("kv-job", lambda: None),
    "TIOCNOTTY": _leader("kv-job-notty", lambda: fcntl.ioctl(0, termios.TIOCNOTTY)),
    "orphaned process group": _orphaned_group,
    "PTRACE_KILL": _traced("kv-pt-kill", _kill_by_ptrace, *_signal_and_death("SIGKILL", "ptrace", "ks-tracer")),
    "PTRACE_CONT with SIGKILL": _traced(
        "kv-pt-9", _inject(signal.SIGKILL),
        Said("delivery", "SIGWINCH", "syscall", "ks-tracer"), Said("death", "SIGKILL", "ptrace", "ks-tracer"),
    ),
    "PTRACE_CONT with SIGTERM": _traced(
        "kv-pt-15", _inject(signal.SIGTERM),
        Said("delivery", "SIGWINCH", "syscall", "ks-tracer"), Said("death", "SIGTERM", "ptrace", "ks-tracer"),
    ),
    "PTRACE_CONT with a blocked signal": _traced(
        "kv-pt-block", _inject_blocked,
        Said("delivery", "SIGWINCH", "syscall", "ks-tracer"), Said("delivery", "SIGTERM", "ptrace", "ks-tracer"),
        Said("death", "SIGALRM", "self", NOBODY_SENT, "ks-tracer"),
        prepare=lambda: (signal.alarm(1), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])),
    ),
    "PTRACE_O_EXITKILL": _traced("kv-pt-exit", _exitkill, *_signal_and_death("SIGKILL", "ptrace", "ks-tracer")),
    "PTRACE_ATTACH": _traced(
        "kv-pt-attach", _attach,
        Said("delivery", "SIGSTOP", "ptrace", "ks-tracer"), Said("death", "SIGKILL", "ptrace", "ks-tracer"),
    ),
    "PTRACE_TRACEME, execve": _traced_exec,
    "clone's exit signal": _exit_signal,
    "RLIMIT_CPU, soft": _cpu_limit("kv-cpu-soft", (1, 5), "SIGXCPU"),
    "RLIMIT_CPU, hard": _cpu_limit("kv-cpu-hard", (1, 1), "SIGKILL"),
    "RLIMIT_CPU, by prlimit": _cpu_limit("kv-cpu-other", (1, 1), "SIGKILL", others=True),
    "RLIMIT_FSIZE": _file_size,
    "RLIMIT_FSIZE, by prlimit": _file_size_of_another,
    "RLIMIT_RTTIME": _real_time_limit,
    "perf, sigtrap": _perf_trap,
    "bpf_send_signal": _bpf_send_signal,
    "uretprobe(2) from elsewhere": _fault("kv-uretprobe", "SIGILL", lambda: _libc.syscall(_URETPROBE)),
}  # fmt: skip
NEEDS_ROOT = {"F_SETSIG SIGTERM, root to another uid", "vhangup", "RLIMIT_RTTIME", "bpf_send_signal"}
if int(Path("/proc/sys/kernel/perf_event_paranoid").read_bytes()) > 2:
    NEEDS_ROOT |= {"F_SETOWN on a perf event", "perf, sigtrap"}

if not _has_tiocsti():
    del ORIGINS["TIOCSTI"]
if not _has_uretprobe():
    del ORIGINS["uretprobe(2) from elsewhere"]


def perform(name: str, uid: int = 0) -> Happened:
    """Do it, as this user; what is to be said of it."""
    if uid != os.getuid():
        return result_of(lambda: perform(name, uid), b"ks-attacker", uid)
    processes = Processes()
    _dead.clear()
    try:
        happened = ORIGINS[name](processes)
    finally:
        processes.close()
    return replace(happened, dead=tuple(_dead))
