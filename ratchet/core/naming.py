"""Names of records, Leases and labels: readable if possible, and unique."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import lru_cache
from itertools import product

from ratchet.core.model import End, Link, Side
from ratchet.core.schemas import EARLIER_SCHEMA

Endpoint = tuple[str, str]  # a pod's name and an interface in it

RECORD_NAME_MAX = 240
LABEL_NAME_MAX = 63
# Above the indexes that kernels assign, which count up from 1. A tunnel's index must also be free in the node's
# namespace.
IFINDEX_LEAST, IFINDEX_PAIRS = 1_000_000, 500_000

MANAGED_BY = "app.kubernetes.io/managed-by"
STATE_LABEL = "ratchet.state"
KIND_LABEL = "ratchet.kind"
VNI_LABEL = "ratchet.vni"
NODE_LABEL = "node.ratchet"
POD_LABEL = "pod.ratchet"
LEASE_LABEL = "ratchet.lease"
SCHEMA_LABEL = "ratchet.schema"

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PLAIN = re.compile(rf"{_LABEL}(\.{_LABEL}){{4}}")  # exactly five parts, none of them with a dot
_VNI_LEASE = re.compile(r"vni-([1-9][0-9]*)")


def in_order(one: Endpoint, other: Endpoint) -> tuple[Endpoint, Endpoint]:
    """Both endpoints, the lesser first: by pod name, then by interface name, compared as bytes.

    Texts compare by code points, which is the order of their bytes in UTF-8.
    """
    return (one, other) if one <= other else (other, one)


def record_name(namespace: str, one: Endpoint, other: Endpoint) -> str:
    """The name of a link's ConfigMap, whatever the order of its endpoints."""
    return ordered_record_name(namespace, *in_order(one, other))


def ordered_record_name(namespace: str, first: Endpoint, second: Endpoint) -> str:
    """The name of a link's ConfigMap with the endpoints in this order. In schema 1, the declarer is first.

    `<namespace>.<pod>.<interface>.<pod>.<interface>`, a DNS subdomain. If a part is not a DNS label or the name is too
    long, the parts are shortened and a hash is the sixth part. Names of five and of six parts never collide.
    """
    parts = (namespace, *first, *second)
    plain = ".".join(parts)
    if len(plain) <= RECORD_NAME_MAX and _PLAIN.fullmatch(plain):
        return plain
    digest = _digest("\0".join(parts))
    fit = ".".join(_fitted(part) for part in parts)
    return f"{fit}.{digest}"


def namespace_part(record: str) -> str:
    """The namespace in a record's name: the first part, of which a shortened name has 40 characters at most."""
    return record.partition(".")[0]


def alias_record_names(namespace: str, one: Collection[Endpoint], other: Collection[Endpoint]) -> set[str]:
    """The names under which this version may have stored a link whose pods have several names."""
    return {record_name(namespace, near, far) for near, far in product(one, other)}


def earlier_record_names(namespace: str, one: Collection[Endpoint], other: Collection[Endpoint]) -> set[str]:
    """The names under which versions that write schema 1 may have stored a link, in either order."""
    pairs = [*product(one, other), *product(other, one)]
    return {ordered_record_name(namespace, near, far) for near, far in pairs}


def end_mac_address(record: Link, side: Side) -> str:
    """The MAC address of a link's end if none is declared. It is stable for the peer's neighbour entry.

    It is derived from the endpoint, so a change of primary does not change it. In a record of schema 1 it is derived
    from the record's name. Unicast and locally administered (IEEE 802, 8.2).
    """
    end = record.end(side)
    if record.schema == EARLIER_SCHEMA:
        return _mac_address(f"{record.name}\0{side}")
    return _mac_address("\0".join((record.namespace, end.name, end.ifname)))


@lru_cache(maxsize=1024)  # each step of a pass needs it
def _mac_address(seed: str) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def reserved_ifindex(link: Link, end: End, taken: Collection[int]) -> int:
    """The ifindex for an end's interface: none of `taken`, and never that of the link's other end.

    Derived from the record's name, so that another link's interface of the same name has another ifindex. Even numbers
    are for the lesser endpoint, odd ones for the greater: a vEth whose two ends have one ifindex reports a loss of
    carrier late (net/core/link_watch.c, linkwatch_urgent_event). Derived from the endpoint too, because a declaration
    may have named a pod otherwise before it existed. Its peer has chosen by that name, which may be in another order.
    """
    ends = (link.primary, link.pair)
    lesser, _ = in_order(*((one.name, one.ifname) for one in ends))
    parity = int((end.name, end.ifname) != lesser)
    start = int.from_bytes(hashlib.sha256(f"{link.name}\0{end.name}\0{end.ifname}".encode()).digest()[:4], "big")
    for step in range(IFINDEX_PAIRS):
        index = IFINDEX_LEAST + 2 * ((start + step) % IFINDEX_PAIRS) + parity
        if index not in taken:
            return index
    raise ValueError(f"all {IFINDEX_PAIRS} interface indexes for links are taken")


def vni_lease_name(vni: int) -> str:
    return f"vni-{vni}"


def vni_of_lease(name: str) -> int | None:
    """The VNI in a Lease's name; None if it is not the Lease of a VNI."""
    match = _VNI_LEASE.fullmatch(name)
    return int(match.group(1)) if match else None


def node_lease_name(node: str) -> str:
    """The name of a node's Lease: a DNS subdomain, as the node's name is."""
    return f"node-{node}" if len(node) <= RECORD_NAME_MAX else f"node-{node[:200].rstrip('-.')}.{_digest(node)}"


def node_label(node: str) -> str:
    """The label of the records of a node's links, by which the node's agent watches these records only."""
    return f"{NODE_LABEL}/{_label_name(node)}"


def pod_label(namespace: str, pod: str) -> str:
    """The label of the records of a pod's links."""
    return f"{POD_LABEL}/{_label_name(f'{namespace}.{pod}')}"


def _label_name(name: str) -> str:
    if len(name) <= LABEL_NAME_MAX:
        return name
    digest = _digest(name)
    return f"{name[: LABEL_NAME_MAX - len(digest) - 1].rstrip('-_.')}.{digest}"


def _fitted(part: str) -> str:
    return re.sub(r"[^-a-z0-9]", "-", part.lower()).strip("-")[:40].strip("-") or "x"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
