"""The next step of an end: one test for each rule of the protocol."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.interface import DEFAULT_TXQLEN, Device, InterfaceSpec, Observed, Parent, VethWire, VxlanWire
from ratchet.core.kinds import Kind
from ratchet.core.model import Encapsulation, Link, Side
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
    Wait,
    plan,
)
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.core.underlay import Underlay
from ratchet.core.wires import wire_of
from ratchet.errors import AddressFamilyError, InvalidIntentError
from tests.support.links import RECORD, VTEPS, joined, location, own, planned_wire, veth, vxlan, wanted, with_ready

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
UNDERLAY_A = Underlay("node-a", Parent("eth0", 2, VTEPS["node-a"], 1500), 4789)
UNDERLAY_B = Underlay("node-b", Parent("ens3", 5, VTEPS["node-b"], 1400), 4789)
BOTH = pytest.mark.parametrize("side", Side)


def attempt(side: Side = PRIMARY) -> Attempt:
    return Attempt(wanted(), side, own(side, "node-a"))


def next_step(one: Attempt, record: Link | None, underlay: Underlay, **given: Any) -> Step:
    """The next step if this node's journal has the peer at the location in the record."""
    return plan(one, record, underlay, peer=location(record, one.side.other) if record else None, **given)


def not_none(sandbox: Sandbox | None) -> Sandbox:
    assert sandbox is not None
    return sandbox


def with_vni(link: Link) -> Link:
    return replace(link, vni=11)


def device(port: InterfaceSpec, kind: str) -> Device:
    mac = port.mac or "02:00:00:00:00:01"
    return Device(port.ifname, 7, kind, True, True, port.mtu, mac, port.addresses, txqlen=DEFAULT_TXQLEN)


def observed_as_planned(link: Link, side: Side, underlay: Underlay = UNDERLAY_A) -> Observed:
    """The observation of an end whose interfaces match its planned wire."""
    wire = planned_wire(link, side, underlay)
    if isinstance(wire, VethWire):
        return Observed(device(wire.near, "veth"), device(wire.far, "veth"))
    assert isinstance(wire, VxlanWire)
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


RECORDS = [None, joined(own(PRIMARY), None), joined(None, own(PAIR)), veth(), vxlan(), with_ready(veth(), *Side)]


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("has_joined", [False, True])
@BOTH
def test_a_deleted_sandbox_is_always_released(record: Link | None, has_joined: bool, side: Side) -> None:
    observed = observed_as_planned(record, side) if record and record.kind == "veth" else None
    step = next_step(attempt(side), record, UNDERLAY_A, joined=has_joined, deleted=True, observed=observed)
    assert step == Release("the runtime deleted the sandbox")


@BOTH
def test_a_sandbox_that_the_record_does_not_hold_joins(side: Side) -> None:
    others = joined(own(PRIMARY, number=2), own(PAIR, number=2))
    for record in (None, wanted(), others, with_ready(others, *Side), joined(*reversed([own(side), None]))):
        if record is None or not record.holds(side, own(side).container_id):
            assert next_step(attempt(side), record, UNDERLAY_A, joined=False, deleted=False, observed=None) == Join()


@BOTH
def test_a_joined_sandbox_that_lost_its_place_in_the_record_is_released(side: Side) -> None:
    newer = veth().with_end(side, replace(veth().end(side), sandbox=own(side, number=2)))
    for record, reason in (
        (None, "its place in the record is gone"),
        (wanted(), "its place in the record is gone"),
        (newer, "another sandbox has taken its place"),
    ):
        assert next_step(attempt(side), record, UNDERLAY_A, joined=True, deleted=False, observed=None) == Release(
            reason
        )


@pytest.mark.parametrize("side", Side)
def test_a_running_sandbox_joins_again_unless_another_sandbox_has_its_place(side: Side) -> None:
    newer = veth().with_end(side, replace(veth().end(side), sandbox=own(side, number=2)))
    running = replace(attempt(side), lasting=True)
    for record in (None, wanted()):
        assert next_step(running, record, UNDERLAY_A, joined=True, deleted=False, observed=None) == Join()
    step = next_step(running, newer, UNDERLAY_A, joined=True, deleted=False, observed=None)
    assert step == Release("another sandbox has taken its place")


@pytest.mark.parametrize("side", Side)
def test_a_sandbox_whose_vtep_changed_joins_again(side: Side) -> None:
    moved = replace(attempt(side), sandbox=replace(own(side), vtep="10.0.0.99"))
    assert next_step(moved, vxlan(), UNDERLAY_A, joined=True, deleted=False, observed=None) == Join()


@pytest.mark.parametrize("has_joined", [False, True])
def test_an_end_waits_until_its_peer_joins(has_joined: bool) -> None:
    alone = joined(own(PRIMARY), None)
    assert next_step(attempt(), alone, UNDERLAY_A, joined=has_joined, deleted=False, observed=None) == Wait()
    alone = joined(None, own(PAIR))
    assert next_step(attempt(PAIR), alone, UNDERLAY_A, joined=has_joined, deleted=False, observed=None) == Wait()


def test_a_tunnel_needs_a_vni_before_it_is_created_and_a_veth_needs_none() -> None:
    assert next_step(attempt(), vxlan(), UNDERLAY_A, joined=True, deleted=False, observed=None) == AllocateVni()
    step = next_step(attempt(), with_vni(vxlan()), UNDERLAY_A, joined=True, deleted=False, observed=None)
    assert step == Create(planned_wire(with_vni(vxlan()), PRIMARY, UNDERLAY_A))
    step = next_step(attempt(), veth(), UNDERLAY_A, joined=True, deleted=False, observed=None)
    assert step == Create(planned_wire(veth(), PRIMARY, UNDERLAY_A))


@pytest.mark.parametrize("link", [veth(), with_vni(vxlan())], ids=["veth", "vxlan"])
def test_an_end_recorded_as_ready_is_observed(link: Link) -> None:
    step = next_step(attempt(), with_ready(link, *Side), UNDERLAY_A, joined=True, deleted=False, observed=None)
    assert isinstance(step, Observe)


@pytest.mark.parametrize("link", [veth(), with_vni(vxlan())], ids=["veth", "vxlan"])
@pytest.mark.parametrize("stands", [False, True])
def test_an_end_that_differs_is_built_even_if_recorded_as_ready(link: Link, stands: bool) -> None:
    record = with_ready(link, *Side) if stands else link
    wire = planned_wire(link, PRIMARY, UNDERLAY_A)
    for observed in (Observed(None), replace(observed_as_planned(link, PRIMARY), near=None)):
        assert next_step(attempt(), record, UNDERLAY_A, joined=True, deleted=False, observed=observed) == Build(wire)


@pytest.mark.parametrize("link", [veth(), with_vni(vxlan())], ids=["veth", "vxlan"])
def test_an_end_that_is_up_is_marked_ready_once(link: Link) -> None:
    observed = observed_as_planned(link, PRIMARY)
    assert next_step(attempt(), link, UNDERLAY_A, joined=True, deleted=False, observed=observed) == MarkReady()
    ready = with_ready(link, PRIMARY)
    assert next_step(attempt(), ready, UNDERLAY_A, joined=True, deleted=False, observed=observed) == Done()


def test_readiness_for_an_earlier_peer_or_generation_does_not_count() -> None:
    link = with_ready(with_vni(vxlan()), PRIMARY)
    moved = link.with_end(PAIR, replace(link.pair, sandbox=own(PAIR, "node-c", 2)))
    observed = observed_as_planned(moved, PRIMARY)
    assert next_step(attempt(), moved, UNDERLAY_A, joined=True, deleted=False, observed=observed) == MarkReady()
    observed = observed_as_planned(link, PRIMARY)
    assert isinstance(next_step(attempt(), moved, UNDERLAY_A, joined=True, deleted=False, observed=observed), Build)
    renewed = replace(link, generation=2)
    observed = observed_as_planned(renewed, PRIMARY)
    assert next_step(attempt(), renewed, UNDERLAY_A, joined=True, deleted=False, observed=observed) == MarkReady()


def test_a_tunnel_end_is_done_before_its_peer_is_ready() -> None:
    link = with_ready(with_vni(vxlan()), PRIMARY)
    step = next_step(
        attempt(), link, UNDERLAY_A, joined=True, deleted=False, observed=observed_as_planned(link, PRIMARY)
    )
    assert step == Done()


def _interface(netns: str, ifname: str, address: str, mtu: int, side: Side) -> InterfaceSpec:
    return InterfaceSpec(f"/run/netns/{netns}", ifname, (ip_interface(address),), mtu, end_mac_address(wanted(), side))


@BOTH
def test_the_wire_of_a_veth_has_both_interfaces_with_its_own_as_near(side: Side) -> None:
    interfaces = {
        PRIMARY: _interface("primary-pod-1", "in1", "192.168.2.100/24", 1500, PRIMARY),
        PAIR: _interface("pair-pod-1", "in2", "192.168.2.101/24", 1500, PAIR),
    }
    assert planned_wire(veth(), side, UNDERLAY_A) == VethWire(RECORD, interfaces[side], interfaces[side.other])


def test_the_wire_of_a_tunnel_has_its_own_interface_and_the_peers_vtep() -> None:
    link = with_vni(vxlan())
    near = _interface("primary-pod-1", "in1", "192.168.2.100/24", 1450, PRIMARY)
    assert planned_wire(link, PRIMARY, UNDERLAY_A) == VxlanWire(
        RECORD,
        near,
        vni=11,
        remote=VTEPS["node-b"],
        local=VTEPS["node-a"],
        port=4789,
        remote_port=4789,
        parent=UNDERLAY_A.parent,
    )
    near = _interface("pair-pod-1", "in2", "192.168.2.101/24", 1350, PAIR)
    assert planned_wire(link, PAIR, UNDERLAY_B) == VxlanWire(
        RECORD,
        near,
        vni=11,
        remote=VTEPS["node-a"],
        local=VTEPS["node-b"],
        port=4789,
        remote_port=4789,
        parent=UNDERLAY_B.parent,
    )


V4_A, V6_A, V4_B, V6_B = VTEPS["node-a"], "fd00::73", VTEPS["node-b"], "fd00::33"
V4, V6 = (V4_A, V4_B), (V6_A, V6_B)


def on_underlays(
    a: tuple[str, ...], b: tuple[str, ...], mtus: tuple[int, int] = (1500, 1500)
) -> tuple[Link, Underlay, Underlay]:
    """The tunnel between nodes with these VTEPs and underlay MTUs, as both have recorded them, and their underlays."""
    underlays = [
        replace(underlay, parent=Parent(underlay.parent.ifname, underlay.parent.index, vteps[0], mtu, *vteps[1:]))
        for underlay, vteps, mtu in zip((UNDERLAY_A, UNDERLAY_B), (a, b), mtus, strict=True)
    ]
    link = with_vni(vxlan())
    for side, underlay in zip((PRIMARY, PAIR), underlays, strict=True):
        bare = own(side, underlay.node)
        sandbox = underlay.sandbox(bare.container_id, bare.pod, bare.netns)
        link = link.with_end(side, replace(link.end(side), sandbox=sandbox))
    return link, underlays[0], underlays[1]


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
    link, underlay_a, underlay_b = on_underlays(a, b)
    for one, side in ((link, PRIMARY), (link.swapped(), PAIR)):
        near, far = planned_wire(one, side, underlay_a), planned_wire(one, side.other, underlay_b)
        assert isinstance(near, VxlanWire)
        assert isinstance(far, VxlanWire)
        assert (near.local, near.remote) == (far.remote, far.local) == (vtep_a, vtep_b)
        assert near.near.mtu == far.near.mtu == (1430 if ":" in vtep_a else 1450)
    for side, remote in ((PRIMARY, vtep_b), (PAIR, vtep_a)):
        due = link.due(side)
        assert due is not None
        assert due.peer == remote


@pytest.mark.parametrize("vni", [11, None])
def test_nodes_without_a_common_address_family_are_rejected_with_their_addresses(vni: int | None) -> None:
    link, underlay_a, underlay_b = on_underlays((V4_A,), (V6_B,))
    link = replace(link, vni=vni)
    assert (link.due(PRIMARY), link.due(PAIR)) == (None, None)
    for side, underlay, words in (
        (PRIMARY, underlay_a, f"primary-pod to pod default/pair-pod: nodes node-a ({V4_A}) and node-b ({V6_B})"),
        (PAIR, underlay_b, f"pair-pod to pod default/primary-pod: nodes node-b ({V6_B}) and node-a ({V4_A})"),
    ):
        one = replace(attempt(side), sandbox=not_none(link.sandbox(side)))
        step = next_step(one, link, underlay, joined=True, deleted=False, observed=None)
        assert isinstance(step, Reject)
        assert isinstance(step.error, AddressFamilyError)
        assert str(step.error) == f"cannot link pod default/{words} have no address family in common"
    assert next_step(one, link, underlay_b, joined=True, deleted=True, observed=None) != step


def test_an_end_is_not_ready_after_its_peers_tunnel_address_changed() -> None:
    link = with_ready(on_underlays((V4_A, V6_A), (V4_B, V6_B))[0], *Side)
    assert link.is_ready(PRIMARY)
    for vteps in ((V6_B,), ("192.168.1.34", V6_B)):
        moved = replace(not_none(link.pair.sandbox), vtep=vteps[0], vteps=vteps)
        assert not link.with_end(PAIR, replace(link.pair, sandbox=moved)).is_ready(PRIMARY)
    kept = replace(not_none(link.pair.sandbox), vteps=(V4_B, "fd00::34"))
    assert link.with_end(PAIR, replace(link.pair, sandbox=kept)).is_ready(PRIMARY), "which is not the tunnel's"


@pytest.mark.parametrize(
    ("mtus", "v4"), [((1500, 9000), 1450), ((9000, 1500), 1450), ((9000, 9000), 8950), ((1500, 1400), 1350)]
)
@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
def test_both_ends_of_a_tunnel_have_the_mtu_that_both_nodes_can_carry(
    mtus: tuple[int, int], v4: int, family: tuple[str, str]
) -> None:
    link, underlay_a, underlay_b = on_underlays((family[0],), (family[1],), mtus)
    ends = (planned_wire(link, PRIMARY, underlay_a), planned_wire(link, PAIR, underlay_b))
    assert [wire.near.mtu for wire in ends] == [v4 if family is V4 else v4 - 20] * 2


@pytest.mark.parametrize("unknown", [{"underlay_mtu": 0}, {"underlay_mtu": 0, "vteps": ()}], ids=str)
def test_a_peer_without_a_recorded_underlay_does_not_limit_the_tunnel(unknown: dict[str, Any]) -> None:
    link, underlay_a, _ = on_underlays((V4_A, V6_A), (V4_B, V6_B), (9000, 1500))
    link = link.with_end(PAIR, replace(link.pair, sandbox=replace(not_none(link.pair.sandbox), **unknown)))
    wire = planned_wire(link, PRIMARY, underlay_a)
    assert isinstance(wire, VxlanWire)
    assert (wire.near.mtu, wire.remote) == (8950, V4_B)


def test_a_record_of_the_earlier_schema_has_one_vtep_for_each_end() -> None:
    """The peer's node knows no other VTEP of this node, so this node uses no other."""
    link, underlay_a, underlay_b = on_underlays((V6_A, V4_A), (V4_B, V6_B), (1500, 9000))
    link = replace(link, schema=EARLIER_SCHEMA)
    for side in Side:
        link = link.with_end(side, replace(link.end(side), sandbox=not_none(link.sandbox(side)).in_schema(link.schema)))
    for side, underlay in ((PRIMARY, underlay_a), (PAIR, underlay_b)):
        bare = not_none(link.sandbox(side))
        one = Attempt(link, side, underlay.sandbox(bare.container_id, bare.pod, bare.netns)).as_recorded(link)
        step = next_step(one, link, underlay, joined=True, deleted=False, observed=None)
        assert isinstance(step, Reject), "and it does not join again and again"


def test_a_sandbox_joins_again_after_its_nodes_underlay_changed() -> None:
    link, underlay_a, _ = on_underlays((V4_A,), (V4_B,))
    holder = not_none(link.primary.sandbox)
    for parent in (replace(underlay_a.parent, mtu=1400), replace(underlay_a.parent, other_address=V6_A)):
        changed = replace(underlay_a, parent=parent)
        sandbox = changed.sandbox(holder.container_id, holder.pod, holder.netns)
        one = replace(attempt(PRIMARY), sandbox=sandbox)
        assert next_step(one, link, changed, joined=True, deleted=False, observed=None) == Join()


def test_a_tunnel_uses_the_udp_port_of_the_underlay() -> None:
    wire = planned_wire(with_vni(vxlan()), PRIMARY, replace(UNDERLAY_A, vxlan_port=8472))
    assert isinstance(wire, VxlanWire)
    assert wire.port == 8472


def with_properties(link: Link, side: Side, properties: EndpointSpec) -> Link:
    return link.with_end(side, replace(link.end(side), properties=properties))


@BOTH
def test_an_interface_has_the_declared_mtu_and_mac_of_its_own_end(side: Side) -> None:
    properties = EndpointSpec(mtu=1300, mac="02:00:00:00:00:07")
    for link in (veth(), with_vni(vxlan())):
        near = planned_wire(with_properties(link, side, properties), side, UNDERLAY_A).near
        assert (near.mtu, near.mac) == (1300, "02:00:00:00:00:07")
        other = planned_wire(with_properties(link, side.other, properties), side, UNDERLAY_A).near
        assert (other.mtu, other.mac) != (1300, "02:00:00:00:00:07")


@BOTH
def test_an_interface_has_every_other_declared_property_of_its_end(side: Side) -> None:
    routes = (Route(ip_network("10.0.0.0/8")),)
    properties = EndpointSpec(
        None, None, 5, routes, (("net.ipv4.conf.IFNAME.rp_filter", 2),), offloads=False, rate=8000
    )
    near = planned_wire(with_properties(veth(), side, properties), side, UNDERLAY_A).near
    assert (near.txqlen, near.routes, near.sysctls) == (5, routes, properties.sysctls)
    assert (near.offloads, near.rate) == (False, 8000)


@BOTH
def test_an_interface_of_a_later_generation_is_marked_as_renewed(side: Side) -> None:
    assert planned_wire(veth(), side, UNDERLAY_A).near.renewed is False
    assert planned_wire(replace(veth(), generation=2), side, UNDERLAY_A).near.renewed is True


def test_a_tunnel_uses_the_udp_port_that_its_link_declares() -> None:
    link = replace(with_vni(vxlan()), encapsulation=Encapsulation(vxlan_port=4790))
    for side, underlay in ((PRIMARY, UNDERLAY_A), (PAIR, UNDERLAY_B)):
        wire = planned_wire(link, side, underlay)
        assert isinstance(wire, VxlanWire)
        assert (wire.port, wire.remote_port, wire.is_of_one_node) == (4790, 4790, False)


@pytest.mark.parametrize(
    ("port", "first", "second"), [(4789, 4790, 4791), (65533, 65534, 65535), (65534, 65533, 65532)]
)
def test_a_tunnel_within_a_node_uses_one_udp_port_for_each_end(port: int, first: int, second: int) -> None:
    link = with_vni(replace(veth(), encapsulation=Encapsulation(tunnel=True, vxlan_port=port)))
    assert link.kind is Kind.VXLAN
    near, far = (planned_wire(link, side, UNDERLAY_A) for side in (PRIMARY, PAIR))
    assert isinstance(near, VxlanWire)
    assert isinstance(far, VxlanWire)
    assert (near.port, near.remote_port, near.is_of_one_node) == (first, second, True)
    assert (far.port, far.remote_port) == (second, first)
    assert near.remote == far.remote == VTEPS["node-a"]
    assert near.near.mtu == far.near.mtu == 1450


def on_port(link: Link, port: int) -> Link:
    return replace(link, encapsulation=replace(link.encapsulation, vxlan_port=port))


PORT_ERROR = "cannot link pod default/primary-pod: vxlan_port: 53 is not in vxlan_ports, 4789-4799"


@pytest.mark.parametrize("link", [vxlan(), with_vni(vxlan())], ids=["without a VNI", "with a VNI"])
def test_a_tunnel_on_another_port_than_the_allowed_ones_is_rejected(link: Link) -> None:
    link = on_port(link, 53)
    step = next_step(attempt(PRIMARY), link, UNDERLAY_A, joined=True, deleted=False, observed=Observed(None))
    assert isinstance(step, Reject)
    assert str(step.error) == PORT_ERROR
    allowing = replace(UNDERLAY_A, vxlan_ports=(53, 4800))
    step = next_step(attempt(PRIMARY), link, allowing, joined=True, deleted=False, observed=Observed(None))
    assert isinstance(step, AllocateVni | Build)


def test_a_tunnel_that_is_not_ready_is_observed_before_its_port_is_rejected() -> None:
    link = on_port(with_vni(vxlan()), 53)
    step = next_step(attempt(PRIMARY), link, UNDERLAY_A, joined=True, deleted=False, observed=None)
    assert isinstance(step, Observe)


def test_a_tunnel_that_exists_keeps_its_port() -> None:
    """The range was set after it had been created: it is finished, repaired, and follows its peer."""
    link = on_port(with_vni(vxlan()), 53)
    here = observed_as_planned(link, PRIMARY)
    assert here.near is not None
    for observed, found in (
        (here, MarkReady),
        (replace(here, near=replace(here.near, remote="192.0.2.9")), Build),
    ):
        step = next_step(attempt(PRIMARY), link, UNDERLAY_A, joined=True, deleted=False, observed=observed)
        assert isinstance(step, found)
    foreign = replace(here, near=replace(here.near, ours=False))
    step = next_step(attempt(PRIMARY), link, UNDERLAY_A, joined=True, deleted=False, observed=foreign)
    assert isinstance(step, Reject)


def test_a_ready_tunnel_is_created_again_on_its_port() -> None:
    link = with_ready(on_port(with_vni(vxlan()), 53), PRIMARY)
    step = next_step(attempt(PRIMARY), link, UNDERLAY_A, joined=True, deleted=False, observed=Observed(None))
    assert isinstance(step, Build)


def test_a_veth_ignores_the_port_that_its_link_declares() -> None:
    wire = planned_wire(on_port(veth(), 53), PRIMARY, UNDERLAY_A)
    assert isinstance(wire, VethWire)


def test_the_underlay_mtu_limits_neither_a_veth_nor_the_peers_end_of_a_tunnel() -> None:
    assert planned_wire(with_properties(veth(), PRIMARY, EndpointSpec(mtu=9000)), PRIMARY, UNDERLAY_A).near.mtu == 9000
    planned_wire(with_properties(with_vni(vxlan()), PAIR, EndpointSpec(mtu=1451)), PRIMARY, UNDERLAY_A)


@pytest.mark.parametrize(
    ("mtus", "most", "node"), [((1500, 1500), 1450, "a"), ((1500, 9000), 1450, "a"), ((1500, 1400), 1350, "b")]
)
def test_an_mtu_above_the_tunnels_maximum_is_rejected_with_the_limiting_node(
    mtus: tuple[int, int], most: int, node: str
) -> None:
    link, underlay, _ = on_underlays((V4_A,), (V4_B,), mtus)
    planned_wire(with_properties(link, PRIMARY, EndpointSpec(mtu=most)), PRIMARY, underlay)
    wide = with_properties(link, PRIMARY, EndpointSpec(mtu=most + 1))
    with pytest.raises(InvalidIntentError) as caught:
        planned_wire(wide, PRIMARY, underlay)
    message = f"mtu: {most + 1} for in1 exceeds {most}, the maximum of a tunnel over the underlay of node node-{node}"
    assert str(caught.value) == f"cannot link pod default/primary-pod: {message}"
    advice = f"Set mtu to at most {most}, or omit it. The underlay MTU of node node-{node} is {min(mtus)}."
    assert caught.value.details == advice
    one = replace(attempt(), sandbox=not_none(link.primary.sandbox))
    step = next_step(one, wide, underlay, joined=True, deleted=False, observed=None)
    assert isinstance(step, Reject)
    assert str(step.error) == str(caught.value)


@pytest.mark.parametrize("link", [vxlan(), joined(own(PRIMARY), None), joined(None, own(PAIR))])
def test_a_wire_needs_both_ends_and_a_tunnel_needs_its_vni(link: Link) -> None:
    cause = "an end has not joined, or the VNI is missing"
    for side in Side:
        with pytest.raises(ValueError, match=f"^cannot wire {link.name}: {cause}$"):
            planned_wire(link, side, UNDERLAY_A)


def test_the_wire_of_a_veth_needs_the_location_of_its_peer() -> None:
    with pytest.raises(ValueError, match=f"^cannot wire {veth().name}: the peer of its primary is not on this node$"):
        wire_of(veth(), PRIMARY, UNDERLAY_A, Location("/run/netns/mine"))


def test_a_veth_waits_while_the_journal_does_not_hold_its_peer() -> None:
    given: Any = {"joined": True, "deleted": False, "observed": None}
    assert plan(attempt(), veth(), UNDERLAY_A, **given, peer=None) == Wait()
    assert plan(attempt(), with_ready(veth(), *Side), UNDERLAY_A, **given, peer=None) == Wait()
    assert plan(attempt(), with_vni(vxlan()), UNDERLAY_A, **given, peer=None) != Wait(), (
        "its peer is another node's affair"
    )


def test_a_wire_uses_the_locations_of_the_journal_and_not_of_the_record() -> None:
    here, there = Location("/run/netns/mine", 7, 1_000_000), Location("/run/netns/theirs", 8, 1_000_001)
    made = wire_of(veth(), PRIMARY, UNDERLAY_A, here, there)
    assert isinstance(made, VethWire)
    for port, expected in ((made.near, here), (made.far, there)):
        assert Location(port.netns, port.cookie, port.index) == expected


@BOTH
def test_an_attempt_takes_the_roles_of_its_record(side: Side) -> None:
    one = attempt(side)
    for record in (wanted(), veth()):
        assert one.as_recorded(record) == one
        swapped_roles = one.as_recorded(record.swapped())
        assert (swapped_roles.side, swapped_roles.wanted) == (side.other, wanted().swapped())
    assert one.as_recorded(None) == one


def test_an_attempt_finds_its_end_by_either_name_of_its_pod() -> None:
    link = replace(wanted(), primary=replace(wanted().primary, name="alias"))
    one = Attempt(link, PRIMARY, own(PRIMARY))
    assert one.as_recorded(wanted()).side is PRIMARY
    assert one.as_recorded(wanted().swapped()).side is PAIR


def test_an_edit_is_recorded_by_the_primary_or_the_only_end() -> None:
    edited = veth().primary.properties
    wanted_now = replace(wanted(), pair=replace(wanted().pair, properties=replace(edited, mtu=1400)))
    live = replace(attempt(), wanted=wanted_now, live=True)
    for record in (veth(), with_ready(veth(), *Side), joined(own(PRIMARY), None)):
        assert next_step(live, record, UNDERLAY_A, joined=True, deleted=False, observed=None) == Join()
        frozen = replace(live, live=False)
        assert next_step(frozen, record, UNDERLAY_A, joined=True, deleted=False, observed=None) != Join()
    pair = replace(live, side=PAIR, sandbox=own(PAIR))
    assert not pair.redeclares(veth())
    assert pair.redeclares(joined(None, own(PAIR)))
