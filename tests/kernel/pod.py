"""A pod without Kubernetes: the containers of a DaemonSet, started from its YAML with the namespaces, mounts, capabilities
and seccomp filter that a container runtime would give them. The image is this machine's own /usr with the files of
`make install`; or, with IMAGE_ROOT, the root of a built image (`buildah mount`).
"""

import json
import os
import shlex
import subprocess
from pathlib import Path

import yaml
from running import PRIVATE
from waiting import wait_for

TOP = Path(__file__).parent.parent.parent
KUBERNETES = TOP / "deploy/kubernetes"
MIB = 1 << 20
UNITS = {"Ki": 1 << 10, "Mi": MIB, "Gi": 1 << 30}

# Calls that the default profiles of containerd (contrib/seccomp/seccomp_default.go, PR 7301) and Docker (moby PR 43987)
# allow only with a capability in the container's list, as far as they matter here. Our programs' other calls are allowed.
GATED = {
    "bpf": {"BPF", "SYS_ADMIN"},
    "perf_event_open": {"PERFMON", "SYS_ADMIN"},
    **{key: {"SYS_ADMIN"} for key in ("mount", "umount2", "unshare", "setns", "fsopen", "open_tree", "quotactl")},
    **{key: {"SYS_MODULE"} for key in ("init_module", "finit_module", "delete_module")},
    "chroot": {"SYS_CHROOT"},
    "open_by_handle_at": {"DAC_READ_SEARCH"},
    **{key: set() for key in ("keyctl", "add_key", "kexec_load", "pivot_root", "userfaultfd")},
}

# Installs a filter, given as JSON in OCI's format, then becomes the container's command. This is runc's order: without
# CAP_SYS_ADMIN, a filter takes no_new_privs, which is set before.
CONFINE = """\
import ctypes, json, os, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
def action(name, errno):
    return {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000 | errno}[name]
class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
OPS = ["", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"]
profile = json.loads(sys.argv[1])
default = profile.get("defaultErrnoRet", 1)
context = ctypes.c_void_p(lib.seccomp_init(action(profile["defaultAction"], default)))
lib.seccomp_attr_set(context, 3, 0)  # SCMP_FLTATR_CTL_NNP: it is set, or not, by the container
for rule in profile["syscalls"]:
    compares = [Compare(arg["index"], OPS.index(arg["op"]), arg["value"], arg.get("valueTwo", 0)) for arg in rule.get("args", [])]
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1:  # __NR_SCMP_ERROR: this libseccomp does not know it
            continue
        status = lib.seccomp_rule_add_array(
            context, action(rule["action"], rule.get("errnoRet", default)), number, len(compares), (Compare * len(compares))(*compares))
        if status:
            sys.exit(f"seccomp: {name}: {status}")
status = lib.seccomp_load(context)
if status:
    sys.exit(f"seccomp: {status}")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def merged(base, patch):
    """A strategic merge patch: objects merge by key, lists of objects by name, other lists are replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base[key], value) if key in base else value for key, value in patch.items()}
    if isinstance(base, list) and patch and isinstance(patch[0], dict):
        changes = {item["name"]: item for item in patch}
        return [merged(item, changes.get(item["name"], {})) for item in base]
    return patch


def daemon_set(*components, folder="base"):
    """The DaemonSet, with the patches of these components."""
    (found,) = documents(KUBERNETES / folder / "daemonset.yaml")
    for component in components:
        (patch,) = documents(KUBERNETES / "components" / component / "daemonset.yaml")
        found = merged(found, patch)
    return found


def flags():
    """ARGS in base/killsnoopd.env."""
    lines = (KUBERNETES / "base/killsnoopd.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))["ARGS"]


def quantity(text):
    """`64Mi` in bytes."""
    return int(text[:-2]) * UNITS[text[-2:]]


def seccomp_profile(pod, container):
    """The profile that the runtime would load for this container, in OCI's format."""
    context = container["securityContext"]
    profile = context.get("seccompProfile") or pod["securityContext"]["seccompProfile"]
    if profile["type"] == "Localhost":
        return json.loads((KUBERNETES / "components/localhost-seccomp" / profile["localhostProfile"]).read_text())
    assert profile["type"] == "RuntimeDefault"
    held = set(context["capabilities"].get("add", []))
    refused = [name for name, capabilities in GATED.items() if not capabilities & held]
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": refused, "action": "SCMP_ACT_ERRNO"}]}


class Pod:
    """The containers of a pod on this kernel; `host_paths` replaces each hostPath."""

    def __init__(self, folder, installed, daemon_set, host_paths, args=""):
        self.spec = daemon_set["spec"]["template"]["spec"]
        self.folder, self._installed, self._host_paths, self._args = folder, installed, host_paths, args
        folder.mkdir()

    def container(self, name):
        (found,) = [item for item in (*self.spec["initContainers"], *self.spec["containers"]) if item["name"] == name]
        return found

    def _host_path(self, volume):
        path = Path(self._host_paths.get(volume["path"], volume["path"]))
        if volume["type"] == "DirectoryOrCreate" and not path.exists():
            path.mkdir(mode=0o755)  # as the kubelet does before it starts any container
            path.chmod(0o755)
        assert path.is_dir()
        return path

    def _mounts(self, container, root):
        """Shell commands; those nearest to the root first, as runtimes sort them."""
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in sorted(container["volumeMounts"], key=lambda mount: mount["mountPath"].count("/")):
            at, volume = f"{root}{mount['mountPath']}", volumes[mount["name"]]
            yield f"mkdir -p {at}" if not mount["mountPath"].startswith("/run/killsnoopd/") else f"test -d {at}"
            if "hostPath" in volume:
                yield f"mount --bind {self._host_path(volume['hostPath'])} {at}"
            else:
                size = quantity(
                    volume["emptyDir"].get("sizeLimit", "1Mi")
                )  # where it is not in memory: a folder of the node's
                yield f"mount -t tmpfs -o mode=1777,nosuid,nodev,size={size} tmpfs {at}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {at}"

    def _image(self, root):
        """Shell commands: the image's files, below the runtime's own mounts."""
        if image := os.environ.get("IMAGE_ROOT"):
            return [
                "mkdir upper work",
                f"mount -t overlay -o lowerdir={image},upperdir={root}/upper,workdir={root}/work overlay {root}",
                f"cd {root}",
                "mkdir -p old",
            ]
        return [
            "mkdir usr etc proc sys dev run tmp var old",
            f"mount -t overlay -o lowerdir={self._installed}/usr:/usr overlay usr",
            "for at in bin sbin lib lib32 lib64 libx32; do [ ! -e /$at ] || ln -s usr/$at $at; done",
            "mount --bind /etc etc && mount -o remount,bind,ro etc",
        ]

    def command(self, name):
        """The container as one command line; it inherits file descriptors."""
        container = self.container(name)
        context, root = container["securityContext"], f"{self.folder}/{name}"
        Path(root).mkdir()
        script = [
            "set -e",
            PRIVATE,
            f"mount -t tmpfs -o mode=755 tmpfs {root}",
            f"cd {root}",
            *self._image(root),
            "mount -t proc -o nosuid,nodev,noexec proc proc",
            "mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys",
            "mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys",
            "mount -t tmpfs -o mode=755,nosuid tmpfs dev",
            "for at in null zero full random urandom; do touch dev/$at; mount --bind /dev/$at dev/$at; done",
            "ln -s /proc/self/fd dev/fd",
            *self._mounts(container, root),
            "pivot_root . old",
            "umount -l /old && rmdir /old",
            "mount -o remount,bind,ro /" if context["readOnlyRootFilesystem"] else ":",
            f'exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOSTNAME=pod ARGS="$ARGS" {shlex.join(self._confined(container))}',
        ]
        return [
            "env", f"ARGS={self._args}", "unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork",
            "--kill-child", "--net", "--ipc", "--uts", "--cgroup", "sh", "-c", "\n".join(script),
        ]  # fmt: skip

    def _confined(self, container):
        context = container["securityContext"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["privileged"] is False
        bounding = ",".join(["-all", *(f"+{name.lower()}" for name in context["capabilities"].get("add", []))])
        return [
            "setpriv", f"--reuid={context['runAsUser']}", f"--regid={context.get('runAsGroup', 0)}", "--clear-groups",
            f"--bounding-set={bounding}", "--inh-caps=-all",
            *([] if context["allowPrivilegeEscalation"] else ["--no-new-privs"]),
            "/usr/bin/python3", "-I", "-c", CONFINE, json.dumps(seccomp_profile(self.spec, container)),
            *container["command"],
        ]  # fmt: skip

    def run(self, name, timeout=120):
        """Run an init container until it ends."""
        return subprocess.run(
            self.command(name), capture_output=True, text=True, check=False, timeout=timeout, umask=0o022
        )  # fmt: skip


class Running:
    """A container that keeps running: its pid 1."""

    def __init__(self, pod, name, folder):
        self.stdout, self.stderr = folder / f"{name}.jsonl", folder / f"{name}.log"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.outer = subprocess.Popen(pod.command(name), stdout=out, stderr=err, umask=0o022)
        self.port = next(port["containerPort"] for port in pod.container(name)["ports"] if port["name"] == "metrics")
        self.pid = wait_for(self._first, "the container's first process")

    def _first(self):
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _in_pod(self, *command):
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", *command], capture_output=True, text=True, check=False, timeout=30
        )

    def wait_ready(self):
        up = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))"  # SIOCSIFFLAGS
        self._in_pod("/usr/bin/python3", "-I", "-c", up)
        wait_for(
            lambda: "metrics on" in self.stderr.read_text() or self.outer.poll() is not None, "the container to serve"
        )
        assert self.outer.poll() is None, self.stderr.read_text()

    def get(self, path):
        """The response to a request from inside the pod's network; raises AssertionError unless it is 200."""
        code = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
        result = self._in_pod("/usr/bin/python3", "-I", "-c", code, f"http://127.0.0.1:{self.port}{path}")
        assert result.returncode == 0, result.stderr
        return result.stdout

    def events(self, comm):
        """The JSON lines of this sender."""
        lines = [json.loads(line) for line in self.stdout.read_text().splitlines()]
        return [line for line in lines if line.get("KILLSNOOP_COMM") == comm]

    def status(self):
        return Path(f"/proc/{self.pid}/status").read_text()

    def stop(self):
        """Stop it as the kubelet does; its exit code."""
        if self.outer.poll() is None:
            os.kill(self.pid, 15)
        try:
            return self.outer.wait(30)
        finally:
            self.outer.kill()
