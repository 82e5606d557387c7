"""What Ratchet's accounts may do, and what they did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.world import RATCHET, World

Use = tuple[str, str, str, str]


def _asked(world: World) -> Iterator[tuple[Use, int]]:
    """What Ratchet's accounts have asked of the API since the cluster came up, and how it was answered."""
    for line in world.cluster.control_plane().audit_log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef")
        if about is None:
            continue
        account = event["user"]["username"].rpartition(":")[2]
        kind = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        yield (account, about.get("apiGroup", ""), kind, event["verb"]), event.get("responseStatus", {}).get("code", 0)


def _granted(world: World) -> set[Use]:
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


# A plugin that waits lists the links anew where its watch has become too old, which no test can make happen.
RARE = ("ratchet-install", "", "configmaps", "list")


@contextmanager
def nothing_denied_and_nothing_unused(world: World, *accounts: str) -> Iterator[None]:
    """In the block nobody is refused anything; and by its end all that these accounts may do they have done, some time.

    Whoever was uninstalled before may have been refused, and rightly.
    """
    before = len(list(_asked(world)))
    yield
    answers = list(_asked(world))
    assert {use for use, code in answers[before:] if code in (401, 403)} == set()
    used = {use for use, _ in answers}
    unused = {use for use in _granted(world) if use[0] in accounts and use not in used and use != RARE}
    assert not unused, f"granted, and not used: {unused}"
