"""Cables: a vEth pair between a pod and the patch panel, created with both ends in their namespaces.

The pod's end is created with its final name, MAC address, MTU and ifindex, and set up. The panel's end is down, so the
pod's end has no carrier until `carrier.set_carrier`. The kernel chooses the panel end's ifindex; it never has the one
of the pod's end, because the kernel would then report a loss of carrier late (net/core/link_watch.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from errno import EBUSY, EEXIST

from ratchet.core.differences import near_differences
from ratchet.core.interface import CABLE, Device, InterfaceSpec, Observed, VethWire
from ratchet.core.panel import PanelSlot
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.messages import ACT, RTM_NEWLINK
from ratchet.datapath.nlattr import IFINFOMSG, Layout, message
from ratchet.datapath.panel.devices import PanelDevice, device_in, device_named, devices_of, down
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import Patch, observe_patch
from ratchet.datapath.parse import ObservedLink, device_of, read_new_link, read_nsid
from ratchet.datapath.pod_netns import ATTEMPTS, OpenPod, open_pod
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.datapath.rtnl_lock import holding_rtnl_lock
from ratchet.errors import DatapathError, ForeignInterfaceError

# A smaller one would drop what a pod sends after it has raised its own MTU.
PANEL_MTU = 65535

_LINK = Layout(ifinfmsg)


@dataclass(frozen=True, slots=True)
class OpenCable:
    """One end of a link, opened by `open_cable`: its pod, and the panel with a netlink socket in it.

    `link` is the record's name, for the aliases of both ends.
    """

    link: str
    pod: OpenPod
    slot: PanelSlot
    panel: Panel
    channel: Channel

    @property
    def ifname(self) -> str:
        """The name of the panel's end."""
        return self.slot.cable(self.pod.spec.index)

    @property
    def sends(self) -> bool:
        """Whether what the pod sends leaves the panel."""
        return self.pod.spec.sends

    @property
    def wire(self) -> VethWire:
        end = InterfaceSpec(self.panel.netns.path, self.ifname, (), PANEL_MTU, group=self.slot.group)
        return VethWire(self.link, self.pod.spec, end)


@dataclass(frozen=True, slots=True)
class ObservedCable:
    """The interface in the pod, None if there is none, and the panel's end if that interface is a cable.

    `device.kind` is then `CABLE`, `device.carrier` tells whether the panel's end is up. `in_order`: the panel's end has
    its name, group, MTU and alias.
    """

    device: Device | None = None
    end: PanelDevice | None = None
    in_order: bool = False


@contextmanager
def open_cable(link: str, spec: InterfaceSpec, panel: Panel, channel: Channel) -> Iterator[OpenCable]:
    """Open the pod of a link's end; `channel` is in the panel. Raises as `open_pod` does."""
    if spec.slot is None or not spec.index:
        raise ValueError(f"cannot open {spec.ifname} of {link}: it has no place in the patch panel")
    with open_pod(spec) as pod:
        yield OpenCable(link, pod, spec.slot, panel, channel)


def cables_of(panel: Panel) -> list[PanelDevice]:
    """The panel's ends of all cables, in one dump. Raises DatapathError."""
    with Channel(panel.netns) as channel:
        try:
            return [device for device in devices_of(channel) if device.is_cable]
        except RefusedError as refusal:
            raise DatapathError(f"cannot read patch panel {panel.netns.path}: {refusal.strerror}") from refusal


def observe_cable(cable: OpenCable) -> ObservedCable:
    """Observe an end. Raises DatapathError."""
    link = cable.pod.observe()
    if link is None:
        return ObservedCable()
    end = _panel_end(cable, link)
    if end is None:
        return ObservedCable(link.device)
    return ObservedCable(replace(link.device, kind=CABLE, carrier=end.up), end, _is_in_order(cable, end))


def ensure_cable(cable: OpenCable, *, exists: bool = False) -> ObservedCable:
    """Make a cable match its specification and observe it. The carrier of its panel end is left as it is.

    A cable that connects these two ends is corrected in place. Any other device of Ratchet under one of its names is
    left over, and is deleted. `exists`: the caller has just observed the pod's end.

    Raises ForeignInterfaceError, with nothing changed, and DatapathError with the kernel's reason.
    """
    for _ in range(ATTEMPTS):
        is_new = not exists and make_cable(cable)
        seen = observe_cable(cable) if is_new else adjust_cable(cable, observe_cable(cable))
        if seen.end is not None:
            return seen
        _clear(cable)
        exists = False
    raise cable.pod.failed(f"others keep making interfaces named {cable.pod.spec.ifname} and {cable.ifname}")


@holding_rtnl_lock
def make_cable(cable: OpenCable) -> bool:
    """Create a cable. Returns False if a name or the ifindex is taken, or if both ends would have one ifindex."""
    pod, wire = cable.pod, cable.wire
    request = messages.new_veth(wire.near, wire.far, cable.panel.netns.fd)
    made, shown = pod.channel.exchange(request, messages.link_named(wire.near.ifname))
    if made.refusal is not None:
        if made.refusal.errno in (EEXIST, EBUSY):
            return False
        raise pod.failed(made.refusal.strerror) from made.refusal
    link = read_new_link(shown.messages[0])
    try:
        if link.index == link.opposite:  # the panel's kernel assigns the next one to the next cable
            pod.delete(link.index)
            return False
        _change(cable, messages.brought_up(link.opposite, wire.link))
        pod.tune()
        pod.finish(link.index, wire.link)
    except BaseException:
        with suppress(DatapathError):
            pod.delete(link.index)
        raise
    return True


def is_idle(cable: OpenCable, seen: ObservedCable) -> bool:
    """Whether a cable is as its specification has it, without carrier and without a patch. Raises DatapathError."""
    if seen.device is None or seen.end is None or seen.end.up or not seen.in_order:
        return False
    if near_differences(cable.wire, Observed(replace(seen.device, kind="veth", carrier=True))):
        return False
    return observe_patch(cable.channel, seen.end.index) == Patch()


def adjust_cable(cable: OpenCable, seen: ObservedCable) -> ObservedCable:
    """Correct an existing cable in place, and observe what has changed. Changes nothing if the interface is none.

    `seen`: as just observed. Raises ForeignInterfaceError and DatapathError.
    """
    cable.pod.refuse_foreign(seen.device)
    if seen.device is None or seen.end is None:
        return seen
    differs = near_differences(cable.wire, Observed(replace(seen.device, kind="veth", carrier=True)))
    if differs:
        cable.pod.adjust(seen.device, cable.link)
    if not seen.in_order:
        _put_in_order(cable, seen.end)
    return observe_cable(cable) if differs or not seen.in_order else seen


def _put_in_order(cable: OpenCable, end: PanelDevice) -> None:
    """Give the panel's end its name, group, MTU and alias. Its carrier is lost for a moment if the name changes."""
    if end.ifname != cable.ifname:
        _delete_leftover(cable)
        _change(cable, down(end.index), messages.named(end.index, cable.ifname))
        if end.up:
            _change(cable, messages.up(end.index))
    _change(cable, _grouped(end.index, cable.slot.group), messages.brought_up(end.index, cable.link))


def _clear(cable: OpenCable) -> None:
    """Delete what has the names or the ifindex of a cable and is none."""
    device = device_of(cable.pod.observe())
    cable.pod.refuse_foreign(device)
    _delete_leftover(cable)
    cable.pod.take_down(device)
    cable.pod.free_index()


def _delete_leftover(cable: OpenCable) -> None:
    """Delete the device of the panel that has the name of the panel's end. Raises ForeignInterfaceError."""
    end = device_named(cable.channel, cable.ifname)
    if end is None:
        return
    if not end.ours:
        path = cable.panel.netns.path
        raise ForeignInterfaceError(
            f"cannot make {cable.ifname} in {path}: it exists and is not Ratchet's",
            path=path,
            details="Remove the interface.",
        )
    cable.channel.exchange(messages.drop_link(end.index))


def _panel_end(cable: OpenCable, link: ObservedLink) -> PanelDevice | None:
    """The panel's end to which an interface leads; None if it is no usable cable.

    Both ends of a usable cable have different ifindexes.
    """
    device, opposite = link.device, link.lower_index
    if not cable.pod.spec.owns(device) or device.kind != "veth" or opposite is None or opposite == device.index:
        return None
    # The kernel numbers the pod's namespace for the first answer at the latest.
    found, pod = cable.channel.exchange(messages.link_at(opposite), messages.nsid_of(cable.pod.netns.fd))
    end = device_in(found)
    if end is None or end.pod_nsid is None or pod.refusal is not None or not pod.messages:
        return None
    return end if (end.pod_index, end.pod_nsid) == (device.index, read_nsid(pod.messages[0])) else None


def _is_in_order(cable: OpenCable, end: PanelDevice) -> bool:
    return bool(end.alias) and (end.ifname, end.mtu, end.group) == (cable.ifname, PANEL_MTU, cable.slot.group)


def _change(cable: OpenCable, *requests: bytearray) -> None:
    """Change the panel's end. Raises DatapathError."""
    for answer in cable.channel.exchange(*requests):
        if answer.refusal is not None:
            path = cable.panel.netns.path
            raise DatapathError(f"cannot make {cable.ifname} in {path}: {answer.refusal.strerror}") from answer.refusal


def _grouped(index: int, group: int) -> bytearray:
    """Set the MTU of a panel end, and its group."""
    attributes = _LINK.pack(("IFLA_MTU", PANEL_MTU), ("IFLA_GROUP", group))
    return message(RTM_NEWLINK, ACT, IFINFOMSG.pack(0, 0, 0, index, 0, 0), attributes)
