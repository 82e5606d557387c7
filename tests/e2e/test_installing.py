"""The installer: it follows changes of the node's network configuration, and uninstalls itself."""

from __future__ import annotations

import json

import pytest

from ratchet.dev.building import REPOSITORY
from ratchet.install import LAUNCHER
from tests.e2e.conftest import MANIFESTS, deploy, undeploy
from tests.e2e.world import PAIR, RATCHET, World, network_file, pod, primary, wait_for


@pytest.mark.parametrize("overlay", ["chained", "delegating", "daemonless", "multus"])
def test_the_api_server_accepts_every_overlay(world: World, overlay: str) -> None:
    options = ("--dry-run=server", "--validate=strict", "-k", str(REPOSITORY / "manifests" / "overlays" / overlay))
    done = World(world.cluster, RATCHET).try_kubectl("apply", *options)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installer_follows_a_changed_network_configuration(world: World) -> None:
    others = network_file(world.a).with_name("10-pods.conflist")
    original = others.read_text()
    changed = json.loads(original)
    changed["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})

    def types() -> list[str]:
        return [one["type"] for one in json.loads(network_file(world.a).read_text())["plugins"]]

    try:
        others.write_text(json.dumps(changed))
        wait_for("ratchet stands behind it", lambda: types() == ["bridge", "portmap", "ratchet"])
        world.apply(pod("p", "node-a", primary("q")), pod("q", "node-a", PAIR))
        world.wait_until_linked(1)
    finally:
        others.write_text(original)
    wait_for("it follows", lambda: types() == ["bridge", "ratchet"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("order", ["the installer first", "all at once"])
def test_uninstalling_removes_files_and_keeps_links_up(world: World, order: str) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    nodes = world.cluster.nodes()
    files = [*map(network_file, nodes), *(node.machine.folder / "opt/cni/bin" / LAUNCHER for node in nodes)]
    try:
        if order == "the installer first":
            undeploy(World(world.cluster, RATCHET), "chained")
            assert not any(path.exists() for path in files)
        else:
            world.kubectl("delete", "-n", RATCHET, "-k", str(MANIFESTS / "chained"), "--wait", seconds=120)
        wait_for("what was installed is gone", lambda: not any(path.exists() for path in files))
        assert world.pings("p", "10.99.1.2"), "a link that stands was touched"
        world.apply(pod("plain", "node-a", {}))
        world.wait("condition=Ready", "pod/plain")
    finally:
        world.delete_pods()
        deploy(World(world.cluster, RATCHET), "chained")
