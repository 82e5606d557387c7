"""A synthetic cluster for garbage collection: pods as large as real ones, and the records and Leases of their links."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ratchet.core.model import End, Link, State, Transition
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import CURRENT_SCHEMA
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.codec.links import encode_link
from tests.support.links import NOW
from tests.support.synthetic import Collection

CREATED = "2026-03-04T05:06:07Z"
# Replaced in the templates by the numbers of a pod, its peer and their link, and by a VNI.
_OWN, _PEER, _LINK, _VNI = "OWN", "PEER", "LINK", 9990999
_UID = "00000000-0000-4000-8000-{}00000"
_PADDING = "x" * 8000  # managedFields, volumes and status of a real pod: 8 to 12 kB of JSON


def _ref(number: str) -> PodRef:
    return PodRef("default", f"router-{number}-in-a-lab", _UID.format(number))


def _pod() -> str:
    ref = _ref(_OWN)
    metadata: dict[str, Any] = {"namespace": ref.namespace, "name": ref.name, "uid": ref.uid}
    metadata |= {"creationTimestamp": CREATED, "labels": {"ratchet": "true"}}
    metadata["annotations"] = {"example.com/notes": _PADDING}
    status = {"phase": "Running", "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "Scheduled")]}
    return json.dumps({"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": status})


def _link() -> Link:
    first, second = (
        End(ref.name, f"eth{index}", sandbox=Sandbox(f"{ref.uid}-sandbox", ref, "node-a", "/run/netns/x", "10.0.0.1"))
        for index, ref in enumerate((_ref(_OWN), _ref(_PEER)))
    )
    step = Transition(NOW, State.PENDING, State.LINKED, "router has joined")
    name = f"default.{first.name}.eth0.{second.name}.eth1"
    link = Link(name, "default", first, second, vni=_VNI, history=(step,) * 6, schema=CURRENT_SCHEMA)
    return replace(link, uid=f"1{_UID[1:]}".format(_LINK), created=NOW - timedelta(days=1))


def _stored(body: dict[str, Any], uid: str) -> str:
    metadata = {**body["metadata"], "uid": uid, "resourceVersion": "5", "creationTimestamp": CREATED}
    return json.dumps({**body, "metadata": metadata})


def gc_collections(pods: int, links: int, *, alive: int | None = None) -> dict[str, Collection]:
    """Records of `links` tunnels between `pods` pods, a Lease for each, and the `alive` first pods (None: all)."""
    pod, link = _pod(), _link()
    record = _stored(encode_link(link), link.uid)
    lease = _stored(encode_vni_lease(_VNI, link), f"2{_UID[1:]}".format(_LINK))

    def of_link(template: str, number: int) -> str:
        numbers = {_LINK: number, _OWN: number % pods, _PEER: (number + 1) % pods}
        for marker, value in numbers.items():
            template = template.replace(marker, f"{value:07}")
        return template.replace("eth1", f"eth{1 + number // pods}").replace(str(_VNI), str(1_000_000 + number))

    return {
        "/api/v1/pods": Collection(pods if alive is None else alive, lambda number: pod.replace(_OWN, f"{number:07}")),
        "/api/v1/namespaces/ratchet/configmaps": Collection(links, lambda number: of_link(record, number)),
        "/apis/coordination.k8s.io/v1/namespaces/ratchet/leases": Collection(
            links, lambda number: of_link(lease, number)
        ),
        "/api/v1/nodes": Collection(1, lambda _: json.dumps({"metadata": {"name": "node-a"}})),
    }
