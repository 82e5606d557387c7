from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ratchet.core.interface import Parent
from ratchet.datapath import find_parent, messages
from ratchet.datapath.parse import read_link
from ratchet.datapath.rtnetlink import Channel
from ratchet.datapath.underlay import _has_egress
from ratchet.errors import InvalidConfigError
from tests.support.namespaces import Bed


@pytest.fixture
def node(bed: Bed) -> Iterator[Bed]:
    """A node with two interfaces; the calling thread is in its netns."""
    bed.add("node", "outside")
    for ifname, mtu in (("eth0", "1500"), ("eth1", "9000")):
        peer = ("peer", "name", ifname, "mtu", mtu, "netns", bed.name("outside"))
        bed.ip("node", "link", "add", ifname, "mtu", mtu, "type", "veth", *peer)
        bed.ip("outside", "link", "set", ifname, "up")
        bed.ip("node", "link", "set", ifname, "up")
    for address, ifname in (("10.1.0.5/24", "eth0"), ("10.1.0.6/24", "eth0"), ("10.2.0.5/24", "eth1")):
        bed.ip("node", "addr", "add", address, "dev", ifname)
    bed.ip("node", "addr", "add", "fd02::5/64", "dev", "eth1", "nodad")
    with bed.inside("node"):
        yield bed


@pytest.mark.parametrize(
    ("ifname", "address", "found"),
    [
        ("eth0", None, ("eth0", "10.1.0.5", 1500)),
        ("eth1", None, ("eth1", "10.2.0.5", 9000)),
        ("eth0", "10.1.0.6", ("eth0", "10.1.0.6", 1500)),
        ("eth1", "fd02::5", ("eth1", "fd02::5", 9000)),
        ("eth1", "fd02:0::0:5", ("eth1", "fd02::5", 9000)),
        (None, "10.2.0.5", ("eth1", "10.2.0.5", 9000)),
        (None, "fd02::5", ("eth1", "fd02::5", 9000)),
        ("", "10.1.0.6", ("eth0", "10.1.0.6", 1500)),
    ],
)
def test_the_configured_parent_is_used(
    ifname: str | None, address: str | None, found: tuple[str, str, int], node: Bed
) -> None:
    name, vtep, mtu = found
    # The configuration overrides the addresses of the Node object.
    parent = find_parent(ifname, address, ["10.2.0.5"])
    assert parent == Parent(name, node.show("node", name)["ifindex"], vtep, mtu)
    assert parent.addresses == (vtep,)


@pytest.mark.parametrize(
    ("ifname", "address", "message", "details"),
    [
        ("eth7", None, 'cannot use parent_interface "eth7": no such interface', "Interfaces of the node: eth0, eth1."),
        ("eth7", "10.1.0.5", 'cannot use parent_interface "eth7": no such interface', "eth0, eth1"),
        ("eth0", "10.2.0.5", 'cannot use parent_address "10.2.0.5": eth0 does not carry it', "10.1.0.5, 10.1.0.6"),
        ("lo", None, 'cannot use parent_interface "lo": it has no global address', "127.0.0.1"),
        (None, "10.3.0.1", 'cannot use parent_address "10.3.0.1": no interface of the node carries it', "eth0, eth1"),
        (None, "ten", 'cannot use parent_address "ten": not an IP address', ""),
        (None, None, "cannot find a parent interface for tunnels: no default route", "Set parent_interface"),
    ],
)
def test_an_unusable_parent_is_an_error_that_names_the_key(
    ifname: str | None, address: str | None, message: str, details: str, node: Bed
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        find_parent(ifname, address)
    assert message in str(caught.value)
    assert details in caught.value.details


def test_addresses_of_the_node_object_precede_default_routes(node: Bed) -> None:
    node.ip("node", "route", "add", "default", "via", "10.1.0.1")
    assert find_parent(None, None, ["node-1.example", "192.0.2.1", "10.2.0.5", "10.1.0.5"]).address == "10.2.0.5"
    assert find_parent(None, None, ["fd02::5"]).address == "fd02::5"
    assert find_parent(None, None, ["192.0.2.1"]).address == "10.1.0.5"


def test_the_default_route_with_the_lowest_metric_is_used(node: Bed) -> None:
    node.ip("node", "-6", "route", "add", "default", "via", "fd02::1", "metric", "1")
    index = node.show("node", "eth1")["ifindex"]
    assert find_parent(None, None) == Parent("eth1", index, "fd02::5", 9000, "10.2.0.5")
    node.ip("node", "route", "add", "default", "via", "10.2.0.1", "metric", "200")
    assert find_parent(None, None).address == "10.2.0.5", "IPv4 before IPv6"
    node.ip("node", "route", "add", "default", "via", "10.1.0.1", "metric", "100")
    assert find_parent(None, None).address == "10.1.0.5"
    node.ip("node", "route", "del", "default", "via", "10.1.0.1", "metric", "100")
    node.ip("node", "route", "add", "default", "via", "10.1.0.1", "table", "7")
    node.ip("node", "route", "add", "unreachable", "default", "metric", "50")
    assert find_parent(None, None).address == "10.2.0.5", "neither another table nor a route to nowhere counts"


def test_a_multipath_default_route_uses_its_first_hop(node: Bed) -> None:
    hops = ("nexthop", "via", "10.2.0.1", "nexthop", "via", "10.1.0.1")
    node.ip("node", "route", "add", "default", *hops)
    assert find_parent(None, None).address == "10.2.0.5"


def test_deprecated_and_link_local_addresses_are_skipped(node: Bed) -> None:
    node.ip("node", "addr", "flush", "dev", "eth0")
    node.ip("node", "addr", "add", "10.1.0.4/24", "dev", "eth0", "valid_lft", "1000", "preferred_lft", "0")
    node.ip("node", "addr", "add", "169.254.1.1/16", "scope", "link", "dev", "eth0")
    node.ip("node", "addr", "add", "10.5.0.1/24", "dev", "eth0")
    assert find_parent("eth0", None).address == "10.5.0.1"


NODE = "10.255.0.5"


def _add_routed_address(node: Bed, where: str, *, family: int = 4) -> None:
    """Give the node an address on an interface without egress, and a default route over eth0 (IPv6: eth1)."""
    if where != "lo":
        try:
            node.ip("node", "link", "add", where, "up", "type", where.rstrip("0123456789"))
        except AssertionError as error:
            pytest.skip(f"this kernel has no such interface: {error}")
    if family == 4:
        node.ip("node", "addr", "add", f"{NODE}/32", "dev", where)
        node.ip("node", "route", "add", "default", "via", "10.1.0.1")
    else:
        node.ip("node", "addr", "add", "fd55::5/128", "dev", where, "nodad")
        node.ip("node", "-6", "route", "add", "default", "via", "fd02::1")


@pytest.mark.parametrize("where", ["lo", "bridge0", "dummy0"])
@pytest.mark.parametrize("named", ["interface", "address", "both", "api"])
def test_an_address_on_an_interface_without_egress_does_not_pin_tunnels(where: str, named: str, node: Bed) -> None:
    _add_routed_address(node, where)
    asked = {"interface": (where, None), "address": (None, NODE), "both": (where, NODE), "api": (None, None)}[named]
    assert find_parent(*asked, [NODE]) == Parent("eth0", 0, NODE, 1500)


def test_an_ipv6_address_on_lo_takes_the_mtu_of_the_ipv6_default_route(node: Bed) -> None:
    _add_routed_address(node, "lo", family=6)
    assert find_parent(None, "fd55::5") == Parent("eth1", 0, "fd55::5", 9000)


def test_a_bridge_with_a_port_pins_tunnels(node: Bed) -> None:
    _add_routed_address(node, "bridge0")
    node.ip("node", "link", "set", "eth1", "master", "bridge0")
    assert find_parent(None, NODE) == Parent("bridge0", node.show("node", "bridge0")["ifindex"], NODE, 9000)


def test_a_bridge_with_the_default_route_pins_tunnels_even_without_ports(node: Bed) -> None:
    node.ip("node", "link", "add", "br0", "up", "type", "bridge")
    node.ip("node", "addr", "add", "10.3.0.5/24", "dev", "br0")
    node.ip("node", "route", "add", "default", "via", "10.3.0.1")
    assert find_parent(None, "10.3.0.5") == Parent("br0", node.show("node", "br0")["ifindex"], "10.3.0.5", 1500)


@pytest.mark.parametrize(
    ("route", "ifname", "mtu"),
    [
        (("default", "via", "10.1.0.1", "mtu", "1400"), "eth0", 1400),
        (("default", "via", "10.2.0.1", "mtu", "65000"), "eth1", 9000),
        (("default", "nexthop", "via", "10.2.0.1", "nexthop", "via", "10.1.0.1"), "eth0", 1500),
        (("10.255.0.0/24", "via", "10.2.0.1", "mtu", "1300"), "eth1", 1300),
    ],
)
def test_unpinned_tunnels_take_the_mtu_of_the_route(route: tuple[str, ...], ifname: str, mtu: int, node: Bed) -> None:
    node.ip("node", "addr", "add", f"{NODE}/32", "dev", "lo")
    node.ip("node", "route", "add", *route)
    assert find_parent(None, NODE) == Parent(ifname, 0, NODE, mtu)


def test_without_a_route_an_address_on_lo_cannot_be_used(bed: Bed) -> None:
    bed.add("node")
    bed.ip("node", "addr", "add", f"{NODE}/32", "dev", "lo")
    with bed.inside("node"), pytest.raises(InvalidConfigError) as caught:
        find_parent(None, NODE)
    assert f"cannot use {NODE} for tunnels: it is on lo, and no route leaves the node" in str(caught.value)
    assert "set parent_interface" in caught.value.details


def test_on_a_named_interface_a_node_address_is_preferred_to_the_first(node: Bed) -> None:
    """A virtual IP that was added first is the primary address; the node's own is secondary."""
    assert find_parent("eth0", None, ["192.0.2.1", "10.2.0.5", "10.1.0.6"]).address == "10.1.0.6"
    assert find_parent("eth0", None, ["10.2.0.5"]).address == "10.1.0.5", "another interface's address is no choice"
    assert find_parent("eth0", "10.1.0.5", ["10.1.0.6"]).address == "10.1.0.5"
    assert find_parent("eth1", None, ["fd02::5"]).address == "fd02::5"


@pytest.mark.parametrize(
    ("ifname", "node_addresses", "addresses"),
    [
        (None, ["10.2.0.5", "fd02::5"], ("10.2.0.5", "fd02::5")),
        (None, ["fd02::5", "192.0.2.1", "10.2.0.5"], ("fd02::5", "10.2.0.5")),
        (None, ["10.2.0.5"], ("10.2.0.5",)),
        (None, ["10.1.0.6", "10.1.0.5", "fd02::5"], ("10.1.0.6",)),
        ("eth1", ["fd02::5", "10.2.0.5"], ("fd02::5", "10.2.0.5")),
        ("eth1", ["fd02::5", "10.1.0.5"], ("fd02::5",)),
        ("eth1", [], ("10.2.0.5", "fd02::5")),
        ("eth0", [], ("10.1.0.5",)),
    ],
)
def test_the_other_family_has_an_address_on_the_same_interface(
    ifname: str | None, node_addresses: list[str], addresses: tuple[str, ...], node: Bed
) -> None:
    """Once the Node object lists the VTEP, only addresses that it lists count."""
    assert find_parent(ifname, None, node_addresses).addresses == addresses


def test_on_lo_the_other_family_counts_if_its_routes_agree(node: Bed) -> None:
    _add_routed_address(node, "lo")
    node.ip("node", "addr", "add", "fd55::5/128", "dev", "lo", "nodad")
    both = [NODE, "fd55::5"]
    node.ip("node", "-6", "route", "add", "default", "via", "fd02::1")
    assert find_parent(None, None, both) == Parent("eth0", 0, NODE, 1500), "by eth1, of another MTU"
    node.ip("node", "-6", "route", "del", "default", "via", "fd02::1")
    node.ip("node", "addr", "add", "fd01::5/64", "dev", "eth0", "nodad")
    node.ip("node", "-6", "route", "add", "default", "via", "fd01::1")
    assert find_parent(None, None, both) == Parent("eth0", 0, NODE, 1500, "fd55::5")


@pytest.mark.usefixtures("node")
def test_a_dummy_has_no_egress() -> None:
    """Works on kernels without dummy interfaces too."""
    with Channel() as channel:
        (answer,) = channel.do(messages.link_named("eth0"))
        device = read_link(answer.messages[0]).device
        assert _has_egress(channel, device, answer.messages[0])
        assert not _has_egress(channel, replace(device, kind="dummy"), answer.messages[0])
