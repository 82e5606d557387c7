"""A vEth pair: created with both ends in their pods' namespaces, adjusted, or replaced (veth(4))."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from errno import EBUSY, EEXIST

from ratchet.core.differences import differences
from ratchet.core.interface import Device, Observed, VethWire
from ratchet.datapath import messages
from ratchet.datapath.parse import ObservedLink, known_as, read_new_link
from ratchet.datapath.pod_netns import ATTEMPTS, OpenPod
from ratchet.datapath.rtnl_lock import holding_rtnl_lock
from ratchet.errors import DatapathError


@holding_rtnl_lock
def observe_veth(near: OpenPod, far: OpenPod) -> Observed:
    """Observe both ends, and whether they are each other's peers."""
    near_link, far_link = near.observe(), far.observe()
    wired = near_link is not None and far_link is not None and _leads_to(near, near_link, far, far_link)
    return Observed(_judged(near_link, wired), _judged(far_link, wired))


def ensure_veth(wire: VethWire, near: OpenPod, far: OpenPod) -> bool:
    """Make both ends match `wire`. Returns whether anything changed.

    Creates first and observes only if something is in the way, because in most calls nothing is.
    """
    changed = False
    for _ in range(ATTEMPTS):
        if make_veth(wire, near, far):
            return True
        observed = observe_veth(near, far)
        near.refuse_foreign(observed.near)
        far.refuse_foreign(observed.far)
        if not differences(wire, observed):
            return changed
        if observed.near and observed.far and observed.near.wired:
            near.adjust(observed.near, wire.link)
            far.adjust(observed.far, wire.link)
            return True
        for pod, device in ((near, observed.near), (far, observed.far)):
            pod.take_down(device)
            pod.free_index()
        changed = True
    raise near.failed(f"others keep making interfaces named {near.spec.ifname} and {far.spec.ifname}")


@holding_rtnl_lock
def make_veth(wire: VethWire, near: OpenPod, far: OpenPod) -> bool:
    """Create the pair. Returns False if one of the names or one of the ifindexes exists."""
    request = messages.new_veth(near.spec, far.spec, far.netns.fd)
    made, shown = near.channel.exchange(request, messages.link_named(near.spec.ifname))
    if made.refusal is not None:
        if made.refusal.errno in (EEXIST, EBUSY):
            return False
        raise near.failed(made.refusal.strerror) from made.refusal
    link = read_new_link(shown.messages[0])
    try:
        near.tune()
        far.tune()
        near.finish(link.index, wire.link)
        far.finish(link.opposite, wire.link)
    except BaseException:
        with suppress(DatapathError):
            near.delete(link.index)
        raise
    return True


def _judged(link: ObservedLink | None, wired: bool) -> Device | None:
    return None if link is None else replace(link.device, wired=wired)


def _leads_to(near: OpenPod, near_link: ObservedLink, far: OpenPod, far_link: ObservedLink) -> bool:
    """Whether the near link's peer is the far link. One direction proves both."""
    if near_link.device.kind != "veth" or near_link.lower_index != far_link.device.index:
        return False
    if near.netns.is_same_as(far.netns):
        return near_link.lower_nsid is None
    return near_link.lower_nsid is not None and near_link.lower_nsid == known_as(near.channel, far.netns)
