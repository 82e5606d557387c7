"""What the operations of a namespace make of a node's links, by the node's clock, its watch and the records."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ratchet.agent.events import Reason
from ratchet.agent.link_operations import DOUBT_SECONDS, LinkOperations
from ratchet.agent.operation_files import DIRECTORY, OperationFiles
from ratchet.agent.queue import ReconcileQueue
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.operations import ENTRIES_MOST, Operations, RecordedOperation, Verb, parse_operations
from ratchet.core.overrides import AS_DECLARED, Override
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.store.topologies import OperationsChange
from tests.support.links import NOW, later, own, veth, wanted

DOWN = Override(Verb.DOWN)
LINK, NAMESPACE = wanted().name, wanted().namespace
FOR_30 = {"operation": "down", "for": "30s", "by": "alice"}
NOTHING = Operations({}, {})


class Clock:
    """A clock since boot and the wall clock, which begins at NOW."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.skew = 0.0

    def since_boot(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return later(self.seconds - 100.0 + self.skew)


class Node:
    """The operations of a node that holds an end of the example's link, in panel wiring."""

    def __init__(self, folder: Path, *, link: Link | None = None) -> None:
        self.folder = folder
        self.clock = Clock()
        self.records = {LINK: link or replace(veth(), wiring=Wiring.PANEL)}
        self.journal = Journal(folder, remembers=True)
        sandbox = own(Side.PRIMARY)
        entry = SandboxEntry(Attachment("net", sandbox.container_id, "eth0"), sandbox.netns, sandbox.pod)
        self.journal.write(replace(entry, ends=(HeldEnd(wanted(), Side.PRIMARY, 7),)))
        self.start()

    def start(self) -> None:
        """Start the agent, again."""
        self.queue = ReconcileQueue(clock=self.clock.since_boot, jitter=lambda: 1.0)
        self.operations = LinkOperations(
            OperationFiles(str(self.folder)),
            self.journal,
            self.queue,
            self.records.get,
            clock=self.clock.since_boot,
            now=self.clock.now,
        )

    def set(self, operation: dict[str, str] | None, *, watched: bool = True, key: str = LINK) -> None:
        data = {} if operation is None else {key: json.dumps(operation)}
        self.operations.changed(NAMESPACE, OperationsChange(parse_operations(data), watched))

    def override(self) -> Override:
        return self.operations.of(LINK)

    def recorded(self) -> RecordedOperation | None:
        """The operation that the record must have, which it has from then on."""
        found = self.operations.recorded(self.records[LINK])
        self.records[LINK] = replace(self.records[LINK], operation=found)
        return found

    def reasons(self) -> list[Reason]:
        return [news.reason for news in self.operations.take_news(LINK)]

    def queued(self) -> bool:
        """Whether the link is to be reconciled now."""
        key = self.queue.take() if len(self.queue) or not self.queue.is_idle() else None
        if key is not None:
            self.queue.done(key)
        return key is not None and key.name == LINK


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_an_operation_acts_for_its_time(node: Node) -> None:
    node.set(FOR_30)

    assert node.queued()
    assert node.override() == DOWN
    assert node.recorded() == RecordedOperation(node_id(node), "down", "alice", NOW, later(30))
    assert node.reasons() == [Reason.OPERATION_STARTED]
    node.clock.seconds += 29.0
    assert (node.override(), node.queued()) == (DOWN, False)
    node.clock.seconds += 1.0
    assert node.queued(), "it is reconciled when the operation is over"
    assert node.override() == node.override() == AS_DECLARED
    assert node.reasons() == [Reason.OPERATION_ENDED]
    assert node.recorded() is not None, "so that an agent that finds it later does not begin it again"


def node_id(node: Node) -> str:
    (operation,) = parse_operations({LINK: json.dumps(FOR_30)}).valid.values()
    return operation.id


def test_an_operation_that_is_removed_ends(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    node.recorded()
    node.set(None)

    assert node.queued()
    assert node.override() == AS_DECLARED
    assert node.recorded() is None
    assert node.reasons() == [Reason.OPERATION_STARTED, Reason.OPERATION_ENDED]
    assert list((node.folder / DIRECTORY).iterdir()) == []


def test_an_operation_keeps_its_time_over_a_restart_of_the_agent(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    node.clock.seconds += 20.0
    node.start()

    assert node.override() == DOWN, "it is on disk, although nothing was listed yet"
    node.set(FOR_30, watched=False)
    assert (node.override(), node.reasons()) == (DOWN, [])
    node.clock.seconds += 10.0
    assert node.override() == AS_DECLARED


def test_an_operation_that_was_removed_while_no_agent_ran_ends(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    node.start()
    node.set(None, watched=False)

    assert node.queued()
    assert node.override() == AS_DECLARED


@pytest.mark.parametrize(("watched", "skew", "left"), [(True, 15.0, 30.0), (False, 0.0, 20.0), (False, -60.0, 30.0)])
def test_an_operation_that_another_agent_has_begun(node: Node, watched: bool, skew: float, left: float) -> None:
    """One that the watch reports begins now. One in a list began when the record says, by the wall clock."""
    recorded = RecordedOperation(node_id(node), "down", "alice", NOW - timedelta(seconds=10), later(20))
    node.records[LINK] = replace(node.records[LINK], operation=recorded)
    node.clock.skew = skew
    node.set(FOR_30, watched=watched)

    assert node.override() == DOWN
    assert node.recorded() == recorded, "the first one to begin records the start"
    node.clock.seconds += left - 0.5
    assert node.override() == DOWN
    node.clock.seconds += 0.5
    assert node.override() == AS_DECLARED


def test_a_pod_that_starts_later_has_the_rest_of_an_operation(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set(FOR_30)
    node.clock.seconds += 25.0

    assert node.override() == DOWN, "nothing has asked before: the link had no end here"
    node.clock.seconds += 5.0
    assert node.override() == AS_DECLARED


def test_a_recorded_operation_may_be_on_its_way_to_this_node(node: Node) -> None:
    node.set(None, watched=False)
    recorded = RecordedOperation("another", "down", "alice", NOW, later(30))
    node.records[LINK] = replace(node.records[LINK], operation=recorded)
    node.queued()

    assert node.recorded() == recorded
    node.clock.seconds += DOUBT_SECONDS
    assert node.queued()
    assert node.recorded() is None


def test_unknown_is_not_absent(node: Node) -> None:
    recorded = RecordedOperation("another", "down", "alice", NOW, later(30))
    node.records[LINK] = replace(node.records[LINK], operation=recorded)
    node.clock.seconds += DOUBT_SECONDS * 2

    assert node.recorded() == recorded, "the operations were never listed"
    node.set(FOR_30)
    assert node.override() == DOWN
    too_many = parse_operations({str(number): "{}" for number in range(ENTRIES_MOST + 1)})
    for unreadable in (too_many, Operations({}, {LINK: "operation: it is missing"})):
        node.operations.changed(NAMESPACE, OperationsChange(unreadable, watched=True))
        assert node.queued()
        assert node.override() == DOWN
        assert Reason.OPERATION_REFUSED in node.reasons()
        assert node.override() == DOWN
        assert node.reasons() == [], "it is reported once"
    node.clock.seconds += 30.0
    assert node.override() == AS_DECLARED


@pytest.mark.parametrize(
    ("operation", "wiring"),
    [
        (FOR_30, Wiring.DIRECT),
        ({"operation": "cut", "from": "z:in1"}, Wiring.PANEL),
        ({"operation": "reboot"}, Wiring.PANEL),
    ],
)
def test_an_operation_that_cannot_act_is_refused(tmp_path: Path, operation: dict[str, str], wiring: Wiring) -> None:
    node = Node(tmp_path, link=replace(veth(), wiring=wiring))
    node.set(operation)

    assert node.override() == node.override() == AS_DECLARED
    assert node.recorded() is None
    assert node.reasons() == [Reason.OPERATION_REFUSED]
    node.set(None)
    assert node.override() == AS_DECLARED
    assert node.reasons() == []


def test_an_operation_whose_sender_is_gone_does_nothing(node: Node) -> None:
    """Another link of the same name may have other endpoints, and the operation that replaces it be invalid."""
    node.set({"operation": "cut", "from": f"{wanted().pair.name}:in2"})
    assert node.override() == Override(Verb.CUT, Side.PAIR)
    node.records[LINK] = node.records[LINK].with_end(Side.PAIR, replace(wanted().pair, ifname="in3"))
    node.set({"operation": "reboot"})

    assert node.override() == AS_DECLARED


def test_another_operation_replaces_the_first_one(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    node.recorded()
    node.clock.seconds += 20.0
    node.set({"operation": "cut", "from": f"{wanted().pair.name}:in2"})

    assert node.override() == Override(Verb.CUT, Side.PAIR)
    found = node.recorded()
    assert found is not None
    assert (found.since, found.until) == (later(20), None)
    assert node.reasons() == [Reason.OPERATION_STARTED] * 2


def test_a_namespace_that_is_not_followed_any_more_has_no_operations(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    node.operations.changed(NAMESPACE, OperationsChange(None))

    assert node.override() == AS_DECLARED
    assert list((node.folder / DIRECTORY).iterdir()) == []


def files(node: Node) -> list[Path]:
    folder = node.folder / DIRECTORY
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("record_is_gone", [True, False])
def test_an_operation_that_is_removed_after_its_link_leaves_nothing(node: Node, record_is_gone: bool) -> None:
    """The peer's end on another node may keep the record."""
    node.set(FOR_30)
    assert node.override() == DOWN
    node.operations.forget(LINK)  # as the controller does when the node has no end any more
    assert len(files(node)) == 1, "the pod may start again"
    if record_is_gone:
        del node.records[LINK]
    node.set(None)
    if not record_is_gone:
        assert node.queued()
        node.operations.forget(LINK)

    assert files(node) == []


def test_a_change_queues_the_links_that_it_concerns(node: Node) -> None:
    node.set(None, watched=False)
    node.set(FOR_30, key="default.x.in1.y.in1")
    assert not node.queued()
    alias = replace(wanted(), name="default.alias.in2.primary-pod.in1")
    node.records[LINK] = node.records[LINK].with_end(Side.PAIR, replace(veth().pair, name="alias"))
    node.set(FOR_30, key=alias.name)
    assert node.queued()
    assert node.override() == DOWN


def test_a_file_that_is_torn_is_dropped(node: Node) -> None:
    node.set(FOR_30)
    assert node.override() == DOWN
    (file,) = (node.folder / DIRECTORY).iterdir()
    file.write_text("{")
    node.start()

    assert node.override() == AS_DECLARED
    assert not file.exists()
