"""Permissions: nobody is denied anything, and nobody may do what they do not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ratchet.core.model import Side
from ratchet.store.records import Records
from tests.e2e.garbage import collected, planted
from tests.e2e.world import PAIR, RATCHET, World, pod, primary
from tests.support.links import joined, own, sandbox

Use = tuple[str, str, str, str]


def asked(world: World) -> Iterator[tuple[Use, int]]:
    """What Ratchet's accounts have asked of the API since the cluster came up, and how it was answered."""
    for line in world.cluster.control_plane().audit_log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef")
        if about is None:
            continue
        account = event["user"]["username"].rpartition(":")[2]
        kind = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        yield (account, about.get("apiGroup", ""), kind, event["verb"]), event.get("responseStatus", {}).get("code", 0)


def granted(world: World) -> set[Use]:
    kinds, ours = "clusterroles,roles,clusterrolebindings,rolebindings", f"app.kubernetes.io/part-of={RATCHET}"
    found = json.loads(world.kubectl("get", kinds, "-A", "-l", ours, "-o", "json"))["items"]
    rules = {(one["kind"], one["metadata"]["name"]): one["rules"] for one in found if "rules" in one}
    return {
        (subject["name"], group, resource, verb)
        for binding in found
        for subject in binding.get("subjects", [])
        for rule in rules[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.timeout(300)
def test_what_is_granted_is_used_and_what_is_used_is_granted(world: World, records: Records) -> None:
    before = len(list(asked(world)))  # whoever was uninstalled before now may have been refused, and rightly
    gate = [{"conditionType": "ratchet/linked"}]
    world.apply(pod("p", "node-a", primary("q"), readinessGates=gate), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    link = records.link(f"{world.namespace}.p.in1.q.in2")
    assert link is not None
    # A record of which one end lives and the other never did, one of which none did, and a number of neither.
    half = replace(link, name=f"{world.namespace}.p.in1.nobody.in2", vni=None, uid="", resource_version="")
    half = half.with_end(Side.PAIR, replace(half.pair, name="nobody", sandbox=sandbox("nobody", "node-c"), stands=None))
    orphan = joined(own(Side.PRIMARY, "node-c"), own(Side.PAIR, "node-c"))
    with planted(records, half, orphan), collected(world, "gc-permissions"):
        cleared = records.link(half.name)
        assert cleared is not None
        assert cleared.pair.sandbox is None
    world.roll("ratchet-agent", "ratchet-install")
    world.delete_pods()
    world.wait_until_nothing_is_left()
    answers = list(asked(world))
    assert {use for use, code in answers[before:] if code in (401, 403)} == set()
    used = {use for use, _ in answers}
    assert {use for use in granted(world) if use not in used} == set()
