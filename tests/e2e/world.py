"""The cluster as an end-to-end test sees it: a namespace through kubectl, and the files of the nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.dev import testbed
from ratchet.dev.cluster.cluster import Cluster
from ratchet.dev.cluster.node import Node
from ratchet.errors import RatchetError
from ratchet.install import CONFIG

Json = dict[str, Any]

KUBECTL = Path(sys.executable).with_name("kubectl")
RATCHET = "ratchet"


def wait_for(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """The testbed's `wait_for` with a longer timeout, because real pods and kubelets take longer."""
    testbed.wait_for(what, holds, seconds)


def primary(pair: str, number: int = 1) -> dict[str, str]:
    """Labels that link `in1` of a pod with `in2` of another pod, at 10.99.<number>.1 and .2."""
    return {
        "ratchet": "true",
        "ratchet.primary": "true",
        "ratchet.pair_name": pair,
        "ratchet.local_ifname": "in1",
        "ratchet.local_ip": f"10.99.{number}.1",
        "ratchet.pair_ifname": "in2",
        "ratchet.pair_ip": f"10.99.{number}.2",
    }


PAIR = {"ratchet": "true", "ratchet.primary": "false"}
CONTAINER = {"name": "main", "image": "localhost/tools:1", "imagePullPolicy": "Never"}


def template(labels: Mapping[str, str], **spec: Any) -> Json:
    """A pod template with the image that the nodes have."""
    return {
        "metadata": {"labels": dict(labels)},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [CONTAINER],
            "automountServiceAccountToken": False,
            **spec,
        },
    }


def pod(name: str, node: str, labels: Mapping[str, str], **spec: Any) -> Json:
    made = template(labels, nodeSelector={"kubernetes.io/hostname": node}, **spec)
    made["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **made}


@dataclass(frozen=True, slots=True)
class World:
    """A namespace of a cluster."""

    cluster: Cluster
    namespace: str

    @property
    def a(self) -> Node:
        return self.cluster.nodes()[0]

    @property
    def b(self) -> Node:
        return self.cluster.nodes()[1]

    def node(self, name: str) -> Node:
        return next(one for one in self.cluster.nodes() if one.name == name)

    # kubectl

    def try_kubectl(self, *arguments: str, stdin: str = "", seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        command = [str(KUBECTL), "--kubeconfig", str(self.cluster.kubeconfig), "-n", self.namespace, *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, input=stdin, timeout=seconds)

    def kubectl(self, *arguments: str, stdin: str = "", seconds: float = 120.0) -> str:
        done = self.try_kubectl(*arguments, stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def ratchet(self, *arguments: str) -> str:
        """Run the `ratchet` command, and return its output."""
        command = [str(KUBECTL.with_name("ratchet")), *arguments, "--kubeconfig", str(self.cluster.kubeconfig)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"ratchet {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def wait(self, condition: str, *what: str, seconds: int = 60) -> None:
        self.kubectl("wait", f"--for={condition}", *what, f"--timeout={seconds}s", seconds=seconds + 10.0)

    def delete_pods(self, *names: str) -> None:
        self.kubectl("delete", "pod", "--wait", "--grace-period=1", *(names or ["--all"]))

    def get(self, *what: str) -> Json:
        return dict(json.loads(self.kubectl("get", *what, "-o", "json")))

    def rollout_restart(self, *daemon_sets: str) -> None:
        """Replace the pods of DaemonSets of Ratchet, one node after the other."""
        self.kubectl("rollout", "restart", "-n", RATCHET, *(f"daemonset/{name}" for name in daemon_sets))
        self.wait_for_rollout(*daemon_sets)

    def wait_for_rollout(self, *daemon_sets: str) -> None:
        for name in daemon_sets:
            self.kubectl("rollout", "status", "-n", RATCHET, f"daemonset/{name}", "--timeout=90s")

    def boot(self, node: Node) -> None:
        """Start a stopped node as after a reboot: only its files are kept."""
        node.machine.forget_boot()
        node.start(self.cluster.control_plane().machine, [one for one in self.cluster.nodes() if one != node])
        node.wait_for_containerd()
        node.start_kubelet()
        node.start_proxy()

    # Links

    def records(self) -> dict[str, Json]:
        """The data of the records of this namespace, by record names without the namespace."""
        listed = json.loads(self.kubectl("get", "configmap", "-n", RATCHET, "-l", "ratchet.state", "-o", "json"))
        prefix = f"{self.namespace}."
        items = {one["metadata"]["name"]: one["data"] for one in listed["items"]}
        return {name.removeprefix(prefix): data for name, data in items.items() if name.startswith(prefix)}

    def states(self) -> list[str]:
        return sorted(data["state"] for data in self.records().values())

    def vni(self) -> int:
        """The VNI of this namespace's only VXLAN."""
        (number,) = [int(data["vni"]) for data in self.records().values() if "vni" in data]
        return number

    def wait_until_linked(self, links: int, seconds: float = 60.0) -> None:
        wait_for(f"{links} links are linked", lambda: self.states() == ["linked"] * links, seconds)

    def pings(self, name: str, address: str) -> bool:
        return self.try_kubectl("exec", name, "--", "ping", "-n", "-c", "1", "-W", "2", address).returncode == 0

    def wait_for_ping(self, name: str, address: str, seconds: float = 30.0) -> None:
        wait_for(f"{name} reaches {address}", lambda: self.pings(name, address), seconds)

    def device(self, name: str, ifname: str) -> Json:
        """An interface in a pod as `ip -d link show` shows it."""
        return dict(json.loads(self.kubectl("exec", name, "--", "ip", "-j", "-d", "link", "show", ifname))[0])

    def interfaces(self, name: str) -> list[str]:
        """The names of the interfaces in a pod."""
        return [one["ifname"] for one in json.loads(self.kubectl("exec", name, "--", "ip", "-j", "link"))]

    def address(self, name: str, ifname: str) -> str:
        """The IPv4 address of an interface in a pod."""
        shown = json.loads(self.kubectl("exec", name, "--", "ip", "-j", "-4", "addr", "show", ifname))
        return str(shown[0]["addr_info"][0]["local"])

    def pod_ips(self, name: str) -> list[str]:
        """The addresses in a pod's status, which Services and other pods use."""
        return [one["ip"] for one in self.get("pod", name)["status"]["podIPs"]]

    # Leftovers

    def leftovers(self) -> list[str]:
        """The traces of this namespace's links in the API and on the nodes."""
        found = [f"record {name}" for name in self.records()]
        for node in self.cluster.nodes():
            sandboxes = node.machine.folder / "var/lib/cni/ratchet/sandboxes"
            paths = list(sandboxes.iterdir()) if sandboxes.is_dir() else []
            found += [f"{node.name}: {one.name}" for one in paths if f'"{self.namespace}"' in one.read_text()]
            tunnels = node.machine.run("ip", "-o", "link", "show", "type", "vxlan").splitlines()
            found += [f"{node.name}: {line}" for line in tunnels]
            found += [f"{node.name}: {line}" for line in self._panel_devices(node)]
        if not self.all_records():
            found += [f"Lease {name}" for name in self.vni_leases()]
        return found

    def _panel_devices(self, node: Node) -> list[str]:
        """The devices of this namespace's links in a node's patch panel."""
        if not (node.machine.folder / "run/netns/ratchet").exists():
            return []
        lines = node.machine.run("ip", "-n", "ratchet", "-o", "link", "show").splitlines()
        return [line for line in lines if f"alias ratchet/{self.namespace}." in line]

    def all_records(self) -> list[str]:
        return self.kubectl("get", "configmap", "-n", RATCHET, "-l", "ratchet.state", "-o", "name").split()

    def vni_leases(self) -> list[str]:
        names = self.kubectl("get", "lease", "-n", RATCHET, "-o", "name").split()
        return [name for name in names if "/vni-" in name]

    def wait_until_nothing_is_left(self, seconds: float = 60.0) -> None:
        try:
            wait_for("nothing is left", lambda: not self.leftovers(), seconds)
        except RatchetError as error:
            raise RatchetError(f"{error}: {self.leftovers()}") from error


def label_side(world: World, node: Node) -> None:
    """Set the label `ratchetside`, by which the examples of 2017 select a node."""
    world.kubectl("label", "node", node.name, f"ratchetside={('left', 'right')[node.number - 1]}")


def kill_agent(node: Node) -> None:
    """Send SIGKILL to the agent of a node. The kubelet starts it again."""
    node.machine.run("pkill", "-KILL", "-f", "/usr/local/bin/ratchet agent")


def network_file(node: Node) -> Path:
    """The path of the network configuration that Ratchet's installer writes on a node."""
    return node.machine.folder / "etc/cni/net.d" / CONFIG


def agent_metrics(node: Node) -> dict[str, float]:
    """The metrics of the agent on a node, by name and labels."""
    text = node.machine.run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9472/metrics")
    values = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in values}
