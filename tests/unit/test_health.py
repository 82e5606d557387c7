"""The agent's health: when it is not live, when it is not ready, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.agent.health import IDLE_SECONDS, OUT_OF_TOUCH_SECONDS, AgentHealth
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.workers import STUCK_SECONDS
from ratchet.errors import TopologiesUnknownError

FORBIDDEN = TopologiesUnknownError("cannot read the topologies of namespace ns: forbidden", details="bind the role")


class Watched:
    """The health of an agent whose informers, heartbeat, work queue and clock are set by a test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.informers = cast(Any, SimpleNamespace(links_listed=True, forbidden_topologies=lambda: None))
        self.heartbeat = cast(Any, SimpleNamespace(last_contact=self.now))
        self.queue = ReconcileQueue(lambda: self.now)
        self.journal = cast(Any, SimpleNamespace(deferred=0))
        self.guard = SimpleNamespace(fault="")
        self.port = SimpleNamespace(fault="")
        self.panel = SimpleNamespace(fault="")
        self.carrier = SimpleNamespace(fault="")
        self.health = AgentHealth(
            self.informers,
            self.heartbeat,
            self.queue,
            self.journal,
            cast(Any, self.guard),
            self.port,
            self.panel,
            self.carrier,
            lambda: self.now,
        )

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass in which the periodic work goes on."""
        self.now += seconds
        self.health.note_progress()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_agent_is_live_while_its_periodic_work_continues(watched: Watched) -> None:
    assert watched.health.why_not_live() is None
    watched.now += IDLE_SECONDS
    assert watched.health.why_not_live() is None
    watched.now += 1
    assert watched.health.why_not_live() == "the agent has not done its periodic work for 181 s"
    watched.health.note_progress()
    assert watched.health.why_not_live() is None


def test_an_agent_is_not_live_while_a_worker_has_the_same_key_for_too_long(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.queue.enqueue_link("default.p.in1.q.in2")
    key = watched.queue.take()
    watched.pass_seconds(STUCK_SECONDS)
    assert watched.health.why_not_live() is None
    watched.pass_seconds(1)
    reason = f"a worker has reconciled the same link for {STUCK_SECONDS + 1:.0f} s"
    assert [watched.health.why_not_live(), watched.health.why_not_live()] == [reason, reason]
    (logged,) = [one.getMessage() for one in caplog.records]
    assert "name=default.p.in1.q.in2 " in logged
    assert key is not None
    watched.queue.done(key)
    assert watched.health.why_not_live() is None


def test_workers_that_take_many_keys_are_live(watched: Watched) -> None:
    for number in range(3):
        watched.queue.enqueue_link(f"link-{number}")
        key = watched.queue.take()
        assert key is not None
        watched.pass_seconds(STUCK_SECONDS)
        assert watched.health.why_not_live() is None
        watched.queue.failed(key)
        assert watched.queue.longest_work() is None


def test_a_key_is_stuck_though_other_workers_go_on(watched: Watched) -> None:
    watched.queue.enqueue_link("stuck")
    watched.queue.take()
    watched.pass_seconds(STUCK_SECONDS + 1)
    watched.queue.enqueue_link("other")
    other = watched.queue.take()
    assert other is not None
    watched.queue.done(other)
    assert watched.health.why_not_live() is not None


def test_an_agent_is_ready_once_its_links_are_listed_and_the_api_has_answered(watched: Watched) -> None:
    watched.informers.links_listed = False
    watched.heartbeat.last_contact = float("-inf")
    assert watched.health.why_not_ready() == "the node's links have not been read yet"
    watched.informers.links_listed = True
    assert watched.health.why_not_ready() == "the API has not answered yet"
    watched.heartbeat.last_contact = watched.now
    assert watched.health.why_not_ready() is None


def test_an_agent_is_not_ready_while_the_api_does_not_answer(watched: Watched) -> None:
    watched.now += OUT_OF_TOUCH_SECONDS
    assert watched.health.why_not_ready() is None
    watched.now += 1
    assert watched.health.why_not_ready() == "the API has not answered for 61 s"


def test_an_agent_is_not_ready_while_topologies_are_forbidden(watched: Watched) -> None:
    watched.informers.forbidden_topologies = lambda: FORBIDDEN
    assert watched.health.why_not_ready() == f"{FORBIDDEN} (bind the role)"


def test_an_agent_is_not_ready_while_changes_of_the_journal_wait_for_the_disk(watched: Watched) -> None:
    watched.journal.deferred = 3
    assert watched.health.why_not_ready() == (
        "the state directory is full or read-only (journal changes kept in memory: 3)"
    )


def test_a_node_without_the_tunnel_guard_is_ready_and_says_so(watched: Watched) -> None:
    assert watched.health.note() == ""
    watched.guard.fault = "cannot change the guard of the tunnel port: Operation not supported"
    assert watched.health.why_not_ready() is None
    assert watched.health.note() == f"not guarded: {watched.guard.fault}"


def test_a_node_whose_tunnel_port_is_taken_is_ready_and_says_so(watched: Watched) -> None:
    watched.port.fault = "UDP port 4789 of the node is used by ovs-vswitchd (PID 7)"
    assert watched.health.why_not_ready() is None
    assert watched.health.note() == watched.port.fault
    watched.guard.fault = "no"
    assert watched.health.note() == f"{watched.port.fault}; not guarded: no"


def test_a_node_whose_patch_panel_is_unusable_is_ready_and_says_so(watched: Watched) -> None:
    watched.panel.fault = "cannot use network namespace /run/netns/ratchet: it is not Ratchet's"
    assert watched.health.why_not_ready() is None
    assert watched.health.note() == watched.panel.fault


def test_carrier_that_does_not_follow_other_nodes_is_a_note(watched: Watched) -> None:
    watched.carrier.fault = "cannot open an OAM socket in patch panel /run/netns/ratchet: Operation not permitted"
    assert watched.health.why_not_ready() is None
    assert watched.health.note() == watched.carrier.fault
