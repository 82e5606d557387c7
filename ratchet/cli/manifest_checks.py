"""Checks of manifests before they are applied: declarations that Ratchet rejects, and likely mistakes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from ratchet.cli.problems import Problem
from ratchet.cli.topology_faults import topology_faults
from ratchet.core.endpoint_spec import Address
from ratchet.core.intent.labels import PAIR_NAME
from ratchet.core.intent.pods import PRIMARY, absence, asks_for_links, is_primary, setting
from ratchet.core.intent.resolve import unknown_settings, wanted_links
from ratchet.core.intent.wanted import Wanted, WantedLink
from ratchet.core.model import Side
from ratchet.core.pod import Pod, PodRef, Topology

NO_WORKLOADS: Mapping[str, str] = MappingProxyType({})

_NAMED_MOST = 8  # missing pods that one error names


def find_problems(
    pods: Collection[Pod],
    topologies: Iterable[Topology] = (),
    reserved: Collection[str] = ("eth0",),
    workloads: Mapping[str, str] = NO_WORKLOADS,
) -> list[Problem]:
    """The problems of the pods and topologies of one namespace: errors first, each problem once.

    `workloads`: why the name of a workload is no pod's name.
    """
    wanted = wanted_links(pods, reserved, topologies=topologies)
    faults = [str(fault) for fault in topology_faults(topologies, reserved)]
    errors = [*faults, *_refusals(pods, wanted, faults), *_missing_pods(wanted, pods, workloads)]
    warnings = [*_pod_warnings(pods, wanted), *_link_warnings(wanted.links)]
    return [Problem(True, one) for one in sorted(set(errors))] + [Problem(False, one) for one in sorted(set(warnings))]


def _refusals(pods: Iterable[Pod], wanted: Wanted, faults: Collection[str]) -> Iterator[str]:
    """The errors of pods. An error in a topology is left out: it is one of the `faults`."""
    known = set(faults)
    for pod in pods:
        error = str(wanted.refused.get(pod.ref.uid, ""))
        if error and error.removeprefix(f"cannot link pod {pod.ref}: ") not in known:
            yield error


def _missing_pods(wanted: Wanted, pods: Collection[Pod], workloads: Mapping[str, str]) -> Iterator[str]:
    """One error for each pod that links name and that does not exist; one for all if there are no pods."""
    places: dict[tuple[PodRef | None, str], list[str]] = {}
    for one in wanted.links:
        for side in (side for side in Side if one.pod(side) is None):
            declarer = one.declarer.ref if one.declarer is not None else None
            places.setdefault((declarer, one.link.end(side).name), []).append(one.place_of(side))
    if not pods and len(places) > 2:
        drawn = sorted({one.place.partition(": line ")[0] for one in wanted.links})
        names = sorted(name for _, name in places)
        others = f" and {len(names) - _NAMED_MOST} others" if len(names) > _NAMED_MOST else ""
        yield f"{', '.join(drawn)}: no pod of the namespace is given: {', '.join(names[:_NAMED_MOST])}{others}"
        return
    for (declarer, name), found in places.items():
        why = absence(name, pods, "")
        hint = f": {workloads[name]}" if name in workloads else ""
        count = f" ({len(found)} links)" if len(found) > 1 else ""
        text = f"{min(found, key=_in_order_of_lines)}: pod {name}: {why}{hint}{count}"
        yield text if declarer is None else f"cannot link pod {declarer}: {text}"


def _in_order_of_lines(place: str) -> tuple[int, str]:
    return len(place), place


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
