"""Differences between observed interfaces and their wire: one test for each kind of difference."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.differences import differences, near_differences, tunnel_differences
from ratchet.core.endpoint_spec import Address, Route
from ratchet.core.forwarding import ANY_MAC, ForwardingEntry
from ratchet.core.interface import Device, InterfaceSpec, Observed, Parent, VethWire, VxlanWire, tunnel_mtu

PARENT = Parent("eth0", 2, "192.168.1.73", 1500)
NEAR = InterfaceSpec("/run/netns/a", "in1", (ip_interface("192.168.2.100/24"), ip_interface("fd00::1/64")), 1450)
FAR = InterfaceSpec("/run/netns/b", "in2", (ip_interface("192.168.2.101/24"),), 1450)
VETH = VethWire("a-b", NEAR, FAR)
VXLAN = VxlanWire(
    "a-b", NEAR, vni=11, remote="192.168.1.33", local="192.168.1.73", port=4789, remote_port=4789, parent=PARENT
)


def veth(port: InterfaceSpec, /, **changes: Any) -> Device:
    """The observed interface that matches a specification, except for `changes`."""
    device = Device(port.ifname, 7, "veth", True, True, port.mtu, "02:00:00:00:00:01", port.addresses)
    return replace(device, **{"given": port.addresses, **changes})


def tunnel(**changes: Any) -> Device:
    made = veth(
        NEAR,
        kind="vxlan",
        vni=11,
        remote="192.168.1.33",
        local="192.168.1.73",
        port=4789,
        parent_index=2,
    )
    return replace(made, **changes)


def test_interfaces_that_match_their_wire_have_no_differences() -> None:
    assert differences(VETH, Observed(veth(NEAR), veth(FAR))) == ()
    assert differences(VXLAN, Observed(tunnel())) == ()


def test_near_differences_ignore_the_far_end() -> None:
    assert near_differences(VETH, Observed(veth(NEAR), None)) == ()
    assert near_differences(VETH, Observed(veth(NEAR, mtu=1400), veth(FAR))) == ("in1 has MTU 1400, wanted 1450",)
    assert near_differences(VXLAN, Observed(tunnel(vni=12))) == differences(VXLAN, Observed(tunnel(vni=12))) != ()


def test_addresses_that_the_pod_added_are_ignored() -> None:
    more = (*NEAR.addresses, ip_interface("10.0.0.1/8"), ip_interface("fe80::1/64"))
    assert differences(VXLAN, Observed(tunnel(addresses=more))) == ()


COMMON_DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"ours": False}, "in1 was not made by ratchet"),
    ({"kind": "dummy"}, "in1 is a dummy, wanted a {kind}"),
    ({"up": False, "brought_up": False}, "in1 is down"),
    ({"mtu": 1400}, "in1 has MTU 1400, wanted 1450"),
    ({"addresses": NEAR.addresses[1:]}, "in1 lacks 192.168.2.100/24"),
    ({"addresses": (ip_interface("192.168.2.100/16"), NEAR.addresses[1])}, "in1 lacks 192.168.2.100/24"),
    ({"given": (*NEAR.addresses, ip_interface("192.168.2.7/24"))}, "in1 still has 192.168.2.7/24"),
]


@pytest.mark.parametrize(
    ("changes", "said"), COMMON_DIFFERENCES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_difference_of_a_veth_or_a_vxlan_is_reported(changes: dict[str, Any], said: str) -> None:
    assert differences(VETH, Observed(veth(NEAR, **changes), veth(FAR))) == (said.format(kind="veth"),)
    assert differences(VXLAN, Observed(tunnel(**changes))) == (said.format(kind="vxlan"),)


def test_a_missing_interface_is_reported() -> None:
    assert differences(VXLAN, Observed(None)) == ("in1 is not there",)
    assert differences(VETH, Observed(None, veth(FAR))) == ("in1 is not there",)
    assert differences(VETH, Observed(veth(NEAR), None)) == ("in2 is not there",)
    assert differences(VETH, Observed(None)) == ("in1 is not there", "in2 is not there")


def test_a_veth_with_another_peer_is_reported() -> None:
    observed = Observed(veth(NEAR, wired=False), veth(FAR))
    assert differences(VETH, observed) == ("in1 leads to another interface than its peer",)


def test_a_difference_of_a_veths_far_end_is_reported() -> None:
    assert differences(VETH, Observed(veth(NEAR), veth(FAR, mtu=1400))) == ("in2 has MTU 1400, wanted 1450",)


SHUT: dict[str, Any] = {"up": False, "brought_up": True}


def test_an_interface_that_its_pod_has_set_down_has_no_difference() -> None:
    assert differences(VETH, Observed(veth(NEAR, **SHUT), veth(FAR, **SHUT))) == ()
    assert differences(VXLAN, Observed(tunnel(**SHUT))) == ()


def test_a_shut_interface_lacks_no_routes_and_has_its_other_differences() -> None:
    wire = replace(VXLAN, near=replace(NEAR, routes=(ROUTE,), txqlen=5))
    device = tunnel(**SHUT, mtu=1400, addresses=NEAR.addresses[:1], txqlen=1000)
    assert differences(wire, Observed(device)) == (
        "in1 has MTU 1400, wanted 1450",
        f"in1 lacks {NEAR.addresses[1]}",
        "in1 has txqlen 1000, wanted 5",
    )


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (SHUT, NEAR.addresses[1:]),
        ({"up": True, "brought_up": True}, ()),
        ({"up": False, "brought_up": False}, ()),
    ],
)
def test_only_a_shut_interface_is_shown_with_its_flushed_ipv6_addresses(
    state: dict[str, Any], found: tuple[Address, ...]
) -> None:
    assert [one.version for one in NEAR.addresses] == [4, 6]
    assert veth(NEAR, addresses=(), **state).with_flushed(NEAR).addresses == found


ROUTE, OTHER = Route(ip_network("10.0.0.0/8"), ip_address("192.168.2.101")), Route(ip_network("10.1.0.0/16"))
FILTER = "net.ipv4.conf.IFNAME.rp_filter"
PROPERTIES: dict[str, Any] = {
    "txqlen": 5,
    "routes": (ROUTE,),
    "sysctls": ((FILTER, 2),),
    "offloads": False,
    "rate": 100_000_000,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"txqlen": 1000}, "in1 has txqlen 1000, wanted 5"),
        ({"routes": ()}, "in1 lacks the route 10.0.0.0/8 via 192.168.2.101"),
        ({"routes": (ROUTE, OTHER)}, "in1 still has the route 10.1.0.0/16"),
        ({"sysctls": ((FILTER, 0),)}, f"in1 has {FILTER} 0, wanted 2"),
        ({"sysctls": ()}, f"in1 has {FILTER} None, wanted 2"),
        ({"offloads": True}, "in1 has offloads, wanted none"),
        ({"rate": None}, "in1 has no rate, wanted 100mbit"),
        ({"rate": 1500}, "in1 has 1500bit, wanted 100mbit"),
    ],
)
def test_a_difference_of_a_property_is_reported(changes: dict[str, Any], said: str | None) -> None:
    wire = replace(VXLAN, near=replace(NEAR, **PROPERTIES))
    assert differences(wire, Observed(tunnel(**{**PROPERTIES, **changes}))) == ((said,) if said else ())


def test_undeclared_properties_are_ignored_except_the_rate() -> None:
    assert differences(VXLAN, Observed(tunnel(txqlen=5, sysctls=((FILTER, 2),), offloads=False))) == ()
    assert differences(VXLAN, Observed(tunnel(rate=8000))) == ("in1 has 8kbit, wanted no rate",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vni": 12}, "in1 has VNI 12, wanted 11"),
        ({"remote": "192.168.1.9"}, "in1 has remote 192.168.1.9, wanted 192.168.1.33"),
        ({"local": None}, "in1 has local None, wanted 192.168.1.73"),
        ({"port": 8472}, "in1 has port 8472, wanted 4789"),
        ({"parent_index": 3}, "in1 has parent 3, wanted 2"),
        ({"carrier": False}, "in1 is held without carrier"),
    ],
)
def test_a_difference_of_a_tunnel_is_reported(changes: dict[str, Any], said: str) -> None:
    assert differences(VXLAN, Observed(tunnel(**changes))) == (said,)


OTHER_VTEP = ForwardingEntry(ANY_MAC, "10.0.0.9", 8472, 12)
NEXTHOP = ForwardingEntry("02:00:00:00:00:01", "", 4789, 11, nexthop=5)
SENDS = "00:00:00:00:00:00 to 192.168.1.33 port 4789 VNI 11 via interface 2"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entries": None}, ()),
        ({"entries": (VXLAN.entry,)}, ()),
        ({"entries": ()}, (f"in1 does not send {SENDS}",)),
        (
            {"entries": (VXLAN.entry, OTHER_VTEP)},
            ("in1 sends 00:00:00:00:00:00 to 10.0.0.9 port 8472 VNI 12",),
        ),
        ({"entries": (VXLAN.entry, NEXTHOP)}, ("in1 sends 02:00:00:00:00:01 to nexthop 5",)),
        ({"options": ("learning", "tos")}, ("in1 has the option learning", "in1 has the option tos")),
    ],
)
def test_a_difference_in_where_a_tunnel_sends_is_reported(changes: dict[str, Any], said: tuple[str, ...]) -> None:
    assert differences(VXLAN, Observed(tunnel(**changes))) == said
    assert tunnel_differences(VXLAN, tunnel(up=False, mtu=1, carrier=False, **changes)) == said


def test_the_entry_of_another_remote_is_reported_once() -> None:
    entry = VXLAN.entry._replace(remote="192.168.1.9", parent_index=3)
    moved = tunnel(remote="192.168.1.9", parent_index=3, entries=(entry,))
    assert len(differences(VXLAN, Observed(moved))) == 2


def test_any_number_of_entries_are_reported_briefly() -> None:
    entries = tuple(OTHER_VTEP._replace(vni=number) for number in range(1000))
    said = differences(VXLAN, Observed(tunnel(entries=(VXLAN.entry, *entries))))
    assert len(said) == 4
    assert said[-1] == "in1 has 997 more such entries"


def test_an_end_toward_its_own_node_sends_to_the_peers_port() -> None:
    within = replace(VXLAN, port=4790, remote_port=4791)
    entry = ForwardingEntry(ANY_MAC, VXLAN.remote, 4791, 11)
    device = tunnel(port=4790, entries=(entry,))
    assert differences(within, Observed(device)) == ()
    default = entry._replace(port=4790, parent_index=2)
    assert differences(within, Observed(replace(device, entries=(entry, default)))) != ()


def test_carrier_is_reported_if_the_tunnel_must_have_none() -> None:
    unplugged = replace(VXLAN, carrier=False)
    assert differences(unplugged, Observed(tunnel())) == ("in1 has carrier while its peer is gone",)
    assert differences(unplugged, Observed(tunnel(carrier=False))) == ()


def test_a_fixed_carrier_is_not_reported() -> None:
    unplugged = replace(VXLAN, carrier=False)
    assert differences(unplugged, Observed(tunnel(carrier_fixed=True))) == ()
    unfinished = tunnel(carrier_fixed=True, up=False, brought_up=False)
    assert differences(unplugged, Observed(unfinished)) == ("in1 is down",)


def test_the_carrier_of_another_interface_is_not_compared() -> None:
    unplugged = replace(VXLAN, carrier=False)
    assert differences(unplugged, Observed(tunnel(ours=False))) == ("in1 was not made by ratchet",)
    assert differences(unplugged, Observed(veth(NEAR))) == ("in1 is a veth, wanted a vxlan",)


def test_all_differences_are_reported() -> None:
    said = differences(
        VXLAN, Observed(tunnel(up=False, brought_up=False, mtu=1, vni=12, addresses=(), given=(), carrier=False))
    )
    assert len(said) == 6


@pytest.mark.parametrize(
    ("address", "mtu", "fits"), [("192.168.1.73", 1500, 1450), ("fd00::73", 1500, 1430), ("10.0.0.1", 9000, 8950)]
)
def test_a_tunnels_mtu_leaves_room_for_its_headers(address: str, mtu: int, fits: int) -> None:
    assert tunnel_mtu(mtu, address) == fits
