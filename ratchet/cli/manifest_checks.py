"""Checks of manifests before they are applied: declarations that Ratchet rejects, and likely mistakes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ratchet.core.intent.labels import PAIR_NAME
from ratchet.core.intent.pods import PRIMARY, absence, asks_for_links, is_primary, setting
from ratchet.core.intent.resolve import unknown_settings, wanted_links
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.intent.wanted import Wanted, WantedLink
from ratchet.core.model import Address, Side
from ratchet.core.pod import Pod, Topology


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning.

    An error keeps a pod from starting or a link from being made. A warning may be intended.
    """

    is_error: bool
    text: str


def find_problems(
    pods: Collection[Pod], topologies: Iterable[Topology] = (), reserved: Collection[str] = ("eth0",)
) -> list[Problem]:
    """The problems of the pods and topologies of one namespace: errors first, each problem once."""
    wanted = wanted_links(pods, reserved, topologies=topologies)
    errors = [str(error) for error in wanted.refused.values()]
    errors += [_unknown_pod(one, side, pods) for one in wanted.links for side in Side if one.pod(side) is None]
    errors += [f"{fault.place}: {fault.cause}" for fault in _faults(topologies, reserved)]
    warnings = [*_pod_warnings(pods, wanted), *_link_warnings(wanted.links)]
    return [Problem(True, one) for one in sorted(set(errors))] + [Problem(False, one) for one in sorted(set(warnings))]


def _faults(topologies: Iterable[Topology], reserved: Collection[str]) -> Iterator[Faulty]:
    """The invalid links of topologies, also of those whose pods do not exist."""
    for topology in topologies:
        yield from (one for one in drawn_links(topology, {*reserved, "lo"}) if isinstance(one, Faulty))


def _unknown_pod(wanted: WantedLink, side: Side, pods: Iterable[Pod]) -> str:
    end = wanted.link.end(side)
    text = f"{wanted.place_of(side)}: pod {end.name}: {absence(end.name, pods, end.ifname)}"
    return text if wanted.declarer is None else f"cannot link pod {wanted.declarer.ref}: {text}"


def _pod_warnings(pods: Iterable[Pod], wanted: Wanted) -> Iterator[str]:
    for pod in pods:
        if not asks_for_links(pod):
            if any(key.startswith("ratchet.") for key in (*pod.labels, *pod.annotations)):
                yield f'pod {pod.ref} has ratchet labels or annotations, but not ratchet: "true": it gets no links'
            continue
        yield from (f"pod {pod.ref}: unknown label or annotation {key}" for key in unknown_settings(pod))
        if pod.ref.uid in wanted.refused:
            continue
        if setting(pod, PAIR_NAME) is not None and not is_primary(pod):
            yield f'pod {pod.ref} has {PAIR_NAME} but not {PRIMARY}: "true": its labels declare no link'
        if is_primary(pod) is False and not wanted.ends_of(pod):
            yield f'pod {pod.ref}: {PRIMARY} is "false", but no pod declares a link to it'


def _link_warnings(links: Collection[WantedLink]) -> Iterator[str]:
    holders: dict[object, str] = {}
    for one in links:
        near, far = one.link.primary, one.link.pair
        for version in (4, 6):
            ours, theirs = (_networks(end.addresses, version) for end in (near, far))
            if ours and theirs and not ours & theirs:
                yield f"link {one.link.name}: its ends have no common subnet: {_joined(ours)} and {_joined(theirs)}"
        if near.properties.mtu != far.properties.mtu:
            yield f"link {one.link.name}: the MTUs of its ends differ: {near.properties.mtu} and {far.properties.mtu}"
        for side in Side:
            pod, ifname = one.endpoint(side)
            for address in one.link.end(side).addresses:
                place = f"{ifname} of pod {pod}"
                if (other := holders.setdefault(address.ip, place)) != place:
                    yield f"{address.ip} is the address of {other} and of {place}"
                if (other := holders.setdefault((pod, address.network), place)) != place:
                    yield f"{address.network} is on {other} and on {place}: the pod has two routes to it"


def _networks(addresses: Iterable[Address], version: int) -> set[object]:
    return {one.network for one in addresses if one.version == version}


def _joined(networks: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, networks)))
