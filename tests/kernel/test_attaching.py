"""The ways of attaching: what each sees, and what stops it."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cases import arm_kill, int_0x80_kill
from running import Daemon, load
from senders import NO_SUCH_PID, NUMBERS, forked, run, send, siginfo, victim

from killsnoopd.failure import Failure
from killsnoopd.probe import hooks, libbpf, ways
from killsnoopd.settings import ATTACH, Settings

FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
CALLS = 500


def works(way):
    """Whether system calls can be watched in this way here."""
    try:
        return ways.choose(Settings(attach=way))["sys_exit"] == way
    except Failure:
        return False


@pytest.fixture(scope="module", params=[way for way in ATTACH if os.geteuid() == 0 and works(way)])
def attached(request, tmp_path_factory):
    """(Daemon, way), for each way that this kernel has."""
    folder = tmp_path_factory.mktemp(request.param) / "daemon"
    daemon = Daemon(folder, ("--events.rate=0", f"--probe.attach={request.param}"))
    daemon.wait_ready()
    yield daemon, request.param
    daemon.stop()


# The loader, on a kernel that refuses the optional hook.
WITHOUT = """
import sys
from killsnoopd.probe import loader, ways
ways._attaches = lambda *_: False
sys.exit(loader.main(sys.argv[1:]))
"""


def test_the_optional_hook_comes_and_goes(start, pins):
    """The next version keeps the counts, whether the hook has become available or has been lost. Some machines never have it."""
    available = "out_of_memory" in ways.choose(Settings())
    load(pins)
    run(lambda: send("kill", NO_SUCH_PID, 15), b"ks-optional")
    for flag, program, expected in (("--events.rate=77", WITHOUT, False), ("--events.rate=78", None, available)):
        assert "keeps its counts" in load(pins, flag, program=program)
        daemon = start(flag, f"--probe.pin={pins}")
        hooks_told = {dict(labels)["hook"] for name, labels in daemon.samples() if name == "killsnoop_probe_hook_info"}
        assert ("out_of_memory" in hooks_told) == expected
        assert daemon.signals("ks-optional") == {("ks-optional", "SIGTERM", "ESRCH"): 1}
        assert daemon.stop() == 0


def way_of(daemon, hook="kill"):
    (found,) = [
        labels["way"]
        for labels in (dict(pairs) for name, pairs in daemon.samples() if name == "killsnoop_probe_hook_info")
        if labels["hook"] == hook
    ]
    return found


def test_the_way_is_told(attached):
    """On the page, and in the line at start."""
    daemon, way = attached
    assert way_of(daemon) == way
    assert f"watching kill ({way}), " in daemon.stderr.read_text()
    assert daemon.value("killsnoop_probe_attached", hook="kill") == 1


def test_every_call_is_seen(attached):
    """Each of the six, failed."""
    daemon, _ = attached

    def act():
        for call in NUMBERS:
            arguments = (NO_SUCH_PID, NO_SUCH_PID, 15) if "tg" in call else (-1 if "pidfd" in call else NO_SUCH_PID, 15)
            send(call, *arguments, *((ctypes.create_string_buffer(128),) if "info" in call else ()))

    run(act, b"ks-six")
    assert {event["KILLSNOOP_SYSCALL"] for event in daemon.events("ks-six")} == set(NUMBERS)
    assert sum(daemon.signals("ks-six").values()) == len(NUMBERS)


def test_a_failed_call_of_a_32_bit_program(attached, tmp_path):
    """Is seen at the kernel's function; the tracepoints leave such calls out."""
    daemon, way = attached
    if platform.machine() == "x86_64":
        run(lambda: int_0x80_kill(NO_SUCH_PID, 9), b"ks-compat-no")
    else:
        os.waitpid(forked(lambda: arm_kill(NO_SUCH_PID, 9, tmp_path / "ks-compat-no")), 0)
    found = [(event["KILLSNOOP_RESULT"], event["KILLSNOOP_COMPAT"]) for event in daemon.events("ks-compat-no")]
    assert found == ([] if way == "tracepoint" else [("ESRCH", "1")])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is an ABI of x86-64")
def test_a_failed_call_by_x32s_number(attached):
    """The same. Many kernels have no x32: there the call does not exist."""
    daemon, way = attached

    def act():
        result = libc.syscall(NUMBERS["kill"] | 0x40000000, NO_SUCH_PID, 15)
        os._exit(ctypes.get_errno() if result == -1 else 0)

    libc = ctypes.CDLL(None, use_errno=True)
    _, status = os.waitpid(forked(act, b"ks-x32"), 0)
    error = errno.errorcode[os.waitstatus_to_exitcode(status)]
    assert error in {"ESRCH", "ENOSYS"}
    seen = error == "ESRCH" and way != "tracepoint"
    assert daemon.signals("ks-x32") == ({("ks-x32", "SIGTERM", "ESRCH"): 1} if seen else {})


def refuse_kill():
    """A seccomp filter of this process: kill(2) fails with EPERM."""
    filters = b"".join(
        struct.pack("<HBBI", *words)
        for words in (
            (0x20, 0, 0, 0),  # A = the call's number
            (0x15, 0, 1, NUMBERS["kill"]),  # if it is kill
            (0x06, 0, 0, 0x00050001),  # return SECCOMP_RET_ERRNO | EPERM
            (0x06, 0, 0, 0x7FFF0000),  # return SECCOMP_RET_ALLOW
        )
    )
    code = ctypes.create_string_buffer(filters)
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_a_call_that_seccomp_refuses(attached):
    """Is seen by the tracepoints; it never reaches the kernel's function."""
    daemon, way = attached

    def act():
        refuse_kill()
        assert send("kill", NO_SUCH_PID, 15) == -1

    run(act, b"ks-seccomp")
    assert daemon.signals("ks-seccomp") == ({("ks-seccomp", "SIGTERM", "EPERM"): 1} if way == "tracepoint" else {})


CHOOSE = """
import sys
from killsnoopd import privileges
from killsnoopd.probe import loader, ways
from killsnoopd.settings import Settings
way = sys.argv[1]
ways.choose = lambda settings: {program: way if program == "sys_exit" else "tp_btf" for program in loader.hooks.PROGRAMS}
loader.choose_ways(Settings())
print(privileges.effective() >> privileges.CAP_SYS_ADMIN & 1)
"""


@pytest.mark.parametrize(
    ("way", "capabilities", "keeps"),
    [("tracepoint", "", 1), ("fexit", "", 0), ("kprobe", "", 0), ("fexit", "-perfmon", 1), ("fexit", "-bpf", 1)],
)
def test_the_loader_drops_cap_sys_admin(way, capabilities, keeps):
    """Unless a hook takes perf_event_open(2), or it has to stand for CAP_BPF and CAP_PERFMON."""
    prefix = ["setpriv", f"--bounding-set={capabilities}"] if capabilities else []
    command = [*prefix, sys.executable, "-c", CHOOSE, way]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{keeps}\n"


def test_two_probes_at_once(start):
    """Each counts every call, and goes on when the other is gone."""
    first, second = start(), start()
    run(lambda: [send("kill", NO_SUCH_PID, 9) for _ in range(CALLS)], b"ks-both")
    assert sum(first.signals("ks-both").values()) == sum(second.signals("ks-both").values()) == CALLS
    first.stop()
    run(lambda: [send("kill", NO_SUCH_PID, 9) for _ in range(CALLS)], b"ks-both")
    assert sum(second.signals("ks-both").values()) == 2 * CALLS


USERFAULTFD = 323 if platform.machine() == "x86_64" else 282
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04


@contextlib.contextmanager
def parked(count):
    """Threads that wait in rt_sigqueueinfo(2) for a page with its siginfo, which nobody gives them."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("QQQQ", address, mmap.PAGESIZE, 1, 0))
    threads = [threading.Thread(target=send, args=("rt_sigqueueinfo", NO_SUCH_PID, 15, address)) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
            os.read(fd, 32)  # struct uffd_msg: it waits
        yield
    finally:
        fcntl.ioctl(fd, UFFDIO_ZEROPAGE, struct.pack("QQQq", address, mmap.PAGESIZE, 0, 0))
        for thread in threads:
            thread.join()
        os.close(fd)


def missed(daemon):
    return daemon.value("killsnoop_probe_missed_total", program="sys_exit")


def test_tasks_that_wait_in_a_call(attached):
    """They hide nobody's calls, but where return probes share a pool of nodes: there each hidden call is counted as missed."""
    daemon, way = attached
    functions = len(hooks.functions(hooks.by_name("rt_sigqueueinfo"), way))

    def act():
        for _ in range(CALLS):
            send("rt_sigqueueinfo", NO_SUCH_PID, 9, siginfo(9))

    with parked(2 * functions * os.cpu_count() + 8):  # more than fprobe_init_rethook() has nodes for
        before = missed(daemon)
        run(act, b"ks-waits")
        counted = sum(daemon.signals("ks-waits").values())
        assert counted + missed(daemon) - before == CALLS
        assert (counted < CALLS) == (way == "kprobe" and ways.has_return_pool())
    run(act, b"ks-waited")
    assert sum(daemon.signals("ks-waited").values()) == CALLS


FUNCTIONS = [
    name
    for hook, way in (("kill", "fexit"), ("sched_process_exit", "fentry"), ("sched_process_exit", "kprobe"))
    for name in hooks.functions(hooks.by_name(hook), way)
]
TRACING = hooks.TRACEFS[0]


@contextlib.contextmanager
def by_bpf(way, at_return=True):
    """What bpftrace attaches."""
    with contextlib.ExitStack() as opened:
        counter = libbpf.create_counter()
        opened.callback(os.close, counter)
        code = ways.counting(counter)
        for name in FUNCTIONS if way == "fexit" else FUNCTIONS[:1]:
            kind = libbpf.function_exit(name) if way == "fexit" else libbpf.KPROBE_MULTI
            program = libbpf.load_program("tracer", kind, code, "GPL")
            opened.callback(os.close, program)
            link = (
                libbpf.link_tracing(program)
                if way == "fexit"
                else libbpf.link_kprobe_multi(program, tuple(FUNCTIONS), at_return)
            )
            opened.callback(os.close, link)
        yield


@contextlib.contextmanager
def by_kprobe_event(kind):
    """What `perf probe` sets up: p is an entry, r a return."""
    for name in FUNCTIONS:
        with (TRACING / "kprobe_events").open("a") as events:
            events.write(f"{kind}:ks_{kind}/{name} {name}\n")
    switch = TRACING / f"events/ks_{kind}/enable"
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text("0")
        for name in FUNCTIONS:
            with (TRACING / "kprobe_events").open("a") as events:
                events.write(f"-:ks_{kind}/{name}\n")


@contextlib.contextmanager
def by_ftrace(tracer):
    """ftrace's own tracers, of these functions."""
    instance = TRACING / f"instances/ks-{tracer}"
    instance.mkdir()
    try:
        (instance / "set_ftrace_filter").write_text("\n".join(FUNCTIONS))
        (instance / "current_tracer").write_text(tracer)
        yield
    finally:
        (instance / "current_tracer").write_text("nop")
        instance.rmdir()


TRACERS = {
    "fexit": lambda: by_bpf("fexit"),
    "kprobe.multi": lambda: by_bpf("kprobe", at_return=False),
    "kretprobe.multi": lambda: by_bpf("kprobe"),
    "kprobe event": lambda: by_kprobe_event("p"),
    "kretprobe event": lambda: by_kprobe_event("r"),
    "function": lambda: by_ftrace("function"),
    "function_graph": lambda: by_ftrace("function_graph"),
}


def usable(tracer):
    """Whether this kernel has it."""
    with contextlib.suppress(OSError), TRACERS[tracer]():
        return True
    return False


USABLE = [tracer for tracer in TRACERS if os.geteuid() == 0 and FUNCTIONS and usable(tracer)]


def counts_all(daemon, name):
    """Calls, and deaths: every one is counted."""
    before = daemon.deaths().get(("SIGKILL", "syscall"), 0)
    run(lambda: [send("kill", NO_SUCH_PID, 9) for _ in range(CALLS)], name.encode())
    for _ in range(10):
        with victim() as target:
            os.kill(target, signal.SIGKILL)
    assert daemon.signals(name) == {(name, "SIGKILL", "ESRCH"): CALLS}
    assert daemon.deaths()["SIGKILL", "syscall"] == before + 10


if USABLE:  # else the machine traces no functions at all; make test-matrix boots machines that do

    @pytest.mark.parametrize("tracer", USABLE)
    def test_another_tracer_comes_and_goes(attached, tracer):
        """At the same functions."""
        daemon, _ = attached
        number = USABLE.index(tracer)
        with TRACERS[tracer]():
            counts_all(daemon, f"ks-with-{number}")
        counts_all(daemon, f"ks-after-{number}")

    def test_other_tracers_were_there_before(start):
        """All of them: the way of attaching is the same, and stays when they go."""
        alone = ways.choose(Settings())["sys_exit"]
        with contextlib.ExitStack() as stack:
            for tracer in USABLE:
                stack.enter_context(TRACERS[tracer]())
            daemon = start()
            assert way_of(daemon) == alone
            counts_all(daemon, "ks-among")
        counts_all(daemon, "ks-alone")


def write(text):
    """Whether the kernel let us: it may refuse while a program is attached that it must run."""
    try:
        FTRACE.write_text(text)
    except OSError:
        return False
    return True


@pytest.fixture
def ftrace_off():
    """Turn it off, and on again after the test."""
    yield lambda: write("0")
    assert write("1")


if write("1"):  # else nothing can run them; make test-matrix boots machines where it can

    def test_ftrace_is_turned_off(start, ftrace_off):
        """Function hooks are still attached and count nothing: the page says so, and says when they count again."""
        daemon = start()
        off, by_function = ftrace_off(), way_of(daemon) != "tracepoint"
        run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-ftrace")
        counts = ("ks-ftrace", "SIGKILL", "ESRCH") in daemon.signals("ks-ftrace")
        assert counts == (daemon.value("killsnoop_probe_attached", hook="kill") == 1) == (not (off and by_function))
        assert daemon.value("killsnoop_probe_attached", hook="signal_generate") == 1
        assert write("1")
        run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-again")
        assert daemon.signals("ks-again") == {("ks-again", "SIGKILL", "ESRCH"): 1}
        assert daemon.value("killsnoop_probe_attached", hook="kill") == 1

    def test_a_start_while_ftrace_is_off(start, ftrace_off):
        """Tracepoints need no ftrace. A kernel may refuse to turn it off: systemd's own programs may need it."""
        off = ftrace_off()
        daemon = start()
        assert way_of(daemon) == "tracepoint" or not off
        run(lambda: send("kill", NO_SUCH_PID, 9), b"ks-no-ftrace")
        assert daemon.signals("ks-no-ftrace") == {("ks-no-ftrace", "SIGKILL", "ESRCH"): 1}
