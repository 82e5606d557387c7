"""The agent's health: when it is not live, when it is not ready, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.agent.health import OUT_OF_TOUCH_SECONDS, STUCK_SECONDS, AgentHealth
from ratchet.errors import TopologiesUnknownError

FORBIDDEN = TopologiesUnknownError("cannot read the topologies of namespace ns: forbidden", details="bind the role")


class Watched:
    """The health of an agent whose informers, heartbeat and clock are set by a test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.informers = cast(Any, SimpleNamespace(links_listed=True, forbidden_topologies=lambda: None))
        self.heartbeat = cast(Any, SimpleNamespace(last_contact=self.now))
        self.guard = SimpleNamespace(fault="")
        self.health = AgentHealth(self.informers, self.heartbeat, cast(Any, self.guard), lambda: self.now)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_agent_is_live_while_its_periodic_work_continues(watched: Watched) -> None:
    assert watched.health.why_not_live() is None
    watched.now += STUCK_SECONDS
    assert watched.health.why_not_live() is None
    watched.now += 1
    assert watched.health.why_not_live() == "the agent has not done its periodic work for 181 s"
    watched.health.note_progress()
    assert watched.health.why_not_live() is None


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


def test_a_node_without_the_tunnel_guard_is_ready_and_says_so(watched: Watched) -> None:
    assert watched.health.note() == ""
    watched.guard.fault = "cannot change the guard of the tunnel port: Operation not supported"
    assert watched.health.why_not_ready() is None
    assert watched.health.note() == f"not guarded: {watched.guard.fault}"
