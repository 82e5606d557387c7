"""Observe a run: records, devices, pings, agents. Pure conditions on what is seen are in `invariants`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ratchet.core.model import Link
from ratchet.dev.hosts import command_in, ip, netns_path
from ratchet.errors import RatchetError
from tests.chaos.invariants import CALM_SECONDS, Device, PodState, Snapshot
from tests.chaos.nodes import NodeActor
from tests.chaos.pods import PodActor
from tests.chaos.world import World
from tests.support.cluster import journal_files, own_interfaces
from tests.support.link_spec import LinkSpec

AT_ONCE = 4


def observe(world: World, pods: Iterable[PodActor], nodes: Iterable[NodeActor]) -> Snapshot:
    """A snapshot. Records that change while the devices are read are left out."""
    before = world.bed.links()
    with ThreadPoolExecutor(AT_ONCE) as at_once:
        states = [state for state in at_once.map(_pod_state, pods) if state is not None]
    records = world.bed.links()
    stable = {name: link for name, link in records.items() if _version(before.get(name)) == link.resource_version}
    nodes = list(nodes)
    return Snapshot(
        records=stable,
        pods={state.name: state for state in states},
        cut_nodes=[name for name, at in world.mended_at.items() if time.monotonic() - at < CALM_SECONDS],
        leases_lost=world.leases_lost,
        exited=[node.name for node in nodes if node.exited],
        usages={node.name: node.usage() for node in nodes},
    )


def answers(
    pods: Mapping[str, PodActor], specs: Collection[LinkSpec], links: Collection[Link]
) -> dict[tuple[str, ...], bool]:
    """Whether one ping through each of these linked records is answered. Keys: the link and its two sandboxes."""

    def ping(pair: tuple[LinkSpec, Link]) -> tuple[tuple[str, ...], bool]:
        spec, link = pair
        ends = [spec.end_in(link, at).sandbox for at in (0, 1)]
        key = (str(spec), *(end.container_id for end in ends if end))
        sandbox = pods[spec.primary].sandbox
        if sandbox is None:
            return key, True
        command = command_in(sandbox.netns, "ping", "-n", "-c", "1", "-W", "2", spec.address(1))
        answered = subprocess.run(command, check=False, capture_output=True).returncode == 0
        return key, answered or sandbox is not pods[spec.primary].sandbox

    pairs = [(spec, link) for link in links for spec in specs if spec.matches_record(link) and spec.primary in pods]
    with ThreadPoolExecutor(AT_ONCE) as at_once:
        return dict(at_once.map(ping, pairs))


def left_behind(world: World) -> list[str]:
    """Records, VNI Leases, journal entries, interfaces and namespaces that are left after all pods are deleted."""
    bed = world.bed
    left = [*bed.links(), *(f"vni-{lease.vni}" for lease in bed.store.vnis.list())]
    for name, node in bed.kubelets.items():
        left += [str(path) for path in journal_files(node.state_dir)]
        left += [f"{ifname} on {name}" for ifname in own_interfaces(node.host.netns)]
        if Path(netns_path(node.host.panel)).exists():
            left += [f"{ifname} in the panel of {name}" for ifname in own_interfaces(node.host.panel)]
    hosts = [node.host for node in bed.kubelets.values()]
    own = {bed.hosts.switch, *(host.netns for host in hosts), *(host.panel for host in hosts)}
    return left + [f"namespace {name}" for name in bed.hosts.made if name not in own]


def _pod_state(pod: PodActor) -> PodState | None:
    sandbox, calm = pod.sandbox, pod.calm
    if sandbox is None:
        return None
    try:
        shown = json.loads(ip("-j", "-d", "-n", sandbox.netns, "link", "show"))
        devices = {one["ifname"]: _device(one) for one in shown if one.get("ifname", "lo") != "lo"}
    except (RatchetError, ValueError):
        devices = None  # the namespace is being removed
    if sandbox is not pod.sandbox:
        return None
    return PodState(pod.name, sandbox.container_id, min(calm, pod.calm), devices)


def _device(shown: dict) -> Device:  # type: ignore[type-arg]  # JSON of ip(8)
    info = shown.get("linkinfo", {})
    data = info.get("info_data", {})
    kind = info.get("info_kind", "")
    return Device(kind, shown["ifindex"], shown.get("link_index", 0), data.get("id", 0), data.get("remote", ""))


def _version(link: Link | None) -> str:
    return link.resource_version if link else ""
