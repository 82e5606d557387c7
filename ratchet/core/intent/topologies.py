"""The links of a topology: a ConfigMap of the users' own, with a list of links between whatever pods it names.

As in containerlab's files, an item has `endpoints`, a list of two `pod:interface`, the first of which is the primary;
and besides what a pod's own list may say of a link (`items`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.intent.link_parser import Item, items_of
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode, read
from ratchet.core.model import Link, Topology
from ratchet.errors import InvalidIntentError

TOPOLOGY_LABEL = "ratchet.topology"  # the label of a ConfigMap that is one: "true"
TOPOLOGY_KEY = "links"
_ENDPOINTS = "endpoints"


@dataclass(frozen=True, slots=True)
class Faulty:
    """An error in a topology.

    `names` are the pods that it concerns. None: they cannot be read, and `text` is the topology that may name them.
    """

    place: str
    cause: str
    names: frozenset[str] | None
    text: str = ""

    def may_concern(self, *names: str) -> bool:
        """Whether an error whose `names` cannot be read may concern a pod that goes by one of these names.

        A name that the text does not spell out is not in the topology, unless it is written with escapes.
        """
        return "\\" in self.text or any(name in self.text for name in names)


# A link of a topology with its place, or the error in its stead.
DrawnLink = tuple[str, Link] | Faulty


def drawn_links(topology: Topology, reserved: Collection[str]) -> tuple[DrawnLink, ...]:
    """What a topology draws, in its order."""
    try:
        items = items_of(read(topology.text))
    except UnreadableError as cause:
        return (_faulty(topology, cause, None),)
    return tuple(_drawn(topology, item, reserved) for item in items)


def names_every_pod(topology: Topology, reserved: Collection[str]) -> bool:
    """Whether the pods of all its links can be read; if not, it may declare a link of any pod."""
    return not any(isinstance(one, Faulty) and one.names is None for one in drawn_links(topology, reserved))


def refusal_for(pod: object, fault: Faulty) -> InvalidIntentError:
    """The error of a pod that something in a topology is about."""
    return InvalidIntentError(f"cannot link pod {pod}: {fault.place}: {fault.cause}", details=f"mend {fault.place}")


def _drawn(topology: Topology, node: YamlNode, reserved: Collection[str]) -> DrawnLink:
    names: frozenset[str] | None = None
    try:
        item = Item(node, (_ENDPOINTS,))
        near, far = (_endpoint(item, text, reserved) for text in item.two(_ENDPOINTS))
        names = frozenset({near[0], far[0]})
        if len(names) == 1:
            raise item.fault(_ENDPOINTS, "a pod cannot be linked to itself")
        return f"topology {topology}: line {item.line}", item.link(topology.namespace, near, far)
    except UnreadableError as cause:
        return _faulty(topology, cause, names)


def _endpoint(item: Item, text: str, reserved: Collection[str]) -> tuple[str, str]:
    name, colon, ifname = text.partition(":")
    if not colon:
        raise item.fault(_ENDPOINTS, f'"{excerpt(text)}" is no pod:interface')
    try:
        return values.pod_name(name), values.interface_name(ifname, reserved)
    except ValueError as cause:
        raise item.fault(_ENDPOINTS, cause) from cause


def _faulty(topology: Topology, cause: UnreadableError, names: frozenset[str] | None) -> Faulty:
    field = f": {cause.field}" if cause.field else ""
    return Faulty(f"topology {topology}: line {cause.line}{field}", str(cause.cause), names, topology.text)
