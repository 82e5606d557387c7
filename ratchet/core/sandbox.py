"""A pod's sandbox as the record of a link names it, and the location of an interface in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratchet.core.panel import PanelSlot
from ratchet.core.pod import PodRef
from ratchet.core.schemas import EARLIER_SCHEMA


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's sandbox, which the runtime created on a node.

    `container_id` is the runtime's name for it; no two sandboxes have the same one. `netns` is the path of its network
    namespace on `node`. `vtep` is the address at which other nodes reach this node's tunnels. `cookie` is the
    namespace's identity within one boot (socket(7), SO_NETNS_COOKIE; 0: unknown).

    `underlay_mtu` is the MTU of the node's underlay interface in bytes (0: unknown). `vteps` are all addresses at which
    other nodes reach this node's tunnels, at most one of each family, `vtep` first (empty: unknown). Records of
    schema 1 hold neither.
    """

    container_id: str
    pod: PodRef
    node: str
    netns: str
    vtep: str
    cookie: int = 0
    underlay_mtu: int = 0
    vteps: tuple[str, ...] = ()

    def in_schema(self, schema: int) -> Sandbox:
        """The sandbox without the fields that records of this schema do not hold."""
        if schema != EARLIER_SCHEMA or not (self.underlay_mtu or self.vteps):
            return self
        return replace(self, underlay_mtu=0, vteps=())


@dataclass(frozen=True, slots=True)
class Location:
    """The location of an end's interface on its own node, from that node's journal.

    `netns` is the path of the pod's network namespace, `cookie` its SO_NETNS_COOKIE (0: unknown, any namespace at that
    path is accepted). `index` is the ifindex that is reserved for this end (0: none, the kernel assigns one). `slot` is
    the attachment's place in the patch panel (None: it has none).
    """

    netns: str
    cookie: int = 0
    index: int = 0
    slot: PanelSlot | None = None
