"""The links of a pod's annotation `ratchet.links`: a YAML or JSON list.

An item has `peer`, `ifname` and `peer_ifname`, and properties of the link or of its ends. A property of the ends is one
value for both, or a list of two with this pod's end first.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from ratchet.core.intent import values
from ratchet.core.intent.declared import DeclaredLink
from ratchet.core.intent.link_parser import Item, items_of
from ratchet.core.intent.pods import LINKS, meant_name, refusal
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode, read
from ratchet.core.pod import Pod
from ratchet.errors import InvalidIntentError

_FIELDS = ("peer", "ifname", "peer_ifname")


def listed_links(pod: Pod, reserved: Collection[str]) -> list[DeclaredLink]:
    """The links that a pod lists. Raises InvalidIntentError."""
    if pod.withheld is not None:
        cause = f"cannot link pod {pod.ref}: {LINKS}: {pod.withheld.cause}"
        raise InvalidIntentError(cause, details=pod.withheld.remedy)
    text = pod.annotations.get(LINKS)
    if text is None:
        return []
    try:
        return [_link(pod, node, reserved) for node in items_of(read(text))]
    except UnreadableError as cause:
        place = f"{LINKS}: line {cause.line}"
        raise refusal(pod, f"{place}: {cause.field}" if cause.field else place, cause.cause) from cause


def _link(pod: Pod, node: YamlNode, reserved: Collection[str]) -> DeclaredLink:
    item, name = Item(node, _FIELDS), meant_name(pod)
    peer = item.needed("peer", values.pod_name)
    if peer in (name, pod.ref.name):
        raise item.fault("peer", "a pod cannot be linked to itself")
    ifname, peer_ifname = (
        item.needed(field, partial(values.interface_name, reserved=reserved)) for field in ("ifname", "peer_ifname")
    )
    return item.link(f"{LINKS}: line {node.line}", pod.ref.namespace, (name, ifname), (peer, peer_ifname))
