"""Peers on lost nodes: marked once, and again if the node is lost again."""

from __future__ import annotations

import pytest

from ratchet.core.model import Link, Side
from ratchet.errors import ApiUnavailableError
from tests.support.links import RECORD, joined, with_ready
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

OWN, PEER = sandbox_of(Side.PRIMARY), sandbox_of(Side.PAIR, "node-b")
LINKED = with_ready(joined(OWN, PEER), Side.PRIMARY, Side.PAIR)


@pytest.fixture
def linked(node: AgentNode) -> Link:
    """The record of a linked VXLAN to node b."""
    node.hold(OWN)
    return node.put_record(LINKED)


def mark(node: AgentNode) -> bool:
    """Mark lost peers, and return whether the peer is ready after that."""
    node.lost_peers.mark(RECORD, node.held())
    record = node.record()
    assert record is not None
    return record.is_ready(Side.PAIR)


@pytest.mark.usefixtures("linked")
def test_a_peer_on_a_live_node_is_not_marked(node: AgentNode) -> None:
    node.nodes.lost.add("node-c")
    assert mark(node)


@pytest.mark.usefixtures("linked")
def test_a_peer_on_a_lost_node_is_marked(node: AgentNode) -> None:
    node.nodes.lost.add("node-b")
    assert not mark(node)
    record = node.record()
    assert record is not None
    assert record.is_ready(Side.PRIMARY)
    assert record.history[-1].reason == "node node-b is lost"


@pytest.mark.usefixtures("linked")
def test_a_peer_is_marked_once_even_if_the_first_attempt_fails(node: AgentNode, api: MemoryApi) -> None:
    """The API is often unreachable when a node is lost. The peer may be alive, and become ready again."""
    node.nodes.lost.add("node-b")
    api.failures.append(ApiUnavailableError("cannot reach the Kubernetes API"))
    with pytest.raises(ApiUnavailableError):
        node.lost_peers.mark(RECORD, node.held())
    assert not mark(node)
    node.put_record(LINKED)
    assert mark(node)


@pytest.mark.usefixtures("linked")
@pytest.mark.parametrize("forgets", ["the node is back", "the link is forgotten"])
def test_a_peer_is_marked_again_when_its_node_is_lost_again(node: AgentNode, forgets: str) -> None:
    node.nodes.lost.add("node-b")
    assert not mark(node)
    node.put_record(LINKED)
    if forgets == "the node is back":
        node.nodes.lost.clear()
        assert mark(node)
        node.nodes.lost.add("node-b")
    else:
        node.lost_peers.forget(RECORD)
    assert not mark(node)


def test_an_end_that_has_not_joined_marks_no_peer(node: AgentNode) -> None:
    """Another sandbox has its end, and the peer is ready for that one."""
    node.nodes.lost.add("node-b")
    node.hold(OWN)
    node.lost_peers.mark(RECORD, node.held())
    node.put_record(with_ready(joined(sandbox_of(Side.PRIMARY, number=2), PEER), *Side))
    assert mark(node)
    node.put_record(LINKED)
    assert not mark(node), "the sandbox that has joined marks it"
