"""What was seen to stand is not looked at again, for as long as nothing is known to have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet import datapath
from ratchet.agent import controller
from ratchet.core.interface import Parent
from ratchet.core.model import EARLIER_SCHEMA, Link, Location, Sandbox, Side
from ratchet.core.plan import Underlay
from ratchet.node.journal import Attachment, HeldEnd, SandboxEntry
from ratchet.node.verified import VerifiedEnds
from ratchet.store.links import Lookup
from tests.support.links import RECORD, VTEPS, joined, own, standing, veth, vxlan, wanted

SITE = Underlay("node-a", Parent("eth0", 2, VTEPS["node-a"], 1500), 4789, has_agent=True)
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def placed(side: Side, number: int = 1) -> Sandbox:
    """A sandbox as its node records it."""
    bare = own(side, number=number)
    return SITE.sandbox(bare.container_id, bare.pod, bare.netns)


def stored(link: Link, version: str = "7") -> Link:
    return replace(link, uid="u", resource_version=version)


def test_an_end_was_seen_by_one_version_of_its_record_and_one_site() -> None:
    verified, record = VerifiedEnds(), stored(standing(vxlan(), PRIMARY))
    assert not verified.is_current(record, PRIMARY, SITE)
    verified.note(record, PRIMARY, SITE, up=True)
    assert verified.is_current(record, PRIMARY, SITE)
    assert not verified.is_current(record, PAIR, SITE), "which is another node's"
    assert not verified.is_current(stored(record, "8"), PRIMARY, SITE)
    assert not verified.is_current(record, PRIMARY, replace(SITE, vxlan_port=4790))


def test_both_ends_of_a_veth_are_seen_at_once() -> None:
    verified, record = VerifiedEnds(), stored(standing(veth(), PRIMARY, PAIR))
    verified.note(record, PRIMARY, SITE, up=True)
    assert verified.is_current(record, PAIR, SITE)
    verified.note(record, PAIR, SITE, up=False)
    assert not verified.is_current(record, PRIMARY, SITE)


@pytest.mark.parametrize("forget", [lambda verified: verified.forget(RECORD), VerifiedEnds.forget_all])
def test_what_was_seen_is_forgotten(forget: Callable[[VerifiedEnds], None]) -> None:
    verified, record = VerifiedEnds(), stored(standing(vxlan(), PRIMARY))
    verified.note(record, PRIMARY, SITE, up=True)
    forget(verified)
    assert not verified.is_current(record, PRIMARY, SITE)


class Controlled:
    """A controller of node-a that reconciles one end, and whether it had it settled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settled = 0
        self.site = SITE
        self.deleted = False
        self.wants = True
        self.record = stored(standing(joined(placed(PRIMARY), placed(PAIR)), PRIMARY, PAIR))
        self.verified = VerifiedEnds()
        self.verified.note(self.record, PRIMARY, SITE, up=True)
        holder = own(PRIMARY)
        attachment = Attachment("net", holder.container_id, "eth0")
        end = HeldEnd(wanted(), PRIMARY)
        self.entry = SandboxEntry(attachment, holder.netns, holder.pod, (end,), asks=True)
        self.end = end
        monkeypatch.setattr(controller, "Reconciler", lambda *_: SimpleNamespace(settle=self._settle))
        monkeypatch.setattr(datapath, "observe_port", lambda *_: SimpleNamespace(ours=True))

    def reconcile(self) -> bool:
        """Whether the end was settled."""
        before = self.settled
        self.controller()._reconcile_end(self.entry, self.end)
        return self.settled > before

    def controller(self) -> controller.LinkController:
        nothing: Any = None
        journal: Any = SimpleNamespace(is_buried=lambda *_: self.deleted, still_wants=lambda *_: self.wants)
        records: Any = SimpleNamespace(
            links=SimpleNamespace(
                lookup=lambda _: Lookup(self.record, certain=False),
                lookup_cached=lambda _: Lookup(self.record, certain=False),
                cache=SimpleNamespace(get=lambda _: self.record),
            )
        )
        return controller.LinkController(
            node="node-a",
            journal=journal,
            records=records,
            sites=lambda *_: self.site,  # type: ignore[arg-type]
            announcer=nothing,
            metrics=nothing,
            is_adding=lambda _: False,
            is_lost=nothing,
            membership=nothing,
            verified=self.verified,
        )

    def _settle(self, *_: object, joined: bool) -> None:
        assert joined
        self.settled += 1


@pytest.fixture
def controlled(monkeypatch: pytest.MonkeyPatch) -> Controlled:
    return Controlled(monkeypatch)


def test_what_a_call_has_just_settled_is_not_settled_again(controlled: Controlled) -> None:
    assert not controlled.reconcile()


def test_an_end_whose_record_has_changed_since_is_settled(controlled: Controlled) -> None:
    controlled.record = stored(controlled.record, "8")
    assert controlled.reconcile()


def test_an_end_of_a_node_that_has_moved_is_settled(controlled: Controlled) -> None:
    controlled.site = replace(SITE, parent=replace(SITE.parent, address="192.168.1.74"))
    assert controlled.reconcile()


def test_an_end_that_joined_from_another_address_is_settled(controlled: Controlled) -> None:
    """Its vEth was seen to stand from the other end, by the address that the node has now."""
    moved = replace(placed(PRIMARY), vtep="192.168.1.99")
    controlled.record = stored(standing(joined(moved, placed(PAIR)), PRIMARY, PAIR))
    controlled.verified.note(controlled.record, PAIR, SITE, up=True)
    assert controlled.reconcile()


@pytest.mark.parametrize("unknown", [{"underlay_mtu": 0}, {"vteps": ()}, {"underlay_mtu": 1400}], ids=str)
def test_an_end_whose_record_has_another_underlay_is_settled_unless_the_record_cannot_hold_it(
    unknown: dict[str, Any], controlled: Controlled
) -> None:
    link = standing(joined(replace(placed(PRIMARY), **unknown), placed(PAIR)), PRIMARY, PAIR)
    controlled.record = stored(link)
    controlled.verified.note(controlled.record, PRIMARY, SITE, up=True)
    assert controlled.reconcile()
    earlier = joined(*(placed(side).in_schema(EARLIER_SCHEMA) for side in (PRIMARY, PAIR)))
    controlled.record = stored(standing(replace(earlier, schema=EARLIER_SCHEMA), PRIMARY, PAIR))
    controlled.verified.note(controlled.record, PRIMARY, SITE, up=True)
    assert not controlled.reconcile()


def test_an_end_that_was_deleted_is_settled(controlled: Controlled) -> None:
    controlled.deleted = True
    assert controlled.reconcile()


def test_an_end_whose_place_another_has_is_settled(controlled: Controlled) -> None:
    controlled.record = stored(standing(joined(own(PRIMARY, number=2), own(PAIR)), PRIMARY, PAIR))
    controlled.verified.note(controlled.record, PRIMARY, SITE, up=True)
    assert controlled.reconcile()


def test_an_end_is_settled_by_those_who_look_now_and_then(controlled: Controlled) -> None:
    controlled.verified.forget_all()
    assert controlled.reconcile()


def test_the_namespace_of_an_end_that_is_in_its_record_is_not_looked_at(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is reconciled at each of its changes, and a look takes two entries into the namespace."""
    looked: list[str] = []

    def look(location: Location) -> bool:
        looked.append(location.netns)
        return True

    monkeypatch.setattr(datapath, "namespace_is_there", look)
    controller = controlled.controller()
    controller._forget_dead(controlled.entry)
    assert not looked
    controlled.record = stored(joined(None, placed(PAIR)))
    controller._forget_dead(controlled.entry)
    assert looked == [controlled.entry.netns]
