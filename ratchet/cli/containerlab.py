"""Convert the links of a containerlab file (containerlab.dev/manual/topo-def-file)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ratchet.cli.conversion import Conversion, Json
from ratchet.cli.documents import Value
from ratchet.cli.interface_aliases import linux_name
from ratchet.cli.yaml_nodes import Kind
from ratchet.core.escape import excerpt

# Endpoints that are not nodes (containerlab.dev/manual/network).
_NOT_NODES = ("host", "mgmt-net", "macvlan")
# Kinds of nodes that run outside of the lab (containerlab.dev/manual/kinds).
_NOT_PODS = ("bridge", "ovs-bridge", "ext-container", "host")
_DIFFERENCES = (
    "containerlab turns TX checksum offload off and sets MTU 9500 on all links; "
    "set offloads: off and mtu where a node needs them"
)


@dataclass(frozen=True, slots=True)
class _End:
    """An endpoint of a link, as far as it is converted."""

    node: str
    ifname: str
    mac: str = ""
    addresses: tuple[str, ...] = ()


def from_containerlab(document: Value) -> Conversion:
    """Convert the links of a file, in both formats. Raises ManifestError if it has no list of links."""
    topology = document["topology"]
    kinds = dict(_kinds(topology))
    found = Conversion(
        not_pods={name: f"{name} is not a pod" for name in _NOT_NODES} | dict(_not_pods(topology, kinds))
    )
    if topology["nodes"].kind is not Kind.NOTHING:
        found.unconverted.append(
            "topology.nodes: create a pod for each node; kinds, images and settings are not converted"
        )
    for link in topology["links"].items():
        with found.reporting():
            _add_link(found, kinds, link)
    if found.links:
        found.notes.append(_DIFFERENCES)
    return found


def _kinds(topology: Value) -> Iterator[tuple[str, str]]:
    """The kind of each node: its own, its group's, or the default."""
    default = topology["defaults"]["kind"].scalar("")
    groups = topology["groups"].fields()
    for name, node in topology["nodes"].fields().items():
        group = groups.get(node["group"].scalar(""))
        yield name, node["kind"].scalar(group["kind"].scalar(default) if group is not None else default)


def _not_pods(topology: Value, kinds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The nodes that do not run as pods, each with the reason."""
    for name, node in topology["nodes"].fields().items():
        kind = kinds[name]
        mode = node["network-mode"].scalar("")
        if kind in _NOT_PODS:
            yield name, f"node {excerpt(name)} of kind {kind} is not a pod"
        elif mode == "host" or mode.startswith("container:"):
            yield name, f"node {excerpt(name)} has network-mode {excerpt(mode)}, so it has no network of its own"


def _add_link(found: Conversion, kinds: Mapping[str, str], link: Value) -> None:
    """Add a link. Raises ManifestError if it has a value of another type."""
    kind = link["type"].text("veth")
    if kind.lower() != "veth":
        found.unconverted.append(f"{link.path}: links of type {excerpt(kind)} are not supported")
        return
    ends = [_endpoint(found, kinds, one) for one in link["endpoints"].items()]
    complete = [one for one in ends if one is not None]
    if len(ends) != 2 or len(complete) != 2:
        found.unconverted.append(f"{link.path}: expected two endpoints, each node:interface")
        return
    _report_others(found, link, ("type", "endpoints", "mtu", "ipv4", "ipv6"))
    properties: Json = {"mtu": link["mtu"].whole_number(0)} if link["mtu"].kind is not Kind.NOTHING else {}
    if any(one.mac for one in complete):
        properties["mac"] = [one.mac or None for one in complete]
    addresses = [[*one.addresses, *_brief_addresses(link, at)] for at, one in enumerate(complete)]
    if any(addresses):
        properties["addresses"] = [one or None for one in addresses]
    found.add(link.path, [(one.node, one.ifname) for one in complete], properties)


def _endpoint(found: Conversion, kinds: Mapping[str, str], value: Value) -> _End | None:
    """An endpoint of a link; None if it is invalid."""
    if value.kind is Kind.TEXT and value.text().count(":") == 1:
        node, _, ifname = value.text().partition(":")
        return _End(node, _linux_name(found, kinds, node, ifname))
    if value.kind is not Kind.MAPPING:
        return None
    _report_others(found, value, ("node", "interface", "mac", "ipv4", "ipv6"))
    addresses = tuple(address for key in ("ipv4", "ipv6") if (address := value[key].text("")))
    node, ifname = value["node"].scalar(), value["interface"].scalar()
    return _End(node, _linux_name(found, kinds, node, ifname), value["mac"].text(""), addresses)


def _linux_name(found: Conversion, kinds: Mapping[str, str], node: str, ifname: str) -> str:
    """The name of an interface in Linux. A name of the node's kind is changed with a note."""
    name = linux_name(kinds.get(node, ""), ifname)
    if name != ifname:
        found.notes.append(f"interface {excerpt(ifname)} of {excerpt(node)} is {name} in Linux")
    return name


def _brief_addresses(link: Value, at: int) -> Iterator[str]:
    """The addresses of one end in the brief format, where the link has a list of two for each family."""
    for key in ("ipv4", "ipv6"):
        both = link[key].items()
        if at < len(both) and (address := both[at].text("")):
            yield address


def _report_others(found: Conversion, value: Value, keys: Sequence[str]) -> None:
    for key in sorted(set(value.fields()) - set(keys)):
        found.unconverted.append(f"{value.path}.{excerpt(key)}: not supported")
