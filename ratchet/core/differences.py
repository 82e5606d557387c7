"""The differences between a link's interfaces as they must be and as observed, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ratchet.core.carrier import TunnelEnd, panel_end_is_up, tunnel_end_is_up
from ratchet.core.endpoint_spec import rate_text
from ratchet.core.forwarding import ForwardingEntry, entry_differences
from ratchet.core.interface import (
    CABLE,
    DEFAULT_TXQLEN,
    CableWire,
    Device,
    InterfaceSpec,
    Observed,
    PatchWire,
    VethWire,
    VxlanWire,
    Wire,
    is_panel_wire,
)
from ratchet.core.kinds import Wiring


def differences(wire: Wire, observed: Observed) -> tuple[str, ...]:
    """The differences between the observed interfaces and the wire, in words. Empty if they match."""
    found = near_differences(wire, observed)
    if isinstance(wire, VethWire):
        return found + _interface_differences(wire.far, observed.far, "veth")
    if isinstance(wire, PatchWire):
        return found + _patch_differences(wire.far, observed.far, observed.near)
    return found


def near_differences(wire: Wire, observed: Observed) -> tuple[str, ...]:
    """The differences at the near end only."""
    match wire:
        case VethWire():
            return _interface_differences(wire.near, observed.near, "veth")
        case PatchWire():
            return _patch_differences(wire.near, observed.near, observed.far)
        case CableWire():
            return _cable_differences(wire, observed.near)
    found = _interface_differences(wire.near, observed.near, wire.near_kind)
    if observed.near is None or observed.near.kind != wire.near_kind:
        return found
    device = observed.near
    found += tunnel_differences(wire, device)
    return found + _tunnel_carrier_differences(wire, device) + _guard_differences(wire, device)


def _tunnel_carrier_differences(wire: VxlanWire, device: Device) -> tuple[str, ...]:
    if wire.wiring is Wiring.DIRECT:
        return _carrier_differences(wire.near, device, wire.carrier)
    if device.complete not in (None, wire.carrier):  # the carrier would not follow the far pod
        return (f"{wire.near.ifname} {_carrier_words(device.complete is True, 'gone')}",)
    carrier = tunnel_end_is_up(TunnelEnd(wire.carrier, device.up, device.far_up))
    return _carrier_differences(wire.near, device, carrier, "shut" if wire.carrier else "gone")


def _patch_differences(spec: InterfaceSpec, device: Device | None, other: Device | None) -> tuple[str, ...]:
    """The differences of a cable that must be patched to the cable of `other`."""
    found = _interface_differences(spec, device, CABLE)
    own, far = device is None or device.up, None if other is None else other.up
    carrier = panel_end_is_up(link_complete=True, held_down=False, own_pod_up=own, far_pod_up=far)
    return found + _panel_differences(spec, device, carrier=carrier, tunnel=False, peer="shut")


def _cable_differences(wire: CableWire, device: Device | None) -> tuple[str, ...]:
    """The differences of a cable whose peer has not joined. It may be patched to another cable: it has no carrier."""
    found = _interface_differences(wire.near, replace(device, wired=True) if device is not None else None, CABLE)
    return found + _panel_differences(wire.near, device, carrier=False, tunnel=wire.keeps_tunnel)


def _panel_differences(
    spec: InterfaceSpec, device: Device | None, *, carrier: bool, tunnel: bool, peer: str = "gone"
) -> tuple[str, ...]:
    """The differences of a cable's other end. `tunnel`: it may be patched to one. `peer`: why it has no carrier."""
    if device is None or device.kind != CABLE or not spec.owns(device):
        return ()
    patched = (f"{spec.ifname} is patched to a tunnel",) if device.vni is not None and not tunnel else ()
    return patched + _carrier_differences(spec, device, carrier, peer)


def only_gains_carrier(wire: Wire, observed: Observed | None) -> bool:
    """Whether an existing end of a tunnel lacks its carrier and nothing else."""
    if not isinstance(wire, VxlanWire) or observed is None or not wire.carrier:
        return False
    return not differences(replace(wire, carrier=False), observed)


def removes_nothing(wire: Wire, observed: Observed) -> bool:
    """Whether a build takes neither an interface nor a carrier that is up, and no tunnel, given what exists.

    A cable stays whatever the build does. One without carrier and without tunnel can only gain both.
    """
    if only_gains_carrier(wire, observed):
        return True
    if not is_panel_wire(wire):
        return False
    ends = (one for one in (observed.near, observed.far) if one is not None)
    return all(one.kind == CABLE and not one.carrier and one.vni is None for one in ends)


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
    if not device.up and not device.is_shut:
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
    found = list(_reset_differences(spec, device)) if spec.resets else []
    if spec.txqlen not in (None, device.txqlen):
        found.append(f"has txqlen {device.txqlen}, wanted {spec.txqlen}")
    if not device.is_shut:  # an interface that is down has no routes
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


def _reset_differences(spec: InterfaceSpec, device: Device) -> Iterator[str]:
    """The differences that an earlier specification has left (`InterfaceSpec.resets`)."""
    if "mac" in spec.resets and spec.mac not in ("", device.mac):
        yield f"has MAC {device.mac}, wanted {spec.mac}"
    if "txqlen" in spec.resets and spec.txqlen is None and device.txqlen != DEFAULT_TXQLEN:
        yield f"still has txqlen {device.txqlen}"
    if "offloads" in spec.resets and spec.offloads and not device.offloads:
        yield "has no offloads"
    yield from (f"still has the value of {name} that was set" for name in device.stale_sysctls)


def tunnel_differences(wire: VxlanWire, device: Device) -> tuple[str, ...]:
    """The differences in where a tunnel's end sends and what it takes, in words. Not its interface and its carrier."""
    if not wire.near.owns(device) or device.kind != wire.near_kind:
        return ()
    wanted: dict[str, tuple[object, object]] = {
        "VNI": (device.vni, wire.vni),
        "remote": (device.remote, wire.remote),
        "local": (device.local, wire.local),
        "port": (device.port, wire.port),
        "parent": (device.parent_index, wire.parent.index),  # 0: not pinned
    }
    found = [f"has {what} {has}, wanted {want}" for what, (has, want) in wanted.items() if has != want]
    found += [f"has the option {option}" for option in device.options]
    if device.entries is not None:
        found += entry_differences(_entry_of(wire, device), device.entries)
    return tuple(f"{wire.near.ifname} {words}" for words in found)


def _entry_of(wire: VxlanWire, device: Device) -> ForwardingEntry:
    """The only forwarding entry of a device with these parameters, whose own differences are listed already."""
    entry = wire.entry
    if device.remote is None or device.vni is None or device.port is None or device.parent_index is None:
        return entry
    entry = entry._replace(remote=device.remote, vni=device.vni)
    return entry if wire.is_of_one_node else entry._replace(port=device.port, parent_index=device.parent_index)


def _carrier_differences(spec: InterfaceSpec, device: Device, wanted: bool, peer: str = "gone") -> tuple[str, ...]:
    if not spec.owns(device) or device.carrier == wanted or device.carrier_fixed:
        return ()
    return (f"{spec.ifname} {_carrier_words(device.carrier, peer)}",)


def _carrier_words(carrier: bool, peer: str) -> str:
    return f"has carrier while its peer is {peer}" if carrier else "is held without carrier"


def _guard_differences(wire: VxlanWire, device: Device) -> tuple[str, ...]:
    # `guarded` is about the device's remote: if that is another one, the guard is corrected with it.
    if not wire.near.owns(device) or device.remote != wire.remote or device.guarded in (None, wire.guard):
        return ()
    return (f"{wire.near.ifname} {'is guarded' if device.guarded else 'takes datagrams from anywhere'}",)
