"""What an end does next: a row for each rule of the protocol."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.interface import Device, InterfaceSpec, Observed, Parent, VethWire, VxlanWire
from ratchet.core.model import EARLIER_SCHEMA, Encapsulation, Kind, Link, Location, Sandbox, Side
from ratchet.core.naming import end_mac_address
from ratchet.core.plan import (
    AllocateVni,
    Attempt,
    Build,
    Create,
    Done,
    Join,
    MarkReady,
    Observe,
    Reject,
    Release,
    Step,
    Underlay,
    Wait,
    plan,
    wire_of,
)
from ratchet.errors import AddressFamilyError, InvalidIntentError
from tests.support.links import RECORD, VTEPS, joined, location, own, planned_wire, standing, veth, vxlan, wanted

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
SITE = Underlay("node-a", Parent("eth0", 2, VTEPS["node-a"], 1500), 4789)
SITE_B = Underlay("node-b", Parent("ens3", 5, VTEPS["node-b"], 1400), 4789)
BOTH = pytest.mark.parametrize("side", Side)


def attempt(side: Side = PRIMARY) -> Attempt:
    return Attempt(wanted(), side, own(side, "node-a"))


def next_step(one: Attempt, record: Link | None, site: Underlay, **given: Any) -> Step:
    """The next step where this node's journal has the peer where the record says."""
    return plan(one, record, site, peer=location(record, one.side.other) if record else None, **given)


def present(sandbox: Sandbox | None) -> Sandbox:
    assert sandbox is not None
    return sandbox


def numbered(link: Link) -> Link:
    return replace(link, vni=11)


def device(port: InterfaceSpec, kind: str) -> Device:
    return Device(port.ifname, 7, kind, True, True, port.mtu, "02:00:00:00:00:01", port.addresses)


def as_wanted(link: Link, side: Side, site: Underlay = SITE) -> Observed:
    """What stands where the wire of this end has been made."""
    wire = planned_wire(link, side, site)
    if isinstance(wire, VethWire):
        return Observed(device(wire.near, "veth"), device(wire.far, "veth"))
    return Observed(
        replace(
            device(wire.near, "vxlan"),
            vni=wire.vni,
            remote=wire.remote,
            local=wire.local,
            port=wire.port,
            parent_index=wire.parent.index,
        )
    )


RECORDS = [None, joined(own(PRIMARY), None), joined(None, own(PAIR)), veth(), vxlan(), standing(veth(), *Side)]


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("has_joined", [False, True])
@BOTH
def test_deleted_goes_before_everything(record: Link | None, has_joined: bool, side: Side) -> None:
    observed = as_wanted(record, side) if record and record.kind == "veth" else None
    step = next_step(attempt(side), record, SITE, joined=has_joined, deleted=True, observed=observed)
    assert step == Release("the runtime deleted the sandbox")


@BOTH
def test_who_is_not_in_the_record_joins(side: Side) -> None:
    others = joined(own(PRIMARY, number=2), own(PAIR, number=2))
    for record in (None, wanted(), others, standing(others, *Side), joined(*reversed([own(side), None]))):
        if record is None or not record.holds(side, own(side).container_id):
            assert next_step(attempt(side), record, SITE, joined=False, deleted=False, observed=None) == Join()


@BOTH
def test_who_has_joined_and_is_not_there_any_more_gives_way(side: Side) -> None:
    newer = veth().with_end(side, replace(veth().end(side), sandbox=own(side, number=2)))
    for record, reason in (
        (None, "its place in the record is gone"),
        (wanted(), "its place in the record is gone"),
        (newer, "another sandbox has taken its place"),
    ):
        assert next_step(attempt(side), record, SITE, joined=True, deleted=False, observed=None) == Release(reason)


@pytest.mark.parametrize("side", Side)
def test_who_runs_takes_a_place_again_that_was_lost_but_nobody_elses(side: Side) -> None:
    newer = veth().with_end(side, replace(veth().end(side), sandbox=own(side, number=2)))
    running = replace(attempt(side), lasting=True)
    for record in (None, wanted()):
        assert next_step(running, record, SITE, joined=True, deleted=False, observed=None) == Join()
    step = next_step(running, newer, SITE, joined=True, deleted=False, observed=None)
    assert step == Release("another sandbox has taken its place")


@pytest.mark.parametrize("side", Side)
def test_who_is_reached_by_another_address_now_says_so(side: Side) -> None:
    moved = replace(attempt(side), sandbox=replace(own(side), vtep="10.0.0.99"))
    assert next_step(moved, vxlan(), SITE, joined=True, deleted=False, observed=None) == Join()


@pytest.mark.parametrize("has_joined", [False, True])
def test_who_is_alone_waits(has_joined: bool) -> None:
    alone = joined(own(PRIMARY), None)
    assert next_step(attempt(), alone, SITE, joined=has_joined, deleted=False, observed=None) == Wait()
    alone = joined(None, own(PAIR))
    assert next_step(attempt(PAIR), alone, SITE, joined=has_joined, deleted=False, observed=None) == Wait()


def test_a_tunnel_needs_a_number_first_and_a_veth_none() -> None:
    assert next_step(attempt(), vxlan(), SITE, joined=True, deleted=False, observed=None) == AllocateVni()
    step = next_step(attempt(), numbered(vxlan()), SITE, joined=True, deleted=False, observed=None)
    assert step == Create(planned_wire(numbered(vxlan()), PRIMARY, SITE))
    step = next_step(attempt(), veth(), SITE, joined=True, deleted=False, observed=None)
    assert step == Create(planned_wire(veth(), PRIMARY, SITE))


@pytest.mark.parametrize("link", [veth(), numbered(vxlan())], ids=["veth", "vxlan"])
def test_one_looks_also_where_the_record_says_that_it_stands(link: Link) -> None:
    step = next_step(attempt(), standing(link, *Side), SITE, joined=True, deleted=False, observed=None)
    assert isinstance(step, Observe)


@pytest.mark.parametrize("link", [veth(), numbered(vxlan())], ids=["veth", "vxlan"])
@pytest.mark.parametrize("stands", [False, True])
def test_what_differs_is_built_whatever_the_record_says(link: Link, stands: bool) -> None:
    record = standing(link, *Side) if stands else link
    wire = planned_wire(link, PRIMARY, SITE)
    for observed in (Observed(None), replace(as_wanted(link, PRIMARY), near=None)):
        assert next_step(attempt(), record, SITE, joined=True, deleted=False, observed=observed) == Build(wire)


@pytest.mark.parametrize("link", [veth(), numbered(vxlan())], ids=["veth", "vxlan"])
def test_what_stands_is_noted_once(link: Link) -> None:
    observed = as_wanted(link, PRIMARY)
    assert next_step(attempt(), link, SITE, joined=True, deleted=False, observed=observed) == MarkReady()
    noted = standing(link, PRIMARY)
    assert next_step(attempt(), noted, SITE, joined=True, deleted=False, observed=observed) == Done()


def test_a_note_for_an_earlier_peer_or_intent_is_no_note() -> None:
    link = standing(numbered(vxlan()), PRIMARY)
    moved = link.with_end(PAIR, replace(link.pair, sandbox=own(PAIR, "node-c", 2)))
    observed = as_wanted(moved, PRIMARY)
    assert next_step(attempt(), moved, SITE, joined=True, deleted=False, observed=observed) == MarkReady()
    observed = as_wanted(link, PRIMARY)
    assert isinstance(next_step(attempt(), moved, SITE, joined=True, deleted=False, observed=observed), Build)
    renewed = replace(link, generation=2)
    assert next_step(attempt(), renewed, SITE, joined=True, deleted=False, observed=observed) == MarkReady()


def test_a_tunnel_is_done_for_this_end_before_the_other_stands() -> None:
    link = standing(numbered(vxlan()), PRIMARY)
    step = next_step(attempt(), link, SITE, joined=True, deleted=False, observed=as_wanted(link, PRIMARY))
    assert step == Done()


def _port(netns: str, ifname: str, address: str, mtu: int, side: Side) -> InterfaceSpec:
    return InterfaceSpec(f"/run/netns/{netns}", ifname, (ip_interface(address),), mtu, end_mac_address(wanted(), side))


@BOTH
def test_a_veths_wire_is_both_ports_with_ones_own_near(side: Side) -> None:
    ports = {
        PRIMARY: _port("primary-pod-1", "in1", "192.168.2.100/24", 1500, PRIMARY),
        PAIR: _port("pair-pod-1", "in2", "192.168.2.101/24", 1500, PAIR),
    }
    assert planned_wire(veth(), side, SITE) == VethWire(RECORD, ports[side], ports[side.other])


def test_a_tunnels_wire_is_its_own_port_and_the_way_to_the_peers_node() -> None:
    link = numbered(vxlan())
    near = _port("primary-pod-1", "in1", "192.168.2.100/24", 1450, PRIMARY)
    assert planned_wire(link, PRIMARY, SITE) == VxlanWire(
        RECORD,
        near,
        vni=11,
        remote=VTEPS["node-b"],
        local=VTEPS["node-a"],
        port=4789,
        remote_port=4789,
        parent=SITE.parent,
    )
    near = _port("pair-pod-1", "in2", "192.168.2.101/24", 1350, PAIR)
    assert planned_wire(link, PAIR, SITE_B) == VxlanWire(
        RECORD,
        near,
        vni=11,
        remote=VTEPS["node-a"],
        local=VTEPS["node-b"],
        port=4789,
        remote_port=4789,
        parent=SITE_B.parent,
    )


V4_A, V6_A, V4_B, V6_B = VTEPS["node-a"], "fd00::73", VTEPS["node-b"], "fd00::33"
V4, V6 = (V4_A, V4_B), (V6_A, V6_B)


def on_underlays(
    a: tuple[str, ...], b: tuple[str, ...], mtus: tuple[int, int] = (1500, 1500)
) -> tuple[Link, Underlay, Underlay]:
    """The tunnel between nodes with these VTEPs and underlay MTUs, as both have recorded them, and their sites."""
    sites = [
        replace(site, parent=Parent(site.parent.ifname, site.parent.index, vteps[0], mtu, *vteps[1:]))
        for site, vteps, mtu in zip((SITE, SITE_B), (a, b), mtus, strict=True)
    ]
    link = numbered(vxlan())
    for side, site in zip((PRIMARY, PAIR), sites, strict=True):
        bare = own(side, site.node)
        sandbox = site.sandbox(bare.container_id, bare.pod, bare.netns)
        link = link.with_end(side, replace(link.end(side), sandbox=sandbox))
    return link, sites[0], sites[1]


FAMILIES = {
    "IPv4 each": ((V4_A,), (V4_B,), V4),
    "IPv6 each": ((V6_A,), (V6_B,), V6),
    "both, IPv4 first": ((V4_A, V6_A), (V4_B, V6_B), V4),
    "both, IPv6 first": ((V6_A, V4_A), (V6_B, V4_B), V6),
    "both, in another order": ((V4_A, V6_A), (V6_B, V4_B), V4),
    "IPv4 and both": ((V4_A,), (V6_B, V4_B), V4),
    "IPv6 and both": ((V6_A,), (V4_B, V6_B), V6),
    "IPv4 first and IPv6": ((V4_A, V6_A), (V6_B,), V6),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_both_ends_of_a_tunnel_use_one_family_that_both_nodes_have(case: str) -> None:
    a, b, (vtep_a, vtep_b) = FAMILIES[case]
    link, site_a, site_b = on_underlays(a, b)
    for one, side in ((link, PRIMARY), (link.swapped(), PAIR)):
        near, far = planned_wire(one, side, site_a), planned_wire(one, side.other, site_b)
        assert isinstance(near, VxlanWire)
        assert isinstance(far, VxlanWire)
        assert (near.local, near.remote) == (far.remote, far.local) == (vtep_a, vtep_b)
        assert near.near.mtu == far.near.mtu == (1430 if ":" in vtep_a else 1450)
    for side, remote in ((PRIMARY, vtep_b), (PAIR, vtep_a)):
        due = link.due(side)
        assert due is not None
        assert due.peer == remote


@pytest.mark.parametrize("vni", [11, None])
def test_nodes_without_a_common_family_are_an_error_that_names_their_addresses(vni: int | None) -> None:
    link, site_a, site_b = on_underlays((V4_A,), (V6_B,))
    link = replace(link, vni=vni)
    assert (link.due(PRIMARY), link.due(PAIR)) == (None, None)
    for side, site, words in (
        (PRIMARY, site_a, f"primary-pod to pod default/pair-pod: nodes node-a ({V4_A}) and node-b ({V6_B})"),
        (PAIR, site_b, f"pair-pod to pod default/primary-pod: nodes node-b ({V6_B}) and node-a ({V4_A})"),
    ):
        one = replace(attempt(side), sandbox=present(link.sandbox(side)))
        step = next_step(one, link, site, joined=True, deleted=False, observed=None)
        assert isinstance(step, Reject)
        assert isinstance(step.error, AddressFamilyError)
        assert str(step.error) == f"cannot link pod default/{words} have no address family in common"
    assert next_step(one, link, site_b, joined=True, deleted=True, observed=None) != step


def test_a_peer_that_changes_its_address_or_family_is_another_to_stand_toward() -> None:
    link = standing(on_underlays((V4_A, V6_A), (V4_B, V6_B))[0], *Side)
    assert link.is_ready(PRIMARY)
    for vteps in ((V6_B,), ("192.168.1.34", V6_B)):
        moved = replace(present(link.pair.sandbox), vtep=vteps[0], vteps=vteps)
        assert not link.with_end(PAIR, replace(link.pair, sandbox=moved)).is_ready(PRIMARY)
    kept = replace(present(link.pair.sandbox), vteps=(V4_B, "fd00::34"))
    assert link.with_end(PAIR, replace(link.pair, sandbox=kept)).is_ready(PRIMARY), "which is not the tunnel's"


@pytest.mark.parametrize(
    ("mtus", "v4"), [((1500, 9000), 1450), ((9000, 1500), 1450), ((9000, 9000), 8950), ((1500, 1400), 1350)]
)
@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
def test_both_ends_of_a_tunnel_have_the_mtu_that_both_nodes_can_carry(
    mtus: tuple[int, int], v4: int, family: tuple[str, str]
) -> None:
    link, site_a, site_b = on_underlays((family[0],), (family[1],), mtus)
    ends = (planned_wire(link, PRIMARY, site_a), planned_wire(link, PAIR, site_b))
    assert [wire.near.mtu for wire in ends] == [v4 if family is V4 else v4 - 20] * 2


@pytest.mark.parametrize("unknown", [{"underlay_mtu": 0}, {"underlay_mtu": 0, "vteps": ()}], ids=str)
def test_a_peer_whose_underlay_is_not_recorded_limits_nothing(unknown: dict[str, Any]) -> None:
    link, site_a, _ = on_underlays((V4_A, V6_A), (V4_B, V6_B), (9000, 1500))
    link = link.with_end(PAIR, replace(link.pair, sandbox=replace(present(link.pair.sandbox), **unknown)))
    wire = planned_wire(link, PRIMARY, site_a)
    assert isinstance(wire, VxlanWire)
    assert (wire.near.mtu, wire.remote) == (8950, V4_B)


def test_a_record_of_the_earlier_schema_has_one_vtep_for_each_end() -> None:
    """The peer's node knows of no other, so this one uses no other."""
    link, site_a, site_b = on_underlays((V6_A, V4_A), (V4_B, V6_B), (1500, 9000))
    link = replace(link, schema=EARLIER_SCHEMA)
    for side in Side:
        link = link.with_end(side, replace(link.end(side), sandbox=present(link.sandbox(side)).in_schema(link.schema)))
    for side, site in ((PRIMARY, site_a), (PAIR, site_b)):
        bare = present(link.sandbox(side))
        one = Attempt(link, side, site.sandbox(bare.container_id, bare.pod, bare.netns)).as_recorded(link)
        step = next_step(one, link, site, joined=True, deleted=False, observed=None)
        assert isinstance(step, Reject), "and it does not join again and again"


def test_a_node_whose_underlay_has_changed_joins_again() -> None:
    link, site_a, _ = on_underlays((V4_A,), (V4_B,))
    holder = present(link.primary.sandbox)
    for parent in (replace(site_a.parent, mtu=1400), replace(site_a.parent, other_address=V6_A)):
        changed = replace(site_a, parent=parent)
        sandbox = changed.sandbox(holder.container_id, holder.pod, holder.netns)
        one = replace(attempt(PRIMARY), sandbox=sandbox)
        assert next_step(one, link, changed, joined=True, deleted=False, observed=None) == Join()


def test_the_udp_port_is_the_sites() -> None:
    wire = planned_wire(numbered(vxlan()), PRIMARY, replace(SITE, vxlan_port=8472))
    assert isinstance(wire, VxlanWire)
    assert wire.port == 8472


def having(link: Link, side: Side, properties: EndpointSpec) -> Link:
    return link.with_end(side, replace(link.end(side), properties=properties))


@BOTH
def test_a_port_is_as_its_end_is_wanted(side: Side) -> None:
    properties = EndpointSpec(mtu=1300, mac="02:00:00:00:00:07")
    for link in (veth(), numbered(vxlan())):
        near = planned_wire(having(link, side, properties), side, SITE).near
        assert (near.mtu, near.mac) == (1300, "02:00:00:00:00:07")
        other = planned_wire(having(link, side.other, properties), side, SITE).near
        assert (other.mtu, other.mac) != (1300, "02:00:00:00:00:07")


@BOTH
def test_a_port_has_all_that_is_wanted_of_its_end(side: Side) -> None:
    routes = (Route(ip_network("10.0.0.0/8")),)
    properties = EndpointSpec(
        None, None, 5, routes, (("net.ipv4.conf.IFNAME.rp_filter", 2),), offloads=False, rate=8000
    )
    near = planned_wire(having(veth(), side, properties), side, SITE).near
    assert (near.txqlen, near.routes, near.sysctls) == (5, routes, properties.sysctls)
    assert (near.offloads, near.rate) == (False, 8000)


@BOTH
def test_an_end_of_a_later_intent_may_have_what_an_earlier_one_gave(side: Side) -> None:
    assert planned_wire(veth(), side, SITE).near.renewed is False
    assert planned_wire(replace(veth(), generation=2), side, SITE).near.renewed is True


def test_a_tunnel_has_the_port_that_its_link_wants() -> None:
    link = replace(numbered(vxlan()), encapsulation=Encapsulation(vxlan_port=4790))
    for side, site in ((PRIMARY, SITE), (PAIR, SITE_B)):
        wire = planned_wire(link, side, site)
        assert isinstance(wire, VxlanWire)
        assert (wire.port, wire.remote_port, wire.is_of_one_node) == (4790, 4790, False)


@pytest.mark.parametrize(
    ("port", "first", "second"), [(4789, 4790, 4791), (65533, 65534, 65535), (65534, 65533, 65532)]
)
def test_a_tunnel_within_a_node_has_a_port_for_either_end(port: int, first: int, second: int) -> None:
    link = numbered(replace(veth(), encapsulation=Encapsulation(tunnel=True, vxlan_port=port)))
    assert link.kind is Kind.VXLAN
    near, far = (planned_wire(link, side, SITE) for side in (PRIMARY, PAIR))
    assert isinstance(near, VxlanWire)
    assert isinstance(far, VxlanWire)
    assert (near.port, near.remote_port, near.is_of_one_node) == (first, second, True)
    assert (far.port, far.remote_port) == (second, first)
    assert near.remote == far.remote == VTEPS["node-a"]
    assert near.near.mtu == far.near.mtu == 1450


def test_a_veth_may_be_wider_than_the_underlay_and_a_tunnel_may_not() -> None:
    assert planned_wire(having(veth(), PRIMARY, EndpointSpec(mtu=9000)), PRIMARY, SITE).near.mtu == 9000
    planned_wire(having(numbered(vxlan()), PAIR, EndpointSpec(mtu=1451)), PRIMARY, SITE)


@pytest.mark.parametrize(
    ("mtus", "most", "node"), [((1500, 1500), 1450, "a"), ((1500, 9000), 1450, "a"), ((1500, 1400), 1350, "b")]
)
def test_an_mtu_that_a_tunnel_cannot_carry_is_an_error_that_names_the_node(
    mtus: tuple[int, int], most: int, node: str
) -> None:
    link, site, _ = on_underlays((V4_A,), (V4_B,), mtus)
    planned_wire(having(link, PRIMARY, EndpointSpec(mtu=most)), PRIMARY, site)
    wide = having(link, PRIMARY, EndpointSpec(mtu=most + 1))
    with pytest.raises(InvalidIntentError) as caught:
        planned_wire(wide, PRIMARY, site)
    message = f"mtu: {most + 1} for in1 exceeds {most}, the maximum of a tunnel over the underlay of node node-{node}"
    assert str(caught.value) == f"cannot link pod default/primary-pod: {message}"
    advice = f"Set mtu to at most {most}, or omit it. The underlay MTU of node node-{node} is {min(mtus)}."
    assert caught.value.details == advice
    one = replace(attempt(), sandbox=present(link.primary.sandbox))
    step = next_step(one, wide, site, joined=True, deleted=False, observed=None)
    assert isinstance(step, Reject)
    assert str(step.error) == str(caught.value)


@pytest.mark.parametrize("link", [vxlan(), joined(own(PRIMARY), None), joined(None, own(PAIR))])
def test_there_is_no_wire_before_its_time(link: Link) -> None:
    with pytest.raises(ValueError, match=r"not ready|has not joined"):
        planned_wire(link, PRIMARY, SITE)


def test_nothing_is_made_in_a_peers_namespace_that_the_journal_does_not_hold() -> None:
    given: Any = {"joined": True, "deleted": False, "observed": None}
    assert plan(attempt(), veth(), SITE, **given, peer=None) == Wait()
    assert plan(attempt(), standing(veth(), *Side), SITE, **given, peer=None) == Wait()
    assert plan(attempt(), numbered(vxlan()), SITE, **given, peer=None) != Wait(), "its peer is another node's affair"


def test_an_end_is_where_the_journal_has_it_whatever_the_record_says() -> None:
    here, there = Location("/run/netns/mine", 7, 1_000_000), Location("/run/netns/theirs", 8, 1_000_001)
    made = wire_of(veth(), PRIMARY, SITE, here, there)
    assert isinstance(made, VethWire)
    for port, expected in ((made.near, here), (made.far, there)):
        assert Location(port.netns, port.cookie, port.index) == expected


@BOTH
def test_an_attempt_takes_the_roles_of_its_record(side: Side) -> None:
    one = attempt(side)
    for record in (wanted(), veth()):
        assert one.as_recorded(record) == one
        turned = one.as_recorded(record.swapped())
        assert (turned.side, turned.wanted) == (side.other, wanted().swapped())
    assert one.as_recorded(None) == one


def test_an_attempt_finds_its_end_by_either_of_its_pods_names() -> None:
    link = replace(wanted(), primary=replace(wanted().primary, name="alias"))
    one = Attempt(link, PRIMARY, own(PRIMARY))
    assert one.as_recorded(wanted()).side is PRIMARY
    assert one.as_recorded(wanted().swapped()).side is PAIR
