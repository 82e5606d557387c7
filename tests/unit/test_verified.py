"""What was seen to stand is not looked at again, for as long as nothing is known to have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.model import EARLIER_SCHEMA, Link, Sandbox, Side
from ratchet.node.journal import since_boot
from ratchet.node.reconciler import Reconciler
from ratchet.node.verified import VerifiedEnds
from tests.support.links import RECORD, joined, own, standing, veth, vxlan
from tests.support.memory import AgentNode, sandbox_of, underlay_of

UNDERLAY = underlay_of("node-a")
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def placed(side: Side) -> Sandbox:
    """A sandbox of node a as the node records it."""
    return sandbox_of(side)


def stored(link: Link, version: str = "7") -> Link:
    return replace(link, uid="u", resource_version=version)


def test_an_end_was_seen_by_one_version_of_its_record_and_one_underlay() -> None:
    verified, record = VerifiedEnds(), stored(standing(vxlan(), PRIMARY))
    assert not verified.is_current(record, PRIMARY, UNDERLAY)
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    assert verified.is_current(record, PRIMARY, UNDERLAY)
    assert not verified.is_current(record, PAIR, UNDERLAY), "which is another node's"
    assert not verified.is_current(stored(record, "8"), PRIMARY, UNDERLAY)
    assert not verified.is_current(record, PRIMARY, replace(UNDERLAY, vxlan_port=4790))


def test_both_ends_of_a_veth_are_seen_at_once() -> None:
    verified, record = VerifiedEnds(), stored(standing(veth(), PRIMARY, PAIR))
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    assert verified.is_current(record, PAIR, UNDERLAY)
    verified.note(record, PAIR, UNDERLAY, up=False)
    assert not verified.is_current(record, PRIMARY, UNDERLAY)


@pytest.mark.parametrize("forget", [lambda verified: verified.forget(RECORD), VerifiedEnds.forget_all])
def test_what_was_seen_is_forgotten(forget: Callable[[VerifiedEnds], None]) -> None:
    verified, record = VerifiedEnds(), stored(standing(vxlan(), PRIMARY))
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    forget(verified)
    assert not verified.is_current(record, PRIMARY, UNDERLAY)


class Controlled:
    """The end of a linked vEth that node a verified. `settled` counts how often its controller settles an end."""

    def __init__(self, node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        self.settled = 0
        self._version = 1000
        self.entry = node.hold(placed(PRIMARY))
        self.end = self.entry.ends[0]
        node.hold(placed(PAIR))
        node.controller.reconcile(RECORD)
        self.set_record(standing(joined(placed(PRIMARY), placed(PAIR)), PRIMARY, PAIR))
        monkeypatch.setattr(Reconciler, "settle", self._settle)

    def set_record(self, link: Link, verified: Side | None = PRIMARY) -> None:
        """Have the record be this one, in a new version for which this end was verified."""
        self._version += 1
        record = stored(link, str(self._version))
        self.node.caches.links.put(record)
        if verified is not None:
            self.node.verified.note(record, verified, UNDERLAY, up=True)

    def reconcile(self) -> bool:
        """Whether the end was settled."""
        before = self.settled
        self.node.controller._reconcile_end(self.entry, self.end)
        return self.settled > before

    def _settle(self, *_: object, joined: bool) -> None:
        assert joined
        self.settled += 1


@pytest.fixture
def controlled(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> Controlled:
    return Controlled(node, monkeypatch)


def test_what_a_call_has_just_settled_is_not_settled_again(controlled: Controlled) -> None:
    assert not controlled.reconcile()


def test_an_end_whose_record_has_changed_since_is_settled(controlled: Controlled) -> None:
    controlled.set_record(standing(joined(placed(PRIMARY), placed(PAIR)), PRIMARY, PAIR), verified=None)
    assert controlled.reconcile()


def test_an_end_of_a_node_that_has_moved_is_settled(controlled: Controlled) -> None:
    controlled.node.underlay = replace(UNDERLAY, parent=replace(UNDERLAY.parent, address="192.168.1.74"))
    assert controlled.reconcile()


def test_an_end_that_joined_from_another_address_is_settled(controlled: Controlled) -> None:
    """Its vEth was verified from the other end, by the address that the node has now."""
    moved = replace(placed(PRIMARY), vtep="192.168.1.99")
    controlled.set_record(standing(joined(moved, placed(PAIR)), PRIMARY, PAIR), verified=PAIR)
    assert controlled.reconcile()


@pytest.mark.parametrize("unknown", [{"underlay_mtu": 0}, {"vteps": ()}, {"underlay_mtu": 1400}], ids=str)
def test_an_end_whose_record_has_another_underlay_is_settled_unless_the_record_cannot_hold_it(
    unknown: dict[str, Any], controlled: Controlled
) -> None:
    controlled.set_record(standing(joined(replace(placed(PRIMARY), **unknown), placed(PAIR)), PRIMARY, PAIR))
    assert controlled.reconcile()
    earlier = joined(*(placed(side).in_schema(EARLIER_SCHEMA) for side in (PRIMARY, PAIR)))
    controlled.set_record(standing(replace(earlier, schema=EARLIER_SCHEMA), PRIMARY, PAIR))
    assert not controlled.reconcile()


def test_an_end_that_was_deleted_is_settled(controlled: Controlled) -> None:
    controlled.node.journal.bury(controlled.entry.attachment, since_boot())
    assert controlled.reconcile()


def test_an_end_whose_place_another_has_is_settled(controlled: Controlled) -> None:
    controlled.set_record(standing(joined(own(PRIMARY, number=2), own(PAIR)), PRIMARY, PAIR))
    assert controlled.reconcile()


def test_an_end_is_settled_by_those_who_look_now_and_then(controlled: Controlled) -> None:
    controlled.node.verified.forget_all()
    assert controlled.reconcile()
