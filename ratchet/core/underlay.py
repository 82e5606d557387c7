"""A node's side of tunnels."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.interface import Parent, cable_mtu
from ratchet.core.pod import PodRef
from ratchet.core.ports import PortRange, default_range
from ratchet.core.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Underlay:
    """A node's side of tunnels: its name, the interface that carries them, their UDP port.

    `has_agent`: an agent runs on the node, so an end can stay without carrier until its peer is ready. `vxlan_ports` is
    the range of ports that links may use; None: `default_range`. `guard`: tunnels take datagrams from their peers only
    (`core.tunnel_guard`).
    """

    node: str
    parent: Parent
    vxlan_port: int
    has_agent: bool = False
    vxlan_ports: PortRange | None = None
    guard: bool = True

    @property
    def allowed_ports(self) -> PortRange:
        return self.vxlan_ports or default_range(self.vxlan_port)

    @property
    def cable_mtu(self) -> int:
        """The MTU of a cable for which none is declared: what this node's tunnels carry."""
        return cable_mtu(self.parent.mtu, self.parent.addresses)

    def sandbox(self, container_id: str, pod: PodRef, netns: str, cookie: int = 0) -> Sandbox:
        """A sandbox on this node, with the node's VTEPs and underlay MTU."""
        parent = self.parent
        return Sandbox(
            container_id, pod, self.node, netns, parent.address, cookie, underlay_mtu=parent.mtu, vteps=parent.addresses
        )
