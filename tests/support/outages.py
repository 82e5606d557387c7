"""Nodes that are cut off from the network, from each other, or not Ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import Hosts, ip
from ratchet.dev.testbed import Testbed


def set_node_ready(bed: Testbed, node: Kubelet, ready: bool) -> None:
    """Set the condition Ready of a Node object."""
    conditions = [{"type": "Ready", "status": str(ready), "reason": "Test"}]
    bed.api.patch(f"/api/v1/nodes/{node.host.name}/status", {"status": {"conditions": conditions}})


def port_of(hosts: Hosts, node: Kubelet) -> str:
    """The port of the switch that a node's eth0 is connected to."""
    peer = json.loads(ip("-j", "-n", node.host.netns, "link", "show", "eth0"))[0]["link_index"]
    ports = json.loads(ip("-j", "-n", hosts.switch, "link", "show"))
    return str(next(one["ifname"] for one in ports if one["ifindex"] == peer))


@contextmanager
def cut_off(hosts: Hosts, node: Kubelet) -> Iterator[None]:
    """Disconnect a node from the network within the block."""
    port, switch = port_of(hosts, node), hosts.switch
    ip("-n", switch, "link", "set", port, "down")
    try:
        yield
    finally:
        ip("-n", switch, "link", "set", port, "up")
