"""The network namespaces in which interfaces are created and removed, in every order of steps.

Neither a path nor a record identifies a namespace. Another pod's namespace may reuse the path of one that is gone. The
peer's namespace in a record may be wrong, so only the node's journal counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest

from ratchet.core.interface import InterfaceSpec, VethWire
from ratchet.core.model import Side
from ratchet.core.plan import Attempt
from ratchet.core.sandbox import Location
from ratchet.node import endpoint_reconcile
from ratchet.node.endpoint_progress import Progress
from ratchet.node.journal import Journal, SandboxEntry
from ratchet.store.codec.links import encode_link
from tests.protocol.asking import FakeJournal, OneEntryJournal, ask
from tests.protocol.exploring import END, Place, Process, Report, Search, assert_no_fault
from tests.protocol.namespaces import cookie_of, netns_path
from tests.protocol.scenes import (
    RECORDS,
    Expectation,
    Rules,
    UnobservableRequests,
    add_process,
    agent,
    attempt_of,
    del_process,
    sandbox_of,
    wanted_link,
)
from tests.protocol.world import Actor, Interface, World, perform

STRANGER = "s9@s1"  # another pod's sandbox, whose namespace reuses the path of s1
STRANGERS_PEER = "u9"  # the peer of the stranger's own link


def _port(sandbox: str) -> InterfaceSpec:
    return InterfaceSpec(netns_path(sandbox), "in1", (), 1500, cookie=cookie_of(sandbox))


STRANGERS_LINK = VethWire("ns.friend.in1.stranger.in1", _port(STRANGER), _port(STRANGERS_PEER))


def _strangers_interfaces() -> frozenset[Interface]:
    empty = World(namespaces=frozenset({STRANGER, STRANGERS_PEER}))
    ((world, _),) = perform(empty, Actor(0, "A"), ("make", STRANGERS_LINK))
    return world.interfaces


# Reused paths


@dataclass(frozen=True)
class Reuse:
    """The namespace of s1 is removed, and a stranger's namespace reuses its path.

    s1 is linked to t1 on node `pair`. `deleted`: the runtime calls DEL of s1, twice. Otherwise the namespace is removed
    without a DEL. `linked`: the stranger has its own link, whose interface has the same name as that of s1.
    """

    pair: str
    deleted: bool
    linked: bool

    def search(self) -> Search:
        rules = Rules()
        s1, t1 = attempt_of("s1", Side.PRIMARY, "A"), attempt_of("t1", Side.PAIR, self.pair)
        processes = [add_process(one, waits_for_peer=False, killable=False, rules=rules) for one in (s1, t1)]
        if self.deleted:
            processes += [del_process(s1, rules=rules), del_process(s1, rules=rules, again=True)]
        processes += [self._stranger(), *(agent(node, rules) for node in sorted({"A", self.pair}))]
        is_unobservable = UnobservableRequests(frozenset({"s1"}), frozenset({"s1"}), frozenset({STRANGER}))
        return Search(World(namespaces=frozenset({STRANGERS_PEER})), processes, self._check, is_unobservable)

    def _stranger(self) -> Process:
        def start() -> str:
            ask("collapse", "s1", False, self.deleted)
            ask("birth", STRANGER, "")
            if self.linked:
                ask("make", STRANGERS_LINK)
            return END

        return Process("hand of a stranger", "A", {"start": start}, "start")

    def _check(self, world: World, places: tuple[Place, ...], quiet: bool) -> Iterator[str]:
        yield from Expectation().check(world, places, quiet)
        if STRANGER not in world.namespaces:
            return
        own = _strangers_interfaces() if self.linked else frozenset()
        there = {one for one in world.interfaces if {one.place[0], (one.peer or one.place)[0]} & _PATHS}
        if there - own:
            yield "an interface of the link is in a stranger's namespace"
        arrived = all(place.ended for place in places if place.process.name == "hand of a stranger")
        if arrived and own - there:
            yield "a stranger's interface is gone"


_PATHS = {netns_path(STRANGER), netns_path(STRANGERS_PEER)}

REUSES = {
    "vEth, late DEL": Reuse("A", deleted=True, linked=True),
    "vEth, late DEL, the stranger has no link": Reuse("A", deleted=True, linked=False),
    "vEth, no DEL": Reuse("A", deleted=False, linked=True),
    "vEth, no DEL, the stranger has no link": Reuse("A", deleted=False, linked=False),
    "VXLAN, late DEL": Reuse("B", deleted=True, linked=True),
    "VXLAN, no DEL, the stranger has no link": Reuse("B", deleted=False, linked=False),
}


@contextmanager
def finding_namespaces_by_path() -> Iterator[None]:
    """Locations have no cookie, so any namespace at the path counts as the sandbox's."""

    def of_attempt(self: Attempt) -> Location:
        return Location(self.sandbox.netns, index=self.index)

    with (
        patch.object(Attempt, "location", property(of_attempt)),
        patch.object(SandboxEntry, "location", lambda self, end: Location(self.netns, index=end.index)),
        patch.object(SandboxEntry, "is_in", lambda self, location: self.netns == location.netns),
    ):
        yield


@pytest.mark.parametrize("name", REUSES)
def test_no_order_of_steps_changes_a_namespace_that_reuses_the_path(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = REUSES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.parametrize("name", REUSES)
def test_the_search_finds_the_fault_when_namespaces_are_found_by_path(
    name: str, print_report: Callable[[Report], None]
) -> None:
    with finding_namespaces_by_path():
        report = REUSES[name].search().run(first_fault=True)
    print_report(report)
    assert set(report.faults) & {
        "an interface of the link is in a stranger's namespace",
        "a stranger's interface is gone",
    }


# Records that name another pod's namespace


class JournalWithoutPeer(OneEntryJournal):
    """A journal without an entry of the peer."""

    def location(self, link: str, container_id: str) -> Location | None:
        return FakeJournal.location(self, link, container_id)


@dataclass(frozen=True)
class Lie:
    """A record in which t1 has joined on s1's node, in a stranger's namespace.

    `known`: the node's journal has the entry of t1.
    """

    known: bool

    def search(self) -> Search:
        rules = Rules() if self.known else Rules(journal=JournalWithoutPeer)
        false_peer = replace(
            sandbox_of("t1", "right", "A"), netns=netns_path(STRANGERS_PEER), cookie=cookie_of(STRANGERS_PEER)
        )
        record = wanted_link()
        record = replace(record, pair=replace(record.pair, sandbox=false_peer))
        document = encode_link(record)
        document["metadata"] |= {"uid": "uid-1", "resourceVersion": "seen"}
        text = json.dumps(document, sort_keys=True)
        world = World(
            ((f"{RECORDS}/{record.name}", text),), namespaces=frozenset({"t1", STRANGERS_PEER}), uids_issued=1
        )
        s1 = attempt_of("s1", Side.PRIMARY, "A")
        return Search(world, [add_process(s1, waits_for_peer=False, killable=False, rules=rules)], self._check)

    def _check(self, world: World, _: tuple[Place, ...], quiet: bool) -> Iterator[str]:
        if any(one.place[0] == netns_path(STRANGERS_PEER) for one in world.interfaces):
            yield "an interface of the link is in a stranger's namespace"
        if quiet and self.known and not world.interfaces:
            yield "the journal's peer is not linked"


LIES = {"the journal has the peer": Lie(known=True), "the journal has no such peer": Lie(known=False)}


@contextmanager
def trusting_the_recorded_peer_location() -> Iterator[None]:
    """The peer's location is read from the record, not from the node's journal."""

    def recorded_location(progress: Progress, _: Journal) -> Location | None:
        record = progress.draft
        peer = record.sandbox(progress.attempt.side.other) if record is not None else None
        return Location(peer.netns, peer.cookie) if peer is not None else None

    with patch.object(endpoint_reconcile, "peer_location", recorded_location):
        yield


@contextmanager
def ignoring_the_journals_peer() -> Iterator[None]:
    """The peer's location in the node's journal is ignored."""
    with patch.object(endpoint_reconcile, "peer_location", lambda *_: None):
        yield


@pytest.mark.parametrize("name", LIES)
def test_no_interface_is_created_in_a_namespace_only_the_record_names(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LIES[name].search().run()
    print_report(report)
    assert report.complete
    assert not report.faults, str(report)


@pytest.mark.parametrize("name", LIES)
def test_the_search_finds_the_fault_when_the_recorded_namespace_is_trusted(
    name: str, print_report: Callable[[Report], None]
) -> None:
    with trusting_the_recorded_peer_location():
        report = LIES[name].search().run(first_fault=True)
    print_report(report)
    assert set(report.faults) == {"an interface of the link is in a stranger's namespace"}


def test_the_search_finds_the_fault_when_the_journal_is_ignored() -> None:
    with ignoring_the_journals_peer():
        report = LIES["the journal has the peer"].search().run()
    assert set(report.faults) == {"the journal's peer is not linked"}
