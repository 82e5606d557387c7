"""Cables: a vEth pair between a pod and the patch panel, created with both ends in their namespaces.

The pod's end is created with its final name, MAC address, MTU and ifindex, and set up. The panel's end is down, so the
pod's end has no carrier until `carrier.set_carrier`. The kernel chooses the panel end's ifindex; it never has the one
of the pod's end, because the kernel would then report a loss of carrier late (net/core/link_watch.c).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from errno import EBUSY, EEXIST, ENODEV

from ratchet.core.differences import near_differences
from ratchet.core.interface import InterfaceSpec, Observed, VethWire
from ratchet.core.panel import is_attachment_group
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.messages import ACT, RTM_DELLINK, RTM_NEWLINK
from ratchet.datapath.nlattr import IFINFOMSG, Layout, message
from ratchet.datapath.panel.devices import PanelDevice, device_named, devices_of
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.parse import known_as, read_new_link
from ratchet.datapath.pod_netns import ATTEMPTS, OpenPod, open_pod
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.datapath.rtnl_lock import holding_rtnl_lock
from ratchet.errors import DatapathError, ForeignInterfaceError

# A smaller one would drop what a pod sends after it has raised its own MTU.
PANEL_MTU = 65535

_LINK = Layout(ifinfmsg)


@dataclass(frozen=True, slots=True)
class CableSpec:
    """How a cable must be: the pod's end, and the panel's end with its name and the group of the attachment.

    `link` is the record's name, for the aliases of both ends.
    """

    link: str
    pod: InterfaceSpec
    ifname: str
    group: int


@dataclass(frozen=True, slots=True)
class _Opened:
    spec: CableSpec
    pod: OpenPod
    panel: Panel
    channel: Channel

    @property
    def wire(self) -> VethWire:
        end = InterfaceSpec(self.panel.netns.path, self.spec.ifname, (), PANEL_MTU, group=self.spec.group)
        return VethWire(self.spec.link, self.spec.pod, end)


def cables_of(panel: Panel) -> list[PanelDevice]:
    """The panel's ends of all cables, in one dump. Raises DatapathError."""
    with Channel(panel.netns) as channel:
        try:
            return [device for device in devices_of(channel) if device.is_cable]
        except RefusedError as refusal:
            raise DatapathError(f"cannot read patch panel {panel.netns.path}: {refusal.strerror}") from refusal


def ensure_cable(spec: CableSpec, panel: Panel) -> PanelDevice:
    """Make a cable match its specification and return its panel end, whose carrier is left as it is.

    A cable that connects these two ends is corrected in place. Any other device of Ratchet under one of its names is
    left over from an earlier attachment, and is deleted.

    Raises NamespaceGoneError, HostNamespaceError, ForeignInterfaceError (with nothing changed), and DatapathError with
    the kernel's reason.
    """
    with open_pod(spec.pod) as pod, Channel(panel.netns) as channel:
        opened = _Opened(spec, pod, panel, channel)
        for _ in range(ATTEMPTS):
            if not _make(opened) and not _adjust(opened):
                continue
            found = device_named(channel, spec.ifname)
            if found is not None:
                return found
        raise pod.failed(f"others keep making interfaces named {spec.pod.ifname} and {spec.ifname}")


def remove_cables(panel: Panel, group: int) -> bool:
    """Delete all devices of an attachment by one request, and the pods' ends with them.

    Returns False if there are none. Does not remove tunnels from the guard. Raises DatapathError.
    """
    if not is_attachment_group(group):
        raise ValueError(f"{group:#x} is not the group of an attachment")
    with Channel(panel.netns) as channel:
        (answer,) = channel.exchange(_drop_group(group))
    if answer.refusal is not None and answer.refusal.errno != ENODEV:
        raise DatapathError(
            f"cannot remove group {group:#x} of patch panel {panel.netns.path}: {answer.refusal.strerror}"
        ) from answer.refusal
    return answer.refusal is None


@holding_rtnl_lock
def _make(opened: _Opened) -> bool:
    """Create the cable. Returns False if a name or the ifindex is taken, or if both ends would have one ifindex."""
    pod, wire = opened.pod, opened.wire
    request = messages.new_veth(wire.near, wire.far, opened.panel.netns.fd)
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
        _change(opened, messages.brought_up(link.opposite, wire.link))
        pod.tune()
        pod.finish(link.index, wire.link)
    except BaseException:
        with suppress(DatapathError):
            pod.delete(link.index)
        raise
    return True


def _adjust(opened: _Opened) -> bool:
    """Correct an existing cable in place. Returns False, with what is in the way deleted, if it is another one."""
    pod, spec = opened.pod, opened.spec
    link, end = pod.observe(), device_named(opened.channel, spec.ifname)
    device = link.device if link is not None else None
    pod.refuse_foreign(device)
    if end is not None and not end.ours:
        raise ForeignInterfaceError(
            f"cannot make {spec.ifname} in {opened.panel.netns.path}: it exists and is not Ratchet's",
            path=opened.panel.netns.path,
            details="Remove the interface.",
        )
    if device is not None and end is not None and _connects(opened, end, device.index):
        if near_differences(opened.wire, Observed(device)):
            pod.adjust(device, spec.link)
        if not end.alias or (end.mtu, end.group) != (PANEL_MTU, spec.group):
            _change(opened, _grouped(end.index, spec.group), messages.brought_up(end.index, spec.link))
        return True
    if end is not None:
        opened.channel.exchange(messages.drop_link(end.index))
    pod.take_down(device)
    pod.free_index()
    return False


def _connects(opened: _Opened, end: PanelDevice, pod_index: int) -> bool:
    """Whether a panel end is that of the pod's interface. Both ends of a usable cable have different indexes."""
    if end.kind != "veth" or end.pod_index != pod_index or end.pod_index == end.index:
        return False
    return end.pod_nsid is not None and end.pod_nsid == known_as(opened.channel, opened.pod.netns)


def _change(opened: _Opened, *requests: bytearray) -> None:
    """Change the panel's end. Raises DatapathError."""
    for answer in opened.channel.exchange(*requests):
        if answer.refusal is not None:
            end, path = opened.spec.ifname, opened.panel.netns.path
            raise DatapathError(f"cannot make {end} in {path}: {answer.refusal.strerror}") from answer.refusal


def _grouped(index: int, group: int) -> bytearray:
    """Set the MTU of a panel end, and its group."""
    attributes = _LINK.pack(("IFLA_MTU", PANEL_MTU), ("IFLA_GROUP", group))
    return message(RTM_NEWLINK, ACT, IFINFOMSG.pack(0, 0, 0, index, 0, 0), attributes)


def _drop_group(group: int) -> bytearray:
    return message(RTM_DELLINK, ACT, IFINFOMSG.pack(0, 0, 0, 0, 0, 0), _LINK.pack(("IFLA_GROUP", group)))
