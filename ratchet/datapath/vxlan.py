"""A VXLAN end: a device in the pod, with its underlay socket in the node's (the caller's) namespace.

The remote, the local address and the underlay interface of an existing device are changed in place. Interface index,
MAC and addresses stay, so the pod's processes keep their interface when the other pod moves
(Documentation/networking/vxlan.rst).

A pod with NET_ADMIN owns the device: it can add forwarding entries, and change the remote and some options. An existing
device is therefore observed with its forwarding entries, and `_reset` makes all of it as it was.

While the other pod is gone the end has no carrier, as with a cable pulled at its far end. If the kernel cannot take a
VXLAN's carrier (EOPNOTSUPP), the end keeps it. To set the interface down instead would flush its routes and IPv6
addresses, which nothing restores. The process remembers this refusal and shows it as `Device.carrier_fixed`, so that it
does not try again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import EADDRINUSE, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP

from ratchet.core.differences import differences, tunnel_differences
from ratchet.core.forwarding import ForwardingEntry
from ratchet.core.interface import Device, Observed, VxlanWire
from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import messages, tunnel_guard
from ratchet.datapath.forwarding import entries_of, lead_nowhere, lead_to
from ratchet.datapath.parse import device_of, local_bypass, read_new_link
from ratchet.datapath.pod_netns import ATTEMPTS, OpenPod
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.datapath.udp_ports import use_of
from ratchet.datapath.vni_conflicts import release
from ratchet.errors import DatapathError, VniForeignError, VniInUseError

# Seconds. The kernel destroys a namespace some time after its last reference is gone, usually 10 to 200 ms. Until then
# its devices hold their VNIs, and no event reports the release.
PATIENCE = 2.0
PAUSE = 0.02

# The options that the kernel changes in place (drivers/net/vxlan, vxlan_nl2conf).
CHANGEABLE = frozenset({"learning", "tos", "localbypass"})
# An end with more forwarding entries is made again. The replies to one removal each must fit into the socket's buffer.
ENTRIES_REMOVED = 100

UNREACHABLE = (
    "A device in a network namespace that cannot be reached holds it. Find the process that keeps that namespace "
    "(lsns -t net, lsof) and end it, or restart the node."
)

OTHER_PORT = "Set another vxlan_port (--vxlan-port) on all nodes. Another vni_range does not help."


@dataclass(slots=True)
class _Kernel:
    """Properties of the running kernel found so far. They are constant for the lifetime of this process."""

    takes_carrier: bool = True


_kernel = _Kernel()


def observe_tunnel(near: OpenPod, *, is_new: bool = False) -> Observed:
    """Observe this node's end, with its guard and its forwarding entries unless the caller has just made them."""
    device = device_of(near.observe())
    if device is None or device.kind != "vxlan":
        return Observed(near=device)
    fixed = not _kernel.takes_carrier
    if is_new or not near.spec.owns(device):
        return Observed(near=replace(device, carrier_fixed=fixed) if fixed else device)
    guarded, entries = _is_admitted(near, device), _entries(near, device)
    return Observed(near=replace(device, carrier_fixed=fixed, guarded=guarded, entries=entries))


def unplug_tunnel(near: OpenPod, device: Device) -> bool:
    """Take the carrier of a VXLAN. Returns whether the device had one and the kernel took it."""
    if device.kind != "vxlan" or not device.carrier or not _kernel.takes_carrier:
        return False
    (answer,) = near.channel.exchange(messages.carrier(device.index, False))
    if answer.refusal is None:
        return True
    if answer.refusal.errno == EOPNOTSUPP:
        _kernel.takes_carrier = False
    elif answer.refusal.errno != ENODEV:
        raise DatapathError(f"cannot unplug {near}: {answer.refusal.strerror}") from answer.refusal
    return False


def ensure_tunnel(
    wire: VxlanWire, near: OpenPod, search: Sequence[str], *, evict: bool = True, observed: Observed | None = None
) -> bool:
    """Make the end match `wire`. Returns whether anything changed.

    Creates first and observes only if something is in the way. If the caller has `observed` an end, starts from that.
    `search`: further paths of namespaces in which a stale device may hold the VNI.

    Without `evict`, raises VniInUseError if another tunnel of this node has the VNI. With it, such a tunnel is removed;
    raises VniForeignError if it is not Ratchet's.
    """
    changed = False
    device = observed.near if observed is not None else None
    for _ in range(ATTEMPTS):
        if device is None:
            if make_tunnel(wire, near):
                return True
            device = observe_tunnel(near).near
        near.refuse_foreign(device)
        if not differences(wire, Observed(device)):
            return changed
        if device is not None and _can_be_adjusted(wire, device):
            _adjust(wire, near, device)
            return True
        changed = True
        near.take_down(device)
        if near.free_index():
            continue
        if device is None and not evict:
            raise VniInUseError(f"cannot make {near}: VNI {wire.vni} is in use on this node")
        if device is None and _make_once_free(wire, near, search):
            return True
        device = None
    raise near.failed(f"others keep making interfaces named {near.spec.ifname} or tunnels of VNI {wire.vni}")


def _is_admitted(near: OpenPod, device: Device) -> bool | None:
    if device.remote is None:
        return None
    return tunnel_guard.is_admitted(_as_guarded(near, device.index, device.port, device.vni, device.remote))


def _as_guarded(
    near: OpenPod, index: int, port: int | None, vni: int | None, remote: str, link: str = ""
) -> GuardedTunnel:
    return GuardedTunnel(port or 0, vni or 0, remote, near.owner(index), link)


def _guard(wire: VxlanWire, near: OpenPod, index: int, *, is_new: bool = False) -> None:
    """Let the end take datagrams from the peer only, or from anywhere if `wire` has no guard. Best effort."""
    tunnel = _as_guarded(near, index, wire.port, wire.vni, wire.remote, wire.link)
    if wire.guard:
        tunnel_guard.admit(tunnel, is_new=is_new)
    else:
        tunnel_guard.withdraw(*tunnel.key, tunnel.owner)


def _can_be_adjusted(wire: VxlanWire, device: Device) -> bool:
    """Whether a change in place is enough.

    The kernel changes neither VNI, port and address family, nor does it make a pinned tunnel an unpinned one.
    """
    if device.kind != "vxlan" or (device.vni, device.port) != (wire.vni, wire.port):
        return False
    if device.parent_index and not wire.parent.index:
        return False
    families = {":" in address for address in (device.remote, device.local) if address}
    return (
        families == {":" in wire.remote}
        and CHANGEABLE.issuperset(device.options)
        and len(device.entries or ()) <= ENTRIES_REMOVED
    )


def _adjust(wire: VxlanWire, near: OpenPod, device: Device) -> None:
    # Before it sends to a new remote: the peer replies at once.
    if device.remote != wire.remote or device.guarded is not wire.guard:
        _guard(wire, near, device.index)
    if tunnel_differences(wire, device):
        _reset(wire, near, device)
    if device.remote != wire.remote:
        # The peer behind the new remote has another MAC. Cached neighbours would lose the pod's traffic for a minute.
        near.forget_neighbours(device.index)
    # Before the end is set up, if it is down: it must not have carrier even for a moment unless `wire` says so.
    if device.carrier != wire.carrier and not device.carrier_fixed and not near.set_carrier(device.index, wire.carrier):
        _kernel.takes_carrier = False
    rest = replace(device, carrier=wire.carrier, guarded=None)
    if set(differences(wire, Observed(rest))) - set(tunnel_differences(wire, device)):
        if near.spec.mtu > device.mtu:
            _grow(wire, near, device)
        near.adjust(device, wire.link)


def _reset(wire: VxlanWire, near: OpenPod, device: Device) -> None:
    """Make the end send to the peer only, with its own address, underlay interface and options."""
    near.do(messages.detached(device.index, wire))
    # Only now, because the device may have learnt entries until here.
    macs = {entry.mac for entry in _entries(near, device)}
    # By MAC address: the kernel looks for an entry's interface in the pod, where the node's may not exist.
    for answer in near.channel.exchange(*(lead_nowhere(device.index, mac) for mac in macs)):
        if answer.refusal is not None and answer.refusal.errno != ENOENT:
            raise near.failed(f"cannot remove its forwarding entries: {answer.refusal.strerror}") from answer.refusal
    near.do(messages.new_remote(device.index, wire.remote))
    _lead_beside(wire, near, device.index)


def _entries(near: OpenPod, device: Device) -> tuple[ForwardingEntry, ...]:
    """The forwarding entries of an end; empty if it has disappeared."""
    try:
        return entries_of(near.channel, device)
    except RefusedError as refusal:
        if refusal.errno == ENODEV:
            return ()
        raise DatapathError(f"cannot read the forwarding entries of {near}: {refusal.strerror}") from refusal


def _lead_beside(wire: VxlanWire, near: OpenPod, index: int) -> None:
    """Make the device send to the peer's UDP port if both ends are on one node.

    By default a device sends to its own port number.
    """
    if wire.is_of_one_node:
        near.do(lead_nowhere(index), lead_to(index, wire.remote, wire.remote_port))


def _grow(wire: VxlanWire, near: OpenPod, device: Device) -> None:
    """Raise the MTU. The kernel checks it against the parent's current MTU."""
    (answer,) = near.channel.exchange(messages.sized(device.index, near.spec.mtu))
    if answer.refusal is not None and answer.refusal.errno == EINVAL:
        raise near.failed(
            f"MTU {near.spec.mtu} does not fit into {wire.parent.ifname}",
            details=f"The MTU of {wire.parent.ifname} was {wire.parent.mtu} when it was looked at.",
        ) from answer.refusal


def make_tunnel(wire: VxlanWire, near: OpenPod) -> bool:
    """Create the end. Returns False if the name, the ifindex or the VNI is taken."""
    with Channel() as node:
        # The nsid of the pod's namespace in the node's is how a stale device is found when no path leads to its
        # namespace any more. EEXIST is the usual case, because the pod's primary network has assigned one.
        named, _ = node.exchange(messages.link_named(near.spec.ifname), messages.assign_nsid(near.netns.fd))
        # Older kernels look up the new name in the namespace of the socket and refuse one that the node uses. Such a
        # link is created under another name and renamed in the pod.
        ifname = near.spec.ifname if named.refusal is not None else f"ratchet{wire.vni:x}"
        (made,) = node.exchange(messages.new_vxlan(wire, ifname, near.netns.fd))
    if made.refusal is not None:
        if made.refusal.errno in (EEXIST, EBUSY):
            return False
        raise near.failed(f"{made.refusal.strerror} (parent interface {wire.parent.ifname})") from made.refusal
    _complete(wire, near, ifname)
    return True


def _complete(wire: VxlanWire, near: OpenPod, ifname: str) -> None:
    (shown,) = near.channel.exchange(messages.link_named(ifname))
    if shown.refusal is not None:
        raise near.failed(f"it went away while being made: {shown.refusal.strerror}") from shown.refusal
    link = read_new_link(shown.messages[0])
    try:
        if link.mtu != near.spec.mtu:  # the kernel silently reduces it to what the parent carries
            raise near.failed(
                f"MTU {near.spec.mtu} does not fit into {wire.parent.ifname}",
                details=f"At most {link.mtu}, as the MTU of {wire.parent.ifname} is {wire.parent.mtu}.",
            )
        if wire.is_of_one_node and local_bypass(shown.messages[0]) is not False:
            raise near.failed(
                "a tunnel between two pods of one node needs Linux 6.5",
                details="Leave out kind: vxlan, so that such a link is a vEth.",
            )
        if ifname != near.spec.ifname:
            near.do(messages.named(link.index, near.spec.ifname))
        _lead_beside(wire, near, link.index)
        _guard(wire, near, link.index, is_new=True)  # the end is down, so it takes no datagram yet
        near.tune()
        if not near.finish(link.index, wire.link, carrier=wire.carrier or not _kernel.takes_carrier):
            _kernel.takes_carrier = False
    except BaseException as error:
        with suppress(DatapathError):
            near.delete(link.index)
            tunnel_guard.withdraw(wire.port, wire.vni, near.owner(link.index))
        if isinstance(error.__cause__, RefusedError) and error.__cause__.errno == EADDRINUSE:
            raise near.failed(_port_in_use(wire.port), details=OTHER_PORT) from error
        raise


def _port_in_use(port: int) -> str:
    """The cause of a refused UDP port, with its holder if it is found."""
    with suppress(DatapathError):
        if holder := use_of(port).holder:
            return f"UDP port {port} of the node is used by {holder}"
    return f"UDP port {port} of the node is in use"


def _make_once_free(wire: VxlanWire, near: OpenPod, search: Sequence[str]) -> bool:
    """As `make_tunnel`, after removing stale devices that hold the VNI on this node."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if near.observe() is not None:  # another thread or process has created it: it is not stale
            return False
        try:
            freed = release(wire.vni, wire.port, (*search, near.netns.path))
        except VniForeignError as error:
            raise VniForeignError(f"cannot make {near}: {error}", vni=wire.vni, details=error.details) from error
        except DatapathError as error:
            raise near.failed(error, details=error.details) from error
        if make_tunnel(wire, near):
            return True
        if not freed:
            time.sleep(PAUSE)
    raise near.failed(f"VNI {wire.vni} on UDP port {wire.port} is in use on this node", details=UNREACHABLE)
