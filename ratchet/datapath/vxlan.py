"""A VXLAN's end: made in the pod with its underlay socket in the node's namespace, which is the caller's.

The remote of a standing device is changed in place: interface index, MAC and addresses stay, and what runs in the pod
does not lose its interface because the other pod has moved (Documentation/networking/vxlan.rst).

While the other pod is gone the end has no carrier, as with a cable pulled at its far end. Where the kernel refuses to
take a VXLAN's (EOPNOTSUPP), the end keeps it and loses nothing but that sign: to take the interface down instead would
flush its routes and IPv6 addresses, which nobody gives back. Such a refusal is remembered by the process and shown as
`Device.carrier_fixed`, lest what cannot be had be asked for again and again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import EBUSY, EEXIST, EINVAL, ENODEV, EOPNOTSUPP

from ratchet.core.interface import Device, Observed, VxlanWire, differences
from ratchet.datapath import messages
from ratchet.datapath.parse import device_of, reaches_own_node, read_new_link
from ratchet.datapath.pod_netns import ATTEMPTS, OpenPod
from ratchet.datapath.rtnetlink import Channel
from ratchet.datapath.vni_conflicts import release
from ratchet.errors import DatapathError, VniForeignError, VniInUseError

# Seconds. The kernel takes a namespace down some time after the last thing that kept it, 10 to 200 ms as a rule; until
# then its devices hold their VNIs, and no event tells when they let go.
PATIENCE = 2.0
PAUSE = 0.02

UNREACHABLE = (
    "A device in a network namespace that cannot be reached holds it. Find the process that keeps that namespace "
    "(lsns -t net, lsof) and end it, or restart the node."
)


@dataclass(slots=True)
class _Kernel:
    """What has been found out of the running kernel, which stays as it is for as long as this process does."""

    takes_carrier: bool = True


_kernel = _Kernel()


def observe_tunnel(near: OpenPod) -> Observed:
    """This node's end as it stands."""
    device = device_of(near.observe())
    if device is not None and device.kind == "vxlan" and not _kernel.takes_carrier:
        device = replace(device, carrier_fixed=True)
    return Observed(near=device)


def unplug_tunnel(near: OpenPod, device: Device) -> bool:
    """Whether its carrier was there to be taken, and was."""
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


def ensure_tunnel(wire: VxlanWire, near: OpenPod, search: Sequence[str], *, evict: bool = True) -> bool:
    """Whether anything had to be done. `search`: further paths at which a namespace may hold a stale claim.

    Raises VniInUseError where another tunnel of this node has the VNI and is not to be taken down (`evict`),
    VniForeignError where that tunnel is not ours.

    Made first and looked at only where something is in the way: in most calls nothing is.
    """
    changed = False
    for _ in range(ATTEMPTS):
        if make_tunnel(wire, near):
            return True
        observed = observe_tunnel(near)
        near.refuse_foreign(observed.near)
        if not differences(wire, observed):
            return changed
        if observed.near is not None and _can_be_adjusted(wire, observed.near):
            _adjust(wire, near, observed.near)
            return True
        changed = True
        near.take_down(observed.near)
        if near.free_index():
            continue
        if observed.near is None and not evict:
            raise VniInUseError(f"cannot make {near}: VNI {wire.vni} is in use on this node")
        if observed.near is None and _make_once_free(wire, near, search):
            return True
    raise near.failed(f"others keep making interfaces named {near.spec.ifname} or tunnels of VNI {wire.vni}")


def _can_be_adjusted(wire: VxlanWire, device: Device) -> bool:
    """The kernel changes the remote of a standing device, within its address family, and nothing else of a tunnel."""
    if device.kind != "vxlan" or device.remote is None or (":" in device.remote) != (":" in wire.remote):
        return False
    tunnel = (device.vni, device.local, device.port, device.parent_index)
    return tunnel == (wire.vni, wire.local, wire.port, wire.parent.index)


def _adjust(wire: VxlanWire, near: OpenPod, device: Device) -> None:
    if device.remote != wire.remote:
        near.do(messages.new_remote(device.index, wire.remote))
        # The peer behind the new remote has another MAC: what the pod remembers would be sent to nobody for a minute.
        near.forget_neighbours(device.index)
    # Before the end is brought up, if it is not yet: there is to be no moment of carrier that is not meant.
    if device.carrier != wire.carrier and not device.carrier_fixed and not near.set_carrier(device.index, wire.carrier):
        _kernel.takes_carrier = False
    _lead_beside(wire, near, device.index)
    rest = replace(device, remote=wire.remote, carrier=wire.carrier)
    if differences(wire, Observed(rest)):
        if near.spec.mtu > device.mtu:
            _grow(wire, near, device)
        near.adjust(device, wire.link)


def _lead_beside(wire: VxlanWire, near: OpenPod, index: int) -> None:
    """Have it send to the peer's UDP port where that is not its own, which a device takes for both."""
    if wire.is_of_one_node:
        near.do(messages.lead_to(index, wire.remote, wire.remote_port))
        near.channel.exchange(messages.lead_no_more_to(index, wire))


def _grow(wire: VxlanWire, near: OpenPod, device: Device) -> None:
    """A larger MTU, which the kernel measures by what the parent's is by now."""
    (answer,) = near.channel.exchange(messages.sized(device.index, near.spec.mtu))
    if answer.refusal is not None and answer.refusal.errno == EINVAL:
        raise near.failed(
            f"MTU {near.spec.mtu} does not fit into {wire.parent.ifname}",
            details=f"The MTU of {wire.parent.ifname} was {wire.parent.mtu} when it was looked at.",
        ) from answer.refusal


def make_tunnel(wire: VxlanWire, near: OpenPod) -> bool:
    """Whether it could be made: not if the name, the ifindex or the VNI is taken."""
    with Channel() as node:
        # The number by which the node's namespace knows the pod's is how a stale device is found once nothing else
        # leads to that namespace; EEXIST here is the usual case, the pod's primary network has seen to it.
        named, _ = node.exchange(messages.link_named(near.spec.ifname), messages.assign_nsid(near.netns.fd))
        # Older kernels look the new name up in the namespace of the socket, and refuse one that the node uses: such a
        # link is made under another name and gets its own in the pod.
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
        if link.mtu != near.spec.mtu:  # the kernel cuts it down to what the parent carries, and says nothing
            raise near.failed(
                f"MTU {near.spec.mtu} does not fit into {wire.parent.ifname}",
                details=f"At most {link.mtu}, as the MTU of {wire.parent.ifname} is {wire.parent.mtu}.",
            )
        if wire.is_of_one_node and not reaches_own_node(shown.messages[0]):
            raise near.failed(
                "a tunnel between two pods of one node needs Linux 6.5",
                details="Leave out kind: vxlan, so that such a link is a vEth.",
            )
        if ifname != near.spec.ifname:
            near.do(messages.named(link.index, near.spec.ifname))
        _lead_beside(wire, near, link.index)
        near.tune()
        if not near.finish(link.index, wire.link, carrier=wire.carrier or not _kernel.takes_carrier):
            _kernel.takes_carrier = False
    except BaseException:
        with suppress(DatapathError):
            near.delete(link.index)
        raise


def _make_once_free(wire: VxlanWire, near: OpenPod, search: Sequence[str]) -> bool:
    """As `make_tunnel`, once the VNI has been taken from whatever still holds it on this node."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if near.observe() is not None:  # another hand was quicker: what it made is no left-over
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
