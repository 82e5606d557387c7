"""What an end is to look like in the kernel, what it does look like, and how the two differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratchet.core.endpoint_spec import Route, Sysctl, rate_text
from ratchet.core.model import Address

VXLAN_OVERHEAD_IPV4 = 50
VXLAN_OVERHEAD_IPV6 = 70


@dataclass(frozen=True, slots=True)
class Parent:
    """The node's underlay interface; `address` is the VTEP, `mtu` is in bytes.

    `index` is the interface that tunnels are pinned to. It is 0 where the VTEP is on an interface without egress:
    the kernel then routes the tunnel's packets, and `ifname` and `mtu` are those of the interface by which they leave.

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


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """One interface in one pod: where it is, its name, its addresses, its MTU in bytes.

    `cookie` and `index` are as in `core.model.Location`: an interface of another index belongs to another link.
    `mac` is what it is made with (empty: as the kernel likes); a pod may change it, and nobody changes it back. The
    rest is as in `core.endpoint_spec.EndpointSpec`. `renewed`: an earlier specification was applied before, and what
    it added is removed.
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
    cookie: int = 0
    index: int = 0

    def owns(self, device: Device) -> bool:
        """Whether a device is the interface of this end: made by Ratchet, and for this link."""
        return device.ours and self.index in (0, device.index)


@dataclass(frozen=True, slots=True)
class VethWire:
    """Both ends of a vEth pair, to be made as one; `link` is the record's name, for people who look."""

    link: str
    near: InterfaceSpec
    far: InterfaceSpec


@dataclass(frozen=True, slots=True)
class VxlanWire:
    """This node's end of a tunnel (Documentation/networking/vxlan.rst); `port` is UDP, `parent` the underlay.

    `remote_port` is the UDP port of the peer's end, which is another where both ends are on one node: of one VNI and
    port a node takes one device.

    `carrier`: whether the end is to have carrier; False while the peer's does not stand, as with a cable that is
    pulled at its other end.
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

    @property
    def is_of_one_node(self) -> bool:
        """Whether the peer's end is on the same node."""
        return self.remote_port != self.port


Wire = VethWire | VxlanWire


@dataclass(frozen=True, slots=True)
class Device:
    """An interface as the kernel shows it.

    `ours`: made by Ratchet. `wired`: for a vEth, that its peer is the interface at the wire's other end; for any
    other kind True. `up` is IFF_UP. `given`: those of `addresses` that Ratchet gave; the others are the pod's own
    affair. `routes` are those that Ratchet gave, where somebody asked; `rate` is what it gave; `sysctls` are those that
    were asked for. The tunnel's fields are None but for a VXLAN, whose `parent_index` is 0 where it is not pinned.

    `carrier`: not held down by protodown; for another kind than a VXLAN True, whatever the kernel has to say of it.
    `carrier_fixed`: this kernel is known not to take a VXLAN's carrier, so that nobody may ask for it.
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
    given: tuple[Address, ...] = ()
    carrier: bool = True
    carrier_fixed: bool = False
    txqlen: int = 0
    routes: tuple[Route, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    offloads: bool = True
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What stands where a wire should: `far` is looked at for a vEth alone. None: no such interface."""

    near: Device | None
    far: Device | None = None


def differences(wire: Wire, observed: Observed) -> tuple[str, ...]:
    """Every way in which what stands is not the wire, in words for a person; empty when it is."""
    found = near_differences(wire, observed)
    return found + _interface_differences(wire.far, observed.far, "veth") if isinstance(wire, VethWire) else found


def near_differences(wire: Wire, observed: Observed) -> tuple[str, ...]:
    """Those of the wire's near end alone."""
    if isinstance(wire, VethWire):
        return _interface_differences(wire.near, observed.near, "veth")
    found = _interface_differences(wire.near, observed.near, "vxlan")
    return found + _tunnel_differences(wire, observed.near) if observed.near else found


def only_gains_carrier(wire: Wire, observed: Observed | None) -> bool:
    """Whether an existing end of a tunnel lacks its carrier and nothing else."""
    if not isinstance(wire, VxlanWire) or observed is None or not wire.carrier:
        return False
    return not differences(replace(wire, carrier=False), observed)


def _interface_differences(spec: InterfaceSpec, device: Device | None, kind: str) -> tuple[str, ...]:
    if device is None:
        return (f"{spec.ifname} is not there",)
    if not device.ours:
        return (f"{spec.ifname} was not made by ratchet",)
    if not spec.owns(device):
        return (f"{spec.ifname} belongs to another link",)
    if device.kind != kind:
        return (f"{spec.ifname} is a {device.kind}, wanted a {kind}",)
    found = []
    if not device.wired:
        found.append(f"{spec.ifname} leads to another interface than its peer")
    if not device.up:
        found.append(f"{spec.ifname} is down")
    if device.mtu != spec.mtu:
        found.append(f"{spec.ifname} has MTU {device.mtu}, wanted {spec.mtu}")
    missing = [address for address in spec.addresses if address not in device.addresses]
    found.extend(f"{spec.ifname} lacks {address}" for address in missing)
    unwanted = [address for address in device.given if address not in spec.addresses]
    found.extend(f"{spec.ifname} still has {address}" for address in unwanted)
    found.extend(f"{spec.ifname} {words}" for words in _setting_differences(spec, device))
    return tuple(found)


def _setting_differences(spec: InterfaceSpec, device: Device) -> list[str]:
    found = []
    if spec.txqlen not in (None, device.txqlen):
        found.append(f"has txqlen {device.txqlen}, wanted {spec.txqlen}")
    found += [f"lacks the route {route}" for route in spec.routes if route not in device.routes]
    found += [f"still has the route {route}" for route in device.routes if route not in spec.routes]
    has = dict(device.sysctls)
    found += [f"has {name} {has.get(name)}, wanted {value}" for name, value in spec.sysctls if has.get(name) != value]
    if device.offloads and not spec.offloads:
        found.append("has offloads, wanted none")
    if device.rate != spec.rate:
        has_rate, wanted = ("no rate" if rate is None else rate_text(rate) for rate in (device.rate, spec.rate))
        found.append(f"has {has_rate}, wanted {wanted}")
    return found


def _tunnel_differences(wire: VxlanWire, device: Device) -> tuple[str, ...]:
    if not wire.near.owns(device) or device.kind != "vxlan":
        return ()
    wanted: dict[str, tuple[object, object]] = {
        "VNI": (device.vni, wire.vni),
        "remote": (device.remote, wire.remote),
        "local": (device.local, wire.local),
        "port": (device.port, wire.port),
        "parent": (device.parent_index, wire.parent.index),  # 0: not pinned
    }
    name = wire.near.ifname
    found = [f"{name} has {what} {has}, wanted {want}" for what, (has, want) in wanted.items() if has != want]
    if device.carrier != wire.carrier and not device.carrier_fixed:
        found.append(f"{name} {'has carrier while its peer is gone' if device.carrier else 'is held without carrier'}")
    return tuple(found)


def tunnel_mtu(underlay_mtu: int, vtep: str) -> int:
    """The MTU of a tunnel over an underlay, less VXLAN's headers in the VTEP's family (RFC 7348, section 4.3)."""
    return underlay_mtu - (VXLAN_OVERHEAD_IPV6 if ":" in vtep else VXLAN_OVERHEAD_IPV4)
