"""Ratchet beside Multus: chained inside the network that Multus delegates to, or as an attachment of its own.

Multus is a stand-in (tests/support/multus.py). The runtime uses the first network of the folder by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS, CniResponse, Kubelet, Sandbox, finished
from ratchet.dev.hosts import ip
from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG
from ratchet.install.conflist import configure
from tests.support import multus
from tests.support.cluster import Cluster
from tests.support.faults import Rule, dropping

pytestmark = pytest.mark.skipif(
    not Path(DEBIAN_PLUGINS, "ptp").exists(), reason="needs Debian's containernetworking-plugins"
)

RATCHET = {"type": "ratchet", "wait": 30, "wait_policy": "require"}
EXAMPLE = Path(__file__).parents[2] / "manifests/examples/multus/attachment.yaml"
ATTACHMENT = {**json.loads(next(yaml.safe_load_all(EXAMPLE.read_text()))["spec"]["config"]), **RATCHET}
MASTER = "10-pods.conflist"
PLAIN = {"app": "web"}


@dataclass
class Node:
    """A node with Multus: its kubelet, its folder of network configurations, and the attachments of all pods."""

    kubelet: Kubelet
    folder: Path
    attachments: list[Path] = field(default_factory=list)
    thin: bool = False

    @property
    def conf_dir(self) -> Path:
        return self.folder / "net.d"

    def put_master(self, *chained: dict[str, Any], version: str = "1.0.0", main: dict[str, Any] | None = None) -> None:
        """Write the node's network: ptp, or the plugin `main`, and what is chained after it."""
        subnet = {"subnet": "10.88.0.0/24", "dataDir": str(self.folder / "leases")}
        ptp = {"type": "ptp", "ipam": {"type": "host-local", **subnet}}
        network = {"cniVersion": version, "name": "pods", "plugins": [main or ptp, *chained]}
        self.conf_dir.mkdir(exist_ok=True, parents=True)
        (self.conf_dir / MASTER).write_text(json.dumps(network))

    def attach(self, network: dict[str, Any]) -> None:
        """Add an attachment for all pods."""
        path = self.folder / f"attachment-{len(self.attachments)}.conf"
        path.write_text(json.dumps(network))
        self.attachments.append(path)

    def start_multus(self) -> str:
        """Start Multus, or restart it. Returns the name of the master's file that it chose."""
        multus.start(self.conf_dir, self.kubelet.bin_dir, self.attachments, thin=self.thin)
        return multus.choose_master(self.conf_dir).name

    def add(self, sandbox: Sandbox) -> CniResponse:
        response = self.call("ADD", sandbox)
        if response.status == 0:
            sandbox.result = response.json
        return response

    def call(self, command: str, sandbox: Sandbox | None = None, **changes: Any) -> CniResponse:
        return finished(self.kubelet.start(command, sandbox, **self.network(), **changes))

    def allocated_ips(self) -> list[str]:
        """The addresses that host-local has allocated and not yet released."""
        return sorted(path.name for path in (self.folder / "leases").glob("pods/10.88.*"))

    def network(self) -> dict[str, Any]:
        """The plugin that the runtime calls, and its configuration: those of the first file by name."""
        content = json.loads(min(self.conf_dir.iterdir()).read_text())
        (plugin,) = content.pop("plugins", [content])
        return {"plugin": plugin["type"], "config": {**content, **plugin}}


@dataclass
class Nodes:
    """Both nodes, and calls for pods on them."""

    cluster: Cluster
    a: Node
    b: Node

    def linked_pair(self) -> tuple[Sandbox, Sandbox]:
        """The two pods of 2017, added by Multus: the primary on `a`, the pair on `b`."""
        primary, pair = self.cluster.primary(self.a.kubelet), self.cluster.pair(self.b.kubelet)
        started = self.cluster.start("ADD", self.b.kubelet, pair, **self.b.network())
        assert self.a.add(primary).status == 0
        response = self.cluster.end(started)
        assert response.status == 0, response
        pair.result = response.json
        self.cluster.wait_until(State.LINKED)
        return primary, pair

    def delete(self, *pairs: tuple[Node, Sandbox]) -> None:
        """Call DEL, then remove the namespaces and the pods."""
        for node, sandbox in pairs:
            response = node.call("DEL", sandbox)
            assert (response.status, response.stdout) == (0, ""), response
            assert self.cluster.interfaces(sandbox) == []
            assert node.allocated_ips() == []
            self.cluster.bed.hosts.remove_namespace(sandbox.netns)
            self.cluster.bed.delete_pod(sandbox.pod)


@pytest.fixture
def nodes(cluster: Cluster, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(cluster, Node(cluster.a, tmp_path / "a"), Node(cluster.b, tmp_path / "b"))
    for node in (made.a, made.b):
        node.put_master()
    yield made
    for kubelet, sandbox in cluster.left():
        node = made.a if kubelet is cluster.a else made.b
        assert node.call("DEL", sandbox).status == 0
    for node in (made.a, made.b):
        for name in (multus.SHIM, multus.THIN):
            (node.kubelet.bin_dir / name).unlink(missing_ok=True)


def combine(nodes: Nodes, combination: str, *, thin: bool = False) -> None:
    """Set up both nodes, and start Multus."""
    for node in (nodes.a, nodes.b):
        node.thin = thin
        if combination == "chained":
            node.put_master(RATCHET)
        else:
            node.attach(ATTACHMENT)
        assert node.start_multus() == MASTER


@contextmanager
def script(node: Node, plugin: str, lines: str) -> Iterator[None]:
    """Within the block, the node has a plugin in shell that creates nothing."""
    path = node.kubelet.bin_dir / plugin
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{lines}\n")
    path.chmod(0o755)
    try:
        yield
    finally:
        path.unlink()


# Both combinations


@pytest.mark.parametrize(("combination", "thin"), [("chained", False), ("chained", True), ("attachment", False)])
def test_pods_are_linked_through_multus(nodes: Nodes, combination: str, thin: bool) -> None:
    combine(nodes, combination, thin=thin)
    cluster = nodes.cluster
    primary, pair = nodes.linked_pair()
    assert (sorted(cluster.interfaces(primary)), sorted(cluster.interfaces(pair))) == (["eth0", "in1"], ["eth0", "in2"])
    assert cluster.pings(primary, "192.168.2.101")
    assert len(nodes.a.allocated_ips()) == 1
    names = [one["name"] for one in (primary.result or {})["interfaces"] if one.get("sandbox")]
    assert names == (["eth0", "in1"] if combination == "chained" else ["eth0"])  # the result is the master's
    assert nodes.a.call("CHECK", primary).status == 0
    nodes.delete((nodes.a, primary), (nodes.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("combination", ["chained", "attachment"])
def test_check_finds_a_removed_link_through_multus(nodes: Nodes, combination: str) -> None:
    combine(nodes, combination)
    cluster = nodes.cluster
    primary, pair = nodes.linked_pair()
    with cluster.lock_link(nodes.a.kubelet):
        ip("-n", primary.netns, "link", "del", "in1")
        response = nodes.a.call("CHECK", primary)
    assert "link check failed for pod default/primary-pod" in response.error
    nodes.delete((nodes.a, primary), (nodes.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("combination", ["chained", "attachment"])
def test_a_pod_without_links_has_only_the_networks_of_multus(nodes: Nodes, combination: str) -> None:
    combine(nodes, combination)
    plain = nodes.cluster.pod("plain", PLAIN, nodes.a.kubelet)
    response = nodes.a.add(plain)
    assert response.status == 0, response
    assert nodes.cluster.interfaces(plain) == ["eth0"]
    lines = nodes.cluster.log_of(nodes.a.kubelet, response).splitlines()
    own = [line for line in lines if plain.container_id[:13] in line]
    assert own
    assert not any("the result has no address on" in line for line in own)
    assert nodes.a.call("CHECK", plain).status == 0
    nodes.delete((nodes.a, plain))
    nodes.cluster.assert_nothing_left()


@pytest.mark.parametrize("combination", ["chained", "attachment"])
def test_multus_undoes_a_failed_ratchet(nodes: Nodes, combination: str) -> None:
    """Start a pod whose peer never comes. The error names the peer, and nothing is left."""
    impatient = {**RATCHET, "wait": 0}
    if combination == "chained":
        nodes.a.put_master(impatient)
    else:
        nodes.a.attach({**ATTACHMENT, **impatient})
    nodes.a.start_multus()
    primary = nodes.cluster.primary(nodes.a.kubelet)
    response = nodes.a.add(primary)
    network = "pods" if combination == "chained" else "ratchet"
    assert f'error adding container to network "{network}"' in response.error
    assert "its peer has not joined: pod pair-pod" in response.error
    assert nodes.cluster.interfaces(primary) == []
    assert nodes.a.allocated_ips() == []
    nodes.cluster.assert_nothing_left()


@pytest.mark.parametrize("combination", ["chained", "attachment"])
def test_multus_undoes_ratchet_after_a_later_network_failed(nodes: Nodes, combination: str) -> None:
    patient = {**RATCHET, "wait": 0, "wait_policy": "proceed"}
    if combination == "chained":
        nodes.a.put_master(patient)
    else:
        nodes.a.attach({**ATTACHMENT, **patient})
    error = '{"cniVersion": "1.0.0", "code": 100, "msg": "no room"}'
    with script(nodes.a, "failing", f"[ $CNI_COMMAND != ADD ] || {{ echo '{error}'; exit 1; }}"):
        nodes.a.attach({"cniVersion": "1.0.0", "name": "last", "type": "failing"})
        nodes.a.start_multus()
        plain = nodes.cluster.pod("plain", PLAIN, nodes.a.kubelet)
        assert nodes.a.add(plain).error == 'Multus: error adding container to network "last": no room'
        assert nodes.cluster.interfaces(plain) == []
        assert nodes.a.allocated_ips() == []
        nodes.delete((nodes.a, plain))
    nodes.cluster.assert_nothing_left()


def test_a_link_must_not_have_the_name_that_multus_gives_the_attachment(nodes: Nodes) -> None:
    nodes.a.attach(ATTACHMENT)
    nodes.a.start_multus()
    primary = nodes.cluster.primary(nodes.a.kubelet, **{"ratchet.local_ifname": "net1"})
    response = nodes.a.add(primary)
    assert 'error adding container to network "ratchet"' in response.error
    assert "net1" in response.error
    assert nodes.cluster.interfaces(primary) == []
    nodes.cluster.assert_nothing_left()


def test_status_through_multus_is_that_of_ratchet(nodes: Nodes) -> None:
    """Multus asks its master alone, and only one of version 1.1.0, which Debian's ptp does not have."""
    with script(nodes.a, "main", ""):
        nodes.a.put_master(RATCHET, version="1.1.0", main={"type": "main"})
        nodes.a.start_multus()
        assert nodes.a.call("STATUS").status == 0
        address = nodes.a.kubelet.host.address
        nodes.cluster.faults.add(Rule(lambda sent: sent.remote == address, before=dropping, times=1000))
        assert "cannot serve ADD" in nodes.a.call("STATUS").error


# The installer beside Multus


def test_ratchet_is_not_installed_after_multus_and_a_restart_is_harmless(nodes: Nodes) -> None:
    assert nodes.a.start_multus() == MASTER
    with pytest.raises(RatchetError, match=r"the first network, 00-multus.conf, is the meta plugin multus-shim"):
        configure(nodes.a.conf_dir)
    assert nodes.a.start_multus() == MASTER
    plain = nodes.cluster.pod("plain", PLAIN, nodes.a.kubelet)
    assert nodes.a.add(plain).status == 0
    nodes.delete((nodes.a, plain))


@pytest.mark.parametrize("thin", [False, True])
def test_multus_delegates_to_an_earlier_install_of_ratchet(nodes: Nodes, thin: bool) -> None:
    """Multus takes Ratchet's file as its master, because that sorts first. The installer still follows the network."""
    for node in (nodes.a, nodes.b):
        node.thin = thin
        assert configure(node.conf_dir)
        assert node.start_multus() == CONFIG
        assert not configure(node.conf_dir)
        assert node.start_multus() == CONFIG
    primary, pair = nodes.linked_pair()
    assert sorted(nodes.cluster.interfaces(primary)) == ["eth0", "in1"]
    nodes.delete((nodes.a, primary), (nodes.b, pair))
    nodes.cluster.assert_nothing_left()


def test_the_installer_repairs_a_chain_that_calls_itself(nodes: Nodes) -> None:
    nodes.a.start_multus()
    chain_after_multus(nodes.a)
    assert nodes.a.start_multus() == CONFIG
    chain_after_multus(nodes.a)
    plain = nodes.cluster.pod("plain", PLAIN, nodes.a.kubelet)
    assert "multus is its own master" in nodes.a.add(plain).error
    assert configure(nodes.a.conf_dir)
    assert nodes.a.add(plain).status == 0
    nodes.delete((nodes.a, plain))


def chain_after_multus(node: Node) -> None:
    """Chain Ratchet after the first network, as the installer of 0.1.0 does."""
    first = json.loads((node.conf_dir / "00-multus.conf").read_text())
    head = {key: first.pop(key) for key in ("cniVersion", "name")}
    (node.conf_dir / CONFIG).write_text(json.dumps({**head, "plugins": [first, {"type": "ratchet"}]}))
