"""Ratchet beside Multus on a real runtime: chained in its master, or as an attachment that annotations of pods name.

Multus is a stand-in (tests/support/multus.py): with a daemon ("thick") on node-a, without one ("thin") on node-b.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.dev.cluster.cluster import Cluster
from ratchet.dev.cluster.controlplane import SERVER
from ratchet.dev.cluster.images import BUSYBOX, tools_image
from ratchet.dev.cluster.node import Node
from ratchet.install.chain import CONFIG
from tests.e2e import examples
from tests.e2e.conftest import MANIFESTS, deployed_with_overlay
from tests.e2e.world import PAIR, RATCHET, World, network_file, pod, primary, wait_for
from tests.support import multus

pytestmark = pytest.mark.timeout(400)  # with the deployments before and after a test

MASTER = "10-pods.conflist"
KUBECONFIG = "/etc/cni/net.d/multus.d/multus.kubeconfig"
EXAMPLE = "multus/attachment.yaml"
DEFINITIONS = "network-attachment-definitions.k8s.cni.cncf.io"
# As deployments/multus-daemonset.yml of Multus, with the part of the schema that the tests use.
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": DEFINITIONS},
    "spec": {
        "group": "k8s.cni.cncf.io",
        "scope": "Namespaced",
        "names": {
            "plural": "network-attachment-definitions",
            "singular": "network-attachment-definition",
            "kind": "NetworkAttachmentDefinition",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "properties": {"config": {"type": "string"}}}},
                    }
                },
            }
        ],
    },
}


def start_multus(node: Node) -> str:
    """Start Multus on a node, or restart it. Returns the name of the master's file that it chose."""
    kubeconfig = node.machine.folder / KUBECONFIG.lstrip("/")
    kubeconfig.parent.mkdir(exist_ok=True)
    node.credentials.write_kubeconfig(kubeconfig, "admin", SERVER)
    options = ["--kubeconfig", KUBECONFIG, *(["--thin"] if node.name == "node-b" else [])]
    command = [sys.executable, "-IS", multus.__file__, "/etc/cni/net.d", "/opt/cni/bin", *options]
    return node.machine.run(*command).strip()


def remove_multus(node: Node) -> None:
    """Remove all files of Multus, the configuration first: the runtime must not miss the plugin."""
    conf_dir, bin_dir = network_file(node).parent, node.machine.folder / "opt/cni/bin"
    for path in (*conf_dir.glob("00-multus.*"), bin_dir / multus.SHIM, bin_dir / multus.THIN):
        path.unlink(missing_ok=True)
    for folder in (conf_dir / "multus.d", kept(node)):
        shutil.rmtree(folder, ignore_errors=True)


def kept(node: Node) -> Path:
    """The folder in which Multus keeps the networks of each sandbox."""
    return node.machine.folder / "opt/cni/multus"


@pytest.fixture
def multus_with_chained(cluster: Cluster) -> Iterator[None]:
    """Start Multus on nodes whose network has Ratchet chained after it."""
    try:
        assert [start_multus(node) for node in cluster.nodes()] == [CONFIG, CONFIG]
        yield
    finally:
        for node in cluster.nodes():
            remove_multus(node)


@pytest.fixture
def multus_with_overlay(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """Deploy Ratchet by the overlay `multus`, start Multus, and load the image of the example's pods."""
    ratchet = World(cluster, RATCHET)
    tools_image(tmp_path / "busybox.tar", BUSYBOX)
    cluster.load(tmp_path / "busybox.tar")
    with deployed_with_overlay(cluster, "multus"):
        try:
            assert [start_multus(node) for node in cluster.nodes()] == [MASTER, MASTER]
            ratchet.apply(DEFINITION)
            ratchet.wait("condition=Established", f"crd/{DEFINITIONS}")
            yield
        finally:
            for node in cluster.nodes():
                remove_multus(node)
            ratchet.kubectl("delete", "crd", DEFINITIONS, "--ignore-not-found")


def files_of_pods(world: World) -> list[tuple[Path, Path]]:
    """For each pod of this namespace: the file of its address by host-local, and that of its networks by Multus."""
    nodes, found = {node.name: node for node in world.cluster.nodes()}, []
    for one in world.get("pod")["items"]:
        node = nodes[one["spec"]["nodeName"]]
        address = node.machine.folder / "var/lib/cni/networks/pods" / one["status"]["podIP"]
        container_id = address.read_text().split()[0]
        found.append((address, kept(node) / container_id))
    return found


def networks(world: World) -> list[Any]:
    """The networks that Multus has run for each pod of this namespace."""
    return [json.loads(path.read_text()) for _, path in files_of_pods(world)]


def delete_pods(world: World) -> None:
    """Delete all pods, and wait until nothing is left of them, also by Multus and by the other plugins."""
    files = [path for pair in files_of_pods(world) for path in pair]
    world.delete_pods()
    world.wait_until_nothing_is_left()
    wait_for("the files of the sandboxes are removed", lambda: not any(path.exists() for path in files))


@pytest.mark.usefixtures("multus_with_chained")
def test_multus_runs_ratchet_in_its_master(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR), pod("plain", "node-a", {}))
    world.wait("condition=Ready", "pod", "--all")
    world.wait_until_linked(1)
    interfaces = {name: world.interfaces(name) for name in ("p", "q", "plain")}
    assert interfaces == {"p": ["lo", "eth0", "in1"], "q": ["lo", "eth0", "in2"], "plain": ["lo", "eth0"]}
    device = world.device("p", "in1")
    assert (device["linkinfo"]["info_kind"], device["mtu"]) == ("vxlan", 1450)
    world.wait_for_ping("p", "10.99.1.2")
    assert world.pings("plain", world.address("q", "eth0"))
    types = [[[plugin["type"] for plugin in one["plugins"]] for one in found] for found in networks(world)]
    assert types == [[["bridge", "ratchet"]]] * 3

    # The installer still follows the network, and a restarted Multus finds the same master.
    file = network_file(world.a)
    file.unlink()
    wait_for("the installer configures the network again", file.exists)
    assert [one["type"] for one in json.loads(file.read_text())["plugins"]] == ["bridge", "ratchet"]
    assert [start_multus(node) for node in world.cluster.nodes()] == [CONFIG, CONFIG]
    world.apply(pod("r", "node-a", primary("s", 2)), pod("s", "node-a", PAIR))
    world.wait("condition=Ready", "pod", "--all")
    world.wait_until_linked(2)
    world.wait_for_ping("r", "10.99.2.2")
    assert world.pings("p", "10.99.1.2")
    delete_pods(world)


@pytest.mark.usefixtures("multus_with_overlay")
def test_multus_attaches_ratchet_to_the_pods_that_name_it(world: World) -> None:
    examples.bring_up(world, EXAMPLE, 1)
    for name in ("r1", "r2"):
        assert world.interfaces(name) == ["lo", "eth0", "eth1"]
    world.wait_for_ping("r1", "10.4.0.2")
    assert world.pings("r1", world.address("r2", "eth0"))
    assert [[one["name"] for one in found] for found in networks(world)] == [["pods", "ratchet"]] * 2
    assert world.pod_ips("r1") == [world.address("r1", "eth0")]

    assert [start_multus(node) for node in world.cluster.nodes()] == [MASTER, MASTER]
    check_pods_without_the_attachment(world)
    delete_pods(world)
    check_the_overlay_chained(world)


def check_pods_without_the_attachment(world: World) -> None:
    """Start a pod that asks for a link but has no attachment, its peer that has one, and a pod that asks for none."""
    pods = {
        "bare": pod("bare", "node-a", primary("peer")),
        "peer": pod("peer", "node-b", PAIR),
        "plain": pod("plain", "node-a", {}),
    }
    for name in ("peer", "plain"):
        pods[name]["metadata"]["annotations"] = {multus.ANNOTATION: "ratchet"}
    world.apply(*pods.values())
    world.wait("condition=Ready", *(f"pod/{name}" for name in pods))
    assert {name: world.interfaces(name) for name in pods} == {name: ["lo", "eth0"] for name in pods}
    assert world.states() == ["linked", "pending"]
    waiting = "--field-selector=reason=WaitingForPeer,involvedObject.name=peer"
    world.kubectl("wait", "--for=create", "event", waiting, "--timeout=20s")


def check_the_overlay_chained(world: World) -> None:
    """Apply the wrong overlay. Its installer reports Multus, and pods start as before."""
    World(world.cluster, RATCHET).kubectl("apply", "-k", str(MANIFESTS / "chained"))
    logs = ("logs", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-install", "--tail=-1")
    wait_for("the installer's report", lambda: "is the meta plugin multus" in world.try_kubectl(*logs).stdout, 90.0)
    assert [start_multus(node) for node in world.cluster.nodes()] == [MASTER, MASTER]
    world.apply(pod("after", "node-a", {}))
    world.wait("condition=Ready", "pod/after")
    assert world.interfaces("after") == ["lo", "eth0"]
    assert not any(network_file(node).exists() for node in world.cluster.nodes())
    delete_pods(world)
