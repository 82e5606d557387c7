"""A node: a machine with containerd, the kubelet and kube-proxy, at the usual paths."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.dev.cluster import cgroups
from ratchet.dev.cluster.controlplane import ADDRESS, PREFIX, SERVER
from ratchet.dev.cluster.credentials import Credentials
from ratchet.dev.cluster.machine import Machine
from ratchet.dev.hosts import ip
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer

PLUGINS = Path("/usr/lib/cni")
PODS = "10.244.0.0/16"
PAUSE = "localhost/pause:1"
READY_SECONDS = 60.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "AWS_EC2_METADATA_DISABLED": "true",  # otherwise the kubelet queries the network for it
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One node. Its address is 10.250.0.<number>, its pod network is 10.244.<number>.0/24."""

    number: int
    machine: Machine
    credentials: Credentials
    programs: Path

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def address(self) -> str:
        return f"10.250.0.{self.number}"

    @property
    def pods(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def cgroup(self) -> str:
        """The name of its control group, unique among clusters."""
        return f"{self.machine.folder.parent.name}-{self.name}"

    def start(self, switch: Machine, others: list[Node]) -> None:
        """Start the machine and containerd, connected to the switch, with routes to the other nodes' pods."""
        self.machine.start()
        self._connect(switch, others)
        cgroups.make(self.cgroup)
        self._configure()
        self.start_containerd()

    def stop(self) -> None:
        """Kill all processes, as a power failure does. The files stay."""
        self.machine.stop()
        cgroups.remove(self.cgroup)

    def start_containerd(self) -> None:
        self.machine.start_daemon("containerd", ["containerd", "--config", "/etc/containerd/config.toml"], _ENVIRONMENT)

    def wait_for_containerd(self) -> None:
        socket = self.machine.folder / "run" / "containerd" / "containerd.sock"
        self.machine.wait_for_daemon("containerd", "containerd's socket", socket.exists, READY_SECONDS)

    def start_kubelet(self) -> None:
        """Start the kubelet, which waits for the API itself."""
        kubeconfig = self.credentials.write_kubeconfig(
            self.credentials.folder / f"{self.name}.kubeconfig", f"system:node:{self.name}", SERVER
        )
        self._start(
            "kubelet",
            "--config=/etc/kubelet.json",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        )

    def start_proxy(self) -> None:
        kubeconfig = self.credentials.write_kubeconfig(
            self.credentials.folder / f"{self.name}-proxy.kubeconfig", "system:kube-proxy", SERVER
        )
        options = ["--proxy-mode=iptables", f"--cluster-cidr={PODS}", "--oom-score-adj=0", "--conntrack-max-per-core=0"]
        self._start("kube-proxy", f"--kubeconfig={kubeconfig}", f"--hostname-override={self.name}", *options)

    def load(self, image: Path) -> None:
        """Import the image of an OCI archive into containerd. Raises RatchetError."""
        self.machine.run("ctr", "-n", "k8s.io", "images", "import", "-", stdin=image)

    def wait_until_ready(self, api: ApiServer) -> None:
        """Wait until the node is Ready. Raises RatchetError with the end of the kubelet's log."""
        self.machine.wait_for_daemon("kubelet", f"{self.name} Ready", lambda: is_ready(api, self.name), READY_SECONDS)

    def _start(self, name: str, *options: str) -> None:
        self.machine.start_daemon(name, [str(self.programs / name), *options], _ENVIRONMENT)

    def _connect(self, switch: Machine, others: list[Node]) -> None:
        """Create a vEth to the switch, with both ends in place: the host's namespace does not see it."""
        port = f"port{self.number}"
        # An earlier boot's vEth may still exist: the kernel removes a network namespace after its last process.
        switch.run("sh", "-c", f"ip link del {port} 2>&1 || ! ip link show {port} 2>&1")
        ip(*f"link add {port} netns {switch.pid} type veth peer name eth0 netns {self.machine.pid}".split())
        for line in (f"link set {port} master br0 up", f"route replace {self.pods} via {self.address}"):
            switch.run("ip", *line.split())
        for line in (
            f"addr add {self.address}/{PREFIX} dev eth0",
            "link set eth0 up",
            f"route add default via {ADDRESS}",
            *(f"route add {other.pods} via {other.address}" for other in others),
        ):
            self.machine.run("ip", *line.split())
        self.machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def _configure(self) -> None:
        etc, opt = self.machine.folder / "etc", self.machine.folder / "opt"
        (opt / "cni" / "bin").mkdir(parents=True, exist_ok=True)
        for plugin in PLUGINS.iterdir():
            shutil.copy(plugin, opt / "cni" / "bin")
        networks = etc / "cni" / "net.d"
        if not (etc / "kubelet.json").exists():  # the first boot: the files are copies of the host's /etc
            shutil.rmtree(networks, ignore_errors=True)
            networks.mkdir(parents=True)
            (networks / "10-pods.conflist").write_text(json.dumps(self._network(), indent=2))
        (etc / "containerd").mkdir(exist_ok=True)
        (etc / "containerd" / "config.toml").write_text(_CONTAINERD)
        (etc / "pods-resolv.conf").write_text("# there is no name server in this cluster\n")
        (etc / "kubelet.json").write_text(json.dumps(self._kubelet(), indent=2))

    def _network(self) -> Json:
        """The pod network before Ratchet is installed."""
        ranges = [[{"subnet": self.pods}]]
        ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    def _kubelet(self) -> Json:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": {"memory.available": "1Mi"},
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "clusterDNS": ["10.96.0.10"],
            "resolvConf": "/etc/pods-resolv.conf",
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "nodeStatusUpdateFrequency": "4s",
            "syncFrequency": "10s",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }


def is_ready(api: ApiServer, name: str) -> bool:
    try:
        conditions = api.get(f"/api/v1/nodes/{name}")["status"].get("conditions", [])
    except NotFoundError:
        return False
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


# Without `restrict_oom_score_adj` every sandbox fails if CAP_SYS_RESOURCE is missing.
_CONTAINERD = f"""\
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = false
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""
