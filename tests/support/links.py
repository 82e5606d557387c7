"""Pods, sandboxes and links for tests, with defaults for everything that a test does not set."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface

from ratchet.core.interface import Wire
from ratchet.core.model import End, Link, Side
from ratchet.core.pod import Pod, PodRef
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.underlay import Underlay
from ratchet.core.wires import wire_of

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
VTEPS = {"node-a": "192.168.1.73", "node-b": "192.168.1.33", "node-c": "192.168.1.9"}
RECORD = "default.pair-pod.in2.primary-pod.in1"


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def sandbox(pod: str, node: str = "node-a", number: int = 1) -> Sandbox:
    """A sandbox of a pod. Each `number` has a UID of its own, as if the pod was created again."""
    return Sandbox(
        container_id=f"{pod}-c{number}",
        pod=PodRef("default", pod, f"{pod}-uid{number}"),
        node=node,
        netns=f"/run/netns/{pod}-{number}",
        vtep=VTEPS[node],
    )


def wanted() -> Link:
    """The link of the example of 2017, without sandboxes."""
    return Link(
        name=RECORD,
        namespace="default",
        primary=End("primary-pod", "in1", (ip_interface("192.168.2.100/24"),)),
        pair=End("pair-pod", "in2", (ip_interface("192.168.2.101/24"),)),
    )


def own(side: Side, node: str = "node-a", number: int = 1) -> Sandbox:
    """A sandbox of the example's pod at a side."""
    return sandbox(wanted().end(side).name, node, number)


def joined(primary: Sandbox | None, pair: Sandbox | None) -> Link:
    """The example's link with these sandboxes joined. Neither end is ready."""
    link = wanted()
    return replace(link, primary=replace(link.primary, sandbox=primary), pair=replace(link.pair, sandbox=pair))


def with_ready(link: Link, *sides: Side) -> Link:
    """The link with these ends ready for their peers."""
    for side in sides:
        link = link.with_end(side, replace(link.end(side), ready=link.due(side)))
    return link


def location(link: Link, side: Side) -> Location | None:
    """The location of the sandbox at a side, as in its node's journal; None without a sandbox."""
    held = link.sandbox(side)
    return Location(held.netns, held.cookie) if held is not None else None


def planned_wire(link: Link, side: Side, underlay: Underlay) -> Wire:
    """The wire of an end, if both sandboxes are where the record places them."""
    here = location(link, side)
    return wire_of(link, side, underlay, here or Location(""), location(link, side.other))


def veth() -> Link:
    return joined(own(Side.PRIMARY), own(Side.PAIR))


def vxlan() -> Link:
    return joined(own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-b"))


def pod(name: str, uid: str = "", /, **labels: str) -> Pod:
    """A pod that asks for links; `primary="true"` is the label `ratchet.primary`."""
    declared = {"ratchet": "true"} | {f"ratchet.{key}": value for key, value in labels.items()}
    return Pod(PodRef("default", name, uid or f"{name}-uid1"), declared, created=NOW)


def primary_pod(name: str = "a", pair: str = "b", /, **labels: str) -> Pod:
    """A pod that declares a link from its `in1` to the pair's `in2`."""
    declared = {"primary": "true", "pair_name": pair, "local_ifname": "in1", "pair_ifname": "in2"}
    return pod(name, **{**declared, **labels})


def declaring_pod() -> Pod:
    """The pod that declares the link `wanted()`."""
    addresses = {"local_ip": "192.168.2.100/24", "pair_ip": "192.168.2.101/24"}
    return primary_pod("primary-pod", "pair-pod", **addresses)


def annotated(one: Pod, **annotations: str) -> Pod:
    """The pod with annotations; `local_ip="…"` is `ratchet.local_ip`."""
    declared = {f"ratchet.{key}": value for key, value in annotations.items()}
    return replace(one, annotations={**one.annotations, **declared})
