"""Names of records, Leases and labels: readable where they can be, never two things under one name."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from ratchet.core.model import Side

RECORD_NAME_MAX = 240
LABEL_NAME_MAX = 63

MANAGED_BY = "app.kubernetes.io/managed-by"
STATE_LABEL = "ratchet.state"
KIND_LABEL = "ratchet.kind"
VNI_LABEL = "ratchet.vni"
NODE_LABEL = "node.ratchet"
POD_LABEL = "pod.ratchet"
LEASE_LABEL = "ratchet.lease"

_PLAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VNI_LEASE = re.compile(r"vni-([1-9][0-9]*)")


def record_name(namespace: str, primary: str, ifname: str, pair: str, pair_ifname: str) -> str:
    """The name of a link's ConfigMap, from what its primary declares.

    `<namespace>.<primary>.<ifname>.<pair>.<ifname>`, a DNS subdomain. A part that is no DNS label, or a whole that is
    too long, is made fit and the whole gets a sixth part, a hash: five parts and six are never the same name.
    """
    parts = (namespace, primary, ifname, pair, pair_ifname)
    plain = ".".join(parts)
    if all(_PLAIN.fullmatch(part) for part in parts) and len(plain) <= RECORD_NAME_MAX:
        return plain
    digest = _digest("\0".join(parts))
    fit = ".".join(_fitted(part) for part in parts)
    return f"{fit}.{digest}"


@lru_cache(maxsize=1024)  # a plan asks for it, and one is made at every step
def mac_address(record: str, side: Side) -> str:
    """The MAC address of a link's end: the same whenever it is made, as a port keeps its own.

    So a pod that comes again is where its peer remembers it to be. Unicast and locally administered (IEEE 802, 8.2).
    """
    digest = hashlib.sha256(f"{record}\0{side}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


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
