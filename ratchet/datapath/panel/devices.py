"""The devices of a patch panel, read in one dump."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import ENODEV
from functools import lru_cache

from ratchet.core.carrier import PanelEndState
from ratchet.core.panel import is_attachment_group
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, Reading, attributes, message
from ratchet.datapath.rtnetlink import Channel, NetlinkReply

IFF_LOWER_UP = 0x10000
IFLA_GROUP = 27
REMEMBERED = 256  # decoded messages, each of some 1,500 bytes

_DEVICE = Reading(
    ifinfmsg,
    *("IFLA_IFNAME", "IFLA_MTU", "IFLA_LINK", "IFLA_LINK_NETNSID", "IFLA_GROUP", "IFLA_IFALIAS", "IFLA_LINKINFO"),
)
_INFO = Reading(ifinfmsg.ifinfo, "IFLA_INFO_KIND")


@dataclass(frozen=True, slots=True)
class PanelDevice:
    """A device in the panel: the panel's end of a cable ("veth"), a tunnel ("vxlan"), or another kind.

    `group` is that of the attachment, `alias` that of `datapath.messages.brought_up`. `carrier`: the device is up, and
    so is the pod's end of a cable. `pod_index` is the ifindex of that end, `pod_nsid` the nsid of its namespace in the
    panel's.
    """

    ifname: str
    index: int
    kind: str
    group: int
    mtu: int
    alias: str
    up: bool
    carrier: bool
    pod_index: int | None = None
    pod_nsid: int | None = None

    @property
    def ours(self) -> bool:
        return is_attachment_group(self.group)

    @property
    def is_cable(self) -> bool:
        return self.ours and self.kind == "veth"


def devices_of(channel: Channel) -> list[PanelDevice]:
    """All devices in the panel except `lo`, which has no kind. Raises RefusedError."""
    # Not remembered: the devices of a large panel would replace those that are read again.
    found = (_decoded(raw[HEADER.size :]) for raw in channel.dump(messages.links()))
    return [device for device in found if device.kind]


def devices_in(channel: Channel, group: int) -> list[PanelDevice]:
    """The devices of a group. Only they are decoded: a panel may have thousands of others. Raises RefusedError."""
    attribute, start = struct.pack("=I", group), HEADER.size + IFINFOMSG.size
    found = channel.dump(messages.links())
    return [
        _decoded(raw[HEADER.size :])
        for raw in found
        if attribute in raw and next(attributes(raw, start, (IFLA_GROUP,)), None) == (IFLA_GROUP, attribute)
    ]


def device_named(channel: Channel, ifname: str) -> PanelDevice | None:
    """The device of this name in the panel; None if there is none. Raises RefusedError."""
    return _device(channel, messages.link_named(ifname))


def device_at(channel: Channel, index: int) -> PanelDevice | None:
    """The device of this ifindex in the panel; None if there is none. Raises RefusedError."""
    return _device(channel, messages.link_at(index))


def devices_at(channel: Channel, *indexes: int) -> list[PanelDevice | None]:
    """As `device_at`, of several devices in one exchange."""
    return [device_in(answer) for answer in channel.exchange(*map(messages.link_at, indexes))]


def _device(channel: Channel, request: bytearray) -> PanelDevice | None:
    (answer,) = channel.exchange(request)
    return device_in(answer)


def device_in(answer: NetlinkReply) -> PanelDevice | None:
    """The device in the answer to a request for one; None if there is none. Raises RefusedError."""
    if answer.refusal is None:
        return read_device(answer.messages[0])
    if answer.refusal.errno == ENODEV:
        return None
    raise answer.refusal


def down(index: int) -> bytearray:
    """Set a device down."""
    return message(messages.RTM_NEWLINK, messages.ACT, IFINFOMSG.pack(0, 0, 0, index, 0, messages.IFF_UP))


def read_state(raw: bytes) -> tuple[int, PanelEndState]:
    """The ifindex and the state of the device in a link's message, at a fraction of the cost of `read_device`."""
    _, _, _, index, flags, _ = IFINFOMSG.unpack_from(raw, HEADER.size)
    return index, PanelEndState(bool(flags & messages.IFF_UP), bool(flags & IFF_LOWER_UP))


def read_device(raw: bytes) -> PanelDevice:
    """The device in a link's message."""
    return _remembered(raw[HEADER.size :])


@lru_cache(REMEMBERED)
def _remembered(body: bytes) -> PanelDevice:
    """As `_decoded`: a device that has not changed since is decoded once."""
    return _decoded(body)


def _decoded(body: bytes) -> PanelDevice:
    """The device in a link's message without its header."""
    head = IFINFOMSG.unpack_from(body)
    found = _DEVICE.read(body, IFINFOMSG.size)
    return PanelDevice(
        ifname=found["IFLA_IFNAME"],
        index=head[3],
        kind=_INFO.read(found.get("IFLA_LINKINFO", b"")).get("IFLA_INFO_KIND", ""),
        group=found.get("IFLA_GROUP", 0),
        mtu=found["IFLA_MTU"],
        alias=found.get("IFLA_IFALIAS", ""),
        up=bool(head[4] & messages.IFF_UP),
        carrier=bool(head[4] & IFF_LOWER_UP),
        pod_index=found.get("IFLA_LINK"),
        pod_nsid=found.get("IFLA_LINK_NETNSID"),
    )
