"""Nodes without agents: the plugin has its own Python, and uses the installer's service account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.cluster.cluster import Cluster
from ratchet.install.bundle import BUNDLES
from tests.e2e.conftest import deployed_with_overlay
from tests.e2e.permissions import no_denied_and_no_unused_permissions
from tests.e2e.walkthrough import walk_through
from tests.e2e.world import PAIR, RATCHET, World, network_file, pod, primary, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("daemonless")]


def installed(cluster: Cluster) -> list[str]:
    """Ratchet's files on the nodes."""
    found = []
    for node in cluster.nodes():
        plugins, networks = node.machine.folder / "opt/cni/bin", node.machine.folder / "etc/cni/net.d"
        paths = [*plugins.glob("ratchet*"), *networks.glob("ratchet.d/*"), network_file(node)]
        found += [f"{node.name}: {path.name}" for path in paths if path.exists()]
    return found


@pytest.fixture(scope="module")
def daemonless(cluster: Cluster) -> Iterator[None]:
    with deployed_with_overlay(cluster, "daemonless"):
        yield
        World(cluster, RATCHET).kubectl("delete", "daemonset", "ratchet-install", "--wait")
        wait_for("the nodes are as they were", lambda: installed(cluster) == [])


@pytest.mark.parametrize("file", ["example.yaml", "example-one-node.yaml"])
def test_the_example_of_2017_is_linked_without_agents(world: World, file: str) -> None:
    assert [one["metadata"]["name"] for one in world.get("daemonset", "-n", RATCHET)["items"]] == ["ratchet-install"]
    walk_through(world, file)


def test_a_waiting_plugin_uses_no_library_of_the_node(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")))
    wait_for("the plugin waits", lambda: world.states() == ["primary-ready"])
    # Other calls may run too, and may end before their maps are read.
    running = f"$(pgrep -f '{BUNDLES}/.*/[p]lugin.py')"
    mapped = world.a.machine.run("sh", "-c", f"for each in {running}; do cat /proc/$each/maps || true; done")
    libraries = {line.split()[-1] for line in mapped.splitlines() if ".so" in line}
    assert libraries
    assert {path for path in libraries if not path.startswith(f"/opt/cni/bin/{BUNDLES}/")} == set()
    world.apply(pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    assert world.pings("p", "10.99.1.2")


def test_a_topology_links_pods_without_declarations_of_their_own(world: World) -> None:
    links = '- endpoints: ["a:in1", "b:in2"]\n  addresses: ["10.0.1.1/24", "10.0.1.2/24"]\n'
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    world.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"links": links}})
    world.apply(pod("a", "node-a", {"ratchet": "true"}), pod("b", "node-b", {"ratchet": "true"}))
    world.wait("condition=Ready", "pod/a", "pod/b")
    assert world.pings("a", "10.0.1.2")


def test_the_installer_account_uses_exactly_its_permissions(world: World) -> None:
    with no_denied_and_no_unused_permissions(world, "ratchet-install"):
        world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR), pod("plain", "node-a", {}))
        world.wait("condition=Ready", "pod/p", "pod/q", "pod/plain")
        world.rollout_restart("ratchet-install")
        assert world.pings("p", "10.99.1.2")
        world.delete_pods()
        world.wait_until_nothing_is_left()
