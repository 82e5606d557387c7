"""Carrier of a VXLAN end: it is removed and restored like that of a cable, without other changes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ratchet.core.differences import differences
from ratchet.core.interface import VxlanWire
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, messages, observe, observe_port, open_netns, rtnetlink, unplug, vxlan
from ratchet.datapath.netns import inside
from ratchet.datapath.nlattr import message
from ratchet.errors import DatapathError, ForeignInterfaceError, HostNamespaceError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

GROUP = str(messages.GROUP)
ONE, TWO, THREE = "10.9.0.1", "10.9.0.2", "10.9.0.3"
RTMGRP_LINK = 1
IFF_LOWER_UP = 0x10000


@pytest.fixture
def wire(nodes: Bed, wires: Wires) -> Iterator[VxlanWire]:
    """The end in pod-a, not created yet; the end in pod-b exists. The calling thread is in node-1."""
    with nodes.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, TWO, ONE))
    with nodes.inside("node-1"):
        yield wires.tunnel("pod-a", 0, ONE, TWO)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel that rejects carrier changes of a VXLAN; the value lists the ifindexes of the requests.

    The requests use IFLA_CARRIER instead, which the kernel rejects for a VXLAN.
    """
    requested: list[int] = []

    def by_ifla_carrier(index: int, has: bool) -> bytearray:
        requested.append(index)
        carrier = messages._LINK.pack(("IFLA_CARRIER", int(has)))
        return message(messages.RTM_NEWLINK, messages.ACT, messages._link(index), carrier)

    monkeypatch.setattr(messages, "carrier", by_ifla_carrier)
    monkeypatch.setattr(vxlan, "_kernel", vxlan._Kernel())
    return requested


def test_ensure_removes_and_restores_the_carrier(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    assert _passes_traffic(nodes)
    before = _preserved(nodes)
    without_carrier = replace(wire, carrier=False)
    assert differences(without_carrier, observe(without_carrier)) == ("in1 has carrier while its peer is gone",)

    assert ensure(without_carrier) is True
    assert differences(without_carrier, observe(without_carrier)) == ()
    assert ensure(without_carrier) is False
    _wait_for_no_carrier(nodes)
    assert not nodes.pings("pod-a", "192.168.2.2")
    assert differences(wire, observe(wire)) == ("in1 is held without carrier",)
    assert _preserved(nodes) == before

    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False
    _wait_for_carrier(nodes)
    # The kernel retries the failed neighbour resolution after a delay, as with any cable.
    _wait_until(lambda: _passes_traffic(nodes))
    assert _preserved(nodes) == before


def test_unplug_removes_the_carrier_and_is_idempotent(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    before = _preserved(nodes)
    assert unplug(Location(wire.near.netns), "in1") is True
    _wait_for_no_carrier(nodes)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert differences(wire, observe(wire)) == ("in1 is held without carrier",)
    assert ensure(wire) is True
    assert _passes_traffic(nodes)
    assert _preserved(nodes) == before
    assert unplug(Location(wire.near.netns), "in1") is True, "once more, as a cable"


def test_unplug_keeps_the_carrier_of_the_peer(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    unplug(Location(wire.near.netns), "in1")
    assert "LOWER_UP" in nodes.show("pod-b", "in1")["flags"]


def test_settings_made_by_the_pod_survive_carrier_loss(nodes: Bed, wire: VxlanWire) -> None:
    """Routes stay, marked linkdown. Permanent neighbours stay, and learnt ones are learnt again."""
    ensure(wire)
    nodes.ip("pod-a", "route", "add", "172.16.0.0/16", "via", "192.168.2.2")
    nodes.ip("pod-a", "route", "add", "fd77::/64", "via", "fd00::2")
    nodes.ip("pod-a", "addr", "add", "172.31.0.1/24", "dev", "in1")
    nodes.ip("pod-a", "neigh", "add", "192.168.2.77", "lladdr", "02:00:00:00:00:77", "dev", "in1", "nud", "permanent")
    assert _passes_traffic(nodes)
    assert "192.168.2.2 " in nodes.ip("pod-a", "neigh", "show")
    before = _preserved(nodes)

    unplug(Location(wire.near.netns), "in1")
    _wait_for_no_carrier(nodes)
    for family, routes in (("-4", ("172.16.0.0/16", "192.168.2.0/24")), ("-6", ("fd77::/64", "fd00::/64"))):
        shown = nodes.ip("pod-a", family, "route", "show").splitlines()
        for route in routes:
            assert "linkdown" in next(line for line in shown if line.startswith(route))
    neighbours = nodes.ip("pod-a", "neigh", "show")
    assert "192.168.2.77" in neighbours
    assert "192.168.2.2 " not in neighbours

    ensure(wire)
    _wait_for_carrier(nodes)
    assert _passes_traffic(nodes)
    for family, route in (("-4", "172.16.0.0/16"), ("-6", "fd77::/64")):
        back = nodes.ip("pod-a", family, "route", "show", route)
        assert back
        assert "linkdown" not in back
    assert "192.168.2.77" in nodes.ip("pod-a", "neigh", "show")
    assert _preserved(nodes) == before


def test_an_end_created_without_carrier_never_shows_carrier(nodes: Bed, wire: VxlanWire) -> None:
    without_carrier = replace(wire, carrier=False)
    with _link_messages(nodes, "pod-a") as received:
        assert ensure(without_carrier) is True
        flags = [one["flags"] for one in received() if one.get_attr("IFLA_IFNAME") == "in1"]
    assert any(one & messages.IFF_UP for one in flags), "it was heard to come up"
    assert not any(one & IFF_LOWER_UP for one in flags)
    assert differences(without_carrier, observe(without_carrier)) == ()
    _wait_for_no_carrier(nodes)
    index = nodes.show("pod-a", "in1")["ifindex"]

    assert ensure(wire) is True
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    assert _passes_traffic(nodes)
    assert [one.get("tentative") for one in nodes.show("pod-a", "in1")["addr_info"] if "fd00::1" in one["local"]] == [
        None
    ]
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_creation_without_carrier_adds_one_message_to_the_send_that_brings_the_end_up(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of sends stays the same. The last one has the mark and the addresses."""
    sends: list[int] = []
    exchange = rtnetlink.Channel.exchange

    def counted(channel: rtnetlink.Channel, *requests: bytearray) -> list[rtnetlink.NetlinkReply]:
        if type(channel) is rtnetlink.Channel:  # and not one to nftables
            sends.append(len(requests))
        return exchange(channel, *requests)

    monkeypatch.setattr(rtnetlink.Channel, "exchange", counted)
    ensure(wire)
    with_carrier = sends.copy()
    nodes.ip("pod-a", "link", "del", "in1")
    sends.clear()
    ensure(replace(wire, carrier=False))
    assert sends == [*with_carrier[:-2], with_carrier[-2] + 1, with_carrier[-1]]


def test_carrier_changes_leave_other_settings_unchanged(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "alias", "the pod's own")
    sent: list[bytearray] = []
    exchange = rtnetlink.Channel.exchange

    def recorded(channel: rtnetlink.Channel, *requests: bytearray) -> list[rtnetlink.NetlinkReply]:
        if type(channel) is rtnetlink.Channel:
            sent.extend(requests)
        return exchange(channel, *requests)

    monkeypatch.setattr(rtnetlink.Channel, "exchange", recorded)
    ensure(replace(wire, carrier=False))
    ensure(wire)
    queries = (
        *(messages.RTM_GETLINK, messages.RTM_GETADDR, messages.RTM_GETROUTE),
        *(messages.RTM_GETNEIGH, messages.RTM_NEWNSID),
    )
    changes = [ifinfmsg(bytes(one)) for one in sent if int.from_bytes(one[4:6], "little") not in queries]
    for one in changes:
        one.decode()
    proto_down = [one.get_attr("IFLA_PROTO_DOWN") for one in changes if one["index"]]
    assert proto_down == [1, 0]
    assert nodes.show("pod-a", "in1")["ifalias"] == "the pod's own"
    assert _passes_traffic(nodes), "the kernel has not had the time to take notice"


@pytest.mark.parametrize("has", [True, False])
def test_a_half_made_end_comes_up_with_the_requested_carrier(has: bool, nodes: Bed, wire: VxlanWire) -> None:
    """The crash left the opposite proto_down setting."""
    head = ("link", "add", "in1", "netns", nodes.name("pod-a"), "mtu", "1400", "group", GROUP)
    data = ("id", "11", "remote", TWO, "local", ONE, "dev", "eth0", "dstport", "4789", "nolearning")
    nodes.ip("node-1", *head, "type", "vxlan", *data)
    nodes.ip("pod-a", "link", "set", "in1", "protodown", "on" if has else "off")
    desired = replace(wire, carrier=has)
    with _link_messages(nodes, "pod-a") as received:
        assert ensure(desired) is True
        flags = [one["flags"] for one in received() if one.get_attr("IFLA_IFNAME") == "in1"]
    assert differences(desired, observe(desired)) == ()
    assert any(one & IFF_LOWER_UP for one in flags) is has
    assert _passes_traffic(nodes) is has


def test_one_ensure_restores_the_carrier_toward_a_new_remote(nodes: Bed, wires: Wires, wire: VxlanWire) -> None:
    """The peer's pod is recreated on another node, with another MAC."""
    ensure(wire)
    assert _passes_traffic(nodes)
    before = _preserved(nodes)
    nodes.delete("pod-b")
    unplug(Location(wire.near.netns), "in1")
    _wait_for_no_carrier(nodes)
    with nodes.inside("node-3"):
        ensure(wires.tunnel("pod-c", 1, THREE, ONE))
    moved = replace(wire, remote=THREE)
    assert differences(moved, observe(moved)) == (
        f"in1 has remote {TWO}, wanted {THREE}",
        "in1 is held without carrier",
    )
    assert ensure(moved) is True
    assert differences(moved, observe(moved)) == ()
    assert ensure(moved) is False
    assert _passes_traffic(nodes)
    assert _preserved(nodes) == before


def test_one_ensure_changes_carrier_remote_mtu_and_addresses(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    index = nodes.show("pod-a", "in1")["ifindex"]
    near = replace(wire.near, mtu=1300, addresses=(ip_interface("192.168.7.1/28"),))
    desired = replace(wire, near=near, remote=THREE, carrier=False)
    assert ensure(desired) is True
    assert differences(desired, observe(desired)) == ()
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    _wait_for_no_carrier(nodes)


def test_an_end_is_recreated_without_carrier(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    index = nodes.show("pod-a", "in1")["ifindex"]
    desired = replace(wire, vni=12, carrier=False)
    assert ensure(desired) is True
    assert differences(desired, observe(desired)) == ()
    assert nodes.show("pod-a", "in1")["ifindex"] != index
    _wait_for_no_carrier(nodes)


def test_an_end_set_down_by_hand_can_be_unplugged(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "down")
    assert unplug(Location(wire.near.netns), "in1") is True
    without_carrier = replace(wire, carrier=False)
    assert ensure(without_carrier) is True
    assert "UP" not in nodes.show("pod-a", "in1")["flags"]
    nodes.ip("pod-a", "link", "set", "in1", "up")
    _wait_for_no_carrier(nodes)


def test_unplug_returns_false_if_the_interface_or_netns_is_missing(nodes: Bed, wire: VxlanWire) -> None:
    assert unplug(Location(wire.near.netns), "in1") is False
    ensure(wire)
    nodes.delete("pod-a")
    assert unplug(Location(wire.near.netns), "in1") is False
    assert unplug(Location("/run/netns/there-is-no-such"), "in1") is False


def test_unplug_tolerates_concurrent_deletion_of_the_interface(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wire)
    carrier = messages.carrier

    def too_late(index: int, has: bool) -> bytearray:
        nodes.ip("pod-a", "link", "del", "in1")
        return carrier(index, has)

    monkeypatch.setattr(messages, "carrier", too_late)
    assert unplug(Location(wire.near.netns), "in1") is False


def test_unplug_does_not_change_a_veth(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert differences(wire, observe(wire)) == ()
    assert pods.pings("pod-a", "192.168.2.2")
    pods.ip("pod-b", "link", "set", "in2", "down")
    device = observe_port(Location(wire.near.netns), "in1")
    assert device is not None
    assert device.carrier


@pytest.mark.parametrize("kind", ["vxlan", "veth"])
def test_a_foreign_interface_is_not_unplugged(kind: str, nodes: Bed) -> None:
    made = ("vxlan", "id", "99", "dstport", "4789", "remote", TWO) if kind == "vxlan" else ("veth",)
    nodes.ip("pod-a", "link", "add", "in1", "up", "type", *made)
    path = nodes.path("pod-a")
    message = f"cannot unplug in1 in {path}: an interface of that name .* not Ratchet's"
    with pytest.raises(ForeignInterfaceError, match=message) as caught:
        unplug(Location(path), "in1")
    assert caught.value.path == path
    assert "proto_down" not in nodes.show("pod-a", "in1")


def test_unplug_rejects_the_netns_of_the_node(nodes: Bed) -> None:
    with nodes.inside("node-1"), pytest.raises(HostNamespaceError):
        unplug(Location(nodes.path("node-1")), "eth0")


def test_other_kernel_errors_are_reported(nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(wire)
    monkeypatch.setattr(messages, "carrier", lambda index, has: messages.sized(index, 1))
    with pytest.raises(DatapathError, match=f"cannot unplug in1 in {wire.near.netns}: .+"):
        unplug(Location(wire.near.netns), "in1")
    with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: .+"):
        ensure(replace(wire, carrier=False))


def test_a_rejected_carrier_change_is_requested_once(nodes: Bed, wire: VxlanWire, refusing: list[int]) -> None:
    without_carrier = replace(wire, carrier=False)
    assert ensure(without_carrier) is True
    near = observe(without_carrier).near
    assert near is not None
    assert (near.carrier, near.carrier_fixed, len(refusing)) == (True, True, 1)
    assert differences(without_carrier, observe(without_carrier)) == differences(wire, observe(wire)) == ()
    assert ensure(without_carrier) is False
    assert _passes_traffic(nodes), "all the rest has been done"
    assert unplug(Location(wire.near.netns), "in1") is False
    nodes.ip("pod-a", "link", "del", "in1")
    assert ensure(without_carrier) is True
    assert len(refusing) == 1


def test_a_rejected_carrier_change_of_an_existing_end_is_requested_once(
    nodes: Bed, wire: VxlanWire, refusing: list[int]
) -> None:
    ensure(wire)
    without_carrier = replace(wire, carrier=False, near=replace(wire.near, mtu=1300))
    assert len(differences(without_carrier, observe(without_carrier))) == 2
    assert ensure(without_carrier) is True
    assert differences(without_carrier, observe(without_carrier)) == ()
    assert ensure(without_carrier) is False
    assert nodes.show("pod-a", "in1")["mtu"] == 1300
    assert len(refusing) == 1


def test_a_rejected_unplug_is_requested_once(nodes: Bed, wire: VxlanWire, refusing: list[int]) -> None:
    ensure(wire)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert unplug(Location(wire.near.netns), "in1") is False
    without_carrier = replace(wire, carrier=False)
    assert differences(without_carrier, observe(without_carrier)) == ()
    assert ensure(without_carrier) is False
    assert _passes_traffic(nodes)
    assert len(refusing) == 1


def _passes_traffic(nodes: Bed) -> bool:
    return nodes.pings("pod-a", "192.168.2.2") and nodes.pings("pod-a", "fd00::2")


def _preserved(nodes: Bed) -> tuple[Any, ...]:
    """Return the properties that carrier loss must not change."""
    shown = nodes.show("pod-a", "in1")
    given = {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"]}
    return shown["ifindex"], shown["address"], shown["mtu"], "UP" in shown["flags"], given


def _wait_for_no_carrier(nodes: Bed) -> None:
    """Wait until ip(8) shows the state of an unplugged cable."""
    _wait_until(lambda: _operational_state(nodes) == (True, False, "DOWN"))


def _wait_for_carrier(nodes: Bed) -> None:
    _wait_until(lambda: _operational_state(nodes) == (False, True, "UP"))


def _operational_state(nodes: Bed) -> tuple[bool, bool, str]:
    shown = nodes.show("pod-a", "in1")
    flags = shown["flags"]
    assert "UP" in flags
    return "NO-CARRIER" in flags, "LOWER_UP" in flags, shown["operstate"]


def _wait_until(predicate: Callable[[], bool], seconds: float = 10) -> None:
    """Wait: the kernel sets the flag at once, but updates the state within a second (operstates.rst)."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _link_messages(nodes: Bed, pod: str) -> Iterator[Callable[[], list[Any]]]:
    """Subscribe to link notifications in a pod; yield a function that returns those since its last call."""
    with open_netns(nodes.path(pod)) as opened, inside(opened):
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with listener:
        listener.bind((0, RTMGRP_LINK))
        listener.setblocking(False)

        def received() -> list[Any]:
            found: list[Any] = []
            with suppress(BlockingIOError):
                while True:
                    found.append(ifinfmsg(listener.recv(1 << 16)))
                    found[-1].decode()
            return found

        yield received
