"""What can be said of pods before they are applied: what Ratchet will refuse, and what is most likely a slip."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ratchet.core.intent.labels import PAIR_NAME
from ratchet.core.intent.pods import PRIMARY, absence, asks_for_links, is_primary, setting
from ratchet.core.intent.resolve import unknown_settings, wanted_links
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.intent.wanted import Wanted, WantedLink
from ratchet.core.model import Address, Pod, Side, Topology


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `grave`: a pod will not start or a link not stand, else it may be meant."""

    grave: bool
    text: str


def findings(
    pods: Collection[Pod], topologies: Iterable[Topology] = (), reserved: Collection[str] = ("eth0",)
) -> list[Finding]:
    """All that is wrong with the pods and topologies of one namespace, the grave first, each once."""
    wanted = wanted_links(pods, reserved, topologies=topologies)
    grave = [str(error) for error in wanted.refused.values()]
    grave += [_unknown_pod(one, side, pods) for one in wanted.links for side in Side if one.pod(side) is None]
    grave += [f"{fault.place}: {fault.cause}" for fault in _faults(topologies, reserved)]
    slips = [*_slips_of_pods(pods, wanted), *_slips_of_links(wanted.links)]
    return [Finding(True, one) for one in sorted(set(grave))] + [Finding(False, one) for one in sorted(set(slips))]


def _faults(topologies: Iterable[Topology], reserved: Collection[str]) -> Iterator[Faulty]:
    """What is wrong in a topology, whether or not a pod is there that it is about."""
    for topology in topologies:
        yield from (one for one in drawn_links(topology, {*reserved, "lo"}) if isinstance(one, Faulty))


def _unknown_pod(wanted: WantedLink, side: Side, pods: Iterable[Pod]) -> str:
    end = wanted.link.end(side)
    told = f"{wanted.place_of(side)}: pod {end.name}: {absence(end.name, pods, end.ifname)}"
    return told if wanted.declarer is None else f"cannot link pod {wanted.declarer.ref}: {told}"


def _slips_of_pods(pods: Iterable[Pod], wanted: Wanted) -> Iterator[str]:
    for pod in pods:
        if not asks_for_links(pod):
            if any(key.startswith("ratchet.") for key in (*pod.labels, *pod.annotations)):
                yield f'pod {pod.ref} says things of ratchet, and not ratchet: "true": it gets no links'
            continue
        yield from (f"pod {pod.ref}: {key} means nothing to ratchet" for key in unknown_settings(pod))
        if pod.ref.uid in wanted.refused:
            continue
        if setting(pod, PAIR_NAME) is not None and not is_primary(pod):
            yield f'pod {pod.ref} has {PAIR_NAME} and not {PRIMARY}: "true": its labels declare no link'
        if is_primary(pod) is False and not wanted.ends_of(pod):
            yield f'pod {pod.ref}: {PRIMARY} is "false", and no pod names it'


def _slips_of_links(links: Collection[WantedLink]) -> Iterator[str]:
    holders: dict[object, str] = {}
    for one in links:
        near, far = one.link.primary, one.link.pair
        for version in (4, 6):
            ours, theirs = (_networks(end.addresses, version) for end in (near, far))
            if ours and theirs and not ours & theirs:
                yield f"link {one.link.name}: its ends have no subnet in common: {_said(ours)} and {_said(theirs)}"
        if near.properties.mtu != far.properties.mtu:
            yield f"link {one.link.name}: the MTUs of its ends differ: {near.properties.mtu} and {far.properties.mtu}"
        for side in Side:
            pod, ifname = one.endpoint(side)
            for address in one.link.end(side).addresses:
                place = f"{ifname} of pod {pod}"
                if (other := holders.setdefault(address.ip, place)) != place:
                    yield f"{address.ip} is the address of {other} and of {place}"
                if (other := holders.setdefault((pod, address.network), place)) != place:
                    yield f"{address.network} is on {other} and on {place}: the pod has two ways into it"


def _networks(addresses: Iterable[Address], version: int) -> set[object]:
    return {one.network for one in addresses if one.version == version}


def _said(networks: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, networks)))
