"""Nodes without an agent: the same pods, by a plugin that brings its own Python and has the installer's account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.cluster.cluster import Cluster
from ratchet.install.bundle import BUNDLES
from tests.e2e.conftest import deployed_instead
from tests.e2e.permissions import nothing_denied_and_nothing_unused
from tests.e2e.walkthrough import walk_through
from tests.e2e.world import PAIR, RATCHET, World, network_file, pod, primary, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("daemonless")]


def installed(cluster: Cluster) -> list[str]:
    """What there is of ours on the nodes."""
    found = []
    for node in cluster.nodes():
        plugins, networks = node.machine.folder / "opt/cni/bin", node.machine.folder / "etc/cni/net.d"
        paths = [*plugins.glob("ratchet*"), *networks.glob("ratchet.d/*"), network_file(node)]
        found += [f"{node.name}: {path.name}" for path in paths if path.exists()]
    return found


@pytest.fixture(scope="module")
def daemonless(cluster: Cluster) -> Iterator[None]:
    with deployed_instead(cluster, "daemonless"):
        yield
        World(cluster, RATCHET).kubectl("delete", "daemonset", "ratchet-install", "--wait")
        wait_for("the nodes are as they were", lambda: installed(cluster) == [])


@pytest.mark.parametrize("file", ["example.yaml", "example-one-node.yaml"])
def test_the_example_of_2017(world: World, file: str) -> None:
    assert [one["metadata"]["name"] for one in world.get("daemonset", "-n", RATCHET)["items"]] == ["ratchet-install"]
    walk_through(world, file)


def test_a_pod_waits_for_its_peer_with_no_library_of_the_node(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")))
    wait_for("the plugin waits", lambda: world.states() == ["primary-ready"])
    # There may be other calls than the one that waits, and they end when they like.
    running = f"$(pgrep -f '{BUNDLES}/.*/[p]lugin.py')"
    mapped = world.a.machine.run("sh", "-c", f"for each in {running}; do cat /proc/$each/maps || true; done")
    libraries = {line.split()[-1] for line in mapped.splitlines() if ".so" in line}
    assert libraries
    assert {path for path in libraries if not path.startswith(f"/opt/cni/bin/{BUNDLES}/")} == set()
    world.apply(pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    assert world.pings("p", "10.99.1.2")


def test_a_topology_links_pods_that_say_nothing_of_it(world: World) -> None:
    links = '- endpoints: ["a:in1", "b:in2"]\n  addresses: ["10.0.1.1/24", "10.0.1.2/24"]\n'
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    world.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"links": links}})
    world.apply(pod("a", "node-a", {"ratchet": "true"}), pod("b", "node-b", {"ratchet": "true"}))
    world.wait("condition=Ready", "pod/a", "pod/b")
    assert world.pings("a", "10.0.1.2")


def test_what_is_granted_is_used_and_what_is_used_is_granted(world: World) -> None:
    with nothing_denied_and_nothing_unused(world, "ratchet-install"):
        world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR), pod("plain", "node-a", {}))
        world.wait("condition=Ready", "pod/p", "pod/q", "pod/plain")
        world.roll("ratchet-install")
        assert world.pings("p", "10.99.1.2")
        world.delete_pods()
        world.wait_until_nothing_is_left()
