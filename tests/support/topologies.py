"""Topologies in the API that are over one of the limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.dev.testbed import Testbed

LIMITED = "limited"
# The topologies of a namespace that are over the limits of LIMITS, in the order of their names. The last one of each
# has the pod LIMITED.
LIMITS: dict[str, int] = {
    "topologies_per_namespace": 1,
    "topology_links_per_namespace": 2,
    "topology_bytes_per_namespace": 1024,
}
_ITEM = f"- endpoints: [{LIMITED}:in1, other:in1]\n"
OVER_LIMIT = {
    "topologies_per_namespace": ("[]", _ITEM),
    "topology_links_per_namespace": (_ITEM + "# endpoints: [], endpoints: []",),
    "topology_bytes_per_namespace": (f"{_ITEM}# {'.' * 1024}",),
}


@contextmanager
def topologies_over(bed: Testbed, setting: str) -> Iterator[None]:
    """Within the block, the pods' namespace has topologies that are over one limit of LIMITS."""
    path = f"/api/v1/namespaces/{bed.namespace}/configmaps"
    made = []
    for number, text in enumerate(OVER_LIMIT[setting]):
        metadata = {"name": f"lab-{number}", "labels": {"ratchet.topology": "true"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"links": text}}
        made.append(bed.api.create(path, body)["metadata"])
    try:
        yield
    finally:
        for one in made:
            bed.api.delete(f"{path}/{one['name']}", uid=one["uid"])
