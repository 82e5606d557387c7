"""The carrier of pods' ends: a pod's end has carrier while the panel's end of its cable is up.

`core.carrier` decides.
"""

from __future__ import annotations

from contextlib import suppress
from errno import ENODEV

from ratchet.core.carrier import ReadPod, TunnelEnd, settle, settle_tunnel
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.messages import ACT, IFF_UP, RTM_GETLINK
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, Layout, message
from ratchet.datapath.panel.devices import PanelDevice, device_at, down
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.panel.tunnel_state import tunnel_state
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import DatapathError

_LINK = Layout(ifinfmsg)


def set_carrier(channel: Channel, cable: PanelDevice, has: bool) -> bool:
    """Set a panel end up or down. Returns False if the cable is gone. `channel` is in the panel.

    Raises DatapathError.
    """
    request = messages.up(cable.index) if has else down(cable.index)
    (answer,) = channel.exchange(request)
    if answer.refusal is None:
        return True
    if answer.refusal.errno == ENODEV:
        return False
    verb = "up" if has else "down"
    raise DatapathError(f"cannot set {cable.ifname} {verb}: {answer.refusal.strerror}") from answer.refusal


def settle_carriers(channel: Channel, one: PanelDevice, other: PanelDevice) -> None:
    """Give two cables that are patched to each other the carrier that they must have now (`core.carrier.settle`).

    `channel` is in the panel. Raises DatapathError.
    """
    ends = (one, other)
    steps, answer = settle(), None
    with suppress(StopIteration):
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, ReadPod):
                answer = pod_end_is_up(channel, ends[step.end])
            else:
                set_carrier(channel, ends[step.end], step.up)


def settle_tunnel_carrier(channel: Channel, cookie: int, cable: PanelDevice, tunnel: int, link: str) -> None:
    """Give a cable that is patched to a tunnel the carrier that it must have now (`core.carrier.settle_tunnel`).

    `cookie` is the panel's, `tunnel` an ifindex, `link` the record's name. `channel` is in the panel. Raises
    DatapathError.
    """

    def read() -> TunnelEnd:
        state = tunnel_state(cookie, tunnel, link)
        return TunnelEnd(state.complete, pod_end_is_up(channel, cable), state.far_up)

    settle_tunnel(read, lambda up: set_carrier(channel, cable, up))


def lower_partner(channel: Channel, cable: PanelDevice) -> None:
    """Take the carrier of the cable to which a cable is patched. `channel` is in the panel. Raises DatapathError."""
    target = observe_patch(channel, cable.index).target
    partner = device_at(channel, target) if target else None
    if partner is not None and partner.is_cable:
        set_carrier(channel, partner, False)


def pod_end_is_up(channel: Channel, cable: PanelDevice) -> bool | None:
    """IFF_UP of the pod's end of a cable, without opening the pod; None if it cannot be read.

    The kernel reads it in the pod's namespace (Linux 4.20). `channel` is in the panel.
    """
    if cable.pod_index is None or cable.pod_nsid is None:
        return None
    (answer,) = channel.exchange(_link_in(cable.pod_nsid, cable.pod_index))
    if answer.refusal is not None:
        return None
    return bool(IFINFOMSG.unpack_from(answer.messages[0], HEADER.size)[4] & IFF_UP)


def _link_in(nsid: int, index: int) -> bytearray:
    attributes = _LINK.pack(("IFLA_IF_NETNSID", nsid), ("IFLA_EXT_MASK", messages.RTEXT_FILTER_SKIP_STATS))
    return message(RTM_GETLINK, ACT, IFINFOMSG.pack(0, 0, 0, index, 0, 0), attributes)
