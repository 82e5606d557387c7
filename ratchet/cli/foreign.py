"""Topologies of others as ours: containerlab's files, and meshnet-cni's Topology objects.

What cannot be carried over is told, and never left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.core.intent import values

Json = dict[str, Any]

# What containerlab means by these in the place of a node (containerlab.dev/manual/network).
_NO_NODES = {"host", "mgmt-net", "macvlan", "bridge", "ovs-bridge"}
_RESERVED = ("lo", "eth0")


@dataclass(slots=True)
class Imported:
    """The items of a topology of ours, and a line for each thing that is not in them."""

    links: list[Json] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(self, place: str, ends: Sequence[tuple[str, str]], properties: Mapping[str, Any]) -> None:
        """Take a link over, if its pods and interfaces can be called so here."""
        for name, ifname in ends:
            if name in _NO_NODES:
                self.dropped.append(f"{place}: {name} is no pod")
                return
            try:
                values.pod_name(name)
                values.interface_name(ifname, _RESERVED)
            except ValueError as cause:
                self.dropped.append(f"{place}: {cause}")
                return
        self.links.append({"endpoints": [f"{name}:{ifname}" for name, ifname in ends], **properties})


def from_containerlab(document: Mapping[str, Any]) -> Imported:
    """The links of a containerlab file, brief and extended (containerlab.dev/manual/topo-def-file).

    Raises ValueError where it is none.
    """
    topology = document.get("topology")
    if not isinstance(topology, dict):
        raise ValueError("it has no topology")  # noqa: TRY004  # of a file that is another's, not of a caller
    found = Imported()
    if topology.get("nodes"):
        found.dropped.append("topology.nodes: make pods of them; their kinds, images and settings are not carried over")
    for number, link in enumerate(_list(topology.get("links"))):
        place = f"topology.links[{number}]"
        if not isinstance(link, dict):
            found.dropped.append(f"{place}: it is no link")
            continue
        kind = link.get("type", "veth")
        if kind != "veth":
            found.dropped.append(f"{place}: links of type {kind} are not made")
            continue
        ends = [_containerlabs_end(one) for one in _list(link.get("endpoints"))]
        known = [one for one in ends if one is not None]
        if len(ends) != 2 or len(known) != 2:
            found.dropped.append(f"{place}: its endpoints are no two of node:interface")
            continue
        for key in sorted(set(link) - {"type", "endpoints", "mtu"}):
            found.dropped.append(f"{place}.{key}: it is not carried over")
        properties = {"mtu": link["mtu"]} if "mtu" in link else {}
        macs = [mac for _, _, mac in known]
        if any(macs):
            properties["mac"] = macs
        found.add(place, [(node, ifname) for node, ifname, _ in known], properties)
    return found


def from_meshnet(documents: Iterable[Mapping[str, Any]]) -> Imported:
    """The links of meshnet's Topology objects, each of which both of its pods have."""
    found = Imported()
    seen: set[frozenset[tuple[str, str]]] = set()
    for document in documents:
        name = (document.get("metadata") or {}).get("name", "")
        for number, link in enumerate(_list((document.get("spec") or {}).get("links"))):
            place = f"Topology {name}: links[{number}]"
            if not isinstance(link, dict):
                found.dropped.append(f"{place}: it is no link")
                continue
            ends = [(name, link.get("local_intf", "")), (link.get("peer_pod", ""), link.get("peer_intf", ""))]
            if ends[1][0] == "localhost":
                found.dropped.append(f"{place}: links to the node's own network are not made")
                continue
            if frozenset(ends) in seen:
                continue
            seen.add(frozenset(ends))
            addresses = [link.get("local_ip") or None, link.get("peer_ip") or None]
            found.add(place, ends, {"addresses": addresses} if any(addresses) else {})
    return found


def _containerlabs_end(said: object) -> tuple[str, str, str | None] | None:
    """Node, interface and MAC address of an endpoint, None where it is none."""
    if isinstance(said, str) and said.count(":") == 1:
        node, _, ifname = said.partition(":")
        return node, ifname, None
    if isinstance(said, dict) and "node" in said and "interface" in said:
        return str(said["node"]), str(said["interface"]), said.get("mac")
    return None


def _list(said: object) -> list[Any]:
    return said if isinstance(said, list) else []
