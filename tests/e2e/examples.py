"""Helpers that apply the examples as users do, and check them with kubectl and ratchet."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from ratchet.dev.building import REPOSITORY
from tests.e2e.world import World, wait_for

EXAMPLES = REPOSITORY / "manifests" / "examples"
CONCURRENCY = 4
Json = dict[str, Any]


def objects(file: str) -> list[Json]:
    return [one for one in yaml.safe_load_all((EXAMPLES / file).read_text()) if one]


def bring_up(world: World, file: str, links: int) -> None:
    """Apply an example, and wait until all its pods are ready and linked."""
    world.kubectl("apply", "-f", str(EXAMPLES / file))
    wait_until_up(world, file, links)


def wait_until_up(world: World, file: str, links: int) -> None:
    for workload in workloads(file):
        world.kubectl("rollout", "status", workload, "--timeout=90s")
    world.wait("condition=Ready", "pod", "--all")
    output = world.ratchet("wait", "-n", world.namespace)
    assert output.splitlines()[-1] == f"{links} of {links} links are linked"


def restart(world: World, file: str, links: int) -> None:
    """Replace every pod by a rollout restart of its workload, and wait until all are linked again."""
    before = uids(world)
    world.kubectl("rollout", "restart", *workloads(file))
    wait_until_up(world, file, links)
    assert not before & uids(world)


def take_down(world: World, file: str) -> None:
    world.kubectl("delete", "-f", str(EXAMPLES / file), "--wait")
    world.wait_until_nothing_is_left()


def workloads(file: str) -> list[str]:
    kinds = ("Deployment", "StatefulSet")
    return [f"{one['kind'].lower()}/{one['metadata']['name']}" for one in objects(file) if one["kind"] in kinds]


def uids(world: World) -> set[str]:
    return {one["metadata"]["uid"] for one in world.get("pod")["items"]}


def kinds(world: World) -> list[str]:
    return sorted(data["kind"] for data in world.records().values())


def neighbours(world: World, file: str) -> dict[str, list[str]]:
    """The addresses at the far ends of each pod's links, from the example's topology.

    An end without a declared address has the kernel's link-local IPv6 address.
    """
    found: dict[str, list[str]] = {}
    (topology,) = [one for one in objects(file) if "ratchet.topology" in one["metadata"].get("labels", {})]
    for link in yaml.safe_load(topology["data"]["links"]):
        ends = [endpoint.split(":") for endpoint in link["endpoints"]]
        given = [address.partition("/")[0] for address in link.get("addresses", [])]
        for (pod, ifname), far, address in zip(ends, ends[::-1], given[::-1] or [None, None], strict=True):
            found.setdefault(pod, []).append(address or f"{link_local(world, *far)}%{ifname}")
    return found


def link_local(world: World, pod: str, ifname: str) -> str:
    shown = world.kubectl("exec", pod, "--", "ip", "-j", "-6", "addr", "show", "scope", "link", "dev", ifname)
    (device,) = [one for one in json.loads(shown) if one]
    return str(device["addr_info"][0]["local"])


def wait_until_reached(
    world: World, targets: Mapping[str, Iterable[str]], sources: Mapping[str, str] | None = None
) -> None:
    """Wait until each pod can ping all its target addresses, from its source address if it has one."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda pod: _reach(world, pod, targets[pod], (sources or {}).get(pod)), targets))


def _reach(world: World, pod: str, addresses: Iterable[str], source: str | None) -> None:
    options = ["-n", "-c", "1", "-W", "2", *(["-I", source] if source else [])]
    line = " && ".join(shlex.join(["ping", *options, address]) for address in addresses)

    def answered() -> bool:
        return world.try_kubectl("exec", pod, "--", "sh", "-c", line).returncode == 0

    wait_for(f"{pod} reaches {', '.join(addresses)}", answered)
