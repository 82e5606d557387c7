"""A cluster: start, stop and status."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ratchet.dev.building import Report
from ratchet.dev.cluster import binaries, cgroups, images
from ratchet.dev.cluster.controlplane import ControlPlane
from ratchet.dev.cluster.credentials import Credentials
from ratchet.dev.cluster.machine import Machine
from ratchet.dev.cluster.node import Node, is_ready
from ratchet.errors import RatchetError

FOLDER = Path("/var/tmp/ratchet-cluster")  # noqa: S108  # overlayfs wants a disk, which /tmp is not everywhere
NODES = ("node-a", "node-b")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster. All its state is in its folder."""

    folder: Path = FOLDER

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for the host."""
        return self.folder / "kubeconfig"

    @property
    def is_up(self) -> bool:
        return self.machine("control-plane").is_up

    def up(self, nodes: int, report: Report) -> None:
        """Start the cluster and wait until its nodes are Ready. On RatchetError nothing remains."""
        if self.is_up:
            raise RatchetError(
                f"cannot start a cluster in {self.folder}: one is up", details="`hack/cluster down` ends it"
            )
        if not 0 <= nodes <= len(NODES):
            raise RatchetError(f"cannot start a cluster of {nodes} nodes: it has at most {len(NODES)}")
        programs = binaries.kubernetes(report)
        self.down(lambda _: None)  # remains of a crash
        self.folder.mkdir(mode=0o700, parents=True)
        self._programs.symlink_to(programs)
        try:
            self._start([self._node(number) for number in range(1, nodes + 1)], report)
        except BaseException:
            self.down(report)
            raise

    def down(self, report: Report) -> None:
        """Stop all machines and remove all files."""
        for machine in self.machines():
            if machine.is_up:
                report(f"stopping {machine.name}")
            machine.stop()
        for number in range(1, len(NODES) + 1):
            cgroups.remove(self._node(number).cgroup)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def machines(self) -> list[Machine]:
        """The existing machines, the nodes first."""
        return [one for one in map(self.machine, (*NODES, "control-plane")) if one.folder.is_dir()]

    def nodes(self) -> list[Node]:
        """The nodes that the cluster was started with."""
        return [one for one in map(self._node, range(1, len(NODES) + 1)) if one.machine.folder.is_dir()]

    def control_plane(self) -> ControlPlane:
        return ControlPlane(self.machine("control-plane"), self._credentials, self.kubeconfig, self._programs)

    def load(self, image: Path) -> None:
        """Import the image of an OCI archive on every node."""
        for node in self.nodes():
            node.load(image)

    def _start(self, nodes: list[Node], report: Report) -> None:
        control = self.control_plane()
        report(f"starting the control plane: Kubernetes {binaries.kubernetes_version()}, logs in {self.folder}/*/log")
        control.start([node.name for node in nodes])
        for node in nodes:
            node.start(control.machine, [other for other in nodes if other != node])
        pause, tools = self.folder / "pause.tar", self.folder / "tools.tar"
        if nodes:
            images.pause_image(pause)
            images.tools_image(tools)
        control.wait_for_api()
        control.start_controllers()
        report("the API is ready; starting kubelets")
        with ThreadPoolExecutor() as executor:
            list(executor.map(lambda node: self._join(node, [pause, tools]), nodes))
        for node in nodes:
            node.wait_until_ready(control.api())
        control.wait_for_controllers()

    def _join(self, node: Node, archives: list[Path]) -> None:
        node.wait_for_containerd()
        for archive in archives:
            node.load(archive)
        node.start_kubelet()
        node.start_proxy()

    def status(self) -> list[str]:
        """A line for each machine and each of its daemons."""
        lines = []
        for machine in self.machines():
            ready = ""
            if machine.name in NODES and machine.is_up:
                ready = ", Ready" if is_ready(self.control_plane().api(), machine.name) else ", not Ready"
            lines.append(f"{machine.name}: {'up' if machine.is_up else 'down'}{ready}")
            lines += [f"  {name}: {'runs' if runs else 'has ended'}" for name, runs in machine.daemons().items()]
        return lines or [f"no cluster in {self.folder}"]

    @property
    def _credentials(self) -> Credentials:
        return Credentials(self.folder / "credentials")

    def machine(self, name: str) -> Machine:
        """A machine by its name: a node's name, or "control-plane"."""
        return Machine(name, self.folder / name)

    @property
    def _programs(self) -> Path:
        """The daemons of Kubernetes that the cluster was started with."""
        return self.folder / "programs"

    def _node(self, number: int) -> Node:
        return Node(number, self.machine(NODES[number - 1]), self._credentials, self._programs)
