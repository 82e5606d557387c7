"""VNI Leases and node Leases as JSON, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ratchet.core.garbage import Claim, VniLease
from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link
from ratchet.core.naming import (
    LEASE_LABEL,
    MANAGED_BY,
    NODE_LABEL,
    namespace_part,
    node_label,
    node_lease_name,
    vni_lease_name,
    vni_of_lease,
)
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.core.shared import shared_text
from ratchet.store.codec import MANAGER, NUMBER, Json, decode_time, merge_changes

LINK_ANNOTATION = "ratchet.link"
VTEP_ANNOTATION = "ratchet.vtep"
# On a node Lease: the newest format of records that the node's agent reads, and the renewal that announces it. An
# earlier agent that renews the Lease after a rollback leaves the annotation as it is.
SCHEMA_ANNOTATION = "ratchet.schema"
# Likewise the format in which the agent writes new records.
WRITTEN_SCHEMA_ANNOTATION = "ratchet.written-schema"
# Likewise the version of the OAM frames that the agent sends; 0: none.
OAM_ANNOTATION = "ratchet.oam"


def encode_vni_lease(vni: int, link: Link) -> Json:
    """The Lease that claims a VNI for the record with `link.uid`, labelled with the nodes of the link."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": vni_lease_name(vni),
            "labels": {MANAGED_BY: MANAGER} | dict.fromkeys(sorted(node_labels(link)), ""),
            "annotations": {LINK_ANNOTATION: link.name},
        },
        "spec": {"holderIdentity": link.uid},
    }


def node_labels(link: Link) -> frozenset[str]:
    """The keys of the labels that name the nodes of a link's ends."""
    return frozenset(map(node_label, link.nodes))


def lease_labels_patch(lease: VniLease, link: Link) -> Json | None:
    """The merge patch that labels a VNI Lease with the nodes of its link, on the version read.

    None if the Lease has these node labels and no others.
    """
    changes = merge_changes(dict.fromkeys(lease.node_labels, ""), dict.fromkeys(node_labels(link), ""))
    if not changes:
        return None
    return {"metadata": {"uid": lease.uid, "resourceVersion": lease.resource_version, "labels": changes}}


def decode_vni_lease(lease: Mapping[str, Any]) -> VniLease | None:
    """The VNI Lease; None if the Lease is another kind of Lease."""
    metadata = lease.get("metadata", {})
    vni = vni_of_lease(metadata.get("name", ""))
    if vni is None:
        return None
    return VniLease(
        vni=vni,
        holder=_holder(lease),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        created=decode_time(metadata.get("creationTimestamp")),
        link=(metadata.get("annotations") or {}).get(LINK_ANNOTATION, ""),
        node_labels=frozenset(key for key in metadata.get("labels") or () if key.startswith(f"{NODE_LABEL}/")),
    )


def decode_claim(lease: Mapping[str, Any]) -> Claim | None:
    """The VNI, the holder and the namespace of a VNI Lease; None if the Lease is another kind of Lease."""
    metadata = lease.get("metadata", {})
    vni = vni_of_lease(metadata.get("name", ""))
    if vni is None:
        return None
    link = str((metadata.get("annotations") or {}).get(LINK_ANNOTATION, ""))
    return Claim(vni, _holder(lease), sys.intern(namespace_part(link)))


def encode_node_lease(lease: NodeLease, seconds: float, now: datetime) -> Json:
    """The Lease of a node, renewed at `now` for `seconds`."""
    renewed = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node_lease_name(lease.node),
            "labels": {MANAGED_BY: MANAGER, LEASE_LABEL: "node"},
            "annotations": {
                VTEP_ANNOTATION: lease.vtep,
                SCHEMA_ANNOTATION: f"{lease.schema} {renewed}",
                WRITTEN_SCHEMA_ANNOTATION: f"{lease.written_schema} {renewed}",
                OAM_ANNOTATION: f"{lease.oam} {renewed}",
            },
        },
        "spec": {
            "holderIdentity": lease.node,
            "leaseDurationSeconds": int(seconds),
            "renewTime": renewed,
        },
    }


def decode_node_lease(lease: Mapping[str, Any]) -> NodeLease:
    """The node Lease. Malformed fields count as missing."""
    metadata, spec = lease.get("metadata", {}), lease.get("spec") or {}
    annotations, renewed = metadata.get("annotations") or {}, spec.get("renewTime") or ""
    return NodeLease(
        node=spec.get("holderIdentity") or "",
        vtep=annotations.get(VTEP_ANNOTATION, ""),
        schema=_announced(annotations.get(SCHEMA_ANNOTATION, ""), renewed, EARLIER_SCHEMA),
        written_schema=_announced(annotations.get(WRITTEN_SCHEMA_ANNOTATION, ""), renewed, EARLIER_SCHEMA),
        oam=_announced(annotations.get(OAM_ANNOTATION, ""), renewed, 0),
        version=metadata.get("resourceVersion", ""),
        uid=metadata.get("uid", ""),
        renewed=_renew_time(lease),
    )


def _holder(lease: Mapping[str, Any]) -> str:
    return shared_text((lease.get("spec") or {}).get("holderIdentity") or "")


def _announced(announced: str, renewed: str, otherwise: int) -> int:
    """The number in an annotation, if the renewal at `renewed` wrote it; else `otherwise`."""
    number, _, moment = announced.partition(" ")
    return int(number) if NUMBER.fullmatch(number) and moment == renewed else otherwise


def _renew_time(lease: Mapping[str, Any]) -> datetime | None:
    """The time of a Lease's last renewal by its writer's clock; None if it is missing or malformed."""
    try:
        return decode_time((lease.get("spec") or {}).get("renewTime"))
    except (TypeError, ValueError, OverflowError):
        return None
