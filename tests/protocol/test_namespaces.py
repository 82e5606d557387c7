"""Which namespace a link's interface is made in and removed from, in every order of steps.

A path is no namespace: another pod's sandbox may come to the path of one that is gone. A record is no journal: what it
says of where the peer is may be anybody's word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest

from ratchet.core.interface import InterfaceSpec, VethWire
from ratchet.core.model import Location, Side
from ratchet.core.plan import Attempt
from ratchet.node.endpoint_progress import Progress
from ratchet.node.endpoint_reconcile import EndpointReconcile
from ratchet.node.journal import SandboxEntry
from ratchet.store.codec.links import encode_link
from tests.protocol.asking import FakeJournal, OneEntryJournal, ask
from tests.protocol.exploring import END, Place, Process, Report, Search
from tests.protocol.namespaces import cookie_of, netns_path
from tests.protocol.scenes import (
    RECORDS,
    Expectation,
    Rules,
    Unheard,
    adding,
    agent,
    attempt_of,
    deleting,
    sandbox_of,
    wanted_link,
)
from tests.protocol.world import Actor, Interface, World, perform

STRANGER = "s9@s1"  # another pod's sandbox, at the path that s1 had
FRIEND = "u9"  # what the stranger is linked to


def _port(sandbox: str) -> InterfaceSpec:
    return InterfaceSpec(netns_path(sandbox), "in1", (), 1500, cookie=cookie_of(sandbox))


STRANGERS_LINK = VethWire("ns.friend.in1.stranger.in1", _port(STRANGER), _port(FRIEND))


def _strangers_interfaces() -> frozenset[Interface]:
    empty = World(namespaces=frozenset({STRANGER, FRIEND}))
    ((world, _),) = perform(empty, Actor(0, "A"), ("make", STRANGERS_LINK))
    return world.interfaces


# A path is used again


@dataclass(frozen=True)
class Reuse:
    """s1 and t1 are linked, t1 on node `pair`; the namespace of s1 goes, and a stranger comes to its path.

    `deleted`: the runtime calls DEL of s1, twice; else the namespace goes without it. `linked`: the stranger has a link
    of its own, whose interface has the name of the one of s1.
    """

    pair: str
    deleted: bool
    linked: bool

    def search(self) -> Search:
        rules = Rules()
        s1, t1 = attempt_of("s1", Side.PRIMARY, "A"), attempt_of("t1", Side.PAIR, self.pair)
        processes = [adding(one, patient=False, killable=False, rules=rules) for one in (s1, t1)]
        if self.deleted:
            processes += [deleting(s1, rules=rules), deleting(s1, rules=rules, again=True)]
        processes += [self._stranger(), *(agent(node, rules) for node in sorted({"A", self.pair}))]
        unheard = Unheard(frozenset({"s1"}), frozenset({"s1"}), frozenset({STRANGER}))
        return Search(World(namespaces=frozenset({FRIEND})), processes, self._check, unheard)

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


_PATHS = {netns_path(STRANGER), netns_path(FRIEND)}

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
    """A location has no cookie: whichever namespace is at the path is taken for the sandbox's."""

    def of_attempt(self: Attempt) -> Location:
        return Location(self.sandbox.netns, index=self.index)

    with (
        patch.object(Attempt, "location", property(of_attempt)),
        patch.object(SandboxEntry, "location", lambda self, end: Location(self.netns, index=end.index)),
        patch.object(SandboxEntry, "is_in", lambda self, location: self.netns == location.netns),
    ):
        yield


@pytest.mark.parametrize("name", REUSES)
def test_no_order_of_steps_touches_the_namespace_that_has_the_path_now(
    name: str, told: Callable[[Report], None]
) -> None:
    report = REUSES[name].search().run()
    told(report)
    assert report.complete
    assert report.quiet
    assert not report.faults, str(report)


@pytest.mark.parametrize("name", REUSES)
def test_the_search_finds_the_fault_where_a_path_is_a_namespace(name: str, told: Callable[[Report], None]) -> None:
    with finding_namespaces_by_path():
        report = REUSES[name].search().run(first_fault=True)
    told(report)
    assert set(report.faults) & {
        "an interface of the link is in a stranger's namespace",
        "a stranger's interface is gone",
    }


# A record that lies


class LonelyJournal(OneEntryJournal):
    """A journal that holds no entry of the peer."""

    def location(self, link: str, container_id: str) -> Location | None:
        return FakeJournal.location(self, link, container_id)


@dataclass(frozen=True)
class Lie:
    """The record has t1 joined on s1's node, in the namespace of a stranger. `known`: the node's journal has t1."""

    known: bool

    def search(self) -> Search:
        rules = Rules() if self.known else Rules(journal=LonelyJournal)
        liar = replace(sandbox_of("t1", "right", "A"), netns=netns_path(FRIEND), cookie=cookie_of(FRIEND))
        record = wanted_link()
        record = replace(record, pair=replace(record.pair, sandbox=liar))
        document = encode_link(record)
        document["metadata"] |= {"uid": "uid-1", "resourceVersion": "seen"}
        text = json.dumps(document, sort_keys=True)
        world = World(((f"{RECORDS}/{record.name}", text),), namespaces=frozenset({"t1", FRIEND}), born=1)
        s1 = attempt_of("s1", Side.PRIMARY, "A")
        return Search(world, [adding(s1, patient=False, killable=False, rules=rules)], self._check)

    def _check(self, world: World, _: tuple[Place, ...], quiet: bool) -> Iterator[str]:
        if any(one.place[0] == netns_path(FRIEND) for one in world.interfaces):
            yield "an interface of the link is in a stranger's namespace"
        if quiet and self.known and not world.interfaces:
            yield "the journal's peer is not linked"


LIES = {"the journal has the peer": Lie(known=True), "the journal has no such peer": Lie(known=False)}


@contextmanager
def believing_where_the_peer_is() -> Iterator[None]:
    """The peer is where the record says, whatever the node's journal has."""

    def believed(_: EndpointReconcile, progress: Progress) -> Location | None:
        record = progress.draft
        peer = record.sandbox(progress.attempt.side.other) if record is not None else None
        return Location(peer.netns, peer.cookie) if peer is not None else None

    with patch.object(EndpointReconcile, "_peer_location", believed):
        yield


@contextmanager
def knowing_no_peer() -> Iterator[None]:
    """The node's journal is not asked where the peer is."""
    with patch.object(EndpointReconcile, "_peer_location", lambda *_: None):
        yield


@pytest.mark.parametrize("name", LIES)
def test_nothing_is_made_where_only_the_record_has_the_peer(name: str, told: Callable[[Report], None]) -> None:
    report = LIES[name].search().run()
    told(report)
    assert report.complete
    assert not report.faults, str(report)


@pytest.mark.parametrize("name", LIES)
def test_the_search_finds_the_fault_where_the_record_is_believed(name: str, told: Callable[[Report], None]) -> None:
    with believing_where_the_peer_is():
        report = LIES[name].search().run(first_fault=True)
    told(report)
    assert set(report.faults) == {"an interface of the link is in a stranger's namespace"}


def test_the_search_finds_the_fault_where_the_journal_is_not_asked() -> None:
    with knowing_no_peer():
        report = LIES["the journal has the peer"].search().run()
    assert set(report.faults) == {"the journal's peer is not linked"}
