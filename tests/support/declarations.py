"""Pods x, y and z and the ways in which they declare links to each other."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ratchet.core.model import State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, Cluster
from tests.support.resync import held_at, records_at

ASKS = {"ratchet": "true"}
# Addresses of the two ends of a link.
X, Y = ["10.0.1.1/24", "10.0.2.1/24"], ["10.0.1.2/24", "10.0.2.2/24"]
TO_X, TO_Y = "10.0.1.1", "10.0.1.2"
# Seconds: enough for a peer that starts at the same time, and short if a test fails.
SHORT = {**CHAINED, "wait": 8}
TRY = {**CHAINED, "wait": 2}

Declaration = tuple[dict[str, str], dict[str, str]]
"""Labels and annotations of a pod."""
Placed = tuple[Kubelet, Sandbox]

NOTHING: Declaration = (ASKS, {})


def in_list(peer: str, addresses: Sequence[object], ifname: str = "in1", peer_ifname: str = "in1") -> Declaration:
    """A pod that declares a link in `ratchet.links`."""
    link = {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, "addresses": addresses}
    return ASKS, {"ratchet.links": json.dumps([link])}


def in_labels(peer: str, addresses: Sequence[list[str]], ifname: str = "in1", peer_ifname: str = "in1") -> Declaration:
    """A pod that declares a link in its labels, and the addresses in annotations."""
    labels = {
        **ASKS,
        "ratchet.primary": "true",
        "ratchet.pair_name": peer,
        "ratchet.local_ifname": ifname,
        "ratchet.pair_ifname": peer_ifname,
    }
    return labels, {"ratchet.local_ip": ",".join(addresses[0]), "ratchet.pair_ip": ",".join(addresses[1])}


def in_topology(one: str, other: str, addresses: Sequence[object] = (X, Y), **properties: object) -> str:
    """A topology with one link between two endpoints, `pod:interface`."""
    return f"- {json.dumps({'endpoints': [one, other], 'addresses': addresses, **properties})}\n"


def place(cluster: Cluster, name: str, declared: Declaration, node: Kubelet) -> Placed:
    """Create a pod, and a sandbox without a network."""
    labels, annotations = declared
    return node, cluster.pod(name, labels, node, **annotations)


def add_all(cluster: Cluster, *placed: Placed) -> None:
    """Call ADD for all pods concurrently, and assert that each succeeds before its short deadline."""
    calls = [cluster.start("ADD", *one, config=SHORT) for one in placed]
    answers = [cluster.end(call) for call in calls]
    for (_, sandbox), answer in zip(placed, answers, strict=True):
        assert answer.status == 0, f"{sandbox.pod.name}: {answer.stdout}"
        sandbox.result = answer.json


def restarted(cluster: Cluster, *placed: Placed) -> list[Placed]:
    """Give each pod a new sandbox: DEL for all pods, then ADD for all pods concurrently."""
    for node, sandbox in placed:
        assert node.delete(sandbox).status == 0
    again = [(node, cluster.sandbox(node, sandbox.pod)) for node, sandbox in placed]
    add_all(cluster, *again)
    return again


def assert_one_link(
    cluster: Cluster, one: Sandbox, other: Sandbox, ifnames: tuple[str, str] = ("in1", "in1"), address: str = TO_Y
) -> None:
    """Assert that the interfaces of two pods are the ends of one linked record, and of no other record."""
    bed, ends = cluster.bed, list(zip((one, other), ifnames, strict=True))
    for sandbox, ifname in ends:
        wait_for(f"the end of {sandbox.pod.name}", lambda at=(sandbox, ifname): bool(held_at(bed, *at)))  # type: ignore[misc]
    held = [record for end in ends for record in held_at(bed, *end)]
    assert [record.uid for record in held] == [held[0].uid] * 2, [record.name for record in held]
    cluster.wait_until(State.LINKED, held[0].name)
    named = [record for sandbox, ifname in ends for record in records_at(bed, sandbox.pod.name, ifname)]
    states = {record.name: derive(record) for record in named}
    assert states == {held[0].name: State.LINKED}, states
    for sandbox, ifname in ends:
        assert (shown := cluster.interfaces(sandbox)) == [ifname], f"{sandbox.pod.name} has the interfaces {shown}"
    wait_for(f"a ping from {one.pod.name}", lambda: cluster.pings(one, address))
