"""The links of a topology: a user's ConfigMap with a list of links between the pods that it names.

As in containerlab's files, an item has `endpoints`, a list of two `pod:interface`. The first one is the primary. An
item can have the same properties as one of a pod's own list (`link_parser`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.intent.declared import DeclaredLink
from ratchet.core.intent.link_parser import Item, items_of
from ratchet.core.intent.topology_limits import may_name
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode, read
from ratchet.core.pod import Topology, Withheld
from ratchet.errors import InvalidIntentError

TOPOLOGY_LABEL = "ratchet.topology"  # the label of a ConfigMap that is one
TOPOLOGY_VALUES = ("true", "True", "TRUE")  # of this label; the API server compares the case
TOPOLOGY_KEY = "links"
_ENDPOINTS = "endpoints"
_ON_EDIT = "on_edit"


@dataclass(frozen=True, slots=True)
class Faulty:
    """An error in a topology.

    `names` are the pods that it concerns. None: they cannot be read, and `text` is the topology that may name them, or
    the topology is `withheld`.
    """

    place: str
    cause: str
    names: frozenset[str] | None
    text: str = ""
    withheld: Withheld | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.cause}"

    def may_concern(self, *names: str) -> bool:
        """Whether an error whose `names` cannot be read may concern a pod with one of these names.

        A name that the text does not spell out is not in the topology, unless it is written with escapes.
        """
        if self.withheld is not None:
            return any(may_name(self.withheld, name) for name in names)
        return "\\" in self.text or any(name in self.text for name in names)


# A link of a topology, or the error of its item.
DrawnLink = DeclaredLink | Faulty


def drawn_links(topology: Topology, reserved: Collection[str]) -> tuple[DrawnLink, ...]:
    """The links and errors of a topology, in its order."""
    if topology.withheld is not None:
        return (Faulty(f"topology {topology}", topology.withheld.cause, None, withheld=topology.withheld),)
    if topology.fault:
        return (Faulty(f"topology {topology}", topology.fault, None, topology.text),)
    try:
        items = items_of(read(topology.text))
    except UnreadableError as cause:
        return (_faulty(topology, cause, None),)
    return tuple(_drawn(topology, item, reserved) for item in items)


def names_every_pod(topology: Topology, reserved: Collection[str]) -> bool:
    """Whether the pods of all its links can be read. If not, it may declare a link of any pod."""
    return not any(isinstance(one, Faulty) and one.names is None for one in drawn_links(topology, reserved))


def refusal_for(pod: object, fault: Faulty) -> InvalidIntentError:
    """The error for a pod that an error in a topology concerns."""
    remedy = fault.withheld.remedy if fault.withheld is not None else f"correct {fault.place}"
    message = f"cannot link pod {pod}: {fault.place}: {fault.cause}"
    return InvalidIntentError(message, details=remedy, place=fault.place)


def _drawn(topology: Topology, node: YamlNode, reserved: Collection[str]) -> DrawnLink:
    names: frozenset[str] | None = None
    try:
        item = Item(node, (_ENDPOINTS,), (_ON_EDIT,))
        near, far = (_endpoint(item, text, reserved) for text in item.two(_ENDPOINTS))
        names = frozenset({near[0], far[0]})
        if len(names) == 1:
            raise item.fault(_ENDPOINTS, "a pod cannot be linked to itself")
        link = item.link(f"topology {topology}: line {item.line}", topology.namespace, near, far)
        return link._replace(live=item.of_link(_ON_EDIT, values.on_edit) is not False)
    except UnreadableError as cause:
        return _faulty(topology, cause, names)


def _endpoint(item: Item, text: str, reserved: Collection[str]) -> tuple[str, str]:
    name, colon, ifname = text.partition(":")
    if not colon:
        raise item.fault(_ENDPOINTS, f'invalid endpoint "{excerpt(text)}": expected pod:interface')
    try:
        return values.pod_name(name), values.interface_name(ifname, reserved)
    except ValueError as cause:
        raise item.fault(_ENDPOINTS, cause) from cause


def _faulty(topology: Topology, cause: UnreadableError, names: frozenset[str] | None) -> Faulty:
    field = f": {cause.field}" if cause.field else ""
    return Faulty(f"topology {topology}: line {cause.line}{field}", str(cause.cause), names, topology.text)
