"""What the README walks through, step by step, and what it shows of each."""

from __future__ import annotations

import yaml

from ratchet.dev.building import REPOSITORY
from tests.e2e.world import RATCHET, World

EXAMPLES = REPOSITORY / "manifests" / "examples"
LABELS = "ratchet.state,ratchet.kind,ratchet.vni"


def walk_through(world: World, file: str) -> None:
    """Two pods of 2017 come up, linked as the nodes ask for, reach each other, and leave nothing."""
    world.kubectl("apply", "-f", "-", stdin=_example(file))
    world.wait("condition=Ready", "pod/primary-pod", "pod/pair-pod")
    kind = "vxlan" if file == "example.yaml" else "veth"
    device = world.device("primary-pod", "in1")
    assert device["linkinfo"]["info_kind"] == kind
    assert device["operstate"] in ("UP", "UNKNOWN")
    if kind == "vxlan":
        data = device["linkinfo"]["info_data"]
        assert (data["id"], data["remote"], data["port"]) == (world.vni(), world.b.address, 4789)
        assert device["mtu"] == 1450
    assert world.pings("primary-pod", "192.168.2.101")
    assert world.pings("pair-pod", "192.168.2.100")
    shown = world.kubectl("get", "configmap", "-n", RATCHET, "-L", LABELS)
    line = next(line for line in shown.splitlines() if line.startswith(world.namespace))
    assert {"linked", kind} <= set(line.split())
    world.delete_pods("primary-pod", "pair-pod")
    world.wait_until_nothing_is_left()


def _example(file: str) -> str:
    """An example of 2017, with an image that the nodes have, and a shell that is in it."""
    text = (EXAMPLES / file).read_text()
    text = text.replace("dougbtv/centos-network", "localhost/tools:1").replace("/bin/bash", "/bin/sh")
    return yaml.safe_dump_all(one for one in yaml.safe_load_all(text) if one)
