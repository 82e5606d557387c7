"""Delegation as in 2017: Ratchet is the node's network, and calls flannel for pods without links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from ratchet.dev.cluster import binaries
from ratchet.dev.cluster.cluster import Cluster
from tests.e2e.conftest import MANIFESTS, deployed_with_overlay
from tests.e2e.world import PAIR, RATCHET, World, network_file, pod, primary, wait_for

SUBNET = """\
FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.{number}.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
"""


@pytest.fixture(scope="module")
def delegating(cluster: Cluster) -> Iterator[None]:
    """Nodes with the files of flannel's daemon, and Ratchet in place of their network."""
    plugin = binaries.flannel(print)
    folders = [node.machine.folder for node in cluster.nodes()]
    try:
        for node, folder in zip(cluster.nodes(), folders, strict=True):
            shutil.copy(plugin, folder / "opt/cni/bin")
            (folder / "run/flannel").mkdir()
            (folder / "run/flannel/subnet.env").write_text(SUBNET.format(number=node.number))
        with deployed_with_overlay(cluster, "delegating"):
            yield
    finally:
        for folder in folders:
            (folder / "opt/cni/bin/flannel").unlink(missing_ok=True)
            shutil.rmtree(folder / "run/flannel", ignore_errors=True)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("delegating")
def test_pods_without_links_get_the_flannel_network(world: World) -> None:
    world.apply(pod("x", "node-a", {}), pod("y", "node-b", {}))
    world.wait("condition=Ready", "pod/x", "pod/y")
    assert world.address("x", "eth0").startswith("10.244.1.")
    assert world.device("x", "eth0")["mtu"] == 1450
    world.wait_for_ping("x", world.address("y", "eth0"))
    reached = world.try_kubectl("exec", "x", "--", "nc", "-w", "3", "10.96.0.1", "443")
    assert reached.returncode == 0, f"no Service: {reached.stderr}"


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("delegating")
@pytest.mark.parametrize("other", ["node-b", "node-a"])
def test_pods_with_links_get_the_boot_network_and_their_links(world: World, other: str) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", other, PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    assert world.address("p", "eth0").startswith("10.245.0.")
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("delegating")
def test_the_agent_logs_why_containerd_rejects_a_loopback_boot_network(world: World) -> None:
    original = json.loads((MANIFESTS / "delegating" / "network.conf").read_text())
    with_loopback = json.dumps({**original, "boot_network": {"type": "loopback"}})

    def use(network: str) -> None:
        patch = json.dumps({"data": {"network.conf": network}})
        world.kubectl("patch", "-n", RATCHET, "configmap", "ratchet-network", "--type=merge", "-p", patch)
        world.rollout_restart("ratchet-install")
        kind = json.loads(network)["boot_network"]["type"]
        paths = [network_file(node) for node in world.cluster.nodes()]
        wait_for(f"{kind} on the nodes", lambda: all(f'"type": "{kind}"' in path.read_text() for path in paths))

    try:
        use(with_loopback)
        world.apply(pod("p", "node-a", primary("q")))
        refused = "reason=FailedCreatePodSandBox"
        world.kubectl("wait", "--for=create", "event", f"--field-selector={refused}", "--timeout=30s")
        logged = world.kubectl("logs", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-agent", "--tail=-1")
        assert "the result has no address on eth0: containerd will refuse" in logged
    finally:
        world.delete_pods()
        use(json.dumps(original))
