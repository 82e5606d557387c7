"""What hostile tenants write: topologies and pods that are as large, or cost as much, as an API server accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratchet.core.intent import LINKS, TOPOLOGY_KEY, TOPOLOGY_LABEL

Json = dict[str, Any]

# Bytes: an object, and all annotations of one (kubernetes.io, "Annotations"), each without what else belongs to it.
OBJECT, ANNOTATIONS = 1_000_000, 250_000
_DEPTH = 100_000


def hostile_topologies(tenant: int) -> Iterator[Json]:
    """Topologies of a namespace, each with texts of its own. The first ones are within its limits."""
    texts = [_filled(_many_addresses, tenant, 0, ANNOTATIONS)]
    texts += [_links(tenant, number) for number in range(17)]
    texts += [_filled(_many_addresses, tenant, 1, OBJECT)]
    texts += [f"# {tenant} {number} " + "comment " * (OBJECT // 8) for number in range(2)]
    texts += ["[" * _DEPTH, "- {a: " * (_DEPTH // 4), _aliases(), "- " * (ANNOTATIONS // 2)]
    if tenant:  # a text with a backslash may name any pod
        texts.append("\\" * OBJECT)
    for number, text in enumerate(texts):
        metadata: Json = {"name": f"lab-{number:03}", "labels": {TOPOLOGY_LABEL: "true"}}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TOPOLOGY_KEY: text}}


def hostile_pods(tenant: int) -> Iterator[Json]:
    """Pods of a namespace. Those with the annotation `ratchet.links` are named `list-…`, in the order of their age."""
    lists = [_filled(_declared_addresses, tenant, number, ANNOTATIONS) for number in range(4)]
    lists += [
        "[" + "a," * (ANNOTATIONS // 2) + "]",
        _filled(_declared_addresses, tenant, 4, ANNOTATIONS) + "- {peer: x}",
    ]
    for number, text in enumerate(lists):
        yield pod(f"list-{number}", {LINKS: text})
    yield pod("unknown", {f"ratchet.{number}": "x" * 1000 for number in range(ANNOTATIONS // 1000)})
    yield pod("other", {"example.com/notes": "x" * ANNOTATIONS})
    yield pod("long", {"ratchet.pod_name": "x" * ANNOTATIONS})
    yield pod("environment", {}, [{"name": "X", "value": "x" * (OBJECT // 2)}])
    yield pod("variables", {}, [{"name": f"X{number}", "value": ""} for number in range(10_000)])


def pod(name: str, annotations: Json, environment: list[Json] | None = None) -> Json:
    """A pod that asks for links, without a node."""
    metadata: Json = {"name": name, "labels": {"ratchet": "true"}, "annotations": annotations}
    container: Json = {"name": "c", "image": "none", "env": environment or []}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def _filled(item: Any, tenant: int, number: int, size: int) -> str:
    """Items up to a size in bytes."""
    items, length = list[str](), 0
    while length < size - 500 and len(items) < 250:
        items.append(item(tenant, number, len(items)))
        length += len(items[-1])
    return "".join(items) + "#" * (size - length if size == OBJECT else 0)


def _many_addresses(tenant: int, number: int, index: int) -> str:
    addresses = _addresses(tenant, number, index)
    return f"- endpoints: [t{number}-{index}:x, u{number}-{index}:x]\n  addresses: [[{addresses}], null]\n"


def _declared_addresses(tenant: int, number: int, index: int) -> str:
    addresses = _addresses(tenant, number, index)
    return f"- {{peer: p{number}-{index}, ifname: x{index}, peer_ifname: y, addresses: [[{addresses}], null]}}\n"


def _addresses(tenant: int, number: int, index: int) -> str:
    return ", ".join(f"fd{tenant:02}:{number}:{index}::{one:x}/64" for one in range(16))


def _links(tenant: int, number: int) -> str:
    return "".join(f"- endpoints: [a{tenant}-{number}-{one}:x, b{number}-{one}:x]\n" for one in range(256))


def _aliases() -> str:
    levels = ["- &l0 [x, x]", *(f"- &l{at} [{', '.join([f'*l{at - 1}'] * 9)}]" for at in range(1, 9))]
    return "\n".join(levels)
