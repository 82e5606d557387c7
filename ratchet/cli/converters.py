"""Convert containerlab files and meshnet-cni Topology objects to the links of a topology.

Everything that cannot be converted is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ratchet.cli.documents import ManifestError, Value
from ratchet.cli.yaml_nodes import Kind
from ratchet.core.escape import excerpt
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

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report a link with a value of another type, and go on with the next one."""
        try:
            yield
        except ManifestError as error:
            self.unconverted.append(f"{error.where}: {error.cause}")

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


def from_containerlab(document: Value) -> Conversion:
    """Convert the links of a containerlab file, in both formats (containerlab.dev/manual/topo-def-file).

    Raises ManifestError if it has no list of links.
    """
    topology, found = document["topology"], Conversion()
    if topology["nodes"].kind is not Kind.NOTHING:
        found.unconverted.append(
            "topology.nodes: create a pod for each node; kinds, images and settings are not converted"
        )
    for link in topology["links"].items():
        with found.reporting():
            _add_containerlab_link(found, link)
    return found


def _add_containerlab_link(found: Conversion, link: Value) -> None:
    """Add a link. Raises ManifestError if it has a value of another type."""
    kind = link["type"].text("veth")
    if kind != "veth":
        found.unconverted.append(f"{link.path}: links of type {excerpt(kind)} are not supported")
        return
    ends = [_containerlab_endpoint(one) for one in link["endpoints"].items()]
    complete = [one for one in ends if one is not None]
    if len(ends) != 2 or len(complete) != 2:
        found.unconverted.append(f"{link.path}: expected two endpoints, each node:interface")
        return
    for key in sorted(set(link.fields()) - {"type", "endpoints", "mtu"}):
        found.unconverted.append(f"{link.path}.{excerpt(key)}: not supported")
    properties: Json = {"mtu": link["mtu"].whole_number(0)} if link["mtu"].kind is not Kind.NOTHING else {}
    macs = [mac for _, _, mac in complete]
    if any(macs):
        properties["mac"] = macs
    found.add(link.path, [(node, ifname) for node, ifname, _ in complete], properties)


def from_meshnet(documents: Iterable[Value]) -> Conversion:
    """Convert the links of meshnet-cni Topology objects. Each link is listed by both of its pods.

    Raises ManifestError for an object without a name or a list of links.
    """
    found = Conversion()
    seen: set[frozenset[tuple[str, str]]] = set()
    for document in documents:
        name = document["metadata"]["name"].text()
        for link in document["spec"]["links"].items():
            place = f"Topology {excerpt(name)}: {link.path.removeprefix(document.path).removeprefix('.spec.')}"
            with found.reporting():
                _add_meshnet_link(found, place, name, link, seen)
    return found


def _add_meshnet_link(
    found: Conversion, place: str, name: str, link: Value, seen: set[frozenset[tuple[str, str]]]
) -> None:
    """Add a link of the pod `name`, unless it is in `seen`. Raises ManifestError if it has a value of another type."""
    ends = [(name, link["local_intf"].text()), (link["peer_pod"].text(), link["peer_intf"].text())]
    if ends[1][0] == "localhost":
        found.unconverted.append(f"{place}: links to the node's own network are not supported")
        return
    if frozenset(ends) in seen:
        return
    seen.add(frozenset(ends))
    addresses = [link["local_ip"].text("") or None, link["peer_ip"].text("") or None]
    found.add(place, ends, {"addresses": addresses} if any(addresses) else {})


def _containerlab_endpoint(value: Value) -> tuple[str, str, str | None] | None:
    """The node, interface and MAC address of an endpoint; None if it is invalid."""
    if value.kind is Kind.TEXT and value.text().count(":") == 1:
        node, _, ifname = value.text().partition(":")
        return node, ifname, None
    if value.kind is Kind.MAPPING:
        return value["node"].scalar(), value["interface"].scalar(), value["mac"].text("") or None
    return None
