"""The identity of links: one record per link however it is declared, and one owner per interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any, cast
from urllib.parse import parse_qsl

import pytest

from ratchet.agent.heartbeat import Heartbeat
from ratchet.core import oam
from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import Wanted, WantedLink, wanted_links
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.core.schemas import EARLIER_SCHEMA, READ_SCHEMA
from ratchet.core.underlay import Underlay
from ratchet.errors import ApiUnavailableError
from ratchet.node.attach import held_ends
from ratchet.node.journal import HeldEnd
from ratchet.node.reservation import reserve
from ratchet.store.formats import RecordFormats
from ratchet.store.links import Lookup
from ratchet.store.session import Json
from ratchet.store.store import ApiStore
from tests.support.links import NOW, wanted
from tests.support.memory import MemoryApi, underlay_of
from tests.support.settings import read_settings

LINK_NAME = "ns.x.in1.y.in1"
X_LISTS = "- {peer: y, ifname: in1, peer_ifname: in1, addresses: [[10.0.0.1/24, 10.0.1.1/24], 10.0.0.2/24]}"
Y_LISTS = "- {peer: x, ifname: in1, peer_ifname: in1, addresses: [10.0.0.2/24, [10.0.1.1/24, 10.0.0.1/24]]}"
TOPOLOGY = '- {endpoints: ["x:in1", "y:in1"], addresses: [[10.0.0.1/24, 10.0.1.1/24], 10.0.0.2/24]}'
REVERSED_TOPOLOGY = '- {endpoints: ["y:in1", "x:in1"], addresses: [10.0.0.2/24, [10.0.0.1/24, 10.0.1.1/24]]}'
LABELS = {
    "ratchet.primary": "true",
    "ratchet.local_ifname": "in1",
    "ratchet.pair_name": "x",
    "ratchet.pair_ifname": "in1",
    "ratchet.local_ip": "10.0.0.2/24",
    "ratchet.pair_ip": "10.0.0.1/24,10.0.1.1/24",
}


def pod(name: str, links: str = "", **labels: str) -> Pod:
    said = {"ratchet": "true", **{key.replace("__", "."): value for key, value in labels.items()}}
    return Pod(PodRef("ns", name, f"{name}-1"), said, {"ratchet.links": links} if links else {})


def topology(text: str) -> Topology:
    return Topology("ns", "lab", text)


def the_link(found: Wanted) -> WantedLink:
    (link,) = found.links
    return link


def labelled(name: str) -> Pod:
    return replace(pod(name), labels={"ratchet": "true", **LABELS})


EQUAL_DECLARATIONS: dict[str, tuple[Sequence[Pod], Sequence[Topology], str]] = {
    "both pods list it": ([pod("x", X_LISTS), pod("y", Y_LISTS)], [], "x"),
    "the lesser pod lists it": ([pod("x", X_LISTS), pod("y")], [], "x"),
    "the greater pod lists it": ([pod("x"), pod("y", Y_LISTS)], [], "y"),
    "labels declare it": ([pod("x"), labelled("y")], [], "y"),
    "labels and a topology": ([pod("x"), labelled("y")], [topology(TOPOLOGY)], "y"),
    "labels and a list": ([pod("x", X_LISTS), labelled("y")], [], "x"),
    "a topology": ([pod("x"), pod("y")], [topology(TOPOLOGY)], "x"),
    "a topology, the other way round": ([pod("x"), pod("y")], [topology(REVERSED_TOPOLOGY)], "x"),
    "both, of which one is never primary": (
        [pod("x", X_LISTS, ratchet__primary="false"), pod("y", Y_LISTS)],
        [],
        "y",
    ),
    "both, and neither is ever primary": (
        [pod("x", X_LISTS, ratchet__primary="false"), pod("y", Y_LISTS, ratchet__primary="false")],
        [],
        "x",
    ),
    "one that is never primary": ([pod("x", X_LISTS, ratchet__primary="false"), pod("y")], [], "x"),
}


@pytest.mark.parametrize("name", EQUAL_DECLARATIONS)
def test_equal_declarations_are_one_link(name: str) -> None:
    pods, topologies, primary = EQUAL_DECLARATIONS[name]
    for order in permutations(pods):
        found = wanted_links(order, topologies=topologies)
        assert found.refused == {}
        link = the_link(found).link
        assert (link.name, link.primary.name) == (LINK_NAME, primary)
        ends = {end.name: set(map(str, end.addresses)) for end in (link.primary, link.pair)}
        assert ends == {"x": {"10.0.0.1/24", "10.0.1.1/24"}, "y": {"10.0.0.2/24"}}


def test_differing_declarations_are_rejected_for_both_pods_with_both_places() -> None:
    other = Y_LISTS.replace("10.0.0.2/24", "10.0.0.3/24")
    found = wanted_links([pod("x", X_LISTS), pod("y", other)])
    assert found.links == ()
    for name in ("x", "y"):
        text = str(found.refused[f"{name}-1"])
        assert "ratchet.links: line 1 of pod ns/x" in text
        assert "ratchet.links: line 1 of pod ns/y" in text


ALIAS = {"ratchet__pod_name": "edge"}


@pytest.mark.parametrize("said", ["edge", "y"])
@pytest.mark.parametrize("present", ["both", "x", "y"])
def test_a_pod_with_an_alias_is_the_same_pod_under_either_name(said: str, present: str) -> None:
    x = pod("x", X_LISTS.replace("peer: y", f"peer: {said}"))
    y = pod("y", Y_LISTS, **ALIAS)
    both = the_link(wanted_links([x, y]))
    assert both.link.name == "ns.edge.in1.x.in1"
    pods = {"both": [x, y], "x": [x], "y": [y]}[present]
    assert both.is_recorded_as(the_link(wanted_links(pods)).link.name)


def test_the_place_of_a_declaration_does_not_depend_on_the_primary() -> None:
    found = the_link(wanted_links([pod("x"), pod("y", Y_LISTS)], topologies=[]))
    assert [found.place_of(side, interface=True).rpartition(": ")[2] for side in Side] == ["ifname", "peer_ifname"]
    reversed_roles = replace(found, link=found.link.swapped(), primary=found.pair, pair=found.primary)
    assert [reversed_roles.place_of(side, interface=True).rpartition(": ")[2] for side in Side] == [
        "peer_ifname",
        "ifname",
    ]


@pytest.mark.parametrize("primary", Side)
def test_a_declaration_is_compared_in_the_roles_of_the_record(primary: Side) -> None:
    record = wanted() if primary is Side.PRIMARY else wanted().swapped()
    assert wanted().oriented_as(record).primary == record.primary
    same = replace(record, primary=replace(record.primary, ifname="in1"), pair=replace(record.pair, ifname="in1"))
    for link in (same, same.swapped()):
        assert link.oriented_as(same).primary == same.primary


# Names and formats of records


class StoredRecords(ApiStore):
    """A store with these records and one node Lease for each announced schema."""

    def __init__(self, *records: Link, schemas: Sequence[int] = ()) -> None:
        super().__init__(cast(Any, None))
        self.links = self.nodes = cast(Any, self)
        self.stored = {record.name: record for record in records}
        self.schemas = list(schemas)
        self.asked: list[str] = []

    def lookup(self, name: str) -> Lookup:
        self.asked.append(name)
        return Lookup(self.stored.get(name), certain=True)

    def known(self, name: str) -> Link | None:
        return self.stored.get(name)

    def list_leases(self) -> list[NodeLease]:
        return [NodeLease(f"node-{number}", "", schema, schema) for number, schema in enumerate(self.schemas)]

    def has_earlier(self) -> bool:
        return any(record.schema == EARLIER_SCHEMA for record in self.stored.values())


def both_declare() -> WantedLink:
    return the_link(wanted_links([pod("x", X_LISTS), pod("y", Y_LISTS)]))


def greater_declares() -> WantedLink:
    return the_link(wanted_links([pod("x"), pod("y", Y_LISTS)]))


def test_a_new_record_has_the_new_name_once_every_node_reads_the_format() -> None:
    for schemas, schema in (([], 3), ([2], 2), ([2, 2], 2), ([2, 3], 2), ([3, 3], 3)):
        link = StoredRecords(schemas=schemas).as_recorded(greater_declares())
        assert (link.name, link.schema) == (LINK_NAME, schema)


def test_a_new_record_has_the_earlier_format_while_an_earlier_version_runs() -> None:
    link = StoredRecords(schemas=[2, 1]).as_recorded(greater_declares())
    assert (link.name, link.schema, link.primary.name) == ("ns.y.in1.x.in1", EARLIER_SCHEMA, "y")


@pytest.mark.parametrize("name", [LINK_NAME, "ns.y.in1.x.in1"])
@pytest.mark.parametrize("schemas", [[2], [1]])
def test_an_existing_record_is_used_under_its_own_name(name: str, schemas: list[int]) -> None:
    earlier = replace(greater_declares().link, name=name, schema=EARLIER_SCHEMA)
    for one in (greater_declares(), both_declare()):
        assert StoredRecords(earlier, schemas=schemas).as_recorded(one).name == name


def test_earlier_names_are_looked_up_only_if_earlier_records_are_possible() -> None:
    store = StoredRecords(schemas=[2])
    store.as_recorded(greater_declares())
    assert store.asked == []
    store.schemas = [1]  # one node runs an earlier version again
    store.formats.read(store)
    store.as_recorded(greater_declares())
    assert store.asked == ["ns.y.in1.x.in1", LINK_NAME]


def test_earlier_records_are_possible_while_an_agent_writes_them() -> None:
    """The last agent that learns that all nodes read the new format may still create an earlier record."""
    records, formats = StoredRecords(schemas=[2, 2]), RecordFormats()
    behind = [NodeLease("ahead", "", 2, 2), NodeLease("behind", "", 2, EARLIER_SCHEMA)]
    formats.read(records, behind)
    assert formats.writes_current(records)
    assert formats.earlier_possible(records)
    formats.read(records)
    assert formats.earlier_possible(records), "its last record may be under way"
    formats.read(records)
    assert not formats.earlier_possible(records)


def test_earlier_records_are_possible_once_a_watch_reports_one() -> None:
    records, formats = StoredRecords(schemas=[2]), RecordFormats()
    assert not formats.earlier_possible(records)
    formats.note_earlier()
    assert formats.earlier_possible(records)


def test_the_written_format_follows_the_node_leases() -> None:
    records, formats = StoredRecords(schemas=[2]), RecordFormats()
    assert formats.written_schema == EARLIER_SCHEMA, "unknown"
    formats.read(records)
    assert formats.written_schema == 2
    records.schemas = [1]
    formats.read(records)
    assert formats.written_schema == EARLIER_SCHEMA


class FixedUnderlays:
    """The underlays of a node whose interfaces never change."""

    def own(self, _: object) -> Underlay:
        return underlay_of("node-a")

    def refresh(self, _: object) -> bool:
        return False


def test_an_agent_announces_the_format_that_it_writes(api: MemoryApi) -> None:
    """In its node Lease, at the renewal after the one that has read the other nodes' Leases."""
    store = ApiStore(api)
    settings = read_settings(["--node-name", "node-a"], {})
    heartbeat = Heartbeat(settings, store, cast(Any, FixedUnderlays()), cast(Any, None))

    def announced(schema: int, beats: int) -> tuple[int, int]:
        """What node a announces after some heartbeats, while node b reads and writes a format."""
        store.nodes.renew_lease(NodeLease("node-b", "", schema, written_schema=schema), 40, NOW)
        for _ in range(beats):
            heartbeat.beat()
        (own,) = (lease for lease in store.nodes.list_leases() if lease.node == "node-a")
        return own.schema, own.written_schema

    assert announced(EARLIER_SCHEMA, beats=1) == (READ_SCHEMA, EARLIER_SCHEMA)
    assert announced(2, beats=3) == (READ_SCHEMA, 2)
    assert announced(EARLIER_SCHEMA, beats=3) == (READ_SCHEMA, EARLIER_SCHEMA)


def test_an_agent_announces_that_it_sends_oam_frames_and_follows_who_else_does(api: MemoryApi) -> None:
    store, now, sends = ApiStore(api), 0.0, False
    settings = read_settings(["--node-name", "node-a"], {})
    parts = settings, store, cast(Any, FixedUnderlays()), cast(Any, None)
    heartbeat = Heartbeat(*parts, lambda: now, lambda: sends)

    def beat_after(seconds: float, announced: int) -> None:
        nonlocal now
        now += seconds
        renewed_at = NOW + timedelta(seconds=now)
        store.nodes.renew_lease(NodeLease("node-b", "", oam=announced), 40, renewed_at)
        for _ in range(2):  # one of them reads the Leases
            heartbeat.beat()

    def own() -> int:
        return next(lease.oam for lease in store.nodes.list_leases() if lease.node == "node-a")

    beat_after(0, oam.VERSION)
    assert (own(), heartbeat.announces_oam("node-a"), heartbeat.oam_renewed("node-a")) == (0, False, None)
    assert (heartbeat.announces_oam("node-b"), heartbeat.oam_renewed("node-b")) == (True, None)
    sends = True
    beat_after(20, oam.VERSION)
    assert (own(), heartbeat.announces_oam("node-a"), heartbeat.oam_renewed("node-a")) == (oam.VERSION, True, 0)
    assert (heartbeat.oam_renewed("node-b"), heartbeat.oam_renewed("node-c")) == (20, None)
    for other in (0, oam.VERSION + 1):
        beat_after(20, other)
        assert (heartbeat.announces_oam("node-b"), heartbeat.oam_renewed("node-b")) == (False, None)


class NodeReports:
    """The nodes that a heartbeat has reported as lost or back."""

    def __init__(self) -> None:
        self.changed: list[str] = []

    def node_changed(self, node: str) -> None:
        self.changed.append(node)


class LaggingApi(MemoryApi):
    """An API server whose watch cache can be frozen: it rejects lists that must be newer (504)."""

    frozen = False

    def get(self, path: str) -> Json:
        if self.frozen and "NotOlderThan" in path:
            raise ApiUnavailableError("cannot GET leases: Too large resource version")
        return super().get(path)


def test_no_node_is_lost_while_the_servers_memory_is_old() -> None:
    """Node b renews nothing and is not Ready. It is lost only once the Leases have been read for long enough."""
    api, now, reports = LaggingApi(), 0.0, NodeReports()
    store = ApiStore(api)
    settings = read_settings(["--node-name", "node-a", "--heartbeat", "10", "--node-lost-after", "40"], {})
    heartbeat = Heartbeat(settings, store, cast(Any, FixedUnderlays()), cast(Any, reports), lambda: now)
    store.nodes.renew_lease(NodeLease("node-b", ""), 40, NOW)
    heartbeat.beat()
    api.frozen = True
    for _ in range(12):
        now += 10
        heartbeat.beat()
    assert reports.changed == []
    api.frozen = False
    for _ in range(2):
        now += 10
        heartbeat.beat()
    assert reports.changed == []
    for _ in range(6):
        now += 10
        heartbeat.beat()
    assert (reports.changed, heartbeat.is_lost("node-b")) == (["node-b"], True)


def test_a_heartbeat_lists_the_node_leases_without_a_limit_and_not_older_than_its_renewal() -> None:
    """So the API server answers from its watch cache, among any number of VNI Leases."""
    api, asked = LaggingApi(), list[str]()
    api.get = lambda path: asked.append(path) or MemoryApi.get(api, path)  # type: ignore[method-assign,func-returns-value]
    heartbeat = Heartbeat(
        read_settings(["--node-name", "node-a"], {}), ApiStore(api), cast(Any, FixedUnderlays()), cast(Any, None)
    )
    heartbeat.beat()
    own = api.objects["/apis/coordination.k8s.io/v1/namespaces/ratchet/leases/node-node-a"]["metadata"][
        "resourceVersion"
    ]
    (path,) = (one for one in asked if "/leases?" in one)
    query = dict(parse_qsl(path.partition("?")[2]))
    assert query == {
        "labelSelector": "ratchet.lease=node",
        "resourceVersion": own,
        "resourceVersionMatch": "NotOlderThan",
    }


def test_earlier_records_are_possible_until_the_last_is_deleted() -> None:
    earlier = replace(greater_declares().link, name="ns.y.in1.x.in1", schema=EARLIER_SCHEMA)
    records, formats = StoredRecords(earlier, schemas=[2]), RecordFormats()
    formats.read(records)
    assert formats.writes_current(records)
    assert formats.earlier_possible(records)
    records.stored.clear()
    formats.read(records)
    assert not formats.earlier_possible(records)


def test_an_error_is_raised_if_the_formats_cannot_be_read() -> None:
    class UnavailableStore(StoredRecords):
        def list_leases(self) -> list[NodeLease]:
            raise ApiUnavailableError("cannot reach the Kubernetes API")

    with pytest.raises(ApiUnavailableError):
        UnavailableStore().as_recorded(greater_declares())


def test_an_end_belongs_to_its_pod_in_a_record_of_either_format() -> None:
    for schemas in ([2], [1]):
        for pods in ([pod("x"), pod("y", Y_LISTS, **ALIAS)], [pod("x", X_LISTS), pod("y")]):
            found = wanted_links(pods)
            for one in pods:
                (end,) = held_ends(StoredRecords(schemas=schemas), one, found.ends_of(one))
                assert end.wanted.end(end.side).name in (one.ref.name, one.labels.get("ratchet.pod_name"))
                assert end.declared == bool(one.annotations)


# Owners of interfaces


def held(link: str, ifname: str, index: int = 0) -> HeldEnd:
    one = wanted()
    return HeldEnd(replace(one, name=link, primary=replace(one.primary, ifname=ifname)), Side.PRIMARY, index)


def test_an_interface_that_another_link_holds_is_not_reserved() -> None:
    assert reserve([held("b", "in1")], [held("a", "in1", 7)]) == ()


def test_a_link_that_another_attachment_holds_is_not_reserved() -> None:
    assert reserve([held("a", "in1")], [held("a", "in1", 7)]) == ()


def test_the_first_of_two_new_links_reserves_the_interface() -> None:
    assert [end.link for end in reserve([held("a", "in1"), held("b", "in1"), held("c", "in2")], [])] == ["a", "c"]


def test_every_reserved_end_has_its_own_ifindex() -> None:
    first = reserve([held(f"link-{number}", f"in{number}") for number in range(600)], [])
    indexes = {end.index for end in first}
    assert len(indexes) == 600
    assert 0 not in indexes
    (again,) = reserve([held("link-0", "in0")], [held("other", "in600", first[0].index)])
    assert again.index not in (0, first[0].index)
