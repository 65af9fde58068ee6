"""Reasons why the daemon does not start: one line (what, why, what to do) and a documented exit code.

Each case is real, in a mount namespace or with fewer capabilities; tests/probe/test_loader.py has the cases that no
machine at hand can show.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from running import PRIVATE, UNSHARE

import killsnoopd

# Not the virtual environment's: a case's uid may not be able to read its folder.
PYTHON = str(Path(sys.executable).resolve())
DIST = "/usr/lib/python3/dist-packages"

# name: (shell commands to run before, program that starts the daemon, flags, exit code, part of the line)
CASES = {
    "an unknown flag": ("", "", "--nonsense", 2, "unrecognized arguments: --nonsense"),
    "a bad address": ("", "", "--web.listen-address=nowhere", 2, "'nowhere' is not an address"),
    "a host that does not resolve": ("", "", "--web.listen-address=host.invalid:1", 71, "cannot listen on host.invalid:1"),
    "an address of another machine": ("", "", "--web.listen-address=192.0.2.1:1", 71, "cannot listen on 192.0.2.1:1"),
    "a bad signal name": ("", "", "--events.exclude=signal=SIGNOPE", 2, "no such signal: 'SIGNOPE'"),
    "no socket from systemd": ("", "", "--web.systemd-socket", 71, "systemd passed no socket"),
    "pins that are not there": ("", "", "--probe.pin=/sys/fs/bpf/ks_none", 69, "is pinned at /sys/fs/bpf/ks_none/"),
    "pins that cannot be read": (
        "mkdir -m 700 $T/secret", "setpriv --reuid=65534 --clear-groups",
        "--probe.pin=$T/secret", 77, "not allowed to open ",
    ),
    "no process to be had": (
        "", "setpriv --reuid=65534 --clear-groups prlimit --nproc=0", "",
        71, "cannot start the loader (Resource temporarily unavailable)",
    ),
    "not root": ("", "setpriv --reuid=65534 --clear-groups", "", 77, "it needs CAP_BPF and CAP_PERFMON; run as root"),
    "no CAP_BPF": (
        "", "setpriv --bounding-set=-bpf,-sys_admin", "", 77, "it needs CAP_BPF and CAP_PERFMON",
    ),
    "no CAP_PERFMON": (
        "", "setpriv --bounding-set=-perfmon,-sys_admin", "", 77, "it needs CAP_BPF and CAP_PERFMON",
    ),
    "bcc missing": (
        f"mkdir $T/none; mount --bind $T/none {DIST}/bcc", "", "", 78, "bcc is missing for /usr/bin/python3",
    ),
    "systemd-python missing": (
        f"mount -t tmpfs tmpfs {DIST}/systemd", "", "", 78, "systemd is missing for /usr/bin/python3",
    ),
    "prometheus_client missing": (
        f"mount -t tmpfs tmpfs {DIST}/prometheus_client", "", "", 78, "): install python3-prometheus-client (Debian",
    ),
    "PyPI's bcc": (
        f"mkdir $T/lattice; echo 'class Lattice: pass' > $T/lattice/__init__.py; mount --bind $T/lattice {DIST}/bcc",
        "", "", 78, "is PyPI's lattice package, not the BPF Compiler Collection: pip uninstall bcc",
    ),
    "libbpf missing": (
        "touch $T/empty; for lib in /usr/lib/*/libbpf.so.1; do mount --bind $T/empty $lib; done",
        "", "", 78, "libbpf.so.1 is missing",
    ),
    "libbpf too old": (  # another library in its place
        "for lib in /usr/lib/*/libbpf.so.1; do mount --bind /usr/lib/*/libz.so.1 $lib; done",
        "", "", 78, "libbpf.so.1 is too old (",
    ),
    "seccomp refuses bpf(2)": (
        "", "$T/without-bpf 1", "", 77, "bpf(2) is refused (Operation not permitted) despite the capabilities: allow it in the seccomp",
    ),
    "seccomp does not know bpf(2)": (
        "", "$T/without-bpf 38", "", 77, "bpf(2) is refused (Function not implemented) despite the capabilities: ",
    ),
    "no BTF": ("mount -t tmpfs tmpfs /sys/kernel/btf", "", "", 69, "this kernel has no BTF"),
    "no tracefs": (
        "umount -R /sys/kernel/tracing; umount -R /sys/kernel/debug 2>&- || true", "", "",
        69, "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing",
    ),
    "a tracepoint missing": (
        "mount -t tmpfs tmpfs /sys/kernel/tracing; mkdir /sys/kernel/tracing/events", "", "",
        69, "this kernel has no tracepoint syscalls/sys_exit_kill",
    ),
}  # fmt: skip


# Runs a program under a seccomp filter in which bpf(2) fails with this errno, as a container's runtime does.
WITHOUT_BPF = f"""#!{PYTHON}
import ctypes, os, struct, sys
bpf = {{"x86_64": 321, "aarch64": 280}}[os.uname().machine]
# A = the call's number; allow it if it is another one; fail
code = b"".join(
    struct.pack("=HBBI", *line)
    for line in [(0x20, 0, 0, 0), (0x15, 1, 0, bpf), (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50000 | int(sys.argv[1]))]
)
filter = ctypes.create_string_buffer(code)
program = struct.pack("@HP", 4, ctypes.addressof(filter))
assert ctypes.CDLL(None).prctl(22, 2, program) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def public():
    """A copy of the package that everybody can read; commands know it as $T."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(Path(killsnoopd.__file__).parent, f"{folder}/killsnoopd")
        launcher = Path(folder) / "without-bpf"
        launcher.write_text(WITHOUT_BPF)
        launcher.chmod(0o755)
        yield folder


def in_namespace(public, before, program, command):
    """Run Python with these arguments in its own mount namespace; the commands before it may change mounts."""
    script = f"{PRIVATE}; {{ {before or ':'}; }} && cd / && exec {program} {PYTHON} {command}"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": public, "T": public, "OWN_SCRAPE": OWN_SCRAPE}
    return subprocess.run([*UNSHARE, script], capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.parametrize("case", CASES)
def test_refusal(case, public):
    """One line, the documented exit code, and nothing on stdout."""
    before, program, flags, code, says = CASES[case]
    if "--web.listen-address" not in flags:
        flags += " --web.listen-address=127.0.0.1:0"
    result = in_namespace(public, before, program, f"-m killsnoopd {flags}")
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("killsnoopd: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("no socket from systemd", "no process to be had")]
)
def test_check(case, public):
    """--check exits as a start does, and says in one of its lines what a start says."""
    before, program, flags, code, says = CASES[case]
    if "--web.listen-address" not in flags:
        flags += " --web.listen-address=127.0.0.1:0"
    result = in_namespace(public, before, program, f"-m killsnoopd --check {flags}")
    assert result.returncode == code, result.stdout + result.stderr
    if code == 2:
        assert says in result.stderr
        return
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert all(line.startswith(("found    ", "missing  ", "unknown  ")) for line in lines)
    found = [line for line in lines if line.startswith("missing  ") and "Without it: " in line]
    assert any(says in line for line in found), result.stdout


def test_check_of_a_machine_that_has_all(public):
    """Nothing that a start needs is missing; the probe was loaded."""
    result = in_namespace(public, "", "", "-m killsnoopd --check --web.listen-address=127.0.0.1:0")
    assert (result.returncode, result.stderr) == (0, "")
    assert "found    probe: loads, attaches and passes its self-test\n" in result.stdout
    assert "does not start" not in result.stdout


LOADER_CASES = {
    "no bpffs": ("umount /sys/fs/bpf 2>&- || true", "/sys/fs/bpf/ks", 69, "is not on bpffs: mount -t bpf bpf /sys/fs/bpf"),
    "not on bpffs": ("", "$T/ks", 69, "/ks is not on bpffs"),
    "bpffs read-only": (
        "mkdir $T/bpf; mount -t bpf -o mode=0500 bpf $T/bpf; mount -o remount,ro $T/bpf", "$T/bpf/ks",
        69, "cannot write ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOADER_CASES)
def test_loader_refusal(case, public):
    """The loader with --pin logs its line itself."""
    before, directory, code, says = LOADER_CASES[case]
    result = in_namespace(public, before, "", f"-m killsnoopd.probe.loader --pin {directory}")
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("killsnoopd-loader: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_debug_level_shows_what_the_verifier_said(public):
    """If the kernel refuses a probe: one line, and the verifier's last lines before it at debug level only."""
    source = Path(public) / "killsnoopd/bpf/counters.c"
    broken = "u64 *taken = slot_state_entry(table, TAKEN);"
    source.write_text(source.read_text().replace(broken, f"{broken} *(taken + 9) = 1;"))
    for level in ("info", "debug"):
        result = in_namespace(public, "", "", f"-m killsnoopd --web.listen-address=127.0.0.1:0 --log.level={level}")
        assert result.returncode == 70, result.stderr
        assert "refused the probe" in result.stderr.splitlines()[-1]
        assert (result.stderr.count("\n") == 1) == (level == "info")
        assert ("invalid access to map value" in result.stderr) == (level == "debug")


# The error in the source: (file, text, its replacement, part of the line).
BROKEN = {
    "calls as the kernel's": (
        "origin.c", "sending && is_code_of_call(code, own, running) ? SYSCALL", "false ? SYSCALL",
        "our own SIGURG was not counted; our own SIGURG was reported as (SIGURG from kernel to ",
    ),
    "another system call": (
        "registers.h", "(number == 62) /* by far", "(number == 62)\n\t\treturn TKILL;\n\tif (0) /* by far",
        "origin syscall, call tkill, result success",
    ),
    "another sender": (
        "event_scratch.c", "sender->pid = task->tgid;\n\tsender->tid", "sender->pid = 1;\n\tsender->tid", "reported as (0 from killsnoopd[1] to ",
    ),
    "another outcome": (
        "killsnoop.bpf.c", "event->outcome = outcome;", "event->outcome = LOSE_INFO;", "outcome lose_info), not as (SIGURG from ",
    ),
    "another result": (
        "killsnoop.bpf.c", "scratch->event.res = key.res;", "scratch->event.res = -3;", "result ESRCH",
    ),
    "no event of a call": (
        "killsnoop.bpf.c", "output_scratch(cpu, CALL, false, scratch);", "", "our own signal 0 made no event",
    ),
    "no event of a delivery": (
        "killsnoop.bpf.c", "output_scratch(cpu, DELIVERY, scratch->fatal, scratch);", "", "our own SIGURG made no event",
    ),
    "no count of a call": (
        "killsnoop.bpf.c", "count_call(cpu, &key, &scratch->cache);", "", "our own signal 0 was not counted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_probe_that_reports_our_own_signals_wrong(public, fault):
    """It is refused: the line says what was seen. The same would happen on a kernel that marks signals in a new way."""
    file, text, instead, says = BROKEN[fault]
    source = Path(public) / "killsnoopd/bpf" / file
    before = source.read_text()
    assert before.count(text) == 1
    source.write_text(before.replace(text, instead))
    result = in_namespace(public, "", "", "-m killsnoopd --web.listen-address=127.0.0.1:0")
    assert (result.returncode, result.stdout) == (70, ""), result.stderr
    assert result.stderr.startswith("killsnoopd: the probe failed its self-test: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_what_the_compiler_says(public):
    """Its error is the line; the debug level shows the rest."""
    source = Path(public) / "killsnoopd/bpf/counters.c"
    source.write_text(
        source.read_text().replace("u64 *taken = slot_state_entry(table, TAKEN);", "u64 *taken = nothing;")
    )
    for level in ("info", "debug"):
        result = in_namespace(public, "", "", f"-m killsnoopd --web.listen-address=127.0.0.1:0 --log.level={level}")
        assert result.returncode == 70, result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith("killsnoopd: bcc could not compile the probe: counters.c:")
        assert "nothing" in last
        assert (result.stderr.count("\n") == 1) == (level == "info")


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize(
    ("file", "text", "instead"),
    [
        ("daemon.py", "privileges.drop()", "privileges.dorp()"),
        ("probe/loader.py", "hooks.check(settings, chosen)", "hooks.dorp(settings)"),  # in another process
        ("privileges.py", "import ctypes\n", "import ctypes\n0 / 0 .dorp\n"),  # before anything is set up
    ],
)
def test_a_bug_is_one_line(public, file, text, instead, level):
    """Exit code 1, what and where, and the traceback that a report needs at debug level."""
    source = Path(public) / "killsnoopd" / file
    before = source.read_text()
    assert before.count(text) == 1
    source.write_text(before.replace(text, instead))
    result = in_namespace(public, "", "", f"-m killsnoopd --web.listen-address=127.0.0.1:0 --log.level={level}")
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    *traceback, line = result.stderr.splitlines()
    assert line.startswith("killsnoopd: a bug: AttributeError: ")
    assert f"no attribute 'dorp' at {Path(file).name}:" in line
    assert "report it" in line
    if level == "debug" and file != "privileges.py":
        assert "Traceback" in traceback[0]
    else:
        assert traceback == []


FULL = (
    "mount -t tmpfs tmpfs /mnt; cp -R $T/killsnoopd /mnt/; export PYTHONPATH=/mnt; "
    "for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o size=4k tmpfs $folder; cat /dev/zero > $folder/fill 2>&-; done; "
    "mount -o remount,bind,ro /; cd /; "
    f"! {PYTHON} -c 'import tempfile; tempfile.gettempdir()' 2>&-"
)


def test_from_a_folder_that_only_its_owner_can_read(public):
    """`sudo make run` in a home of mode 0700: without capabilities, root could not read a module there."""
    Path(public).chmod(0o700)
    shutil.chown(public, 65534)
    result = subprocess.run(
        [PYTHON, "-c", OWN_SCRAPE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": public},
        cwd="/",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("# EOF") == 1


# Runs the daemon in this process, and requests its page from a thread, in every format.
OWN_SCRAPE = """
import os, re, signal, sys, threading, time, urllib.request
from killsnoopd import daemon
from killsnoopd.web import server
ports = []
real = server.listen
def listen(addresses):
    sockets = real(addresses)
    ports.append(sockets[0].getsockname()[1])
    return sockets
server.listen = listen
def scrape():
    while True:
        try:
            url = f"http://127.0.0.1:{ports[0]}"
            for path, accept in [("/metrics", "*/*"), ("/metrics", "application/openmetrics-text"), ("/x", ""), ("/", "")]:
                request = urllib.request.Request(url + path, headers={"Accept": accept, "Accept-Encoding": "identity"})
                try:
                    with urllib.request.urlopen(request, timeout=20) as page:
                        print(page.read().decode())
                except urllib.error.HTTPError as error:
                    assert error.code == 404
            break
        except (IndexError, urllib.error.URLError):
            time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=scrape).start()
sys.exit(daemon.main(["--web.listen-address=127.0.0.1:0", "--events.target=none"]))
"""


FULL = (
    "mount -t tmpfs tmpfs /mnt; cp -R $T/killsnoopd /mnt/; export PYTHONPATH=/mnt; "
    "for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o size=4k tmpfs $folder; cat /dev/zero > $folder/fill 2>&-; done; "
    "mount -o remount,bind,ro /; cd /; "
    f"! {PYTHON} -c 'import tempfile; tempfile.gettempdir()' 2>&-"
)


def test_without_a_temporary_folder(public):
    """/tmp and /var/tmp are full and / is read-only: Python finds no place for a temporary file, and needs none."""
    result = in_namespace(public, FULL, "", '-c "$OWN_SCRAPE"')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("# EOF") == 1
