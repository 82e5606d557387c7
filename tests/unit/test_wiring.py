"""The wiring of links: how it is declared, the node's default, and the record, which decides while an end is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, cast

import pytest

from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import Wanted, WantedLink, unknown_settings, wanted_links
from ratchet.core.kinds import DEFAULT_WIRING, Wiring
from ratchet.core.model import Link, Side
from ratchet.core.pod import Topology
from ratchet.core.record_updates import join, leave
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA, PANEL_SCHEMA
from ratchet.node.attach import held_ends
from ratchet.store.codec.links import decode_link, encode_link
from ratchet.store.links import Lookup
from ratchet.store.store import ApiStore
from tests.support.links import NOW, annotated, joined, own, pod, primary_pod, wanted

DIRECT, PANEL = Wiring.DIRECT, Wiring.PANEL
NAME = "default.a.in1.b.in2"


def by_topology(wiring: str = "") -> Wanted:
    text = '- {endpoints: ["a:in1", "b:in2"]' + (f", wiring: {wiring}" if wiring else "") + "}"
    return wanted_links([pod("a"), pod("b")], topologies=[Topology("default", "lab", text)])


def by_annotation(wiring: str = "") -> Wanted:
    text = "- {peer: b, ifname: in1, peer_ifname: in2" + (f", wiring: {wiring}" if wiring else "") + "}"
    return wanted_links([annotated(pod("a"), links=text), pod("b")])


def by_labels(wiring: str = "") -> Wanted:
    labels = {"wiring": wiring} if wiring else {}
    return wanted_links([primary_pod("a", "b", **labels), pod("b")])


WAYS = {"topology": by_topology, "annotation": by_annotation, "labels": by_labels}


def link_of(found: Wanted) -> WantedLink:
    assert found.refused == {}
    (link,) = found.links
    assert link.link.name == NAME
    return link


# Declarations


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wiring", Wiring)
@pytest.mark.parametrize("default", Wiring)
def test_the_declared_wiring_overrides_the_nodes_default(way: str, wiring: Wiring, default: Wiring) -> None:
    link = link_of(WAYS[way](wiring))
    assert link.wiring is link.effective_wiring(default) is wiring


@pytest.mark.parametrize("default", Wiring)
def test_without_a_declared_wiring_the_nodes_default_counts_except_for_labels(default: Wiring) -> None:
    links = {way: link_of(declared()) for way, declared in WAYS.items()}
    assert {link.wiring for link in links.values()} == {None}
    found = {way: link.effective_wiring(default) for way, link in links.items()}
    assert found == {"topology": default, "annotation": default, "labels": DIRECT}


def test_an_empty_wiring_in_a_list_is_not_declared() -> None:
    assert link_of(by_topology("null")).wiring is link_of(by_annotation('""')).wiring is None


def test_a_link_that_labels_declare_too_is_direct_in_any_order() -> None:
    pods = [primary_pod("a", "b"), annotated(pod("b"), links="- {peer: a, ifname: in2, peer_ifname: in1}")]
    text = '- {endpoints: ["b:in2", "a:in1"]}'
    for order in permutations(pods):
        assert link_of(wanted_links(order)).effective_wiring(PANEL) is DIRECT
        link = link_of(wanted_links(order, topologies=[Topology("default", "lab", text)]))
        assert link.effective_wiring(PANEL) is DIRECT


def test_the_label_of_the_wiring_is_known_and_an_annotation_overrides_it() -> None:
    one = primary_pod("a", "b", wiring="direct")
    assert unknown_settings(one) == ()
    assert link_of(wanted_links([annotated(one, wiring="panel"), pod("b")])).wiring is PANEL


def test_the_label_of_a_pod_that_declares_no_link_is_ignored() -> None:
    text = "- {peer: b, ifname: in1, peer_ifname: in2}"
    one = annotated(pod("a", wiring="panel"), links=text)
    assert link_of(wanted_links([one, pod("b")])).wiring is None


def test_an_invalid_label_is_rejected_with_the_allowed_words() -> None:
    (error,) = by_labels("patch").refused.values()
    assert str(error) == ('cannot link pod default/a: ratchet.wiring: invalid wiring "patch": expected direct or panel')
    assert error.details == "correct the label or annotation ratchet.wiring of pod default/a"


def test_an_invalid_wiring_of_a_topology_is_rejected_with_its_line() -> None:
    for wiring, cause in (
        ("patch", 'invalid wiring "patch": expected direct or panel'),
        ("[panel, direct]", "expected one value for the link, not one for each end"),
    ):
        refused = by_topology(wiring).refused
        assert {str(error) for error in refused.values()} == {
            f"cannot link pod default/{name}: topology default/lab: line 1: wiring: {cause}" for name in "ab"
        }


def test_declarations_that_differ_in_wiring_are_refused_with_both_places() -> None:
    pods = [annotated(pod("a"), links="- {peer: b, ifname: in1, peer_ifname: in2, wiring: panel}")]
    for other in ("", ", wiring: direct"):
        peer = annotated(pod("b"), links=f"- {{peer: a, ifname: in2, peer_ifname: in1{other}}}")
        refused = wanted_links([*pods, peer]).refused
        assert len(refused) == 2
        for error in map(str, refused.values()):
            assert "ratchet.links: line 1 of pod default/a and ratchet.links: line 1 of pod default/b" in error
    same = annotated(pod("b"), links="- {peer: a, ifname: in2, peer_ifname: in1, wiring: panel}")
    assert link_of(wanted_links([*pods, same])).wiring is PANEL


# The record to be created


class Records(ApiStore):
    """A store with these records, and one node Lease for each announced schema."""

    def __init__(self, *records: Link, schemas: Sequence[int] = (), default: Wiring = DEFAULT_WIRING) -> None:
        super().__init__(cast(Any, None), default_wiring=default)
        self.links = self.nodes = cast(Any, self)
        self.stored = {record.name: record for record in records}
        self.schemas = list(schemas)

    def lookup(self, name: str) -> Lookup:
        return Lookup(self.stored.get(name), certain=True)

    def known(self, name: str) -> Link | None:
        return self.stored.get(name)

    def list_leases(self) -> list[NodeLease]:
        return [NodeLease(f"node-{number}", "", schema, schema) for number, schema in enumerate(self.schemas)]

    def has_earlier(self) -> bool:
        return any(record.schema == EARLIER_SCHEMA for record in self.stored.values())


@pytest.mark.parametrize("schemas", [[], [3], [3, 3], [3, 4]])
def test_a_panel_record_is_created_once_every_agent_reads_it(schemas: list[int]) -> None:
    """Also without any agent."""
    link = Records(schemas=schemas).as_recorded(link_of(by_topology("panel")))
    assert (link.name, link.wiring, link.schema) == (NAME, PANEL, PANEL_SCHEMA)
    assert decode_link(encode_link(link)) == link


@pytest.mark.parametrize("schemas", [[2], [3, 2], [1], [3, 1]])
@pytest.mark.parametrize("default", Wiring)
@pytest.mark.parametrize("wiring", ["", "panel", "direct"])
def test_no_panel_record_is_created_while_an_agent_does_not_read_it(
    schemas: list[int], default: Wiring, wiring: str
) -> None:
    link = Records(schemas=schemas, default=default).as_recorded(link_of(by_topology(wiring)))
    assert (link.wiring, link.schema) == (DIRECT, min(2, *schemas, 2))
    assert "wiring" not in encode_link(link)["data"]


def test_an_agent_of_an_earlier_version_that_comes_back_ends_the_creation_of_panel_records() -> None:
    records = Records(schemas=[3, 3])
    for schemas, wiring in (([3, 3], PANEL), ([3, 2], DIRECT), ([3, 3], PANEL)):
        records.schemas = schemas
        records.formats.read(records)
        assert records.as_recorded(link_of(by_topology("panel"))).wiring is wiring


def test_a_postponed_panel_link_is_logged_once_until_all_agents_read_panel_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "ratchet.store.formats")
    records = Records(schemas=[3, 2])

    def logged(*ways: Wanted) -> list[str]:
        caplog.clear()
        for way in ways:
            records.as_recorded(link_of(way))
        return caplog.messages

    line = f"panel wiring postponed, because not all agents read its records link={NAME}"
    assert logged(by_topology("panel"), by_topology("panel"), by_topology("direct"), by_labels()) == [line]
    records.schemas = [3, 3]
    records.formats.read(records)
    assert logged(by_topology("panel")) == []
    records.schemas = [3, 2]
    records.formats.read(records)
    assert logged(by_topology("panel")) == [line]


@pytest.mark.parametrize("default", Wiring)
@pytest.mark.parametrize(("way", "follows"), [("topology", True), ("annotation", True), ("labels", False)])
def test_the_nodes_default_is_the_wiring_of_new_records(default: Wiring, way: str, follows: bool) -> None:
    link = Records(default=default).as_recorded(link_of(WAYS[way]()))
    assert link.wiring is (default if follows else DIRECT)


def test_links_of_topologies_and_annotations_are_in_panel_wiring_if_nothing_else_is_set() -> None:
    wirings = {way: Records(schemas=[3]).as_recorded(link_of(make())).wiring for way, make in WAYS.items()}
    assert wirings == {"topology": PANEL, "annotation": PANEL, "labels": DIRECT}


# The record that exists


def record_of(found: Wanted, wiring: Wiring, **changes: Any) -> Link:
    """The record of the link in a wiring; its primary has joined."""
    schema = PANEL_SCHEMA if wiring is PANEL else CURRENT_SCHEMA
    link = replace(link_of(found).link, wiring=wiring, schema=schema, **changes)
    return join(None, link, Side.PRIMARY, own(Side.PRIMARY), NOW)


@pytest.mark.parametrize("recorded", Wiring)
@pytest.mark.parametrize("declared", ["", *Wiring])
@pytest.mark.parametrize("schemas", [[3], [3, 2], []])
def test_the_record_decides_while_an_end_is_held(recorded: Wiring, declared: str, schemas: list[int]) -> None:
    record = record_of(by_topology(), recorded)
    for default in Wiring:
        records = Records(record, schemas=schemas, default=default)
        link = records.as_recorded(link_of(by_topology(declared)))
        assert (link.name, link.wiring, link.schema) == (record.name, recorded, record.schema)


def test_the_held_end_of_the_pair_has_the_wiring_of_the_record() -> None:
    found = by_topology("direct")
    peer = found.holders["b"]
    (end,) = held_ends(Records(record_of(found, PANEL)), peer, found.ends_of(peer))
    assert (end.side, end.wanted.wiring, end.wanted.schema) == (Side.PAIR, PANEL, PANEL_SCHEMA)


def test_a_record_of_another_name_decides_too() -> None:
    named = [annotated(pod("a"), links="- {peer: c, ifname: in1, peer_ifname: in2}"), pod("c-1", pod_name="c")]
    found = wanted_links(named)
    (one,) = found.links
    (alias,) = one.alias_names()
    record = replace(joined(own(Side.PRIMARY), None), name=alias, wiring=PANEL, schema=PANEL_SCHEMA)
    link = Records(record).as_recorded(one)
    assert (link.name, link.wiring, link.schema) == (alias, PANEL, PANEL_SCHEMA)


@pytest.mark.parametrize(("recorded", "declared"), [(PANEL, DIRECT), (DIRECT, PANEL)])
def test_a_declared_wiring_wins_once_no_end_is_held(recorded: Wiring, declared: Wiring) -> None:
    """A record without ends is left by a version that cannot delete it (`leave_newer`)."""
    held = record_of(by_topology(), recorded)
    empty = leave(held, Side.PRIMARY, own(Side.PRIMARY).container_id, "DEL", NOW)
    assert empty.abandoned
    link = Records(empty).as_recorded(link_of(by_topology(declared)))
    schema = PANEL_SCHEMA if declared is PANEL else CURRENT_SCHEMA
    assert (link.name, link.wiring, link.schema) == (NAME, declared, schema)
    again = join(empty, link, Side.PAIR, own(Side.PAIR), NOW)
    assert (again.wiring, again.schema) == (declared, schema)
    assert decode_link(encode_link(again)) == again
    assert join(held, link, Side.PAIR, own(Side.PAIR), NOW).wiring is recorded


def test_an_empty_record_of_the_earlier_format_stays_direct() -> None:
    earlier = replace(wanted(), schema=EARLIER_SCHEMA)
    panel = replace(wanted(), wiring=PANEL, schema=PANEL_SCHEMA)
    again = join(earlier, panel, Side.PRIMARY, own(Side.PRIMARY), NOW)
    assert (again.wiring, again.schema) == (DIRECT, EARLIER_SCHEMA)
    record = replace(link_of(by_topology()).link, schema=EARLIER_SCHEMA)
    assert Records(record).as_recorded(link_of(by_topology("panel"))).wiring is DIRECT
