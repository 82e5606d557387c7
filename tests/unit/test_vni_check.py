"""The check of VNI Leases: it finds each record that does not hold its Lease, and reads the node's own Leases only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from ratchet.agent.vni_check import CHECKED_AT_ONCE, VniCheck
from ratchet.core.model import End, Link
from ratchet.core.naming import vni_lease_name
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.errors import ApiUnavailableError, ConflictError
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.link_cache import LinkCache
from ratchet.store.store import ApiStore

Json = dict[str, Any]


def sandbox(node: str) -> Sandbox:
    return Sandbox(f"on-{node}", PodRef("ns", f"p-{node}", "u"), node, "/netns", "192.0.2.1")


def link(number: int, *nodes: str) -> Link:
    """A link with the VNI `number` whose ends are on these nodes."""
    primary, pair = (
        End(f"p{side}", "in1", sandbox=sandbox(nodes[side]) if side < len(nodes) else None) for side in (0, 1)
    )
    return Link(f"l{number}", "ns", primary, pair, vni=number, uid=f"u{number}", resource_version="1")


class Leases:
    """The Leases in an API server, and the requests that it received."""

    def __init__(self) -> None:
        self.stored: dict[str, Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.failing: dict[str, Exception] = {}
        self.store = ApiStore(cast(ApiServer, self))

    def hold(self, link: Link, *, labelled: bool = True) -> None:
        assert link.vni is not None
        lease = encode_vni_lease(link.vni, link)
        lease["metadata"] |= {"uid": "l", "resourceVersion": "9"}
        if not labelled:
            del lease["metadata"]["labels"]
        self.stored[vni_lease_name(link.vni)] = lease

    def labels(self, link: Link) -> set[str]:
        assert link.vni is not None
        labels = self.stored[vni_lease_name(link.vni)]["metadata"].get("labels") or {}
        return {key.removeprefix("node.ratchet/") for key in labels if key.startswith("node.ratchet/")}

    def _request(self, method: str, name: str) -> None:
        self.requests.append((method, name))
        if method in self.failing:
            raise self.failing[method]

    def get(self, path: str) -> Json:
        name = path.rpartition("/")[2]
        self._request("GET", name)
        if name not in self.stored:
            raise NotFoundError(path)
        return cast(Json, json.loads(json.dumps(self.stored[name])))

    def patch(self, path: str, body: Json) -> Json:
        name = path.rpartition("/")[2]
        self._request("PATCH", name)
        metadata = self.stored[name]["metadata"]
        assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("l", "9")
        labels = metadata.get("labels", {}) | body["metadata"]["labels"]
        metadata["labels"] = {key: value for key, value in labels.items() if value is not None}
        return self.stored[name]

    def list_decoded(self, _path: str, decode: Any, **query: str) -> tuple[list[Any], str]:
        label = query["labelSelector"]
        self._request("LIST", label)
        chosen = [one for one in self.stored.values() if label in one["metadata"].get("labels", {})]
        return [decode(one) for one in chosen], "9"


@pytest.fixture
def leases() -> Leases:
    return Leases()


class Controller:
    """A controller that records the links whose VNIs are asserted."""

    def __init__(self) -> None:
        self.asserted: list[str] = []

    def assert_vni(self, link: str) -> None:
        self.asserted.append(link)


def check_with(leases: Leases, controller: Controller, *links: Link) -> VniCheck:
    """The check of an agent of node `a` that has cached these links."""
    cache = LinkCache()
    for one in links:
        cache.put(one)
    return VniCheck("a", cache, leases.store.vnis, controller)


def checked(leases: Leases, *links: Link) -> list[str]:
    """The links that an agent of node `a` checks one by one."""
    controller = Controller()
    check = check_with(leases, controller, *links)
    assert check.list()
    check.check_some()
    return controller.asserted


def test_the_check_of_held_leases_costs_one_list_of_the_nodes_own_leases(leases: Leases) -> None:
    links = [link(number, "a", "b") for number in range(11, 21)]
    for one in [*links, link(30, "b", "c")]:
        leases.hold(one)
    assert checked(leases, *links) == []
    assert leases.requests == [("LIST", "node.ratchet/a")]
    assert len(leases.store.vnis.list_of_node("a")) == len(links)


def test_each_record_that_does_not_hold_its_lease_is_checked(leases: Leases) -> None:
    missing, others, unlabelled, elsewhere = (link(number, "a", "b") for number in (11, 12, 13, 14))
    leases.hold(replace(others, uid="another"))
    leases.hold(unlabelled, labelled=False)
    leases.hold(link(14, "b", "c"))
    without = replace(link(15, "a", "b"), vni=None)
    assert checked(leases, missing, others, unlabelled, elsewhere, without) == ["l11", "l12", "l13", "l14"]


def test_a_cached_record_of_other_nodes_is_not_checked(leases: Leases) -> None:
    """A lookup caches it. Its Lease never gets the label of this node."""
    assert checked(leases, link(11, "b", "c")) == []


def test_no_record_is_checked_after_a_failed_list(leases: Leases) -> None:
    leases.failing["LIST"] = ApiUnavailableError("away")
    controller = Controller()
    check = check_with(leases, controller, link(11, "a", "b"))
    assert not check.list()
    check.check_some()
    assert controller.asserted == []


def test_many_checks_run_in_batches_and_none_is_lost(leases: Leases) -> None:
    links = [link(number, "a", "b") for number in range(11, 11 + 2 * CHECKED_AT_ONCE + 1)]
    controller = Controller()
    check = check_with(leases, controller, *links)
    check.list()
    counts = []
    for _ in range(4):
        check.check_some()
        counts.append(len(controller.asserted))
    assert counts == [CHECKED_AT_ONCE, 2 * CHECKED_AT_ONCE, len(links), len(links)]
    assert set(controller.asserted) == {one.name for one in links}


# The labels of one Lease


@pytest.mark.parametrize("before", [None, link(11, "a", "c"), link(11, "a")], ids=["unlabelled", "moved", "one end"])
def test_a_held_lease_gets_the_labels_of_the_links_nodes_once(leases: Leases, before: Link | None) -> None:
    held = link(11, "a", "b")
    leases.hold(before or held, labelled=before is not None)
    for _ in range(2):
        assert leases.store.vnis.hold(held)
    assert leases.labels(held) == {"a", "b"}
    assert [method for method, _ in leases.requests] == ["GET", "PATCH", "GET"]
    assert checked(leases, held) == []


def test_a_lease_is_held_even_if_labelling_it_is_forbidden(leases: Leases) -> None:
    """The account of the daemonless plugin may not patch Leases."""
    held = link(11, "a", "b")
    leases.hold(held, labelled=False)
    leases.failing["PATCH"] = ForbiddenError("cannot PATCH: forbidden")
    assert leases.store.vnis.hold(held)


@pytest.mark.parametrize("cause", [NotFoundError("gone"), ConflictError("changed")])
def test_a_lease_that_changes_before_it_is_labelled_is_read_again(leases: Leases, cause: Exception) -> None:
    held = link(11, "a", "b")
    leases.hold(held, labelled=False)
    leases.failing["PATCH"] = cause
    with pytest.raises(ConflictError):
        leases.store.vnis.hold(held)
