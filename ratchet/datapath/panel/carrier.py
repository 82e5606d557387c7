"""The carrier of pods' ends: a pod's end has carrier while the panel's end of its cable is up.

`core.carrier` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from errno import ENODEV
from typing import NamedTuple

from ratchet.core.carrier import SetPanelEnd, TunnelEnd, settle, settle_tunnel
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.messages import ACT, IFF_UP, RTM_GETLINK
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, Layout, message
from ratchet.datapath.panel.devices import PanelDevice, device_at, down
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.panel.tunnel_state import tunnel_state
from ratchet.datapath.rtnetlink import Channel, NetlinkReply
from ratchet.errors import DatapathError

_LINK = Layout(ifinfmsg)


class PodReading(NamedTuple):
    """IFF_UP of a pod's end as it was read; None if it cannot be read."""

    up: bool | None


def set_carrier(channel: Channel, cable: PanelDevice, has: bool) -> bool:
    """Set a panel end up or down. Returns False if the cable is gone. `channel` is in the panel.

    Raises DatapathError.
    """
    (answer,) = channel.exchange(_carrier(cable, has))
    return _is_set(cable, has, answer)


def settle_carriers(channel: Channel, one: PanelDevice, other: PanelDevice) -> None:
    """Give two cables that are patched to each other the carrier that they must have now (`core.carrier.settle`).

    `channel` is in the panel. Raises DatapathError.
    """
    ends = (one, other)
    steps, answer = settle(), None
    # The steps in their order, but with one exchange for all that are known: what is to be set, and then both readings.
    unset, readings = list[SetPanelEnd](), dict[int, bool | None]()
    with suppress(StopIteration):
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, SetPanelEnd):
                unset.append(step)
                continue
            if step.end not in readings:
                readings = dict(enumerate(_set_and_read_both(channel, ends, unset)))
                unset.clear()
            answer = readings.pop(step.end)


def _set_and_read_both(
    channel: Channel, ends: tuple[PanelDevice, PanelDevice], unset: Sequence[SetPanelEnd]
) -> tuple[bool | None, bool | None]:
    one, other = (pod_end_of(cable) for cable in ends)
    answers = channel.exchange(*(_carrier(ends[step.end], step.up) for step in unset), *one, *other)
    for step, answer in zip(unset, answers, strict=False):
        _is_set(ends[step.end], step.up, answer)
    read = answers[len(unset) :]
    return read_pod_end(read[: len(one)]), read_pod_end(read[len(one) :])


def _set_and_read(channel: Channel, cable: PanelDevice, up: bool) -> bool | None:
    done, *read = channel.exchange(_carrier(cable, up), *pod_end_of(cable))
    _is_set(cable, up, done)
    return read_pod_end(read)


def _carrier(cable: PanelDevice, has: bool) -> bytearray:
    return messages.up(cable.index) if has else down(cable.index)


def _is_set(cable: PanelDevice, has: bool, answer: NetlinkReply) -> bool:
    """Whether a panel end was set; False if the cable is gone. Raises DatapathError."""
    if answer.refusal is None:
        return True
    if answer.refusal.errno == ENODEV:
        return False
    verb = "up" if has else "down"
    raise DatapathError(f"cannot set {cable.ifname} {verb}: {answer.refusal.strerror}") from answer.refusal


def settle_tunnel_carrier(
    channel: Channel, cookie: int, cable: PanelDevice, tunnel: int, link: str, first: PodReading | None = None
) -> bool | None:
    """Give a cable that is patched to a tunnel the carrier that it must have now (`core.carrier.settle_tunnel`).

    `cookie` is the panel's, `tunnel` an ifindex, `link` the record's name. `channel` is in the panel. `first`: what the
    caller has just read of the pod's end, after it has read `cable`. Returns what was read last of it, as
    `pod_end_is_up` does. Raises DatapathError.
    """
    unset = list[bool]()
    readings = [first] if first is not None else []

    def read() -> TunnelEnd:
        if readings:
            up = readings.pop().up
        elif unset:
            up = _set_and_read(channel, cable, unset.pop())
        else:
            up = pod_end_is_up(channel, cable)
        state = tunnel_state(cookie, tunnel, link)
        return TunnelEnd(state.complete, up, state.far_up)

    return settle_tunnel(read, unset.append, cable.up if first is not None else None).own_pod_up


def lower_partner(channel: Channel, cable: PanelDevice) -> None:
    """Take the carrier of the cable to which a cable is patched. `channel` is in the panel. Raises DatapathError.

    A cable that is patched to another device by now keeps it: its pod has another link, or its peer another sandbox.
    """
    target = observe_patch(channel, cable.index).target
    partner = device_at(channel, target) if target else None
    if partner is None or not partner.is_cable:
        return
    if observe_patch(channel, partner.index).target in (None, 0, cable.index):
        set_carrier(channel, partner, False)


def pod_end_is_up(channel: Channel, cable: PanelDevice) -> bool | None:
    """IFF_UP of the pod's end of a cable, without opening the pod; None if it cannot be read.

    `channel` is in the panel.
    """
    return read_pod_end(channel.exchange(*pod_end_of(cable)))


def pod_end_of(cable: PanelDevice) -> list[bytearray]:
    """The request for the pod's end of a cable; none if it is not known where it is.

    The kernel reads it in the pod's namespace (Linux 4.20). It is for `read_pod_end`.
    """
    if cable.pod_index is None or cable.pod_nsid is None:
        return []
    attributes = _LINK.pack(("IFLA_IF_NETNSID", cable.pod_nsid), ("IFLA_EXT_MASK", messages.RTEXT_FILTER_SKIP_STATS))
    return [message(RTM_GETLINK, ACT, IFINFOMSG.pack(0, 0, 0, cable.pod_index, 0, 0), attributes)]


def read_pod_end(answers: Sequence[NetlinkReply]) -> bool | None:
    """IFF_UP in the answer to `pod_end_of`; None if there is none or the kernel has refused it."""
    if not answers or answers[0].refusal is not None:
        return None
    return bool(IFINFOMSG.unpack_from(answers[0].messages[0], HEADER.size)[4] & IFF_UP)
