"""Convert the links of Topology objects: of meshnet-cni, and of kube-dtn, which has the same format with more fields.

Each of both pods has an object that lists the link. The halves complete each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ratchet.cli.conversion import Conversion, Json
from ratchet.cli.documents import Value
from ratchet.core.escape import excerpt

Endpoint = tuple[str, str]

_LOCALHOST = "localhost"
_KEYS = ("uid", "peer_pod", "local_intf", "peer_intf", "local_ip", "peer_ip", "local_mac", "peer_mac")


@dataclass(slots=True)
class _Half:
    """A link as one of its pods lists it: its endpoints, and what it has of each end."""

    place: str
    ends: tuple[Endpoint, Endpoint]
    addresses: dict[Endpoint, str]
    macs: dict[Endpoint, str]


@dataclass(slots=True)
class _Namespace:
    """The conversion of one namespace, and its links so far, by their endpoints."""

    found: Conversion
    halves: dict[frozenset[Endpoint], _Half] = field(default_factory=dict)


def from_meshnet(documents: Iterable[Value]) -> list[Conversion]:
    """Convert the links of Topology objects, one conversion for each namespace.

    Raises ManifestError for an object without a name or a list of links.
    """
    namespaces: dict[str, _Namespace] = {}
    for document in documents:
        metadata = document["metadata"]
        name, namespace = metadata["name"].text(), metadata["namespace"].text("")
        one = namespaces.setdefault(namespace, _Namespace(Conversion(namespace)))
        for link in document["spec"]["links"].items():
            path = link.path.removeprefix(document.path).removeprefix(".").removeprefix("spec.")
            place = f"Topology {excerpt(name)}: {path}"
            with one.found.reporting():
                _read(one, place, name, link)
    for one in namespaces.values():
        for half in one.halves.values():
            one.found.add(half.place, half.ends, _properties(half))
    return [one.found for one in namespaces.values()]


def _read(namespace: _Namespace, place: str, name: str, link: Value) -> None:
    """Read the half of a link. Raises ManifestError if it has a value of another type."""
    own, peer = (name, link["local_intf"].text()), (link["peer_pod"].text(), link["peer_intf"].text())
    if peer[0] == _LOCALHOST:
        namespace.found.unconverted.append(f"{place}: links to the node's own network are not supported")
        return
    for key in sorted(set(link.fields()) - set(_KEYS)):
        namespace.found.unconverted.append(f"{place}.{excerpt(key)}: not supported")
    half = _Half(
        place,
        (own, peer),
        {own: link["local_ip"].text(""), peer: link["peer_ip"].text("")},
        {own: link["local_mac"].text(""), peer: link["peer_mac"].text("")},
    )
    first = namespace.halves.setdefault(frozenset(half.ends), half)
    if first is not half:
        _complete(namespace.found, first, half)


def _complete(found: Conversion, first: _Half, second: _Half) -> None:
    """Take what the first half of a link lacks from the second one, and report what differs."""
    for what, known, other in (
        ("address", first.addresses, second.addresses),
        ("MAC address", first.macs, second.macs),
    ):
        for (pod, ifname), value in other.items():
            had = known.get((pod, ifname), "")
            known[pod, ifname] = had or value
            if had and value and had != value:
                where = f"{ifname} of {excerpt(pod)}"
                found.unconverted.append(
                    f"{second.place}: the {what} of {where} is {excerpt(value)}, and {excerpt(had)} in {first.place}"
                )


def _properties(half: _Half) -> Json:
    found: Json = {}
    for key, values in (("addresses", half.addresses), ("mac", half.macs)):
        if any(values.values()):
            found[key] = [values[end] or None for end in half.ends]
    return found
