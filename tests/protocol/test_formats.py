"""A link that two nodes record in two formats, in every order of steps.

In the first scenes, one node has read in the node Leases that all agents read schema 2, and the other node has not. So
each pod waits for its peer in another record. When the search starts, both nodes write schema 2 and look for records of
schema 1.

In the others, one node has read that all agents read schema 3, and the other node has not. So one node would start the
link in panel wiring, and the other node in direct wiring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from ratchet.agent.membership import Membership
from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import WantedLink
from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.core.pod import Pod
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA, PANEL_SCHEMA
from ratchet.core.state_machine import derive
from ratchet.node.journal import HeldEnd
from ratchet.store.formats import RecordFormats
from tests.protocol.asking import Request
from tests.protocol.editing import (
    Declared,
    DeclaredRecords,
    announcing,
    doubly_held,
    ending,
    pod_of,
    sandbox_in,
    started,
    starting,
    worker,
)
from tests.protocol.exploring import Process, Report, Search, assert_no_fault
from tests.protocol.scenes import RECORDS, Expectation, UnobservableRequests, link_of, set_up_as_recorded
from tests.protocol.world import Actor, World

NOT_ONE_RECORD = "the link has not one record"
NOT_LINKED = "the link is not linked"
UNREADABLE = "an agent that runs cannot read the record"
WRONG_SCHEMA = "a record has the schema of another wiring"


def announced(schema: int) -> Any:
    """A store with the Lease of a node whose agent reads this schema. Records of schema 1 exist."""
    return announcing(NodeLease("C", "", schema), earlier=True)


class BehindRecords(DeclaredRecords):
    """The store of a node that has not yet read that all agents read schema 2. It writes schema 1."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(declared)
        self.formats.read(announced(EARLIER_SCHEMA))


class SwitchedRecords(DeclaredRecords):
    """The store of a node that writes schema 2 and looks for records of schema 1."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(declared)
        self.formats = RecordFormats()
        self.formats.read(announced(CURRENT_SCHEMA))


@dataclass(frozen=True)
class TwoFormats:
    """A link that y declares to x, with two records.

    The node of the pod `behind` has recorded it in schema 1, and the other node in schema 2.
    `restarts`: a pod that restarts during the search. `latched`: the node that was first to write schema 2 does not
    look for records of schema 1.
    """

    behind: str
    restarts: str = ""
    latched: bool = False

    @property
    def declared(self) -> Declared:
        links = "- {peer: x, ifname: in1, peer_ifname: in1}"
        return Declared((pod_of("x", "A"), pod_of("y", "B", 1, links)))

    @property
    def names(self) -> tuple[str, str]:
        """The link's names in schema 1 and in schema 2."""
        (wanted,) = self.declared.wanted().links
        return wanted.earlier_link().name, wanted.link.name

    def world(self) -> World:
        ahead = "x" if self.behind == "y" else "y"
        world = started(World(), sandbox_in(self.declared, self.behind), self.declared, BehindRecords)
        return started(world, sandbox_in(self.declared, ahead), self.declared)

    def search(self) -> Search:
        ahead = DeclaredRecords if self.latched else SwitchedRecords
        stores = {pod.node: SwitchedRecords if pod.ref.name == self.behind else ahead for pod in self.declared.pods}
        processes = [worker(node, self.names, self.declared, store=one) for node, one in stores.items()]
        processes += self._calls()
        return Search(
            self.world(), processes, Expectation().check, self._is_unobservable(), check_world=self._check_world
        )

    def _calls(self) -> Iterator[Process]:
        if self.restarts:
            first, second = (sandbox_in(self.declared, self.restarts, number) for number in (1, 2))
            yield ending(first, self.declared)
            yield starting(second, self.declared, after=first.container_id, store=SwitchedRecords)

    def _is_unobservable(self) -> Callable[[World, Actor, Request], bool]:
        """As `UnobservableRequests`, and journal requests on a node where only the agent runs."""
        first = {f"{self.restarts}1"} if self.restarts else set()
        unobservable, busy = (
            UnobservableRequests(frozenset(first), frozenset()),
            {"x": "A", "y": "B"}.get(self.restarts),
        )

        def is_unobservable(world: World, actor: Actor, request: Request) -> bool:
            if request[0] in ("entries", "held", "cookie", "read", "write", "change_ends", "of_container"):
                return actor.node != busy
            return request[0] == "is_there" or unobservable(world, actor, request)

        return is_unobservable

    def _check_world(self, world: World, quiet: bool) -> Iterator[str]:
        texts = [text for path, text in world.objects if path.startswith(RECORDS)]
        records = [link_of(text) for text in texts]
        yield from doubly_held(records)
        if quiet and len(records) != 1:
            yield NOT_ONE_RECORD
        elif quiet and not (
            derive(records[0]) is State.LINKED
            and all(records[0].side_of(one) is not None for one in self._last())
            and set_up_as_recorded(texts[0], world.interfaces, world.namespaces)
            and len(world.interfaces) == 2
        ):
            yield NOT_LINKED

    def _last(self) -> list[str]:
        """The container ID of the last sandbox of each pod."""
        return [f"{pod}{2 if pod == self.restarts else 1}" for pod in "xy"]


class DirectRecords(DeclaredRecords):
    """The store of a node that has not yet read that all agents read schema 3. It writes schema 2."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(declared)
        self.formats = RecordFormats()
        self.formats.read(announcing(NodeLease("C", "", CURRENT_SCHEMA, CURRENT_SCHEMA)))


@dataclass(frozen=True)
class TwoWirings:
    """A link in panel wiring that y declares to x. Both pods start during the search.

    The nodes of the pods `behind` do not know that all agents read schema 3. `collocated`: both pods run on one node,
    whose two calls are served at different times.
    """

    behind: str
    collocated: bool = False

    @property
    def declared(self) -> Declared:
        links = "- {peer: x, ifname: in1, peer_ifname: in1, wiring: panel}"
        return Declared((pod_of("x", "A"), pod_of("y", "A" if self.collocated else "B", 1, links)))

    def search(self) -> Search:
        def store(pod: Pod) -> type[DeclaredRecords]:
            return DirectRecords if pod.ref.name in self.behind else DeclaredRecords

        processes = [
            starting(sandbox_in(self.declared, pod.ref.name), self.declared, store=store(pod))
            for pod in self.declared.pods
        ]
        stores = {pod.node: store(pod) for pod in self.declared.pods}
        processes += [worker(node, (self.declared.link(),), self.declared, store=one) for node, one in stores.items()]
        unobservable = UnobservableRequests(frozenset(), frozenset())
        live = Expectation(live=("y1", "x1"))
        return Search(World(), processes, live.check, unobservable, check_world=self._check_world)

    def _check_world(self, world: World, quiet: bool) -> Iterator[str]:
        records = [link_of(text) for path, text in world.objects if path.startswith(RECORDS)]
        yield from doubly_held(records)
        if len(records) > 1:
            yield NOT_ONE_RECORD
        for record in records:
            if record.wiring is Wiring.PANEL and self.behind == "xy":
                yield UNREADABLE
            if record.schema != (PANEL_SCHEMA if record.wiring is Wiring.PANEL else CURRENT_SCHEMA):
                yield WRONG_SCHEMA


SCENES = {f"{pod} is behind": TwoFormats(pod) for pod in "xy"}
LARGE = {f"{pod} is behind, {restarts} restarts": TwoFormats(pod, restarts) for pod in "xy" for restarts in "xy"}


@pytest.mark.parametrize("name", SCENES)
def test_no_order_of_steps_leaves_a_link_with_two_records(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_steps_leaves_two_records_while_a_pod_restarts(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LARGE[name].search().run(max_states=20_000_000)
    print_report(report)
    assert_no_fault(report)


WIRINGS = {
    "x is behind": TwoWirings("x"),
    "y is behind": TwoWirings("y"),
    "both are behind": TwoWirings("xy"),
    "none is behind": TwoWirings(""),
    "x is behind, one node": TwoWirings("x", collocated=True),
    "y is behind, one node": TwoWirings("y", collocated=True),
}


@contextmanager
def recording_panel_wiring_at_once() -> Iterator[None]:
    """A node records panel wiring without regard to the agents of earlier versions."""
    with patch.object(RecordFormats, "_writable", lambda _, wiring, name: wiring):
        yield


def test_the_search_finds_a_record_that_an_agent_cannot_read() -> None:
    with recording_panel_wiring_at_once():
        report = WIRINGS["both are behind"].search().run(first_fault=True)
    assert UNREADABLE in report.faults, str(report)


@pytest.mark.parametrize("name", WIRINGS)
def test_no_order_of_steps_leaves_a_link_in_two_wirings(name: str, print_report: Callable[[Report], None]) -> None:
    report = WIRINGS[name].search().run(to_rest=True)
    print_report(report)
    assert_no_fault(report)


@contextmanager
def keeping_declared_ends() -> Iterator[None]:
    """An end whose link the pod itself declares never moves to another record."""
    why_removed = Membership._why_removed

    def why(self: Membership, end: HeldEnd, by_record: Mapping[str, WantedLink]) -> str | None:
        return None if end.declared else why_removed(self, end, by_record)

    with patch.object(Membership, "_why_removed", why):
        yield


MUTATIONS: dict[str, tuple[Callable[[], AbstractContextManager[None]], TwoFormats]] = {
    "declared ends stay": (keeping_declared_ends, TwoFormats("x")),
    "the node ahead does not look for earlier records, x is behind": (nullcontext, TwoFormats("x", latched=True)),
    "the node ahead does not look for earlier records, y is behind": (nullcontext, TwoFormats("y", latched=True)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_two_records_for_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    mutate, scene = MUTATIONS[name]
    with mutate():
        report = scene.search().run(first_fault=True)
    print_report(report)
    assert NOT_ONE_RECORD in report.faults, str(report)
