"""The examples as they are: each links its pods in one apply and after restarts, and leaves nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ratchet.dev.cluster.cluster import Cluster
from ratchet.dev.cluster.images import BUSYBOX, tools_image
from tests.e2e import examples
from tests.e2e.walkthrough import run_page
from tests.e2e.world import World, wait_for

LABELS, TOPOLOGY = "cloud-router/labels.yaml", "cloud-router/topology.yaml"
CLOS = "clos/clos.yaml"
LEAVES = {f"leaf-{number}": f"10.7.1.{number}" for number in range(4)}


pytestmark = pytest.mark.usefixtures("frr")


@pytest.fixture(scope="module", autouse=True)
def busybox(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build and load the image of the examples' other pods, under the name in the manifests."""
    archive = tmp_path_factory.mktemp("images") / "busybox.tar"
    tools_image(archive, BUSYBOX)
    cluster.load(archive)


def test_the_quick_start_page_works_as_written(world: World, tmp_path: Path) -> None:
    assert run_page(world, tmp_path, "quickstart.md", "## Link two pods", "## Next") == 8


def test_the_cloud_router_routes_with_the_labels_of_2017(world: World) -> None:
    examples.bring_up(world, LABELS, 3)
    check_end_to_end_route(world, "veth")
    replace_router(world, LABELS)
    check_end_to_end_route(world, "veth")
    examples.take_down(world, LABELS)


def test_the_cloud_router_routes_with_a_topology_created_last(world: World) -> None:
    backwards = examples.objects(TOPOLOGY)[::-1]
    world.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(backwards))
    examples.wait_until_up(world, TOPOLOGY, 3)
    check_end_to_end_route(world, "patch")
    replace_router(world, TOPOLOGY)
    check_end_to_end_route(world, "patch")
    examples.take_down(world, TOPOLOGY)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("file", "links"), [("ring/ring.yaml", 5), ("mesh/mesh.yaml", 15)])
def test_all_neighbours_reach_each_other(world: World, file: str, links: int) -> None:
    examples.bring_up(world, file, links)
    assert set(examples.kinds(world)) == {"patch", "vxlan"}
    examples.wait_until_reached(world, examples.neighbours(world, file))
    examples.restart(world, file, links)
    examples.wait_until_reached(world, examples.neighbours(world, file))
    examples.take_down(world, file)


@pytest.mark.timeout(200)
def test_the_clos_fabric_routes_between_leaves(world: World) -> None:
    examples.bring_up(world, CLOS, 8)
    assert set(examples.kinds(world)) == {"patch", "vxlan"}
    check_routes_between_leaves(world)
    examples.restart(world, CLOS, 8)
    check_routes_between_leaves(world)
    examples.take_down(world, CLOS)


def check_end_to_end_route(world: World, kind_on_one_node: str) -> None:
    assert examples.kinds(world) == [kind_on_one_node, kind_on_one_node, "vxlan"]
    for router in ("quagga-a", "quagga-b"):
        wait_for_adjacency(world, router)
    world.wait_for_ping("centosa", "192.168.4.101")
    assert "ttl=62" in world.kubectl("exec", "centosa", "--", "ping", "-c", "1", "192.168.4.101")
    traced = world.kubectl("exec", "centosa", "--", "traceroute", "-n", "192.168.4.101")
    hops = re.findall(r"^ *\d+ +([\d.]+)", traced, re.MULTILINE)
    assert hops == ["192.168.2.101", "192.168.3.101", "192.168.4.101"]
    examples.wait_until_reached(world, {"centosa": ["4.4.4.4"]}, {"centosa": "1.1.1.1"})


def wait_for_adjacency(world: World, router: str) -> None:
    command = ("exec", f"deployment/{router}", "--", "vtysh", "-c", "show ip ospf neighbor")
    wait_for(f"{router}'s adjacency", lambda: "Full/" in world.try_kubectl(*command).stdout)


def replace_router(world: World, file: str) -> None:
    """Delete a router's pod, and wait until its replacement is linked."""
    before = examples.uids(world)
    world.kubectl("delete", "pod", "-l", "app=quagga-a", "--wait")
    examples.wait_until_up(world, file, 3)
    assert len(examples.uids(world) - before) == 1


def check_routes_between_leaves(world: World) -> None:
    examples.wait_until_reached(world, examples.neighbours(world, CLOS))
    for leaf in LEAVES:
        wait_for_sessions(world, leaf)
    others = {leaf: [address for address in LEAVES.values() if address != own] for leaf, own in LEAVES.items()}
    examples.wait_until_reached(world, others, LEAVES)


def wait_for_sessions(world: World, leaf: str) -> None:
    wait_for(f"{leaf}'s sessions", lambda: sessions(world, leaf) == {"spine0", "spine1"})


def sessions(world: World, router: str) -> set[str]:
    """The interfaces over which a router has BGP sessions."""
    shown = world.try_kubectl("exec", router, "--", "vtysh", "-c", "show bgp ipv4 unicast summary json").stdout
    peers = json.loads(shown or "{}").get("peers", {})
    return {ifname for ifname, peer in peers.items() if peer["state"] == "Established"}
