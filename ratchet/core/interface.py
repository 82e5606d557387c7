"""How the interfaces of a link must be, and how they are observed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from ratchet.core.endpoint_spec import Address, Route, Sysctl
from ratchet.core.forwarding import ANY_MAC, ForwardingEntry, Tunnel
from ratchet.core.kinds import Wiring
from ratchet.core.panel import PanelSlot

VXLAN_OVERHEAD_IPV4 = 50
VXLAN_OVERHEAD_IPV6 = 70
# The largest MTU of a tunnel over IPv4 whose outer packets may be fragmented: an IPv4 packet of 65,535 bytes.
FRAGMENTED_MTU_MAX = 65_485
# The kind of a vEth whose other end is in the panel.
CABLE = "cable"


@dataclass(frozen=True, slots=True)
class Parent:
    """The node's underlay interface. `address` is the VTEP, `mtu` is in bytes.

    `index` is the ifindex to which tunnels are pinned. It is 0 if the VTEP is on an interface without egress. The
    kernel then routes the tunnel's packets, and `ifname` and `mtu` are those of the interface that sends them.

    `other_address` is the VTEP of the other address family on the same interface; empty if there is none.
    """

    ifname: str
    index: int
    address: str
    mtu: int
    other_address: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All VTEPs, `address` first."""
        return tuple(filter(None, (self.address, self.other_address)))


DEFAULT_TXQLEN = 1000  # packets: DEFAULT_TX_QUEUE_LEN of the kernel, for vEths and VXLANs


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """How one interface in one pod must be. `mtu` is in bytes.

    `cookie` and `index` are as in `core.sandbox.Location`: an interface of another index belongs to another link. `mac`
    is the MAC address at creation (empty: the kernel chooses); a pod may change it, and it is not changed back. The
    other settings are as in `core.endpoint_spec.EndpointSpec`. `renewed`: an earlier specification was applied before,
    and what it added is removed. `resets` are settings of an earlier one that get the values of a new interface
    (`endpoint_spec.resets`). `sends` False: what the pod sends is dropped in the panel. `group` is that of the
    attachment, in the panel; 0: the group of interfaces in pods. `slot` is the attachment's place in the panel; None in
    direct wiring.
    """

    netns: str
    ifname: str
    addresses: tuple[Address, ...]
    mtu: int
    mac: str = ""
    txqlen: int | None = None
    routes: tuple[Route, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    offloads: bool = True
    rate: int | None = None
    renewed: bool = False
    resets: tuple[str, ...] = ()
    sends: bool = True
    cookie: int = 0
    index: int = 0
    group: int = 0
    slot: PanelSlot | None = None

    def owns(self, device: Device) -> bool:
        """Whether a device is the interface of this end: Ratchet created it, and for this link."""
        return device.ours and self.index in (0, device.index)


@dataclass(frozen=True, slots=True)
class VethWire:
    """Both ends of a vEth pair, which are created together. `link` is the record's name."""

    link: str
    near: InterfaceSpec
    far: InterfaceSpec


@dataclass(frozen=True, slots=True)
class CableWire:
    """The cable of an end whose peer has not joined. It has no carrier: its end in the panel is down.

    `keeps_tunnel`: it may be patched to the tunnel of an earlier peer. The tunnel stays while the record may call the
    end ready: the next peer may have the same VTEP, and the link is then linked as soon as that peer is ready.
    """

    link: str
    near: InterfaceSpec
    keeps_tunnel: bool = True


@dataclass(frozen=True, slots=True)
class PatchWire:
    """The cables of both ends on one node, patched to each other. Both have carrier.

    Each end's own pass makes its cable. Both must exist before they are patched.
    """

    link: str
    near: InterfaceSpec
    far: InterfaceSpec


@dataclass(frozen=True, slots=True)
class VxlanWire:
    """This node's end of a tunnel (Documentation/networking/vxlan.rst).

    `wiring`: in panel wiring the VXLAN is in the panel, and `near` is a cable that is patched to it.

    `port` is the UDP port of this end, `parent` the underlay interface.
    `remote_port` is the UDP port of the peer's end. It differs from `port` if both ends are on one node, because a node
    has one device for each VNI and port.

    `carrier`: whether the end must have carrier. It must not until the peer is ready, as if a cable were unplugged at
    its other end.

    `guard`: whether the end takes datagrams from the peer's VTEP only (`core.tunnel_guard`).

    `switches`: whether a cable must send into this tunnel. Until the peer takes from it, a cable may go on sending into
    the tunnel that this one replaces.
    """

    link: str
    near: InterfaceSpec
    vni: int
    remote: str
    local: str
    port: int
    remote_port: int
    parent: Parent
    carrier: bool = True
    guard: bool = True
    wiring: Wiring = Wiring.DIRECT
    switches: bool = True

    @property
    def near_kind(self) -> str:
        """The kind of the interface in the pod."""
        return "vxlan" if self.wiring is Wiring.DIRECT else CABLE

    @property
    def is_of_one_node(self) -> bool:
        """Whether the peer's end is on the same node."""
        return self.remote_port != self.port

    @property
    def tunnel(self) -> Tunnel:
        return Tunnel(self.vni, self.remote, self.local, self.port, self.remote_port, self.parent.index)

    @property
    def entry(self) -> ForwardingEntry:
        """The only forwarding entry of this end. Between two ends on one node, it is not pinned to an interface."""
        index = 0 if self.is_of_one_node else self.parent.index
        return ForwardingEntry(ANY_MAC, self.remote, self.remote_port, self.vni, index)


Wire = VethWire | VxlanWire | CableWire | PatchWire
PanelWire = CableWire | PatchWire | VxlanWire


def is_panel_wire(wire: Wire) -> TypeGuard[PanelWire]:
    """Whether a wire is one of a link in panel wiring."""
    return not isinstance(wire, VethWire) and (not isinstance(wire, VxlanWire) or wire.wiring is Wiring.PANEL)


@dataclass(frozen=True, slots=True)
class Device:
    """An interface as observed in the kernel.

    `kind` is as in ip-link(8); `CABLE` for a cable. `ours`: Ratchet created it. `wired`: the peer of a vEth is the
    interface at the other end of the link, or a cable is patched to the cable or the VXLAN of the link; True for any
    other kind. `up` is IFF_UP. `brought_up`: Ratchet has set the interface up since it created it; from then on, the
    pod decides whether it is up. `given` are the addresses that Ratchet added; other addresses belong to the pod.
    `routes` and `rate` are those that Ratchet set. `routes` and `sysctls` are read only if the specification needs
    them. The tunnel's fields are None for other kinds than VXLAN, and for a cable without a tunnel. `parent_index` is 0
    if the tunnel is not pinned.

    `stale_sysctls` are those of the specification's `resets` that have another value than a new interface.

    `entries` are the forwarding entries of a VXLAN; None if they were not read. `options` are those options of a VXLAN
    that Ratchet never sets and that harm others, by their names in ip-link(8).

    `carrier`: a VXLAN that protodown does not hold down, or a cable whose end in the panel is up; True for other kinds.
    `carrier_fixed`: this kernel cannot hold a VXLAN without carrier.

    `far_up` and `complete`: for a cable that is patched to a tunnel, IFF_UP of the far pod's end as last heard, and
    whether this process takes the link for complete (`core.carrier.TunnelEnd`). None: unknown, or another device.

    `guarded`: whether a VXLAN takes datagrams from its remote only. None: this was not determined, or the node cannot
    tell.
    """

    ifname: str
    index: int
    kind: str
    ours: bool
    up: bool
    mtu: int
    mac: str
    addresses: tuple[Address, ...] = ()
    wired: bool = True
    vni: int | None = None
    remote: str | None = None
    local: str | None = None
    port: int | None = None
    parent_index: int | None = None
    entries: tuple[ForwardingEntry, ...] | None = None
    options: tuple[str, ...] = ()
    given: tuple[Address, ...] = ()
    carrier: bool = True
    carrier_fixed: bool = False
    txqlen: int = 0
    routes: tuple[Route, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    offloads: bool = True
    rate: int | None = None
    stale_sysctls: tuple[str, ...] = ()
    guarded: bool | None = field(default=None, compare=False)
    far_up: bool | None = field(default=None, compare=False)
    complete: bool | None = field(default=None, compare=False)
    brought_up: bool = True

    @property
    def is_shut(self) -> bool:
        """Whether the pod has set the interface down. The kernel then removes its routes and IPv6 addresses."""
        return self.brought_up and not self.up

    def with_flushed(self, spec: InterfaceSpec) -> Device:
        """The device with the IPv6 addresses of `spec`, if it is shut."""
        if not self.is_shut:
            return self
        flushed = (one for one in spec.addresses if one.version == 6 and one not in self.addresses)
        return replace(self, addresses=(*self.addresses, *flushed))


@dataclass(frozen=True, slots=True)
class Observed:
    """The observed interfaces of a link. None: no such interface. `far` is observed for a vEth only."""

    near: Device | None
    far: Device | None = None


def tunnel_mtu(underlay_mtu: int, vtep: str) -> int:
    """The MTU of a tunnel: the underlay's less VXLAN's headers for the VTEP's family (RFC 7348, 4.3)."""
    return underlay_mtu - (VXLAN_OVERHEAD_IPV6 if ":" in vtep else VXLAN_OVERHEAD_IPV4)


def cable_mtu(underlay_mtu: int, vteps: Collection[str]) -> int:
    """The MTU of a cable for which none is declared: what tunnels of a node with these VTEPs carry in either family."""
    return min(tunnel_mtu(underlay_mtu, vtep) for vtep in vteps)
