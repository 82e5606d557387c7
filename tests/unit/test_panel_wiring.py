"""Links in panel wiring: their kind and readiness, the interfaces that they require, the plan, and their records."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest

from ratchet.core.differences import differences, near_differences, removes_nothing
from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.interface import CABLE, CableWire, Device, InterfaceSpec, Observed, Parent, PatchWire, VxlanWire, Wire
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import Encapsulation, Link, Side, State
from ratchet.core.plan import AllocateVni, Attempt, Build, Create, Done, MarkReady, Observe, Reject, Step, Wait, plan
from ratchet.core.record_updates import join, leave, mark_ready
from ratchet.core.schemas import CURRENT_SCHEMA, PANEL_SCHEMA
from ratchet.core.state_machine import derive
from ratchet.core.underlay import Underlay
from ratchet.errors import MalformedRecordError, NewerRecordError
from ratchet.store.codec import links as codec
from ratchet.store.codec.links import decode_link, encode_link
from tests.support.links import NOW, VTEPS, joined, location, own, planned_wire, with_ready

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
UNDERLAY = Underlay("node-a", Parent("eth0", 2, VTEPS["node-a"], 1500), 4789, has_agent=True)


def in_panel(link: Link) -> Link:
    return replace(link, wiring=Wiring.PANEL, schema=PANEL_SCHEMA)


def waiting() -> Link:
    return in_panel(joined(own(PRIMARY), None))


def patched() -> Link:
    return in_panel(joined(own(PRIMARY), own(PAIR)))


def tunnelled() -> Link:
    return replace(in_panel(joined(own(PRIMARY), own(PAIR, "node-b"))), vni=11)


def cable(spec: InterfaceSpec, **changes: Any) -> Device:
    """The observed cable that matches a specification, except for `changes`."""
    device = Device(spec.ifname, 7, CABLE, True, True, spec.mtu, "", spec.addresses, given=spec.addresses)
    return replace(device, **changes)


def matching(wire: Wire, **changes: Any) -> Observed:
    """The observation that matches a wire in panel wiring, except for `changes` of the near cable."""
    if isinstance(wire, PatchWire):
        return Observed(cable(wire.near, **changes), cable(wire.far))
    if isinstance(wire, CableWire):
        return Observed(cable(wire.near, **{"carrier": False, "wired": False, **changes}))
    assert isinstance(wire, VxlanWire)
    tunnel = {"vni": wire.vni, "remote": wire.remote, "local": wire.local, "port": wire.port}
    fields = {**tunnel, "parent_index": wire.parent.index, "carrier": wire.carrier}
    return Observed(cable(wire.near, **{**fields, **changes}))


def wire_at(link: Link, underlay: Underlay = UNDERLAY, side: Side = PRIMARY) -> Wire:
    return planned_wire(link, side, underlay)


def next_step(link: Link, observed: Observed | None = None, *, underlay: Underlay = UNDERLAY) -> Step:
    attempt = Attempt(link, PRIMARY, own(PRIMARY))
    there = location(link, PAIR) if link.is_local else None
    return plan(attempt, link, underlay, joined=True, deleted=False, observed=observed, peer=there)


def test_the_kind_is_patch_on_one_node_and_vxlan_across_nodes_or_if_declared() -> None:
    assert [one.kind for one in (waiting(), patched(), tunnelled())] == [None, Kind.PATCH, Kind.VXLAN]
    assert replace(patched(), encapsulation=Encapsulation(tunnel=True)).kind is Kind.VXLAN
    assert [one.is_local for one in (waiting(), patched(), tunnelled())] == [False, True, False]


def test_an_end_that_waits_has_a_cable_without_carrier() -> None:
    wire = wire_at(waiting())
    assert wire == CableWire(waiting().name, wire.near)
    assert next_step(waiting()) == Create(wire)
    assert next_step(waiting(), Observed(None)) == Build(wire)
    assert next_step(waiting(), matching(wire)) == Wait()
    assert next_step(waiting(), matching(wire, carrier=True)) == Build(wire)


def test_a_waiting_cable_keeps_the_tunnel_of_the_earlier_peer_until_its_vni_is_freed() -> None:
    wire = wire_at(waiting())
    assert isinstance(wire, CableWire)
    seen = matching(wire, vni=11)
    assert differences(wire, seen) == ()
    assert differences(replace(wire, keeps_tunnel=False), seen) == ("in1 is patched to a tunnel",)


def test_two_cables_of_one_node_are_patched_once_both_exist() -> None:
    wire = wire_at(patched())
    assert isinstance(wire, PatchWire)
    assert (wire.near.ifname, wire.far.ifname) == ("in1", "in2")
    assert next_step(patched()) == Create(wire)
    assert next_step(patched(), matching(wire, wired=False)) == Build(wire)
    assert next_step(patched(), matching(wire)) == MarkReady()
    ready = with_ready(patched(), PRIMARY, PAIR)
    assert next_step(ready) == Observe(wire)
    assert next_step(ready, matching(wire)) == Done()


def test_a_pass_makes_no_cable_for_the_peer() -> None:
    """The peer may be gone, and this node's cache may not know it yet."""
    wire = wire_at(patched())
    alone = wire_at(waiting())
    raised = Observed(matching(wire).near)
    assert next_step(patched(), raised) == Build(alone)
    assert next_step(patched(), matching(alone)) == Wait()


def test_a_peer_that_is_not_in_the_journal_is_waited_for_with_the_cable_in_place() -> None:
    attempt = Attempt(patched(), PRIMARY, own(PRIMARY))
    step = plan(attempt, patched(), UNDERLAY, joined=True, deleted=False, observed=None, peer=None)
    assert step == Create(wire_at(waiting()))


def test_a_cable_is_patched_to_a_tunnel_and_raised_once_the_peer_is_ready() -> None:
    assert next_step(replace(tunnelled(), vni=None)) == AllocateVni()
    wire = wire_at(tunnelled())
    assert isinstance(wire, VxlanWire)
    assert (wire.wiring, wire.carrier) == (Wiring.PANEL, False)
    assert next_step(tunnelled(), matching(wire)) == MarkReady()
    both = with_ready(tunnelled(), PRIMARY, PAIR)
    raised = wire_at(both)
    assert next_step(both, matching(wire)) == Build(raised)
    assert next_step(both, matching(raised)) == Done()


@pytest.mark.parametrize(
    ("link", "changes", "said"),
    [
        (patched(), {"vni": 11}, ("in1 is patched to a tunnel",)),
        (patched(), {"wired": False}, ("in1 leads to another interface than its peer",)),
        (patched(), {"carrier": False}, ("in1 is held without carrier",)),
        (patched(), {"kind": "veth"}, ("in1 is a veth, wanted a cable",)),
        (waiting(), {"carrier": True}, ("in1 has carrier while its peer is gone",)),
        (waiting(), {"index": 9, "ours": False}, ("in1 was not made by ratchet",)),
        (tunnelled(), {"vni": 12}, ("in1 has VNI 12, wanted 11",)),
        (tunnelled(), {"kind": "vxlan"}, ("in1 is a vxlan, wanted a cable",)),
        (tunnelled(), {"carrier": True}, ("in1 has carrier while its peer is gone",)),
    ],
)
def test_a_difference_of_a_cable_is_named(link: Link, changes: dict[str, Any], said: tuple[str, ...]) -> None:
    wire = wire_at(link)
    assert differences(wire, matching(wire)) == ()
    assert near_differences(wire, matching(wire, **changes)) == said


@pytest.mark.parametrize(
    ("changes", "nothing"),
    [
        ({"carrier": False, "vni": None}, True),
        ({"carrier": True, "vni": None}, False),
        ({"carrier": False, "vni": 12}, False),
        ({"carrier": False, "vni": None, "kind": "veth"}, False),
    ],
)
@pytest.mark.parametrize("link", [waiting(), patched(), tunnelled()], ids=["waiting", "patched", "tunnelled"])
def test_a_build_takes_nothing_from_a_cable_without_carrier_and_tunnel(
    link: Link, changes: dict[str, Any], nothing: bool
) -> None:
    wire = wire_at(link)
    seen = Observed(matching(wire, **changes).near)
    assert removes_nothing(wire, seen) is nothing
    if isinstance(wire, PatchWire):
        assert not removes_nothing(wire, Observed(seen.near, matching(wire).far)), "the peer's cable has carrier"


def test_a_build_that_gives_a_tunnels_cable_its_carrier_takes_nothing() -> None:
    wire = wire_at(with_ready(tunnelled(), PRIMARY, PAIR))
    assert removes_nothing(wire, matching(wire, carrier=False))
    assert not removes_nothing(wire, matching(wire, carrier=False, remote="192.168.1.99"))


def test_both_cables_of_a_patch_count() -> None:
    wire = wire_at(patched())
    assert isinstance(wire, PatchWire)
    one_way = Observed(cable(wire.near), cable(wire.far, wired=False))
    assert differences(wire, one_way) == ("in2 leads to another interface than its peer",)
    assert near_differences(wire, one_way) == ()


@pytest.mark.parametrize(
    ("mtu", "other_address", "expected"), [(1500, "", 1450), (1500, "fd00::73", 1430), (9000, "", 8950)]
)
def test_a_cable_begins_with_the_mtu_that_its_nodes_tunnels_carry(mtu: int, other_address: str, expected: int) -> None:
    underlay = replace(UNDERLAY, parent=Parent("eth0", 2, VTEPS["node-a"], mtu, other_address))
    assert [wire_at(one, underlay).near.mtu for one in (waiting(), patched())] == [expected, expected]


def test_a_cable_takes_the_smaller_mtu_of_both_nodes() -> None:
    peer = replace(own(PAIR, "node-b"), underlay_mtu=1400, vteps=(VTEPS["node-b"], "fd00::33"))
    link = replace(in_panel(joined(own(PRIMARY), peer)), vni=11)
    assert wire_at(link).near.mtu == 1330


def test_a_tunnel_over_ipv4_takes_a_larger_mtu_than_its_underlay() -> None:
    def declared(mtu: int) -> Link:
        link = tunnelled()
        return replace(link, primary=replace(link.primary, properties=EndpointSpec(mtu=mtu)))

    assert wire_at(declared(9000)).near.mtu == 9000
    step = next_step(declared(65_486))
    assert isinstance(step, Reject)
    assert "mtu: 65486 for in1 exceeds 65485" in str(step.error)


def test_the_ends_of_a_patch_become_ready_and_are_lost_together() -> None:
    ready = mark_ready(patched(), PAIR, NOW)
    assert derive(ready) is State.LINKED
    left = leave(ready, PRIMARY, own(PRIMARY).container_id, "DEL", NOW)
    assert (left.pair.ready, derive(left)) == (None, State.PENDING)


def test_the_end_of_a_tunnel_stays_ready_for_the_vtep_of_a_peer_that_left() -> None:
    ready = with_ready(tunnelled(), PRIMARY, PAIR)
    left = leave(ready, PRIMARY, own(PRIMARY).container_id, "DEL", NOW)
    assert left.pair.ready == ready.pair.ready


def test_the_wiring_of_a_record_stays_whatever_a_pod_declares_later() -> None:
    direct = replace(patched(), wiring=Wiring.DIRECT)
    again = replace(own(PAIR, number=2))
    assert join(patched(), direct, PAIR, again, NOW).wiring is Wiring.PANEL
    assert join(direct, patched(), PAIR, again, NOW).wiring is Wiring.DIRECT


def test_a_record_in_panel_wiring_is_left_alone_by_a_version_that_cannot_build_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "READ_SCHEMA", CURRENT_SCHEMA)
    stored = encode_link(patched())
    assert (stored["data"]["wiring"], stored["data"]["minReader"], stored["data"]["kind"]) == ("panel", "3", "patch")
    with pytest.raises(NewerRecordError, match="it needs a version that reads schema 3"):
        decode_link(stored)


def test_a_record_in_panel_wiring_is_read_as_it_was_written() -> None:
    for link in (waiting(), patched(), tunnelled()):
        assert decode_link(encode_link(link)) == link
    stored = encode_link(patched())
    stored["data"]["wiring"] = "socket"
    with pytest.raises(MalformedRecordError, match="wiring is 'socket', not one of direct, panel"):
        decode_link(stored)


def test_a_record_in_direct_wiring_has_no_key_of_the_wiring() -> None:
    assert "wiring" not in encode_link(joined(own(PRIMARY), own(PAIR)))["data"]


def test_the_addresses_of_a_cable_are_those_of_the_declaration() -> None:
    assert wire_at(waiting()).near.addresses == (ip_interface("192.168.2.100/24"),)


def test_a_pass_corrects_what_its_process_takes_the_link_for() -> None:
    """While the far pod has shut its end, the cable's carrier is the same whether or not the link is complete."""
    wire = wire_at(with_ready(tunnelled(), PRIMARY, PAIR))
    seen = {"carrier": False, "far_up": False}
    assert differences(wire, matching(wire, **seen, complete=True)) == ()
    assert differences(wire, matching(wire, **seen)) == ()
    assert differences(wire, matching(wire, **seen, complete=False)) == ("in1 is held without carrier",)
    held = wire_at(tunnelled())
    assert differences(held, matching(held, complete=True)) == ("in1 has carrier while its peer is gone",)
