"""The ways in which a signal reaches a process: each done for real, with what a tool should have to say about it."""

import contextlib
import ctypes
import mmap
import os
import platform
import re
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cgroups import cgroup, cgroup2, has_memory_group, memory_cgroup
from senders import NO_SUCH_PID, NOBODY, become, forked, result_of, run, send, set_name, siginfo
from waiting import wait_for

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWPID, _CLONE_NEWUSER = 0x20000000, 0x10000000
_PR_SET_PDEATHSIG = 1
KERNEL = ("kernel", 0)


@dataclass(frozen=True)
class Row:
    """What is to be told: who (name, host pid), which signal, to whom, by what route, and what became of it."""

    sender: tuple[str, int]
    signal: str
    target: tuple[str, int] | None  # None: no process was reached; the target is what the sender wrote
    route: str  # the system call, or the origin where there is none
    outcome: str  # of a delivery; of a call that reached nobody, its result
    more: dict[str, str] = field(default_factory=dict)  # other fields of the event


class Processes:
    """The victims of one case; all gone when it ends."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def victim(self, name: str, prepare: Callable[[], object] = lambda: None) -> int:
        """A process that waits; its pid, once prepare() is done in it."""
        ready, told = os.pipe()

        def act() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would print a traceback
            prepare()
            os.write(told, b"!")
            while True:
                signal.pause()

        pid = forked(act, name.encode())
        self.pids.append(pid)
        os.close(told)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        return pid

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def host_pid(name: str) -> int:
    """The pid, seen from here, of the process with this name."""

    def look() -> int:
        for path in Path("/proc").glob("[1-9]*/comm"):
            with contextlib.suppress(OSError):
                if path.read_text().rstrip("\n") == name:
                    return int(path.parent.name)
        return 0

    return wait_for(look, f"a process called {name}")


def in_namespace(init: Callable[[], object], name: str) -> int:
    """Run init() as pid 1 of a new pid namespace; the pid of its parent, which ends when it ends."""
    flags = _CLONE_NEWPID | (_CLONE_NEWUSER if os.getuid() else 0)

    def act() -> None:
        assert _libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(forked(init, name.encode()), 0)

    return forked(act)


def kill(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-kill")
    sender = run(lambda: send("kill", victim, 9), b"ks-kill")
    return [Row(("ks-kill", sender), "SIGKILL", ("kv-kill", victim), "kill", "delivered")]


def kill_own_group(processes: Processes) -> list[Row]:
    """kill(0): the sender is a target too; here it ignores the signal."""
    pids = []

    def act() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        send("kill", 0, signal.SIGUSR2)

    hold, go = os.pipe()
    sender = forked(lambda: (os.read(hold, 1), act()), b"ks-kill0")
    os.setpgid(sender, sender)
    pids = [processes.victim(f"kv-kill0-{n}", lambda: os.setpgid(0, sender)) for n in range(2)]
    os.write(go, b"!")
    os.waitpid(sender, 0)
    os.close(hold)
    os.close(go)
    who = ("ks-kill0", sender)
    return [Row(who, "SIGUSR2", who, "kill", "ignored", {"KILLSNOOP_TARGET_ARG": "0"})] + [
        Row(who, "SIGUSR2", (f"kv-kill0-{n}", pid), "kill", "delivered", {"KILLSNOOP_TARGET_ARG": "0"})
        for n, pid in enumerate(pids)
    ]


def kill_group(processes: Processes) -> list[Row]:
    """kill(-pgid): five members."""
    leader = processes.victim("kv-group-0", lambda: os.setpgid(0, 0))
    pids = [leader] + [processes.victim(f"kv-group-{n}", lambda: os.setpgid(0, leader)) for n in range(1, 5)]
    sender = run(lambda: send("kill", -leader, 15), b"ks-group")
    more = {"KILLSNOOP_TARGET_ARG": str(-leader)}
    return [
        Row(("ks-group", sender), "SIGTERM", (f"kv-group-{n}", pid), "kill", "delivered", more)
        for n, pid in enumerate(pids)
    ]


def kill_everyone(processes: Processes) -> list[Row]:
    """kill(-1) in a pid namespace: everyone but pid 1 and the sender."""
    hold, go = os.pipe()

    def init() -> None:
        for number in range(2):
            forked(signal.pause, b"kv-all-%d" % number)
        sender = forked(lambda: (os.read(hold, 1), send("kill", -1, 15)), b"ks-all")
        os.waitpid(sender, 0)
        for _ in range(2):
            os.wait()

    outside = in_namespace(init, "ks-all-init")
    pids = [host_pid(f"kv-all-{number}") for number in range(2)]
    sender = host_pid("ks-all")
    os.write(go, b"!")
    os.waitpid(outside, 0)
    os.close(hold)
    os.close(go)
    return [
        Row(("ks-all", sender), "SIGTERM", (f"kv-all-{number}", pid), "kill", "delivered",
            {"KILLSNOOP_TARGET_ARG": "-1", "KILLSNOOP_NS_PID": "4", "KILLSNOOP_TARGET_NS_PID": str(number + 2)})
        for number, pid in enumerate(pids)
    ]  # fmt: skip


def _plain(call: str, sig: int, signal_name: str, arguments: Callable[[int], tuple[object, ...]]) -> Callable:
    def case(processes: Processes) -> list[Row]:
        name = call.replace("rt_", "").replace("_send_signal", "")[:12]
        victim = processes.victim(f"kv-{name}")
        sender = run(lambda: send(call, *arguments(victim)), f"ks-{name}".encode())
        return [Row((f"ks-{name}", sender), signal_name, (f"kv-{name}", victim), call, "delivered")]

    return case


def cgroup_kill(
    processes: Processes, write: Callable[[int], object] = lambda fd: os.write(fd, b"1"), name: str = "cgroup"
) -> list[Row]:
    """A write to cgroup.kill: three processes, no signal system call."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(cgroup(stack.enter_context(cgroup2()), f"ks-{name}"))
        pids = [processes.victim(f"kv-{name}-{n}") for n in range(3)]
        for pid in pids:
            (folder / "cgroup.procs").write_text(str(pid))
        sender = run(lambda: write(os.open(folder / "cgroup.kill", os.O_WRONLY)), f"ks-{name}".encode())
        for pid in pids:
            os.waitpid(pid, 0)
    return [
        Row((f"ks-{name}", sender), "SIGKILL", (f"kv-{name}-{n}", pid), "cgroup", "delivered")
        for n, pid in enumerate(pids)
    ]


def splice_one(fd: int) -> None:
    """`1` from a pipe into a file, by splice(2)."""
    reader, writer = os.pipe()
    os.write(writer, b"1")
    number = 275 if platform.machine() == "x86_64" else 76
    assert _libc.syscall(number, reader, None, fd, None, ctypes.c_size_t(1), 0) == 1, os.strerror(ctypes.get_errno())


_IO_URING_SETUP, _IO_URING_ENTER = 425, 426


def io_uring_write(fd: int, flags: int = 0) -> None:
    """`1` into a file, by io_uring; IOSQE_ASYNC: by one of its worker threads."""
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    ring = _libc.syscall(_IO_URING_SETUP, 1, parameters)
    assert ring >= 0, os.strerror(ctypes.get_errno())
    tail, array = struct.unpack_from("=4xI16xI", parameters.raw, 40)  # sq_off
    data = ctypes.create_string_buffer(b"1", 1)
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    with mmap.mmap(ring, 4096, prot=prot) as queue, mmap.mmap(ring, 64, prot=prot, offset=0x10000000) as entries:
        entries[:] = struct.pack("=BBHiQQI36x", 23, flags, 0, fd, 0, ctypes.addressof(data), 1)  # IORING_OP_WRITE
        queue[array : array + 4] = struct.pack("=I", 0)
        queue[tail : tail + 4] = struct.pack("=I", 1)
        assert _libc.syscall(_IO_URING_ENTER, ring, 1, 1, 1, None, ctypes.c_size_t(0)) == 1
    os.close(ring)


def has_io_uring() -> bool:
    """Whether the kernel has it, and kernel.io_uring_disabled allows it."""
    ring = _libc.syscall(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    if ring >= 0:
        os.close(ring)
    return ring >= 0


def _cgroup_kill_by(name: str, write: Callable[[int], object]) -> Callable[[Processes], list[Row]]:
    """A case: cgroup.kill by a call that the probe does not know as a write."""

    def case(processes: Processes) -> list[Row]:
        rows = cgroup_kill(processes, write, name)
        return [replace(row, more={"KILLSNOOP_ORIGIN_INFERRED": "1"}) for row in rows]

    return case


def out_of_memory(processes: Processes, group: str = "ks-oom") -> list[Row]:
    """The OOM killer picks one process while another one, a bystander, asks for memory, in a cgroup below the limit's."""
    with memory_cgroup(group, 64 << 20) as limited, cgroup(limited, "inside") as folder:
        control = limited / "cgroup.subtree_control"
        if control.exists():  # not in cgroup v1
            control.write_text("+memory")
        held = []

        def hold() -> None:
            Path("/proc/self/oom_score_adj").write_text("1000")
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            held.append(b"x" * (40 << 20))

        def ask() -> None:
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            held.append(b"x" * (40 << 20))

        victim = processes.victim("kv-oom", hold)
        bystander = forked(ask, b"ks-bystander")
        _, status = os.waitpid(bystander, 0)
        os.waitpid(victim, 0)
    killed = [("kv-oom", victim)]
    if status == signal.SIGKILL:  # a preemptible kernel may look again before the victim has given back its memory
        killed.append(("ks-bystander", bystander))
    else:
        assert status == 0
    return [Row(KERNEL, "SIGKILL", target, "oom", "delivered") for target in killed]


def out_of_memory_group(processes: Processes) -> list[Row]:
    """memory.oom.group: the OOM killer sends SIGKILL to each process, and once more to the first one."""
    with memory_cgroup("ks-oom-group", 64 << 20) as folder:
        (folder / "memory.oom.group").write_text("1")

        def join() -> None:
            (folder / "cgroup.procs").write_text("0")
            become(NOBODY)

        pids = [processes.victim("kv-oom-group", join) for _ in range(5)]
        pids.append(forked(lambda: (join(), b"x" * (128 << 20)), b"kv-oom-group"))
        for pid in pids:
            os.waitpid(pid, 0)
    return [Row(KERNEL, "SIGKILL", ("kv-oom-group", pid), "oom", "delivered") for pid in pids]


def namespace_end(processes: Processes) -> list[Row]:
    """The init of a pid namespace ends: the kernel kills all the others in it."""
    hold, go = os.pipe()

    def init() -> None:
        for number in range(2):
            forked(signal.pause, b"kv-ns-%d" % number)
        os.read(hold, 1)

    outside = in_namespace(init, "ks-ns-init")
    pids = [host_pid(f"kv-ns-{number}") for number in range(2)]
    os.write(go, b"!")
    os.waitpid(outside, 0)
    os.close(hold)
    os.close(go)
    return [Row(KERNEL, "SIGKILL", (f"kv-ns-{n}", pid), "kernel", "delivered") for n, pid in enumerate(pids)]


def parent_death(processes: Processes) -> list[Row]:
    """PR_SET_PDEATHSIG: the child asked for SIGTERM when its parent ends."""
    ready, told = os.pipe()

    def child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        os.write(told, struct.pack("=i", os.getpid()))
        signal.pause()

    def parent() -> None:
        forked(child, b"kv-pdeath")
        ready_twice.append(os.read(ready, 4))
        os.write(told, ready_twice[0])

    ready_twice: list[bytes] = []
    sender = run(parent, b"ks-pdeath")
    (victim,) = struct.unpack("=i", os.read(ready, 4))
    os.close(ready)
    os.close(told)
    return [Row(("ks-pdeath", sender), "SIGTERM", ("kv-pdeath", victim), "pdeathsig", "delivered")]


def parent_that_kills_itself(processes: Processes) -> list[Row]:
    """Its child asked for the same signal: while the parent ends, its registers still show its call of kill(2)."""
    ready, told = os.pipe()

    def parent() -> None:
        child = processes.victim("kv-orphan", lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))
        os.write(told, struct.pack("=i", child))
        send("kill", os.getpid(), signal.SIGTERM)

    sender = forked(parent, b"ks-suicide")
    (victim,) = struct.unpack("=i", os.read(ready, 4))
    os.waitpid(sender, 0)
    os.close(ready)
    os.close(told)
    who = ("ks-suicide", sender)
    return [
        Row(who, "SIGTERM", who, "kill", "delivered"),
        Row(who, "SIGTERM", ("kv-orphan", victim), "pdeathsig", "delivered"),
    ]


_CLONE_PIDFD, _CLONE_AUTOREAP, _CLONE_PIDFD_AUTOKILL = 0x1000, 1 << 34, 1 << 36  # sched.h, Linux 7.2


def autokill_child(action: Callable[[], object]) -> int:
    """A process that is killed when its pidfd is closed; the pidfd. -1 if the kernel has no such thing."""
    pidfd = ctypes.c_int(-1)
    flags = _CLONE_PIDFD | _CLONE_AUTOREAP | _CLONE_PIDFD_AUTOKILL
    arguments = (ctypes.c_uint64 * 8)(flags, ctypes.addressof(pidfd))
    # PyDLL: the child has the interpreter's lock, as after fork(2).
    pid = ctypes.PyDLL(None).syscall(435, arguments, ctypes.c_size_t(ctypes.sizeof(arguments)))  # clone3
    if pid == 0:
        try:
            action()
        finally:
            os._exit(1)
    return pidfd.value if pid > 0 else -1


def _autokill(name: str, close: Callable[[int], object], closer: str = "") -> Callable[[Processes], list[Row]]:
    """A case: whoever holds the pidfd closes it, by then called `closer`."""

    def case(_: Processes) -> list[Row]:
        ready, told = os.pipe()

        def act() -> None:
            def child() -> None:
                set_name(f"kv-{name}".encode())
                os.write(told, struct.pack("=i", os.getpid()))
                signal.pause()

            pidfd = autokill_child(child)
            pid = os.read(ready, 4)
            os.write(told, pid)
            close(pidfd)

        sender = run(act, f"ks-{name}".encode())
        (victim,) = struct.unpack("=i", os.read(ready, 4))
        os.close(ready)
        os.close(told)
        return [Row((closer or f"ks-{name}", sender), "SIGKILL", (f"kv-{name}", victim), "autokill", "delivered")]

    return case


def int_0x80_kill(pid: int, sig: int) -> int:
    """kill(2) through the 32-bit entry of x86-64."""
    code = bytes.fromhex("53 b825000000 89fb 89f1 cd80 5b c3")  # push rbx; eax=37; ebx=edi; ecx=esi; int 0x80; ...
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)
    return function(ctypes.addressof(ctypes.c_char.from_buffer(page)))(pid, sig)


def arm_kill(pid: int, sig: int, path: Path) -> None:
    """kill(2) by a 32-bit ARM program, which this process becomes: an ELF header, one segment, and eight words of code."""
    code = struct.pack(
        "<8I",
        0xE3A07025,  # mov r7, #37 (kill)
        0xE59F0010,  # ldr r0, [pc, #16]: the pid
        0xE59F1010,  # ldr r1, [pc, #16]: the signal
        0xEF000000,  # svc 0
        0xE3A07001,  # mov r7, #1 (exit): with what kill returned
        0xEF000000,  # svc 0
        0xE7F000F0,  # udf
        pid,
    ) + struct.pack("<I", sig)
    at, headers = 0x10000, 52 + 32
    size = headers + len(code)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 40, 1, at + headers, 52, 0, 0x05000000, 52, 32, 1, 0, 0, 0
    )
    segment = struct.pack("<8I", 1, 0, at, at, size, size, 5, 0x1000)
    path.write_bytes(header + segment + code)
    path.chmod(0o755)
    os.execv(path, [path.name])


def compat(processes: Processes) -> list[Row]:
    """A 32-bit sender."""
    victim = processes.victim("kv-compat")
    if platform.machine() == "x86_64":
        sender = run(lambda: int_0x80_kill(victim, 15), b"ks-compat")
    else:
        with tempfile.TemporaryDirectory() as folder:
            sender = run(lambda: arm_kill(victim, 15, Path(folder) / "ks-compat"))
    more = {"KILLSNOOP_COMPAT": "1", "KILLSNOOP_TARGET_ARG": str(victim)}
    return [Row(("ks-compat", sender), "SIGTERM", ("kv-compat", victim), "kill", "delivered", more)]


def signal_zero(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-zero")
    sender = run(lambda: send("kill", victim, 0), b"ks-zero")
    return [Row(("ks-zero", sender), "0", None, "kill", "success", {"KILLSNOOP_TPID": str(victim)})]


def not_allowed(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-eperm")
    sender = run(lambda: send("kill", victim, 9), b"ks-eperm", NOBODY)
    return [Row(("ks-eperm", sender), "SIGKILL", None, "kill", "EPERM", {"KILLSNOOP_TPID": str(victim)})]


def nobody_there(processes: Processes) -> list[Row]:
    sender = run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-esrch")
    return [Row(("ks-esrch", sender), "SIGKILL", None, "kill", "ESRCH", {"KILLSNOOP_TPID": str(NO_SUCH_PID)})]


def ignored(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-ignores", lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    sender = run(lambda: send("kill", victim, 1), b"ks-ignored")
    return [Row(("ks-ignored", sender), "SIGHUP", ("kv-ignores", victim), "kill", "ignored")]


def pending(processes: Processes) -> list[Row]:
    """The same signal twice to a process that blocks it."""
    block = [signal.SIGUSR1]
    victim = processes.victim("kv-blocks", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, block))
    sender = run(lambda: (send("kill", victim, 10), send("kill", victim, 10)), b"ks-pending")
    target = ("kv-blocks", victim)
    return [
        Row(("ks-pending", sender), "SIGUSR1", target, "kill", outcome) for outcome in ("delivered", "already_pending")
    ]


def stop_and_continue(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-stopped")
    sender = run(lambda: (send("kill", victim, signal.SIGSTOP), send("kill", victim, signal.SIGCONT)), b"ks-stop")
    # SIGCONT does its work when it is sent; a process without a handler for it then ignores it.
    outcomes = {"SIGSTOP": "delivered", "SIGCONT": "ignored"}
    return [
        Row(("ks-stop", sender), name, ("kv-stopped", victim), "kill", outcome) for name, outcome in outcomes.items()
    ]


def realtime(processes: Processes) -> list[Row]:
    victim = processes.victim("kv-rt")
    sender = run(lambda: send("kill", victim, 37), b"ks-rt")
    return [Row(("ks-rt", sender), "SIGRTMIN+3", ("kv-rt", victim), "kill", "delivered")]


def sender_in_namespace(processes: Processes) -> list[Row]:
    """The pids that the sender knows mean nothing on the host."""
    hold, go = os.pipe()

    def init() -> None:
        victim = forked(signal.pause, b"kv-inside")
        sender = forked(lambda: (os.read(hold, 1), send("kill", victim, 15)), b"ks-inside")
        os.waitpid(victim, 0)
        os.waitpid(sender, 0)

    outside = in_namespace(init, "ks-in-init")
    victim, sender = host_pid("kv-inside"), host_pid("ks-inside")
    os.write(go, b"!")
    os.waitpid(outside, 0)
    os.close(hold)
    os.close(go)
    more = {"KILLSNOOP_NS_PID": "3", "KILLSNOOP_TARGET_ARG": "2", "KILLSNOOP_TARGET_NS_PID": "2"}
    return [Row(("ks-inside", sender), "SIGTERM", ("kv-inside", victim), "kill", "delivered", more)]


def thread(processes: Processes) -> list[Row]:
    """A thread with a name of its own sends."""
    victim = processes.victim("kv-thread")

    def in_thread() -> None:
        set_name(b"tokio-runtime-w")
        send("kill", victim, 15)

    def act() -> None:
        worker = threading.Thread(target=in_thread)
        worker.start()
        worker.join()

    sender = run(act, b"ks-agent")
    more = {"KILLSNOOP_THREAD_COMM": "tokio-runtime-w"}
    return [Row(("ks-agent", sender), "SIGTERM", ("kv-thread", victim), "kill", "delivered", more)]


def zombie(processes: Processes) -> list[Row]:
    """A process that has ended, and whose parent has not asked yet."""
    victim = forked(lambda: None, b"kv-zombie")
    processes.pids.append(victim)
    stat = Path(f"/proc/{victim}/stat")
    wait_for(lambda: re.search(r"\) Z ", stat.read_text()), "a zombie")
    sender = run(lambda: send("kill", victim, 9), b"ks-zombie")
    return [Row(("ks-zombie", sender), "SIGKILL", ("kv-zombie", victim), "kill", "ignored")]


CASES: dict[str, Callable[[Processes], list[Row]]] = {
    "kill": kill,
    "kill(0)": kill_own_group,
    "kill(-pgid), 5 members": kill_group,
    "kill(-1) in a pid namespace": kill_everyone,
    "tkill": _plain("tkill", 10, "SIGUSR1", lambda pid: (pid, 10)),
    "tgkill": _plain("tgkill", 10, "SIGUSR1", lambda pid: (pid, pid, 10)),
    "sigqueue": _plain("rt_sigqueueinfo", 40, "SIGRTMIN+6", lambda pid: (pid, 40, siginfo(40))),
    "rt_tgsigqueueinfo": _plain("rt_tgsigqueueinfo", 41, "SIGRTMIN+7", lambda pid: (pid, pid, 41, siginfo(41))),
    "pidfd_send_signal": _plain("pidfd_send_signal", 2, "SIGINT", lambda pid: (os.pidfd_open(pid), 2, None, 0)),
    "cgroup.kill, 3 processes": cgroup_kill,
    "memory cgroup OOM kill": out_of_memory,
    "cgroup.kill by writev": _cgroup_kill_by("writev", lambda fd: os.writev(fd, [b"1"])),
    "cgroup.kill by splice": _cgroup_kill_by("splice", splice_one),
    "end of a pid namespace": namespace_end,
    "PR_SET_PDEATHSIG": parent_death,
    "PR_SET_PDEATHSIG of one that kills itself": parent_that_kills_itself,
    "signal 0": signal_zero,
    "EPERM": not_allowed,
    "ESRCH": nobody_there,
    "ignored by the target": ignored,
    "already pending": pending,
    "SIGSTOP and SIGCONT": stop_and_continue,
    "SIGRTMIN+3": realtime,
    "sender in a pid namespace": sender_in_namespace,
    "thread with another name": thread,
    "zombie": zombie,
    f"32-bit sender ({'int 0x80' if platform.machine() == 'x86_64' else 'svc 0'})": compat,
}


if has_io_uring():
    CASES |= {
        "cgroup.kill by io_uring": _cgroup_kill_by("uring", io_uring_write),
        "cgroup.kill by a worker of io_uring": _cgroup_kill_by("uring-wq", lambda fd: io_uring_write(fd, 1 << 4)),
    }
if has_memory_group():
    CASES["memory.oom.group"] = out_of_memory_group
_trial = autokill_child(signal.pause)
if _trial >= 0:  # Linux 7.2 and later
    os.close(_trial)
    CASES |= {
        "autokill, by close": _autokill("ak-close", os.close),
        "autokill, by close_range": _autokill("ak-range", lambda fd: os.closerange(fd, fd + 1)),
        "autokill, by dup2": _autokill("ak-dup2", lambda fd: os.dup2(0, fd)),
        "autokill, by execve": _autokill("ak-exec", lambda _: os.execv("/bin/true", ["/bin/true"]), "true"),
        "autokill, by the end of its holder": _autokill("ak-exit", lambda _: None),
    }


def _users_may_make_namespaces() -> bool:
    flags = _CLONE_NEWPID | _CLONE_NEWUSER
    return os.getuid() == 0 and os.waitpid(forked(lambda: os._exit(_libc.unshare(flags) != 0), uid=NOBODY), 0)[1] == 0


# A pidfd that kills is for those who have CAP_SYS_ADMIN or no_new_privs.
NEEDS_ROOT = {"EPERM", "memory.oom.group", *(name for name in CASES if "cgroup" in name or "autokill" in name)}
if not _users_may_make_namespaces():
    NEEDS_ROOT |= {name for name in CASES if "namespace" in name}


def perform(name: str, uid: int = 0) -> list[Row]:
    """Do it, as this user; what is to be told of it."""
    if uid != os.getuid():
        return result_of(lambda: perform(name, uid), b"ks-attacker", uid)
    processes = Processes()
    try:
        rows = CASES[name](processes)
        time.sleep(0)
        return rows
    finally:
        processes.close()
