"""What the installer does to a node: it stays behind a network that is configured anew, and takes itself away again."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import MANIFESTS, deploy
from tests.e2e.world import PAIR, RATCHET, World, pod, primary, wait_for


def test_a_network_that_is_configured_anew(world: World) -> None:
    folder = world.a.machine.folder / "etc/cni/net.d"
    original = (folder / "10-pods.conflist").read_text()
    changed = json.loads(original)
    changed["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})

    def types() -> list[str]:
        return [one["type"] for one in json.loads((folder / "00-ratchet.conflist").read_text())["plugins"]]

    try:
        (folder / "10-pods.conflist").write_text(json.dumps(changed))
        wait_for("ratchet stands behind it", lambda: types() == ["bridge", "portmap", "ratchet"])
        world.apply(pod("p", "node-a", primary("q")), pod("q", "node-a", PAIR))
        world.wait_until_linked(1)
    finally:
        (folder / "10-pods.conflist").write_text(original)
    wait_for("it follows", lambda: types() == ["bridge", "ratchet"])


@pytest.mark.timeout(300)
def test_what_is_uninstalled_leaves_nodes_as_they_were(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    folders = [node.machine.folder for node in world.cluster.nodes()]
    try:
        world.kubectl("delete", "-n", RATCHET, "-k", str(MANIFESTS / "chained"), "--wait", seconds=120)
        files = [
            folder / one for folder in folders for one in ("etc/cni/net.d/00-ratchet.conflist", "opt/cni/bin/ratchet")
        ]
        wait_for("what was installed is gone", lambda: not any(path.exists() for path in files))
        assert world.pings("p", "10.99.1.2"), "a link that stands was touched"
        world.apply(pod("plain", "node-a", {}))
        world.wait("condition=Ready", "pod/plain")
    finally:
        world.delete_pods()
        deploy(World(world.cluster, RATCHET), "chained")
