"""The permissions of Ratchet's service accounts, and their use according to the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.world import RATCHET, World

Use = tuple[str, str, str, str]


def _requests(world: World) -> Iterator[tuple[Use, int]]:
    """The requests of all accounts since the start of the cluster, with the status codes of the responses."""
    for line in world.cluster.control_plane().audit_log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef")
        if about is None:
            continue
        account = event["user"]["username"].rpartition(":")[2]
        kind = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        yield (account, about.get("apiGroup", ""), kind, event["verb"]), event.get("responseStatus", {}).get("code", 0)


def _granted(world: World) -> set[Use]:
    kinds, label_selector = (
        "clusterroles,roles,clusterrolebindings,rolebindings",
        f"app.kubernetes.io/part-of={RATCHET}",
    )
    found = json.loads(world.kubectl("get", kinds, "-A", "-l", label_selector, "-o", "json"))["items"]
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


# A waiting plugin lists the links again if its watch gets 410, which no test can cause.
RARE = ("ratchet-install", "", "configmaps", "list")


@contextmanager
def no_denied_and_no_unused_permissions(world: World, *accounts: str) -> Iterator[None]:
    """Assert that no request in the block is denied, and that these accounts used all their permissions.

    Uses before the block count, denials before it do not: an account without its roles is denied rightly.
    """
    before = len(list(_requests(world)))
    yield
    answers = list(_requests(world))
    assert {use for use, code in answers[before:] if code in (401, 403)} == set()
    used = {use for use, _ in answers}
    unused = {use for use in _granted(world) if use[0] in accounts and use not in used and use != RARE}
    assert not unused, f"granted, and not used: {unused}"
