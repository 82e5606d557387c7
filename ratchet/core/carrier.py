"""The carrier of the two cables of a patch: which panel ends must be up, and in which steps they are set.

A pod sets its interface up and down at any time. The panel gets an event for it only while the panel's end of the cable
is up (drivers/net/veth.c: a device that is down has no change of its lower state to report).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

# The most rounds of `settle`: a pod that flaps faster causes events, which start it again.
ROUNDS = 8


class ReadPod(NamedTuple):
    """Read IFF_UP of the pod's interface at one end of the patch, 0 or 1; None: it cannot be read."""

    end: int


class SetPanelEnd(NamedTuple):
    """Set the panel's end of the cable at one end of the patch up or down."""

    end: int
    up: bool


class PanelEndState(NamedTuple):
    """A panel end as the kernel reports it. `up` is IFF_UP; `carrier` is false while the pod's end is down."""

    up: bool
    carrier: bool


def panel_end_is_up(*, link_complete: bool, held_down: bool, own_pod_up: bool, far_pod_up: bool | None) -> bool:
    """Whether the panel's end of a cable must be up. Its pod's end has carrier only while it is.

    `own_pod_up` and `far_pod_up` are IFF_UP of the pods' ends; None: unknown, which counts as up. An end that its own
    pod has shut keeps its panel end up: a vEth end that is down itself gets no event when its peer goes up, so two
    lowered panel ends would wait for each other forever.
    """
    far_is_shut = far_pod_up is False
    return link_complete and not held_down and not (far_is_shut and own_pod_up)


def settle() -> Generator[ReadPod | SetPanelEnd, bool | None, None]:
    """The steps that give both cables of a complete patch the carrier that they must have.

    Each `ReadPod` is answered with what was read. Both pods are read again after both panel ends were set: a pod that
    has changed its end while its panel end was down has caused no event. So of several that settle one patch at a time,
    the last one to set anything has compared it with the pods' ends.
    """
    pods = (yield ReadPod(0)), (yield ReadPod(1))
    for _ in range(ROUNDS):
        for end in (0, 1):
            own, far = pods[end], pods[1 - end]
            up = panel_end_is_up(link_complete=True, held_down=False, own_pod_up=own is not False, far_pod_up=far)
            yield SetPanelEnd(end, up)
        again = (yield ReadPod(0)), (yield ReadPod(1))
        if again == pods:
            return
        pods = again


class TunnelEnd(NamedTuple):
    """What decides the carrier of a cable that is patched to a tunnel. None: unknown.

    `complete`: the link is complete. The others are IFF_UP of the pods' ends; the far one as last heard.
    """

    complete: bool | None
    own_pod_up: bool | None
    far_pod_up: bool | None


def tunnel_end_is_up(end: TunnelEnd) -> bool:
    """Whether the panel's end of a cable that is patched to a tunnel must be up."""
    own = end.own_pod_up is not False
    return panel_end_is_up(
        link_complete=end.complete is True, held_down=False, own_pod_up=own, far_pod_up=end.far_pod_up
    )


def settle_tunnel(
    read: Callable[[], TunnelEnd], set_panel_end: Callable[[bool], object], is_up: bool | None = None
) -> TunnelEnd:
    """Give a cable that is patched to a tunnel the carrier that it must have. Returns what was read last.

    As `settle`: all is read again after the panel's end was set. Does nothing while it is unknown whether the link is
    complete: a pass finds out.

    `is_up`: the panel's end as seen before the first reading, None if it was not seen. An end that is as it must be is
    not set: if another one sets it meanwhile, that one reads all again.
    """
    end = read()
    for number in range(ROUNDS):
        if end.complete is None or (number == 0 and tunnel_end_is_up(end) is is_up):
            break
        set_panel_end(tunnel_end_is_up(end))
        again = read()
        if again == end:
            break
        end = again
    return end


def may_have_changed(before: PanelEndState | None, now: PanelEndState) -> bool:
    """Whether a pod may have set its end up or down, given two reports of its panel end; None: there was none before.

    Who raises a panel end reads the pod's end afterwards, so a panel end that comes up with carrier is no news.
    """
    if not now.up:
        return False
    if before is None or not before.up:
        return not now.carrier
    return now.carrier != before.carrier
