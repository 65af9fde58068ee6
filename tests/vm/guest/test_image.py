"""killsnoopd's image: as the pod of deploy/kubernetes, by the documented `docker run`, and as the Quadlet.

No registry is needed: the image is made of this machine's own files.
"""

import json
import re
import shlex
import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import drop_in, journal, kill_as, run, scrape, show, wait_for_another
from senders import send
from test_runtimes import HERE, assert_told, place, podman, tree  # noqa: F401 -- a fixture of these tests too
from waiting import wait_for

DEPLOY = Path("/input/deploy")
IMAGE = "killsnoopd:0.1.0"


@pytest.fixture(scope="module")
def image():
    """killsnoopd's image: what the package installed, with the libraries and the Python of this machine."""
    libraries = Path("/usr/lib/x86_64-linux-gnu")
    python = Path(shutil.which("python3")).resolve()
    modules = [
        *Path("/usr/lib/python3/dist-packages").rglob("*.so"),
        *Path(f"/usr/lib/{python.name}/lib-dynload").glob("*.so"),
    ]
    (bcc,) = libraries.glob("libbcc.so.0.*")
    programs = [f"/usr/bin/{name}" for name in ("dash", "rm", "sleep", python.name)]
    needed = re.findall(r"(/\S+) \(0x", run("ldd", *programs, str(bcc), *map(str, modules)))
    needed += [str(path) for path in libraries.glob("libbcc.so.0*")]
    needed.append(f"{libraries}/librt.so.1")  # bcc opens it by name
    files = {f"/usr{name.removeprefix('/usr')}" for name in needed} | {str(Path(name).resolve()) for name in needed}
    files = sorted(name for name in files if not name.startswith("/usr/lib64/"))
    folders = [
        "/usr/lib/python3",
        f"/usr/lib/{python.name}",
        "/usr/lib/killsnoopd",
        "/usr/lib64",
        "/bin",
        "/lib",
        "/lib64",
    ]
    programs += [f"/usr/bin/{name}" for name in ("sh", "python3", "killsnoopd", "killsnoop")]
    run("tar", "-cf", "/var/tmp/killsnoopd.tar", "--exclude=__pycache__", "-C", "/", *(name[1:] for name in (
        *files, *folders, *programs, "/etc/passwd", "/etc/group", "/etc/ld.so.cache",
    )))  # fmt: skip
    changes = ["ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", "USER 65532:65532", 'ENTRYPOINT ["/usr/bin/killsnoopd"]']
    for runtime in ("podman", "docker"):
        run(runtime, "import", *(f"--change={change}" for change in changes), "/var/tmp/killsnoopd.tar", IMAGE)
    Path("/var/tmp/killsnoopd.tar").unlink()


def manifest(folder, path):
    """A kustomization's objects, as far as `podman kube play` knows them, with what kustomize would change.

    Podman's liveness probe is curl in the container, which the image does not have.
    """
    base = DEPLOY / "kubernetes" / folder
    kustomization = yaml.safe_load((base / "kustomization.yaml").read_text())
    objects = [yaml.safe_load((base / name).read_text()) for name in kustomization["resources"]]
    for generator in kustomization.get("configMapGenerator", []):
        lines = [line for name in generator["envs"] for line in (base / name).read_text().splitlines()]
        data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        metadata = {"name": generator["name"]}
        objects.insert(0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for daemon_set in (found for found in objects if found["kind"] == "DaemonSet"):
        spec = daemon_set["spec"]["template"]["spec"]
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            container["image"] = IMAGE
            container.pop("livenessProbe", None)
    path.write_text(yaml.safe_dump_all(objects))


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def test_the_pod(image, tmp_path, victim):
    """deploy/kubernetes/base in Podman: its profiles of seccomp and AppArmor, its capabilities, its mounts."""
    manifest("base", tmp_path / "pod.yaml")
    run("podman", "kube", "play", str(tmp_path / "pod.yaml"))
    name = "killsnoopd-pod-killsnoopd"
    wait_for(lambda: "killsnoopd: killsnoopd 0.1.0: watching" in run("podman", "logs", name), "the daemon")
    found = json.loads(run("podman", "inspect", name))[0]
    pid = found["State"]["Pid"]
    process = status(pid)
    capabilities = {key: int(process[key][0], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")}
    assert capabilities == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0, "CapBnd": 1 << 39}
    assert (process["Uid"], process["NoNewPrivs"], process["Seccomp"]) == (["65532"] * 4, ["1"], ["2"])
    assert found["AppArmorProfile"].startswith("containers-default")
    assert list(Path(f"/proc/{pid}/root/run/killsnoopd/private").iterdir()) == []  # hidden
    infra = json.loads(run("podman", "inspect", f"{found['Pod'][:12]}-infra"))[0]["NetworkSettings"]["Networks"]
    (address,) = [network["IPAddress"] for network in infra.values()]
    with urllib.request.urlopen(f"http://{address}:10035/metrics", timeout=60) as response:
        assert b"killsnoop_probe_attached" in response.read()
    unit, target = victim
    with podman(f"kill -9 {target}; exec sleep 1000", host_pids=True) as (sender, names):
        assert_told(sender, names, {"UNIT": unit})  # by the host's killsnoopd

        def by_the_pod():
            lines = [line for line in run("podman", "logs", name).splitlines() if line.startswith("{")]
            return [event for event in map(json.loads, lines) if event.get("KILLSNOOP_TPID") == str(target)]

        events = wait_for(lambda: len(found := by_the_pod()) == 2 and found, "the pod's events")
        for event in events:
            assert (place(event), place(event, "TARGET_")) == (names, {"UNIT": unit})
    run("podman", "kube", "down", str(tmp_path / "pod.yaml"))
    assert list(Path("/sys/fs/bpf/killsnoopd-pod").iterdir())
    manifest("cleanup", tmp_path / "cleanup.yaml")
    run("podman", "kube", "play", str(tmp_path / "cleanup.yaml"))
    wait_for(lambda: not Path("/sys/fs/bpf/killsnoopd-pod").exists(), "no pin")
    run("podman", "kube", "down", str(tmp_path / "cleanup.yaml"))


@pytest.fixture
def no_other():
    """The host's killsnoopd is stopped, and with it its probe, until the test ends."""
    run("systemctl", "stop", "killsnoopd.socket", "killsnoopd.service")
    wait_for(lambda: show("killsnoopd-probe.service", "ActiveState") == "inactive", "the probe to be removed")
    yield
    run("systemctl", "start", "killsnoopd.service")
    wait_for_another()


def assert_watches_the_host(pid, victim):
    """The daemon in the container has no capability, answers on the host's port, and logs a kill to the host's journal:
    its entries."""
    process = status(pid)
    assert {process[key][0] for key in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    victim_unit, target = victim
    sender = kill_as("ks-host", lambda: send("kill", target, 9))
    assert_told(sender, HERE, {"UNIT": victim_unit}, target)
    entries = journal("--boot", f"KILLSNOOP_PID={sender}", f"KILLSNOOP_TPID={target}")
    assert {(entry["_PID"], entry["_UID"]) for entry in entries} == {(str(pid), "0")}
    page = scrape()
    assert page['killsnoop_signals_total{comm="ks-host",result="success",signal="SIGKILL"}'] == 1
    assert {value for name, value in page.items() if name.startswith("killsnoop_probe_exact{")} == {1}
    return entries


def documented(command):
    """The words of a command of docs/kubernetes.md, which is the only one that starts so."""
    text = Path("/input/docs/kubernetes.md").read_text().replace("\\\n", "")
    (line,) = re.findall(rf"^    ({command} .*)$", text, re.M)
    return shlex.split(line)


def test_docker_run(image, no_other, victim):
    """The line of docs/kubernetes.md, with Docker's own seccomp and AppArmor profiles."""
    docker, *arguments = documented("docker run")
    container = run(docker, arguments[0], "--detach", *arguments[1:]).split()[-1]
    try:

        def said():
            return run("docker", "logs", container)

        wait_for(lambda: ": watching " in said(), "the daemon", say=said)
        found = json.loads(run("docker", "inspect", container))[0]
        assert found["AppArmorProfile"] == "docker-default"
        assert_watches_the_host(found["State"]["Pid"], victim)
    finally:
        run("docker", "rm", "--force", container)


def test_the_quadlet(image, no_other, victim):
    """deploy/container/killsnoopd.container, by Podman's generator: a service, READY once the daemon is."""
    quadlet = Path("/etc/containers/systemd/killsnoopd.container")
    quadlet.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEPLOY / "container" / quadlet.name, quadlet)
    # Emulation is slow. The drop-in reloads systemd, which runs the generator.
    with drop_in("[Service]\nTimeoutStartSec=600\n"):
        try:
            assert show("killsnoopd.service", "FragmentPath").startswith("/run/systemd/generator/")
            run("systemctl", "start", "killsnoopd.service")
            found = json.loads(run("podman", "inspect", "systemd-killsnoopd"))[0]
            assert found["AppArmorProfile"].startswith("containers-default")
            entries = assert_watches_the_host(found["State"]["Pid"], victim)
            assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {"killsnoopd.service"}
        finally:
            run("systemctl", "stop", "killsnoopd.service")
            quadlet.unlink()
    assert run("podman", "ps", "--all", "--quiet", "--filter=name=systemd-killsnoopd") == ""
