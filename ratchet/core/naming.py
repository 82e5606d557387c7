"""Names of records, Leases and labels: readable where they can be, never two things under one name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import lru_cache
from itertools import product

from ratchet.core.model import EARLIER_SCHEMA, End, Link, Side

Endpoint = tuple[str, str]  # a pod's name and an interface in it

RECORD_NAME_MAX = 240
LABEL_NAME_MAX = 63
# Above what kernels assign by themselves: they count up from 1, in the node's namespace too, where a tunnel's index
# must be free as well.
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
_PLAIN = re.compile(rf"{_LABEL}(\.{_LABEL}){{4}}")  # five parts and no more: none of them has a dot
_VNI_LEASE = re.compile(r"vni-([1-9][0-9]*)")


def in_order(one: Endpoint, other: Endpoint) -> tuple[Endpoint, Endpoint]:
    """Both endpoints, the lesser first: by pod name, then by interface name, compared as bytes.

    Texts compare by code points, which is the order of their bytes in UTF-8.
    """
    return (one, other) if one <= other else (other, one)


def record_name(namespace: str, one: Endpoint, other: Endpoint) -> str:
    """The name of a link's ConfigMap, the same whichever endpoint is named first."""
    return ordered_record_name(namespace, *in_order(one, other))


def ordered_record_name(namespace: str, first: Endpoint, second: Endpoint) -> str:
    """The name of a link's ConfigMap with the endpoints in this order. Records of schema 1 begin with their declarer.

    `<namespace>.<pod>.<interface>.<pod>.<interface>`, a DNS subdomain. A part that is no DNS label, or a whole that is
    too long, is made fit and the whole gets a sixth part, a hash: five parts and six are never the same name.
    """
    parts = (namespace, *first, *second)
    plain = ".".join(parts)
    if len(plain) <= RECORD_NAME_MAX and _PLAIN.fullmatch(plain):
        return plain
    digest = _digest("\0".join(parts))
    fit = ".".join(_fitted(part) for part in parts)
    return f"{fit}.{digest}"


def alias_record_names(namespace: str, one: Collection[Endpoint], other: Collection[Endpoint]) -> set[str]:
    """The names under which this version may have stored a link whose pods go by several names."""
    return {record_name(namespace, near, far) for near, far in product(one, other)}


def earlier_record_names(namespace: str, one: Collection[Endpoint], other: Collection[Endpoint]) -> set[str]:
    """The names under which versions that write schema 1 may have stored a link: either endpoint comes first."""
    pairs = [*product(one, other), *product(other, one)]
    return {ordered_record_name(namespace, near, far) for near, far in pairs}


def end_mac_address(record: Link, side: Side) -> str:
    """The MAC address of a link's end if none is declared: stable, so that a peer's neighbour entry stays valid.

    It derives from the endpoint: a change of primary changes no address. A record of schema 1 keeps the addresses that
    derive from its name. Unicast and locally administered (IEEE 802, 8.2).
    """
    end = record.end(side)
    if record.schema == EARLIER_SCHEMA:
        return _mac_address(f"{record.name}\0{side}")
    return _mac_address("\0".join((record.namespace, end.name, end.ifname)))


@lru_cache(maxsize=1024)  # a plan asks for it, and one is made at every step
def _mac_address(seed: str) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def reserved_ifindex(link: Link, end: End, taken: Collection[int]) -> int:
    """The ifindex for an end's interface: not one of `taken`, and never that of the link's other end.

    Derived from the record's name, so that another link's interface of the same name has another ifindex. Even numbers
    are for the lesser endpoint, odd ones for the greater: a vEth whose two ends have one ifindex reports a loss of
    carrier late (net/core/link_watch.c, linkwatch_urgent_event).
    """
    ends = (link.primary, link.pair)
    lesser, _ = in_order(*((one.name, one.ifname) for one in ends))
    parity = int((end.name, end.ifname) != lesser)
    start = int.from_bytes(hashlib.sha256(f"{link.name}\0{parity}".encode()).digest()[:4], "big")
    for step in range(IFINDEX_PAIRS):
        index = IFINDEX_LEAST + 2 * ((start + step) % IFINDEX_PAIRS) + parity
        if index not in taken:
            return index
    raise ValueError(f"all {IFINDEX_PAIRS} interface indexes for links are taken")


def vni_lease_name(vni: int) -> str:
    return f"vni-{vni}"


def vni_of_lease(name: str) -> int | None:
    """The number that a Lease's name stands for; None where it is not a VNI's Lease."""
    match = _VNI_LEASE.fullmatch(name)
    return int(match.group(1)) if match else None


def node_lease_name(node: str) -> str:
    """The name of a node's Lease; a node's name is a DNS subdomain, which `node-` leaves one."""
    return f"node-{node}" if len(node) <= RECORD_NAME_MAX else f"node-{node[:200].rstrip('-.')}.{_digest(node)}"


def node_label(node: str) -> str:
    """The label that the records of a node's links carry, so that a watch follows that node's links alone."""
    return f"{NODE_LABEL}/{_label_name(node)}"


def pod_label(namespace: str, pod: str) -> str:
    """The label that the records of a pod's links carry."""
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
