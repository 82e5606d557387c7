"""Convert containerlab files and meshnet-cni Topology objects to the links of a topology.

Everything that cannot be converted is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.core.intent import values

Json = dict[str, Any]

# Endpoints of containerlab that are not nodes (containerlab.dev/manual/network).
_NOT_NODES = {"host", "mgmt-net", "macvlan", "bridge", "ovs-bridge"}
_RESERVED = ("lo", "eth0")


@dataclass(slots=True)
class Conversion:
    """Links of a topology, and a line for each thing that is not converted."""

    links: list[Json] = field(default_factory=list)
    unconverted: list[str] = field(default_factory=list)

    def add(self, place: str, ends: Sequence[tuple[str, str]], properties: Mapping[str, Any]) -> None:
        """Add a link if the names of its pods and interfaces are valid."""
        for name, ifname in ends:
            if name in _NOT_NODES:
                self.unconverted.append(f"{place}: {name} is not a pod")
                return
            try:
                values.pod_name(name)
                values.interface_name(ifname, _RESERVED)
            except ValueError as cause:
                self.unconverted.append(f"{place}: {cause}")
                return
        self.links.append({"endpoints": [f"{name}:{ifname}" for name, ifname in ends], **properties})


def from_containerlab(document: Mapping[str, Any]) -> Conversion:
    """Convert the links of a containerlab file, in both formats (containerlab.dev/manual/topo-def-file).

    Raises ValueError if it is no containerlab file.
    """
    topology = document.get("topology")
    if not isinstance(topology, dict):
        raise ValueError("it has no topology")  # noqa: TRY004  # the file is wrong, not a caller's argument
    found = Conversion()
    if topology.get("nodes"):
        found.unconverted.append(
            "topology.nodes: create a pod for each node; kinds, images and settings are not converted"
        )
    for number, link in enumerate(_list(topology.get("links"))):
        place = f"topology.links[{number}]"
        if not isinstance(link, dict):
            found.unconverted.append(f"{place}: expected a mapping")
            continue
        kind = link.get("type", "veth")
        if kind != "veth":
            found.unconverted.append(f"{place}: links of type {kind} are not supported")
            continue
        ends = [_containerlab_endpoint(one) for one in _list(link.get("endpoints"))]
        complete = [one for one in ends if one is not None]
        if len(ends) != 2 or len(complete) != 2:
            found.unconverted.append(f"{place}: expected two endpoints, each node:interface")
            continue
        for key in sorted(set(link) - {"type", "endpoints", "mtu"}):
            found.unconverted.append(f"{place}.{key}: not supported")
        properties = {"mtu": link["mtu"]} if "mtu" in link else {}
        macs = [mac for _, _, mac in complete]
        if any(macs):
            properties["mac"] = macs
        found.add(place, [(node, ifname) for node, ifname, _ in complete], properties)
    return found


def from_meshnet(documents: Iterable[Mapping[str, Any]]) -> Conversion:
    """Convert the links of meshnet-cni Topology objects. Each link is listed by both of its pods."""
    found = Conversion()
    seen: set[frozenset[tuple[str, str]]] = set()
    for document in documents:
        name = (document.get("metadata") or {}).get("name", "")
        for number, link in enumerate(_list((document.get("spec") or {}).get("links"))):
            place = f"Topology {name}: links[{number}]"
            if not isinstance(link, dict):
                found.unconverted.append(f"{place}: expected a mapping")
                continue
            ends = [(name, link.get("local_intf", "")), (link.get("peer_pod", ""), link.get("peer_intf", ""))]
            if ends[1][0] == "localhost":
                found.unconverted.append(f"{place}: links to the node's own network are not supported")
                continue
            if frozenset(ends) in seen:
                continue
            seen.add(frozenset(ends))
            addresses = [link.get("local_ip") or None, link.get("peer_ip") or None]
            found.add(place, ends, {"addresses": addresses} if any(addresses) else {})
    return found


def _containerlab_endpoint(value: object) -> tuple[str, str, str | None] | None:
    """The node, interface and MAC address of an endpoint; None if it is invalid."""
    if isinstance(value, str) and value.count(":") == 1:
        node, _, ifname = value.partition(":")
        return node, ifname, None
    if isinstance(value, dict) and "node" in value and "interface" in value:
        return str(value["node"]), str(value["interface"]), value.get("mac")
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
