"""The DaemonSet of deploy/kubernetes on this kernel, each container with its own privileges."""

import contextlib
import copy
import re
import shutil
import subprocess
from pathlib import Path

import pod as kubernetes
import pytest
from cgroups import cgroup, cgroup2, pod_cgroup
from senders import run, send, victim
from test_powerless import our_programs, programs_of_a_probe
from waiting import wait_for

CONTAINER, POD_UID = "0123456789abcdef" * 4, "9f8a7c1e-0b2d-4c3e-8f10-a1b2c3d4e5f6"
PIN = "/sys/fs/bpf/killsnoopd-pod"
VARIANTS = [
    (),
    ("without-sys-admin",),
    ("linux-5.15",),
    ("localhost-seccomp",),
    ("without-sys-admin", "localhost-seccomp"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The image's files besides the distribution's packages."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run(
        ["make", "-C", kubernetes.TOP, "install", f"DESTDIR={root}", "PREFIX=/usr"], check=True, capture_output=True
    )
    return root


@pytest.fixture
def make_pod(tmp_path, installed, pins):
    """Pods with a folder of pins of their own."""

    def make(daemon_set, name="pod"):
        (tmp_path / "containers").mkdir(exist_ok=True)
        paths = {PIN: pins / "killsnoopd-pod", "/sys/fs/bpf": pins, "/var/log/containers": tmp_path / "containers"}
        return kubernetes.Pod(tmp_path / name, installed, daemon_set, paths, kubernetes.flags())

    return make


@pytest.fixture
def start_container(tmp_path):
    started = []

    def start(pod, name="killsnoopd"):
        folder = tmp_path / f"container{len(started)}"
        folder.mkdir()
        container = kubernetes.Running(pod, name, folder)
        started.append(container)
        container.wait_ready()
        return container

    yield start
    for container in started:
        container.stop()


def loader_and_daemon(daemon_set):
    pod = daemon_set["spec"]["template"]["spec"]
    return pod["initContainers"][0], pod["containers"][0]


@pytest.mark.parametrize("components", VARIANTS, ids=lambda names: "+".join(names) or "base")
def test_the_pod_counts_and_logs(make_pod, start_container, components):
    """The loader pins and ends; the unprivileged daemon counts a signal, and logs it with pids of the host."""
    pod = make_pod(kubernetes.daemon_set(*components))
    loaded = pod.run("loader")
    assert (loaded.returncode, loaded.stdout) == (0, ""), loaded.stderr
    assert "probe attached" in loaded.stderr
    daemon = start_container(pod)
    status = daemon.status()
    for held in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"{held}:\t{'0' * 16}\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status
    assert re.search(r"^NSpid:\t\d+\t1$", status, re.M)
    with victim() as target:
        sender = run(lambda: send("kill", target, 15), b"ks-pod")
        (event,) = wait_for(lambda: daemon.events("ks-pod"), "the event")
        assert (event["KILLSNOOP_PID"], event["KILLSNOOP_TPID"]) == (str(sender), str(target))
    assert event["KILLSNOOP_SIGNAL"] == "SIGTERM"
    page = daemon.get("/metrics")
    assert 'killsnoop_signals_total{comm="ks-pod",result="success",signal="SIGTERM"} 1.0' in page
    assert not re.search(r"^killsnoop_probe_attached\{.*\} 0", page, re.M)
    _, container = loader_and_daemon(kubernetes.daemon_set(*components))
    for probe in ("livenessProbe", "readinessProbe"):
        assert daemon.get(container[probe]["httpGet"]["path"]) == "killsnoopd is healthy.\n"
    assert daemon.stop() == 0


def test_a_pod_of_this_node(make_pod, start_container, tmp_path):
    """Its names come from the kubelet's links, which the daemon lists; also of a pod that starts later."""
    pod = make_pod(kubernetes.daemon_set())
    assert pod.run("loader").returncode == 0
    daemon = start_container(pod)
    link = tmp_path / f"containers/web-7d9c5b-x2x4q_shop_nginx-{CONTAINER}.log"
    link.symlink_to(f"/var/log/pods/shop_web-7d9c5b-x2x4q_{POD_UID}/nginx/0.log")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(cgroup2())
        for name in pod_cgroup("systemd", POD_UID, CONTAINER):
            folder = stack.enter_context(cgroup(folder, name))
        with victim() as target:
            (folder / "cgroup.procs").write_text(str(target))
            run(lambda: send("kill", target, 9), b"ks-kubectl")
        delivery, death = wait_for(lambda: (found := daemon.events("ks-kubectl"))[1:] and found, "both events")
    for event in (delivery, death):
        names = [
            event.get(f"KILLSNOOP_TARGET_{name}") for name in ("POD_NAMESPACE", "POD", "CONTAINER_NAME", "POD_UID")
        ]
        assert names == ["shop", "web-7d9c5b-x2x4q", "nginx", POD_UID]
    assert f"[{target}] (pod shop/web-7d9c5b-x2x4q): delivered" in delivery["MESSAGE"]
    assert re.search(r'^killsnoop_lookups_total{source="listing",what="pod"} [1-9]', daemon.get("/metrics"), re.M)
    logs = "import os; print(os.listdir('/var/log/containers'), os.path.exists('/var/log/pods'))"
    seen = subprocess.run(
        ["nsenter", "-t", str(daemon.pid), "-m", "/usr/bin/python3", "-c", logs],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout == f"{[link.name]} False\n"


@pytest.mark.parametrize("capability", ["BPF", "PERFMON"])
def test_the_loader_needs_each_capability(make_pod, capability):
    """On machines where SYS_ADMIN, which includes both others, is not required."""
    daemon_set = kubernetes.daemon_set("without-sys-admin")
    loader, _ = loader_and_daemon(daemon_set)
    loader["securityContext"]["capabilities"]["add"].remove(capability)
    result = make_pod(daemon_set).run("loader")
    assert (result.returncode, "needs CAP_BPF and CAP_PERFMON" in result.stderr) == (77, True)


def refused(make_pod, change):
    """Exit code and last line of a daemon in a changed container, with a correctly pinned probe."""
    daemon_set = kubernetes.daemon_set()
    changed = copy.deepcopy(daemon_set)
    change(changed)
    assert make_pod(daemon_set, "sound").run("loader").returncode == 0
    result = make_pod(changed, "changed").run("killsnoopd", timeout=30)
    return result.returncode, result.stderr


def test_the_default_seccomp_profile_wants_bpf_on_the_list(make_pod):
    """The daemon never has that capability, but without it in the list seccomp would forbid opening the pins."""

    def change(daemon_set):
        del loader_and_daemon(daemon_set)[1]["securityContext"]["capabilities"]["add"]

    code, said = refused(make_pod, change)
    assert code != 0
    assert "Operation not permitted" in said or "not allowed" in said


def test_the_pins_are_for_the_daemons_group_alone(make_pod):
    """A user on the node whose container mounts the same folder cannot read them."""

    def change(daemon_set):
        loader_and_daemon(daemon_set)[1]["securityContext"].update(runAsUser=65533, runAsGroup=65533)

    code, said = refused(make_pod, change)
    assert code != 0, said


def test_the_daemon_cannot_reach_what_the_probe_works_by(make_pod, pins):
    """They are hidden below an empty folder, and the daemon can neither remove nor replace the others."""
    daemon_set = kubernetes.daemon_set()
    _, container = loader_and_daemon(daemon_set)
    container["command"] = [
        "sh", "-c", "ls -A /run/killsnoopd/private; rm -r /run/killsnoopd/*; touch /run/killsnoopd/new /new; exit 3",
    ]  # fmt: skip
    pod = make_pod(daemon_set)
    assert pod.run("loader").returncode == 0
    before = sorted(pins.rglob("*"))
    result = pod.run("killsnoopd")
    assert (result.returncode, result.stdout) == (3, "")
    assert "Read-only file system" in result.stderr
    assert sorted(pins.rglob("*")) == before


def test_a_restarted_container_goes_on_counting(make_pod, start_container):
    """Kubernetes restarts a container without its init container: counts stay, and no event is missed."""
    pod = make_pod(kubernetes.daemon_set())
    assert pod.run("loader").returncode == 0
    with victim() as target:
        first = start_container(pod)
        run(lambda: send("kill", target, 15), b"ks-first")
        wait_for(lambda: first.events("ks-first"), "the event")
        assert first.stop() == 0
        run(lambda: send("kill", target, 15), b"ks-between")
        shutil.rmtree(Path(pod.folder) / "killsnoopd")
        second = start_container(pod)
        wait_for(lambda: second.events("ks-between"), "the event")
        page = second.get("/metrics")
    for comm in ("ks-first", "ks-between"):
        assert f'killsnoop_signals_total{{comm="{comm}",result="success",signal="SIGTERM"}} 1.0' in page


def test_memory_is_within_the_limits(make_pod, start_container):
    """The loader's peak leaves room for the maps of a large machine; the daemon at rest stays within its request."""
    daemon_set = kubernetes.daemon_set()
    loader, container = loader_and_daemon(daemon_set)
    measured = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    measuring = copy.deepcopy(daemon_set)
    loader_and_daemon(measuring)[0]["command"] = [
        "/usr/bin/python3", "-c",
        f"import subprocess; subprocess.run({loader['command']!r}, check=True); {measured}",
    ]  # fmt: skip
    result = make_pod(measuring, "measured").run("loader")
    assert result.returncode == 0, result.stderr
    limits = [kubernetes.quantity(each["resources"]["limits"]["memory"]) for each in (loader, container)]
    assert int(result.stdout) * 1024 < 0.75 * limits[0]
    daemon = start_container(make_pod(daemon_set))
    peak = int(re.search(r"^VmHWM:\s+(\d+) kB", daemon.status(), re.M)[1]) * 1024
    assert peak < kubernetes.quantity(container["resources"]["requests"]["memory"]) < limits[1]


def test_the_cleanup_leaves_nothing(make_pod, pins):
    """After uninstalling: no program in the kernel, no pin, no folder."""
    before = our_programs()
    assert make_pod(kubernetes.daemon_set()).run("loader").returncode == 0
    assert len(our_programs() - before) == programs_of_a_probe()
    (pins / "of_others").mkdir()
    result = make_pod(kubernetes.daemon_set(folder="cleanup"), "cleanup").run("remove")
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in pins.iterdir()] == ["of_others"]
    wait_for(lambda: our_programs() <= before, "the programs to go")


def test_the_own_seccomp_profile_closes_the_rest(make_pod):
    """It allows threads, but not namespaces, tracing or new files."""
    daemon_set = kubernetes.daemon_set("localhost-seccomp")
    _, container = loader_and_daemon(daemon_set)
    code = """\
import ctypes, errno, os, threading
thread = threading.Thread(target=lambda: None)
thread.start(), thread.join()
lib = ctypes.CDLL("libseccomp.so.2")
libc = ctypes.CDLL(None, use_errno=True)
for name in ("unshare", "mount", "ptrace", "perf_event_open", "process_vm_readv", "mkdirat", "unlinkat", "keyctl"):
    ctypes.set_errno(0)
    libc.syscall(lib.seccomp_syscall_resolve_name(name.encode()), -1, -1, -1, -1, -1)
    print(name, errno.errorcode[ctypes.get_errno()])
libc.syscall(lib.seccomp_syscall_resolve_name(b"clone"), 0x10000000 | 17, 0, 0, 0, 0)
print("clone", errno.errorcode[ctypes.get_errno()])
"""
    container["command"] = ["/usr/bin/python3", "-I", "-c", code]
    pod = make_pod(daemon_set)
    assert pod.run("loader").returncode == 0
    result = pod.run("killsnoopd")
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["EPERM"] * 9


def test_one_container_alone(make_pod, start_container):
    """docs/kubernetes.md's `docker run`: no capability once the probe is attached; it ends with the container."""
    before = our_programs()
    daemon_set = kubernetes.daemon_set()
    loader, container = loader_and_daemon(daemon_set)
    documented = (kubernetes.TOP / "docs/kubernetes.md").read_text().partition("docker run")[2].partition("\n\n")[0]
    loader["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": re.findall(r"--cap-add (\w+)", documented)}
    container["securityContext"] = loader["securityContext"] | {"runAsGroup": 0}
    container["command"] = ["/usr/bin/killsnoopd"]
    container["volumeMounts"] = [mount for mount in loader["volumeMounts"] if mount["name"] != "pins"]
    daemon = start_container(make_pod(daemon_set))
    assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\t(\w+)$", daemon.status(), re.M)) <= {
        "0" * 16,
        "000000c000200000",
    }
    assert "CapEff:\t0000000000000000" in daemon.status()
    assert "NoNewPrivs:\t1" in daemon.status()
    with victim() as target:
        run(lambda: send("kill", target, 15), b"ks-alone")
        wait_for(lambda: daemon.events("ks-alone"), "the event")
    assert daemon.stop() == 0
    wait_for(lambda: our_programs() <= before, "the programs to go")
