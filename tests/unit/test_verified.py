"""The cache of verified ends: an end is not observed again while nothing that it depends on has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.model import Link, Side
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.node.endpoint_progress import EndpointResult
from ratchet.node.journal import since_boot
from ratchet.node.reconciler import Reconciler
from ratchet.node.verified import VerifiedEnds
from tests.support.links import RECORD, joined, own, veth, vxlan, wanted, with_ready
from tests.support.memory import AgentNode, sandbox_of, underlay_of

UNDERLAY = underlay_of("node-a")
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def sandbox_on_node_a(side: Side) -> Sandbox:
    """The sandbox of a side, as node a records it."""
    return sandbox_of(side)


def stored(link: Link, version: str = "7") -> Link:
    return replace(link, uid="u", resource_version=version)


def test_an_end_is_verified_for_one_version_of_its_record_and_one_underlay() -> None:
    verified, record = VerifiedEnds(), stored(with_ready(vxlan(), PRIMARY))
    assert not verified.is_current(record, PRIMARY, UNDERLAY)
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    assert verified.is_current(record, PRIMARY, UNDERLAY)
    assert not verified.is_current(record, PAIR, UNDERLAY), "which is another node's"
    assert not verified.is_current(stored(record, "8"), PRIMARY, UNDERLAY)
    assert not verified.is_current(record, PRIMARY, replace(UNDERLAY, vxlan_port=4790))


def test_both_ends_of_a_veth_are_verified_at_once() -> None:
    verified, record = VerifiedEnds(), stored(with_ready(veth(), PRIMARY, PAIR))
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    assert verified.is_current(record, PAIR, UNDERLAY)
    verified.note(record, PAIR, UNDERLAY, up=False)
    assert not verified.is_current(record, PRIMARY, UNDERLAY)


@pytest.mark.parametrize("forget", [lambda verified: verified.forget(RECORD), VerifiedEnds.expire_all])
def test_a_forgotten_end_is_not_verified(forget: Callable[[VerifiedEnds], None]) -> None:
    verified, record = VerifiedEnds(), stored(with_ready(vxlan(), PRIMARY))
    verified.note(record, PRIMARY, UNDERLAY, up=True)
    forget(verified)
    assert not verified.is_current(record, PRIMARY, UNDERLAY)


class Controlled:
    """An end of a linked vEth that node a has verified. `reconciled` counts the calls of `Reconciler.reconcile`."""

    def __init__(self, node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        self.reconciled = 0
        self._version = 1000
        self.entry = node.hold(sandbox_on_node_a(PRIMARY))
        self.end = self.entry.ends[0]
        node.hold(sandbox_on_node_a(PAIR))
        node.controller.reconcile(RECORD)
        self.set_record(with_ready(joined(sandbox_on_node_a(PRIMARY), sandbox_on_node_a(PAIR)), PRIMARY, PAIR))
        monkeypatch.setattr(Reconciler, "reconcile", self._reconcile)

    def set_record(self, link: Link, verified: Side | None = PRIMARY) -> None:
        """Cache a new version of the record, and note that its end `verified` is up."""
        self._version += 1
        record = stored(link, str(self._version))
        self.node.caches.links.put(record)
        if verified is not None:
            self.node.verified.note(record, verified, UNDERLAY, up=True)

    def reconcile(self) -> bool:
        """Reconcile the end. Returns whether it was reconciled."""
        before = self.reconciled
        self.node.controller._reconcile_end(self.entry, self.end)
        return self.reconciled > before

    def _reconcile(self, *_: object, joined: bool) -> EndpointResult:
        assert joined
        self.reconciled += 1
        return EndpointResult(wanted())


@pytest.fixture
def controlled(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> Controlled:
    return Controlled(node, monkeypatch)


def test_a_verified_end_is_not_reconciled_again(controlled: Controlled) -> None:
    assert not controlled.reconcile()


def test_an_end_whose_record_has_a_new_version_is_reconciled(controlled: Controlled) -> None:
    controlled.set_record(
        with_ready(joined(sandbox_on_node_a(PRIMARY), sandbox_on_node_a(PAIR)), PRIMARY, PAIR), verified=None
    )
    assert controlled.reconcile()


def test_an_end_is_reconciled_after_its_nodes_vtep_changed(controlled: Controlled) -> None:
    controlled.node.underlay = replace(UNDERLAY, parent=replace(UNDERLAY.parent, address="192.168.1.74"))
    assert controlled.reconcile()


def test_an_end_that_joined_with_another_vtep_is_reconciled(controlled: Controlled) -> None:
    """The other end verified the vEth with the VTEP that the node has now."""
    moved = replace(sandbox_on_node_a(PRIMARY), vtep="192.168.1.99")
    controlled.set_record(with_ready(joined(moved, sandbox_on_node_a(PAIR)), PRIMARY, PAIR), verified=PAIR)
    assert controlled.reconcile()


@pytest.mark.parametrize("unknown", [{"underlay_mtu": 0}, {"vteps": ()}, {"underlay_mtu": 1400}], ids=str)
def test_an_end_with_another_recorded_underlay_is_reconciled_if_its_schema_holds_it(
    unknown: dict[str, Any], controlled: Controlled
) -> None:
    controlled.set_record(
        with_ready(joined(replace(sandbox_on_node_a(PRIMARY), **unknown), sandbox_on_node_a(PAIR)), PRIMARY, PAIR)
    )
    assert controlled.reconcile()
    earlier = joined(*(sandbox_on_node_a(side).in_schema(EARLIER_SCHEMA) for side in (PRIMARY, PAIR)))
    controlled.set_record(with_ready(replace(earlier, schema=EARLIER_SCHEMA), PRIMARY, PAIR))
    assert not controlled.reconcile()


def test_a_deleted_end_is_reconciled(controlled: Controlled) -> None:
    controlled.node.journal.bury(controlled.entry.attachment, since_boot())
    assert controlled.reconcile()


def test_an_end_whose_place_another_sandbox_has_is_reconciled(controlled: Controlled) -> None:
    controlled.set_record(with_ready(joined(own(PRIMARY, number=2), own(PAIR)), PRIMARY, PAIR))
    assert controlled.reconcile()


def test_an_end_is_reconciled_after_expire_all(controlled: Controlled) -> None:
    controlled.node.verified.expire_all()
    assert controlled.reconcile()
