"""deploy/kubernetes and deploy/container, compared with each other and with the rest of the project."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from killsnoopd import __version__
from killsnoopd.events.journal import JOURNAL_SOCKET

TOP = Path(__file__).parent.parent
FOLDER = TOP / "deploy/kubernetes"
COMPONENTS = sorted(path.parent for path in FOLDER.glob("components/*/kustomization.yaml"))
KUSTOMIZATIONS = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
DOCKERFILE = (TOP / "deploy/container/Dockerfile").read_text()
NAME = {"app.kubernetes.io/name": "killsnoopd"}
SCRAPE = (TOP / "deploy/prometheus/prometheus-kubernetes.yml").read_text()


def load(path):
    return yaml.safe_load((FOLDER / path).read_text())


def template(folder="base"):
    return load(f"{folder}/daemonset.yaml")["spec"]["template"]


def containers(folder="base"):
    spec = template(folder)["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def named(folder):
    """Files and folders that a kustomization names."""
    found = load(f"{folder.relative_to(FOLDER)}/kustomization.yaml")
    generators = [env for generator in found.get("configMapGenerator", []) for env in generator.get("envs", [])]
    patches = [patch["path"] for patch in found.get("patches", [])]
    return [*found.get("resources", []), *found.get("components", []), *patches, *generators]


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_each_kustomization_is_whole(folder):
    """Each file that it names exists, and it names every file beside it."""
    taken = {(folder / name).resolve() for name in named(folder)}
    assert all(path.exists() for path in taken)
    profiles = {(folder / "killsnoopd.json").resolve()}  # copied to the nodes
    beside = {path.resolve() for path in folder.iterdir()} - {(folder / "kustomization.yaml").resolve()}
    assert beside - profiles == {path for path in taken if path.is_file()}


def test_the_documentation_names_each_component():
    """The example uses only components that exist."""
    text = (TOP / "docs/kubernetes.md").read_text()
    assert set(re.findall(r"`components/([\w.-]+)`", text)) == {folder.name for folder in COMPONENTS}


def test_the_rules_are_prometheus_own():
    """prometheusrule.yaml is made from deploy/prometheus/rules, and is up to date."""
    made = subprocess.run([TOP / "scripts/prometheus-rule"], capture_output=True, text=True, check=True).stdout
    assert (FOLDER / "components/prometheus-rule/prometheusrule.yaml").read_text() == made, "make prometheus-rule"
    rules = [
        group
        for name in ("alerts", "recording")
        for group in yaml.safe_load((TOP / f"deploy/prometheus/rules/{name}.yml").read_text())["groups"]
    ]
    assert yaml.safe_load(made)["spec"]["groups"] == rules


def test_prometheus_finds_the_pods():
    """prometheus-kubernetes.yml, PodMonitor, Service and ServiceMonitor use the DaemonSet's label and port name."""
    (port,) = [port for container in containers() for port in container.get("ports", [])]
    assert (port["name"], port["containerPort"]) == ("metrics", 10035)
    assert NAME.items() <= template()["metadata"]["labels"].items()
    (job,) = yaml.safe_load(SCRAPE)["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod"}]
    keep = job["relabel_configs"][0]
    assert keep["source_labels"] == [
        "__meta_kubernetes_pod_label_app_kubernetes_io_name",
        "__meta_kubernetes_pod_container_port_name",
    ]
    assert keep["regex"] == f"{NAME['app.kubernetes.io/name']};{port['name']}"
    pods = load("components/pod-monitor/podmonitor.yaml")["spec"]
    services = load("components/service-monitor/servicemonitor.yaml")["spec"]
    service = load("components/service-monitor/service.yaml")
    for monitor, (endpoint,) in ((pods, pods["podMetricsEndpoints"]), (services, services["endpoints"])):
        assert monitor["selector"]["matchLabels"] == NAME
        assert endpoint["port"] == port["name"]
        assert monitor["sampleLimit"] == job["sample_limit"]
        # As in the scrape configuration: job and instance outlive the pod; no other label of the pod remains.
        assert NAME[monitor["jobLabel"]] == job["job_name"]
        replace, drop = endpoint["relabelings"]
        node = job["relabel_configs"][-1]
        assert (replace["sourceLabels"], replace["targetLabel"]) == (node["source_labels"], node["target_label"])
        assert {"pod", "container", "endpoint"} <= set(drop["regex"].split("|"))
    assert service["spec"]["selector"] == service["metadata"]["labels"] == NAME
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    (policy,) = load("components/network-policy/networkpolicy.yaml")["spec"]["ingress"]
    assert policy["ports"] == [{"protocol": "TCP", "port": port["name"]}]


def test_the_loader_has_what_its_unit_has():
    """The loader has its unit's capabilities. The daemon is not root, and gains nothing from the one in its list."""
    loader, daemon = containers()
    unit = (TOP / "deploy/killsnoopd-probe.service").read_text()
    bounding = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].split()
    assert [f"CAP_{name}" for name in loader["securityContext"]["capabilities"]["add"]] == bounding
    context = daemon["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF"]}
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    spec = template()["spec"]
    assert not any(spec[name] for name in ("hostNetwork", "hostPID", "hostIPC", "automountServiceAccountToken"))
    for container in (*containers(), *containers("cleanup")):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["privileged"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert {c["securityContext"]["runAsGroup"] for c in containers()} == {context["runAsUser"]}, "the pins' group"


def test_both_read_the_same_flags():
    """With different flags, the loader would pin a probe that the daemon does not look for."""
    assert len({json.dumps(container["env"]) for container in containers()}) == 1
    assert all(container["command"][-1].endswith(" $ARGS") for container in containers())


def test_what_the_pod_pins_is_what_the_cleanup_removes():
    """And leaves what the distribution's own package pins."""
    (pins,) = [volume["hostPath"]["path"] for volume in template()["spec"]["volumes"] if volume["name"] == "pins"]
    bpf = template("cleanup")["spec"]["volumes"][0]["hostPath"]["path"]
    (mount,) = containers("cleanup")[0]["volumeMounts"]
    assert containers("cleanup")[0]["command"] == ["/bin/rm", "-rf", pins.replace(bpf, mount["mountPath"], 1)]
    assert pins not in (TOP / "deploy/killsnoopd-probe.service").read_text()


def test_one_version():
    """In the image's label, in the build command of the documentation, and in the kustomizations."""
    assert re.search(r'image\.version="(.*)"', DOCKERFILE)[1] == __version__
    tags = re.findall(r"killsnoopd:(\d[\d.]*\d)", DOCKERFILE + (TOP / "docs/kubernetes.md").read_text())
    assert tags and set(tags) == {__version__}
    for folder in ("base", "cleanup"):
        assert load(f"{folder}/kustomization.yaml")["images"] == [{"name": "killsnoopd", "newTag": __version__}]
        assert {container["image"] for container in containers(folder)} == {"killsnoopd"}


def test_the_image():
    """Its user is the daemon's, its programs are where the pods expect them, and every copied file exists."""
    user, group = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M).groups()
    _, daemon = containers()
    assert (daemon["securityContext"]["runAsUser"], daemon["securityContext"]["runAsGroup"]) == (int(user), int(group))
    copied = "\n".join(re.findall(r"^COPY --from=build (.*)$", DOCKERFILE, re.M))
    for container in containers():
        program = re.search(r"exec (\S+)", container["command"][-1])[1]
        assert any(program.startswith(path.removeprefix("/out")) for path in copied.split()), program
    assert DOCKERFILE.count("FROM ") == 3 and "\nFROM scratch\n" in DOCKERFILE
    ignored = (TOP / "deploy/container/Dockerfile.dockerignore").read_text()
    context = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    sources = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M)
    assert set(sources) == context
    assert all((TOP / source).exists() for source in sources)


def test_the_container_without_kubernetes():
    """The Quadlet file and the `docker run` line ask for the same, and for the version's image."""
    quadlet = (TOP / "deploy/container/killsnoopd.container").read_text()
    docker = re.search(r"docker run ((?:.*\\\n)*.*)", (TOP / "docs/kubernetes.md").read_text())[1]
    loader, _ = containers()
    granted = {f"CAP_{name}" for name in loader["securityContext"]["capabilities"]["add"]}
    assert {f"CAP_{name}" for name in re.findall(r"--cap-add (\w+)", docker)} == granted
    assert set(re.search(r"^AddCapability=(.*)$", quadlet, re.M)[1].split()) == granted
    assert re.findall(r"-v (\S+)", docker) == re.findall(r"^Volume=(\S+)$", quadlet, re.M)
    assert re.findall(r"-p (\S+)", docker) == re.findall(r"^PublishPort=(\S+)$", quadlet, re.M)
    assert re.search(r"label=type:(\w+)", docker)[1] == re.search(r"^SecurityLabelType=(\w+)$", quadlet, re.M)[1]
    assert f"killsnoopd:{__version__}" in docker
    assert f"\nImage=localhost/killsnoopd:{__version__}\n" in quadlet
    for option in ("--user 0", "--cap-drop ALL", "--read-only"):
        assert option in docker
    for line in ("User=0", "DropCapability=all", "ReadOnly=true", "Notify=true"):
        assert f"\n{line}\n" in quadlet
    assert f"Volume={JOURNAL_SOCKET.parent}:{JOURNAL_SOCKET.parent}:ro" in quadlet


def test_the_seccomp_profile():
    """It allows what opening the pins takes, and no call that changes files, mounts or other processes."""
    profile = load("components/localhost-seccomp/killsnoopd.json")
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "bpf" in allowed
    assert not allowed & set(
        "perf_event_open ptrace mount umount2 unshare setns clone3 chroot unlink unlinkat mkdir mkdirat rename renameat "
        "renameat2 chmod fchmod chown init_module finit_module keyctl process_vm_readv process_vm_writev io_uring_setup "
        "userfaultfd".split()
    )
