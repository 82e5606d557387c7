"""Exchanges of several messages, of which only the last one is acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from errno import ENODEV

import pytest

from ratchet.datapath import messages
from ratchet.datapath.netns import open_netns
from ratchet.datapath.parse import link_index
from ratchet.datapath.rtnetlink import Channel, NetlinkReply
from tests.support.namespaces import Bed

LOOPBACK = 1
NOWHERE = 77


@pytest.fixture
def channel(pods: Bed) -> Iterator[Channel]:
    with open_netns(pods.path("pod-a")) as netns, Channel(netns) as opened:
        yield opened


def test_a_refusal_before_the_last_message_is_in_its_own_reply(channel: Channel) -> None:
    named, refused, raised = channel.exchange(messages.link_at(LOOPBACK), messages.up(NOWHERE), messages.up(LOOPBACK))
    assert (named.refusal, raised.refusal) == (None, None)
    assert refused.refusal is not None
    assert refused.refusal.errno == ENODEV
    assert _indexes(named) == [LOOPBACK]


def test_a_refusal_of_a_link_that_is_requested_last_ends_the_exchange(channel: Channel) -> None:
    _, missing = channel.exchange(messages.up(LOOPBACK), messages.link_at(NOWHERE))
    assert missing.refusal is not None
    assert missing.refusal.errno == ENODEV


def test_a_dump_between_other_messages_is_complete(channel: Channel) -> None:
    before, dump, after = channel.exchange(messages.link_at(LOOPBACK), messages.links(), messages.link_at(LOOPBACK))
    assert _indexes(before) == _indexes(after) == [LOOPBACK]
    assert LOOPBACK in _indexes(dump)
    assert dump.refusal is None


def test_a_message_can_be_sent_again_at_another_place(channel: Channel) -> None:
    up, named = messages.up(LOOPBACK), messages.link_at(LOOPBACK)
    for requests in ((up, named), (named, up), (up,), (named,)):
        assert [answer.refusal for answer in channel.exchange(*requests)] == [None] * len(requests)
    assert channel.exchange() == []


def _indexes(answer: NetlinkReply) -> list[int]:
    return [link_index(raw) for raw in answer.messages]
